"""The FileWriter of an Eiger: HDF5 files that its control unit offers over HTTP.

A file is fetched, stored as it is, and its images are published as ranges of it.  With
``after="delete"`` it is removed from the control unit once all its images are confirmed, the
master last.  ``docs/detectors/eiger-filewriter.md`` tells the rules.
"""

from __future__ import annotations

import logging
import mmap
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.detectors.eiger import hdf5
from pipeline.detectors.eiger.fileseries import (
    INTERFACE,
    FileSeries,
    Token,
    begin_of,
    by_series,
    channel_modules,
    check_layout,
    natural,
    placed,
)
from pipeline.detectors.eiger.fileserver import Complaints, FileServer
from pipeline.detectors.eiger.hdf5 import FileName
from pipeline.detectors.rest import Device
from pipeline.errors import InvalidArgumentError, InvalidFrameError, SourceError
from pipeline.frame import AttributeValue, Module
from pipeline.protocols import (
    AdapterEvent,
    PlacedFrame,
    Quarantined,
    SeriesEnd,
    SourceFile,
)

log = logging.getLogger(__name__)

#: The vendor asks for no more than two listings a second.
MIN_POLL_S = 0.5
#: A master holds masks and tables, 0.3 GB for the largest detector with four thresholds.
_MAX_MASTER_NBYTES = 512 << 20
#: Whether the master of a series that is over is still the same one is asked so often.
_RECHECK_S = 30.0

_Events = Generator[AdapterEvent | None, None, None]
_Verdict = Generator[AdapterEvent | None, None, bool]


