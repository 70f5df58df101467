"""Any detector that writes one image a file into a directory.

A file's name gives prefix and number; one (sub-directory, prefix, extension) is one series.  The
payload is the file verbatim.  What cannot be read is tried again while it may still grow, then
quarantined with the reason.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pipeline.detectors.after import AFTER, let_go
from pipeline.detectors.file_options import FILE_OPTIONS, PATTERNS
from pipeline.detectors.found import FileSeries, FoundFile, Waiting, compile_name
from pipeline.detectors.options import Option
from pipeline.detectors.reading import (
    Buffers,
    FileHeader,
    ImageHeader,
    Reader,
    default_readers,
    read_file,
    reason_of,
)
from pipeline.detectors.watch import Method, ReadyFile, SortKey, Watcher, look
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.frame import INT64_MAX, AttributeValue, Buffer, FrameHeader
from pipeline.protocols import AdapterEvent, Quarantined, SeriesBegin, SeriesEnd, SourceFrame

log = logging.getLogger(__name__)
__all__ = [
    "FileHeader",
    "FileSeries",
    "FilesAdapter",
    "FoundFile",
    "ImageHeader",
    "Reader",
    "Waiting",
]

#: Digits before the extension: ``scan_7_0012.tif`` is number 12 of ``scan_7_``.
NAME_PATTERN = r"(?P<prefix>.*?)(?P<number>[0-9]+)"
#: Growing files are looked at so often, seconds.
_LOOK_S = 0.1


class FilesAdapter:
    """Watches a directory and turns every image file into a frame.

    Parameters
    ----------
    watch:
        The directory.
    patterns:
        Shell patterns of file names (or one text with commas).
    recursive:
        Whether sub-directories are watched, also new ones.
    method:
        ``inotify``, ``poll``, or ``auto`` (poll on network file systems).
    poll_every_s:
        Seconds between two looks when polling.
    name_pattern:
        Regular expression for a name without its extension, with groups ``prefix`` and ``number``.
        A name that does not match is frame 0 of a series of its own.
    grace_s:
        How long a file that cannot be read must stay unchanged before it is quarantined.
    idle_end_s:
        Seconds of silence that end a series; None: never.
    after:
        What :meth:`acknowledge` does with a file: ``keep``, ``delete``, or ``move``.
    move_to:
        Where ``move`` puts files, with their sub-directories; default ``published`` in ``watch``.

    Raises
    ------
    InvalidArgumentError
        Names the setting that is wrong.
    """

    name = "files"
    #: Header values that change from frame to frame by nature: never metadata of the stream.
    varying: ClassVar[frozenset[str]] = frozenset()
    #: When polling, a file must not have changed for so many seconds to be read.
    stable_s: ClassVar[float] = 0.0

    def __init__(
        self,
        *,
        watch: str | os.PathLike[str],
        patterns: str | Sequence[str] = PATTERNS,
        recursive: bool = True,
        method: Method = "auto",
        poll_every_s: float = 0.5,
        name_pattern: str = "",
        grace_s: float = 5.0,
        idle_end_s: float | None = None,
        after: str = "keep",
        move_to: str | os.PathLike[str] = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if after not in AFTER:
            raise InvalidArgumentError("after", f"{after!r} is not one of {', '.join(AFTER)}")
        if grace_s < 0 or (idle_end_s is not None and idle_end_s < 0):
            raise InvalidArgumentError("grace_s", "grace_s and idle_end_s must not be negative")
        self.directory = os.path.abspath(watch)  # noqa: PTH100 -- keeps symlinks as they are
        self.after = after
        self.idle_end_s = idle_end_s
        self.vanished = 0
        self._grace_s = grace_s
        self._clock = clock
        self._host = socket.gethostname()
        self._move_to = os.fspath(move_to) or str(Path(self.directory) / "published")
        self._name = compile_name(name_pattern or NAME_PATTERN)
        self._readers = self.readers()
        self._buffers = Buffers()
        self._series: dict[str, FileSeries] = {}
        self._waiting: dict[str, Waiting] = {}
        self._watcher = Watcher(
            self.directory,
            patterns=patterns.split(",") if isinstance(patterns, str) else patterns,
            excluded=[self._move_to],
            recursive=recursive,
            method=method,
            poll_s=poll_every_s,
            stable_polls=max(1, math.ceil(self.stable_s / poll_every_s)) if poll_every_s > 0 else 1,
            order=self._order,
        )

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set; ``idle_end_s`` and ``after`` are everybody's."""
        return list(FILE_OPTIONS)

    # -- for kinds of files ---------------------------------------------------------------------

    def readers(self) -> Mapping[str, Reader]:
        """Return the reader of each extension (lower case, with its dot)."""
        return default_readers()

    def split_name(self, stem: str) -> tuple[str, int] | None:
        """Return prefix and number of a file name without extension; None if it has none."""
        found = self._name.fullmatch(stem)
        if found is None:
            return None
        # longer numbers are dates run together or hashes, and do not fit a frame number
        number = int(found["number"]) if len(found["number"]) <= 18 else INT64_MAX
        return (found["prefix"], number) if number < INT64_MAX else None

    def metadata(self, header: ImageHeader) -> dict[str, AttributeValue]:
        """Return what the first file of a series says about all of it, with the units."""
        constant = {k: v for k, v in header.attributes.items() if k not in self.varying}
        return {**constant, "units": dict(header.units)} if header.units else constant

    # -- the adapter ----------------------------------------------------------------------------

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens in the directory; see :class:`pipeline.protocols.DetectorAdapter`."""
        while True:
            pause_s = min(poll_s, _LOOK_S) if self._waiting else poll_s
            files = self._watcher.wait(pause_s)
            for file in files:
                yield from self._take(file)
            yield from self._look_again()
            if not files:  # ends and silence only when everything there was has been taken
                yield from self._end_idle()
                yield None

    def acknowledge(self, tokens: Sequence[ReadyFile]) -> None:
        """Keep, delete or move these files, each only if it is still the file that was read."""
        if self.after == "keep":
            return
        for token in tokens:
            if let_go(token, self.after, root=self.directory, move_to=self._move_to):
                self._watcher.forget(token.path)

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a series with these run facts would be one of ours."""
        ours = run.get("adapter") == self.name and run.get("host") == self._host
        return ours and f"{run.get('directory')}/".startswith(f"{self.directory}/")

    def check(self) -> Mapping[str, AttributeValue]:
        """Look into the directory once and say how many files are there."""
        files = 0
        while found := self._watcher.wait(0):
            files += len(found)
        self._watcher.close()
        return {"directory": self.directory, "method": self._watcher.method, "files": files}

    def close(self) -> None:
        """Stop watching; may be called twice."""
        self._watcher.close()

    # -- one file -------------------------------------------------------------------------------

    def _take(self, file: ReadyFile) -> Iterator[AdapterEvent]:
        prefix, number, extension = self._split(file.path)
        series = self._series_of(file.path, prefix, extension)
        series.last_s = self._clock()
        try:
            token, payload = self._read(file.path)
            events = self._frames(
                series,
                FoundFile(
                    prefix=prefix,
                    number=number,
                    extension=extension,
                    token=token,
                    payload=payload,
                ),
            )
        except FileNotFoundError:
            self.vanished += 1
            self._settle(file.path, series)
            log.warning("file vanished before it was read path=%s", file.path)
        except (ValueError, OSError) as error:
            locked = isinstance(error, PermissionError)
            self._put_off(file, series, reason_of(error), locked=locked)
        else:
            self._settle(file.path, series)
            yield from events
            series.last_s = self._clock()  # a file of many frames takes long

    def _read(self, path: str) -> tuple[ReadyFile, Buffer]:
        """Return the file's identity and bytes; OSError or ValueError: not now, perhaps later."""
        return read_file(path, self._buffers)

    def _frames(self, series: FileSeries, found: FoundFile) -> list[AdapterEvent]:
        """Return what a file gives, its series' begin included; ValueError: it is not whole.

        Nothing of the series may have changed when it raises.
        """
        payload, token = found.payload, found.token
        header, frame = self._parse(payload, found.number, found.extension, token)
        self._check_layout(series, header, found.number)
        series.number = max(series.number, found.number)
        source = self._relative(token.path)
        return [
            *self._begin(series, found.prefix, found.extension, token.path, header),
            SourceFrame(
                series=series.key, header=frame, payload=payload, token=token, source=source
            ),
        ]

    def _parse(
        self, payload: Buffer, number: int, extension: str, file: ReadyFile
    ) -> tuple[ImageHeader, FrameHeader]:
        reader = self._readers.get(extension)
        if reader is None:
            raise InvalidFrameError("encoding", f"no reader for files named *{extension}")
        if not len(payload):
            raise InvalidFrameError("payload", "zero bytes")
        header = reader(payload)
        time_ns = header.timestamp_ns
        return header, FrameHeader(
            number=number,
            timestamp_ns=max(0, file.mtime_ns) if time_ns is None else time_ns,
            shape=tuple(header.shape),
            dtype=header.dtype,
            encoding=header.encoding,
            attributes=header.attributes,
        )

    @staticmethod
    def _check_layout(series: FileSeries, header: ImageHeader, number: int) -> None:
        """Let shape and type change only where the numbers start again: another acquisition."""
        layout = (tuple(header.shape), header.dtype)
        if series.layout not in (None, layout) and number > series.number:
            raise InvalidFrameError("shape", f"{layout} in a series of {series.layout}")
        series.layout = layout

    def _begin(
        self,
        series: FileSeries,
        prefix: str,
        extension: str,
        path: str,
        header: ImageHeader | None,
    ) -> Iterator[AdapterEvent]:
        if series.begun:
            return
        # without a good file there is no metadata yet: the begin comes again with the first one
        series.begun = header is not None
        yield SeriesBegin(
            series=series.key,
            name=prefix.strip("_-. ") or None,
            metadata=self.metadata(header) if header else {},
            run=self._facts(prefix, extension, path),
        )

    def _facts(self, prefix: str, extension: str, path: str) -> dict[str, AttributeValue]:
        """Return by what the series of a file is found again."""
        return {
            "adapter": self.name,
            "host": self._host,
            "directory": path.rpartition("/")[0],
            "prefix": prefix,
            "extension": extension,
        }

    # -- files that are not whole ---------------------------------------------------------------

    def _put_off(
        self, file: ReadyFile, series: FileSeries, reason: str, *, locked: bool = False
    ) -> None:
        before = self._waiting.get(file.path)
        series.waiting += before is None
        same = before is not None and before.locked and before.file == file
        since_s = before.since_s if before is not None and same else self._clock()
        self._waiting[file.path] = Waiting(file, reason, since_s, locked)

    def _settle(self, path: str, series: FileSeries) -> None:
        if self._waiting.pop(path, None) is not None:
            series.waiting -= 1

    def _look_again(self) -> Iterator[AdapterEvent]:
        """Read what has grown; quarantine what has not for too long."""
        for path, waiting in list(self._waiting.items()):
            file = look(path)
            if file != waiting.file:
                # also when it is gone: _take says so
                yield from self._take(file or waiting.file)
            elif self._clock() - waiting.since_s >= self._grace_s:
                yield from self._quarantine(waiting)
            elif waiting.locked:
                yield from self._take(file)

    def _quarantine(self, waiting: Waiting) -> Iterator[AdapterEvent]:
        path = waiting.file.path
        prefix, _, extension = self._split(path)
        series = self._series_of(path, prefix, extension)
        self._settle(path, series)
        series.last_s = self._clock()
        reason = f"{waiting.reason} ({waiting.file.nbytes} bytes)"
        yield from self._begin(series, prefix, extension, path, None)
        yield Quarantined(series=series.key, source=self._relative(path), reason=reason)

    # -- series ---------------------------------------------------------------------------------

    def _end_idle(self) -> Iterator[AdapterEvent]:
        if self.idle_end_s is None:
            return
        now = self._clock()
        for series in list(self._series.values()):
            if not series.waiting and now - series.last_s >= self.idle_end_s:
                del self._series[series.key]
                yield from self._end(series)

    def _end(self, series: FileSeries) -> Iterator[AdapterEvent]:
        """Yield the end of a series, and what had to wait for it."""
        yield SeriesEnd(series=series.key)

    def _series_of(self, path: str, prefix: str, extension: str) -> FileSeries:
        directory = self._relative(path).rpartition("/")[0]
        key = f"{directory}/{prefix}*{extension}" if directory else f"{prefix}*{extension}"
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = FileSeries(key, self._clock())
        return series

    def _split(self, path: str) -> tuple[str, int, str]:
        stem, extension = os.path.splitext(path.rpartition("/")[2])  # noqa: PTH122 -- 10 times faster
        prefix, number = self.split_name(stem) or (stem, 0)
        return prefix, number, extension.lower()

    def _order(self, path: str) -> SortKey:
        prefix, number, extension = self._split(path)
        return (path.rpartition("/")[0], prefix, number, extension, path)

    def _relative(self, path: str) -> str:
        return path[len(self.directory) + 1 :]