class FileWriterSource:
    """Takes the files of one FileWriter, one series after the other.

    Not for use from several threads; ``events`` blocks for one piece of a download at most.

    Parameters
    ----------
    device:
        The control unit; not closed by :meth:`close`.
    api:
        Version of the interface, for example ``1.8.0``.
    folder:
        Where one file at a time is fetched to; default is a temporary directory.
    poll_every_s:
        Seconds between two listings, 0.5 or more.
    after:
        ``keep`` or ``delete``: what becomes of files on the control unit.
    settle_s:
        How long an idle FileWriter's listing must stay as it is before a series ends.
    grace_s:
        How long a file that cannot be read must stay as it is to be quarantined.
    timezone:
        Where the control unit's clock is, for dates that do not tell.

    Raises
    ------
    InvalidArgumentError
        Names the setting that is wrong.
    """

    name = "eiger"

    def __init__(
        self,
        device: Device,
        api: str,
        *,
        folder: Path | None = None,
        poll_every_s: float = 0.5,
        after: str = "keep",
        settle_s: float = 2.0,
        grace_s: float = 10.0,
        timezone: tzinfo = UTC,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not poll_every_s >= MIN_POLL_S:
            raise InvalidArgumentError("poll_every_s", f"must be {MIN_POLL_S} s or more")
        if after not in ("keep", "delete"):
            raise InvalidArgumentError("after", f"{after!r}: files there are kept or deleted")
        if settle_s < 0 or grace_s < 0:
            raise InvalidArgumentError("grace_s", "settle_s and grace_s must not be negative")
        self.after = after
        self._server = FileServer(device, api, folder=folder)
        self._poll_every_s = poll_every_s
        self._settle_s, self._grace_s = settle_s, grace_s
        self._timezone = timezone
        self._clock, self._sleep = clock, sleep
        self._complaints = Complaints(clock)
        self._current: FileSeries | None = None
        #: Series that are over, while their files are still listed.
        self._done: dict[str, FileSeries] = {}
        self._deleted: set[str] = set()
        self._was_active = False
        self._recheck_s = clock() + _RECHECK_S

    # -- the adapter ----------------------------------------------------------------------------

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; see :class:`pipeline.protocols.DetectorAdapter`."""
        while True:
            due_s = self._clock() + self._poll_every_s
            try:
                yield from self._look()
            except SourceError as error:
                # away, or busy with arming: what is there stays there
                self._complaints.say("device", "nothing is taken now: %s", str(error))
            yield None
            while (left_s := due_s - self._clock()) > 0:
                self._sleep(min(left_s, poll_s))
                yield None

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Delete these files from the control unit, where that is wanted.

        A name that by now has another length was used again, and is kept.
        """
        for token in tokens if self.after == "delete" else ():
            try:
                nbytes = self._server.size(token.name)
                if nbytes not in (None, token.nbytes):
                    log.warning("file kept, its name was used again name=%s", token.name)
                    continue
                self._server.delete(token.name)
            except SourceError as error:
                log.warning("file kept, cannot delete it name=%s reason=%s", token.name, error)
            else:
                self._deleted.add(token.name)

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a series with these facts would come from this FileWriter."""
        ours = run.get("interface") == INTERFACE
        return ours and run.get("endpoint") == self._server.endpoint

    def check(self) -> Mapping[str, AttributeValue]:
        """Ask the FileWriter for its state and its files; raises SourceError if it is away."""
        files, mode = self._server.names(), self._server.value("mode")
        if mode == "disabled" and not files:
            raise SourceError(
                f"{self._server.endpoint}: the FileWriter is disabled and has no files; set"
                " filewriter/config/mode to enabled"
            )
        return {
            "filewriter_mode": mode,
            "filewriter_state": self._server.value("state"),
            "files": len(files),
            "buffer_free": self._server.value("buffer_free"),
            "disk_free": shutil.disk_usage(self._server.folder()).free,
        }

    def close(self) -> None:
        """Remove what was fetched; may be called twice."""
        self._server.close()

    # -- one look -------------------------------------------------------------------------------

    def _look(self) -> _Events:
        active = self._server.is_active()
        listed = self._server.names()
        self._forget(listed, active)
        while True:
            series = self._current or (yield from self._next(listed))
            if series is None:
                return
            self._current = series
            files = [item for item in listed if item.series == series.name]
            newest = not self._others(series, listed)
            if files:
                yield from self._take(series, files, active and newest)
            if not (yield from self._end(series, files, active and newest)):
                return
            self._current = None

    def _forget(self, listed: list[FileName], active: bool) -> None:
        """Forget files that are gone, and series that are over whose names are used again."""
        names = {item.name for item in listed}
        began = active and not self._was_active
        self._was_active = active
        recheck = began or self._clock() >= self._recheck_s
        for series in list(self._done.values()):
            series.taken &= names
            if not series.taken:
                del self._done[series.name]
            elif (
                recheck
                and series.master_name in names
                and (self._server.digest(series.master_name) != series.digest)
            ):
                log.info("names are used again series=%s", series.name)
                del self._done[series.name]
        if recheck:
            self._recheck_s = self._clock() + _RECHECK_S

    def _next(self, listed: list[FileName]) -> Generator[None, None, FileSeries | None]:
        """Choose the oldest series that has files we have not taken."""
        found: list[tuple[bool, int, tuple[Any, ...], FileSeries]] = []
        for name, items in by_series(listed).items():
            done = self._done.get(name)
            if done is not None and all(item.name in done.taken for item in items):
                continue
            series = FileSeries(name, self._clock())
            if items[0].part == 0:
                yield from self._read_master(series)
            date = series.master.started_ns if series.master else None
            found.append((date is None, date or 0, natural(name), series))
        return min(found, key=lambda item: item[:3])[3] if found else None

    def _others(self, series: FileSeries, listed: list[FileName]) -> bool:
        """Tell whether there are files of a series that was not taken yet."""
        others = {item.series for item in listed} - {series.name}
        return bool(others - self._done.keys())

    # -- files ----------------------------------------------------------------------------------

    def _take(self, series: FileSeries, files: list[FileName], active: bool) -> _Events:
        if not series.begun:
            known = series.master is not None and bool(series.master.date)
            if not known and files[0].part == 0:
                yield from self._read_master(series)
                known = series.master is not None and bool(series.master.date)
            patient = self._clock() - series.changed_s < self._grace_s
            if not known and (patient or (active and not files[-1].part)):
                return  # the master comes first, and tells when the series began
            series.begun = True
            series.start = self._server.integer("image_nr_start", 1)
            series.date = series.master.date if series.master else ""
            yield begin_of(series, self._server.endpoint)
        for item in files:
            if item.part and item.name not in series.taken:
                yield from self._data_file(series, item)

    def _data_file(self, series: FileSeries, item: FileName) -> _Events:
        """Fetch and publish one file; one that cannot be read waits for its next look."""
        nbytes = self._server.size(item.name)
        before, due_s = series.doubtful.get(item.name, (None, 0.0))
        if nbytes is None or (before == nbytes and self._clock() < due_s):
            return
        path = yield from self._server.fetch(item.name, nbytes)
        try:
            yield from self._publish(series, item.name, path, Token(item.name, nbytes))
        except InvalidFrameError as error:
            if before != nbytes:
                series.doubtful[item.name] = (nbytes, self._clock() + self._grace_s)
                return
            yield from self._damaged(series, item.name, f"{error} ({nbytes} bytes)")
        finally:
            path.unlink(missing_ok=True)
        series.changed_s = self._clock()

    def _images_of_master(self, series: FileSeries, content: bytes) -> _Events:
        """Publish images that lie in the master itself; it is let go of at the series' end."""
        path = self._server.folder() / "master.h5"
        path.write_bytes(content)
        try:
            yield from self._publish(series, series.master_name, path, None)
        except InvalidFrameError as error:
            yield from self._damaged(series, series.master_name, str(error))
        finally:
            path.unlink(missing_ok=True)

    @staticmethod
    def _damaged(series: FileSeries, name: str, reason: str) -> _Events:
        series.taken.add(name)
        series.damaged += 1
        yield Quarantined(series=series.name, source=name, reason=reason)

    def _publish(self, series: FileSeries, name: str, path: Path, token: Token | None) -> _Events:
        """Give the images of a file; raises InvalidFrameError before the first one, or never."""
        frames: list[PlacedFrame] = []
        modules: tuple[Module, ...] = ()
        missing = 0
        for images in hdf5.read_images(path):
            check_layout(images, series)
            first = images.first
            if first is None:
                first = self._server.first_number(name, series.start)
            frames.extend(placed(images, first, series))
            modules = channel_modules(images)
            missing += len(images.index.missing)
        frames.sort(key=lambda frame: (frame.header.number, frame.header.module))
        series.taken.add(name)
        if frames:
            series.layout = (frames[0].header.shape, frames[0].header.dtype)
        if modules and not series.modules:
            series.modules = modules
            yield begin_of(series, self._server.endpoint)
        if missing:
            reason = f"{missing} of its images were never written"
            yield Quarantined(series=series.name, source=name, reason=reason)
        if not frames:
            return
        series.highest = max(series.highest, frames[-1].header.number)
        with path.open("rb") as file:
            payload = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield SourceFile(
            series=series.name,
            payload=memoryview(payload),
            frames=tuple(frames),
            token=token,
            source=name,
        )

    # -- begin and end --------------------------------------------------------------------------

    def _read_master(self, series: FileSeries) -> Generator[None, None, bytes]:
        """Fetch and read the master; return its bytes, none if it cannot be read (yet)."""
        name = series.master_name
        nbytes = self._server.size(name)
        if nbytes is None:
            return b""
        if nbytes > _MAX_MASTER_NBYTES:
            self._complaints.say(name, "a master of %d bytes is not read name=%s", nbytes, name)
            return b""
        path = yield from self._server.fetch(name, nbytes)
        try:
            series.master = hdf5.read_master(path, timezone=self._timezone)
            content = path.read_bytes()
        except InvalidFrameError as error:
            self._complaints.say(name, "no master yet name=%s reason=%s", name, str(error))
            return b""
        finally:
            path.unlink(missing_ok=True)
        series.digest = sha256(content).hexdigest()
        return content

    def _end(self, series: FileSeries, files: list[FileName], active: bool) -> _Verdict:
        """End a series when all its files are there, or gone; tell whether it is over."""
        if not files:
            # the unit was started again, or somebody cleared it, unless we deleted them
            if series.begun:
                whole = series.is_whole or bool(series.taken & self._deleted)
                yield SeriesEnd(series=series.name, state="complete" if whole else "lost")
            self._deleted -= series.taken
            return True
        waits = any(item.part and item.name not in series.taken for item in files)
        if not series.begun or waits or active:
            return False
        if not series.is_whole and self._clock() - series.changed_s < self._settle_s:
            return False
        return (yield from self._finish(series, has_master=files[0].part == 0))

    def _finish(self, series: FileSeries, *, has_master: bool) -> _Verdict:
        """Take the master as it is at the end; False if it is not whole yet."""
        token = None
        if has_master:
            last = FileSeries(series.name, series.changed_s)
            content = yield from self._read_master(last)
            if last.master is None and self._clock() - series.changed_s < self._grace_s:
                return False
            if last.master is not None and last.master.date != series.date and series.date:
                log.info("names were used again series=%s", series.name)
                yield SeriesEnd(series=series.name, state="complete" if series.is_whole else "lost")
                return True  # its files are those of another series now, which is taken next
            series.master, series.digest = last.master or series.master, last.digest
            series.taken.add(series.master_name)
            yield begin_of(series, self._server.endpoint, content)
            if content and series.master is not None and series.master.holds_images:
                yield from self._images_of_master(series, content)
            token = Token(series.master_name, len(content)) if content else None
        self._done[series.name] = series
        self._deleted -= series.taken
        yield SeriesEnd(
            series=series.name,
            expected=series.announced if series.is_whole else None,
            metadata={"damaged_files": series.damaged} if series.damaged else {},
            token=token,
        )
        return True
