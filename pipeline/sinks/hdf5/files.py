"""The files that a stream goes into: one, or one per module, partition or range of numbers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError, SinkError, SinkRefusedError
from pipeline.protocols import FrameLike
from pipeline.records import StreamInfo
from pipeline.sinks.hdf5.chunks import Compression
from pipeline.sinks.hdf5.counts import SinkCounts
from pipeline.sinks.hdf5.flavours import LayoutKind
from pipeline.sinks.hdf5.layout import Extra
from pipeline.sinks.hdf5.parts import parts_in, throw_away, unfinished
from pipeline.sinks.hdf5.prepare import Check
from pipeline.sinks.hdf5.rows import Rows
from pipeline.sinks.hdf5.share import Share, by_module, range_index, range_share
from pipeline.sinks.hdf5.sink import WHOLE, Hdf5Sink, stem
from pipeline.sinks.hdf5.target import Target

log = logging.getLogger(__name__)
#: Files open at a time where a stream has many; the others wait as a restart would find them.
_MAX_OPEN = 16
#: In a data file of DECTRIS' file writer, unless it is told otherwise.
_DECTRIS_FRAMES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a stream becomes files.

    Parameters
    ----------
    compression, overwrite, pixel_mask, check, extras:
        See :class:`Hdf5Sink`.
    layout:
        Also ``dectris``: data files of ``frames_per_file`` (1000) and a master that links to them.
    by_partition:
        One file per partition of the topic, which may have several writers.
    frames_per_file:
        At most so many numbers in a file, ``n // frames_per_file`` of its own each; 0: all.
    origin:
        A number that is to be the first of a file; None: 0, in the layout ``dectris`` the lowest of
        the stream.  DECTRIS' XDS plugin takes every file to be as long as the first one.
    """

    compression: Compression = "bslz4"
    overwrite: bool = False
    pixel_mask: npt.NDArray[np.uint32] | None = None
    check: Check = "framing"
    layout: LayoutKind = "nxmx"
    extras: Sequence[Extra] = ()
    by_partition: bool = False
    frames_per_file: int = 0
    origin: int | None = None

    def __post_init__(self) -> None:
        if self.frames_per_file < 0:
            raise InvalidArgumentError("frames_per_file", f"{self.frames_per_file} is negative")
        if self.layout == "dectris" and not self.frames_per_file:
            object.__setattr__(self, "frames_per_file", _DECTRIS_FRAMES)
        if self.frames_per_file and self.by_partition:
            raise InvalidArgumentError(
                "frames_per_file", "files of several writers go by partition: choose one of both"
            )


def master_path(directory: Path, info: StreamInfo, options: Options) -> Path:
    """Return the path of the file that users open."""
    suffix = "_master" if options.layout == "dectris" else ""
    return directory / f"{stem(info.start)}{suffix}.h5"


def check_master_free(directory: Path, info: StreamInfo, options: Options) -> None:
    """Raise SinkRefusedError if the file that users open is there and is not to be replaced."""
    name = master_path(directory, info, options).name
    Target(directory, name, overwrite=options.overwrite).check_free()


def shares_of(info: StreamInfo, options: Options, span: tuple[int, int] | None) -> list[Share]:
    """Return what each file of a stream holds; of ranges those that lie within ``span``."""
    start = info.start
    shares = [WHOLE]
    if options.by_partition and start.partitions > 1:
        shares = [
            Share(
                suffix=f"_p{partition:02d}",
                chunk=start.frames_per_chunk,
                partitions=start.partitions,
                partition=partition,
            )
            for partition in range(start.partitions)
        ]
    elif options.frames_per_file and span is not None:
        size, origin = options.frames_per_file, options.origin or 0
        ends = (range_index(number, size, origin) for number in span)
        shares = [range_share(i, size, origin) for i in range(next(ends), next(ends) + 1)]
    shares = [each for share in shares for each in by_module(start.modules, share)]
    return [s for s in shares if span is None or s.within(*span) is not None]


def part_paths(
    directory: Path, info: StreamInfo, options: Options, span: tuple[int, int]
) -> list[Path]:
    """Return the paths of the files that a master file refers to."""
    shares = shares_of(info, options, span)
    return [directory / f"{stem(info.start)}{s.suffix}.h5" for s in shares if not s.is_whole]


class Files:
    """The sinks of one stream; used by one thread, but for :meth:`Hdf5Sink.prepare`.

    ``partitions``: those whose frames come here; None for all.
    """

    def __init__(
        self,
        directory: Path,
        info: StreamInfo,
        options: Options,
        *,
        partitions: Collection[int] | None = None,
    ) -> None:
        self.info = info
        self.options = options
        self.partitions = sorted(partitions or range(info.start.partitions))
        self._directory = Path(directory)
        self._sinks: dict[Share, Hdf5Sink] = {}
        self._suspended: set[Share] = set()
        self._complete: set[Share] = set()
        self._known: dict[tuple[int, int], Share] = {}
        #: The markers of files that earlier writers have left, as they were found.
        self._found: dict[Share, list[int]] = {}
        #: Of sinks that have been suspended.
        self._counts: dict[Share, SinkCounts] = {}
        self._marker: list[int] = list(info.start.offsets)
        #: Where the log has been written up to, ahead of the checkpoints; who reads it says so.
        self.reached: list[int] = self._marker

    @property
    def is_plain(self) -> bool:
        """Whether it is one file that needs no other."""
        options, start = self.options, self.info.start
        by_partition = options.by_partition and start.partitions > 1
        return not (by_partition or options.frames_per_file or start.modules)

    def open(self, lowest: int | None = None) -> None:
        """Take the files, as far as they are known by now; raises SinkError.

        ``lowest``: the lowest number of the stream, as far as it is known.  Parts in the layout
        ``dectris`` whose first would not be full are thrown away.
        """
        if self.options.layout == "dectris" and self.info.start.modules:
            raise SinkRefusedError(
                "a detector with modules has no files in DECTRIS' layout: use nxmx"
            )
        check_master_free(self._directory, self.info, self.options)
        if self.is_plain:
            self._open(WHOLE)
        elif self.options.frames_per_file:
            self._find_ranges(lowest)
        else:
            for share in shares_of(self.info, self.options, None):
                if share.partitions == 1 or share.partition in self.partitions:
                    self._open(share)
        self._marker = self._first_marker()
        for sink in self._sinks.values():
            if sink.is_new:
                sink.begin_at(self._marker)

    def _first_marker(self) -> list[int]:
        """Return from where on records may not be in the files.

        A file begins with its first frame, before anything is said to be there: one that has none
        yet misses nothing below the markers of the others.
        """
        marker = list(self.info.start.offsets)
        ends = self.info.end_offsets
        by_partition = self.options.by_partition and len(marker) > 1
        for partition in self.partitions:
            mine = [k for k in self._sinks if not by_partition or k.partition == partition]
            if by_partition and not mine and ends is not None:  # all of them are complete
                marker[partition] = ends[partition]
            old = [
                found[partition]
                for k, found in self._found.items()
                if not by_partition or k.partition == partition
            ]
            marker[partition] = min(old, default=marker[partition])
        return marker

    def _find_ranges(self, lowest: int | None) -> None:
        there = parts_in(self._directory, stem(self.info.start))
        if self._seeks_origin:
            self._settle_origin(lowest, [self._target(name) for name in there])
        for index in sorted(set(there.values())):
            share = range_share(index, self.options.frames_per_file, self.options.origin or 0)
            for each in by_module(self.info.start.modules, share):
                if self._seeks_origin:
                    self._is_complete(each)
                else:
                    self._open(each)

    @property
    def _seeks_origin(self) -> bool:
        return self.options.layout == "dectris" and self.options.origin is None

    def _settle_origin(self, lowest: int | None, targets: Sequence[Target]) -> None:
        """Let the stream decide where files begin, else those that are there already."""
        firsts = unfinished(targets, self.info.start.stream_key)
        if lowest is None:
            lowest = next(iter(firsts.values()), None)
        if lowest is None:
            return
        self.options = replace(self.options, origin=lowest)
        for target, first in firsts.items():
            if not self.begins_with(first):
                log.info("a part is begun again with other frames path=%s", target.final)
                throw_away(target)

    def begins_with(self, number: int) -> bool:
        """Whether a file begins with this number, if it has to."""
        size, origin = self.options.frames_per_file, self.options.origin
        return self.options.layout != "dectris" or (number - (origin or 0)) % size == 0

    @property
    def marker(self) -> list[int]:
        """Per partition the first offset from which records have to be read."""
        return list(self._marker)

    def sink(self, module: int, number: int) -> Hdf5Sink | None:
        """Return where a frame goes; None if the file that has it is complete already."""
        share = self._share(module, number)
        sink = self._sinks.get(share)
        if sink is None and share not in self._complete:
            self._open(share)
            sink = self._sinks.get(share)
        return sink

    def _share(self, module: int, number: int) -> Share:
        options, start = self.options, self.info.start
        if self.is_plain:
            return WHOLE
        group = 0
        if options.by_partition and start.partitions > 1:
            group = start.partition_of(number)
        elif options.frames_per_file:
            if self._seeks_origin:
                self.options = options = replace(options, origin=number)
            group = range_index(number, options.frames_per_file, options.origin or 0)
        share = self._known.get((module, group))
        if share is None:
            (share,) = (
                s
                for s in shares_of(self.info, options, (number, number))
                if s.module in (None, module)
            )
            self._known[(module, group)] = share
        return share

    def _open(self, share: Share) -> None:
        if share in self._sinks or share in self._complete:
            return
        if not share.is_whole and self._is_complete(share):
            self._complete.add(share)
            return
        if self.options.frames_per_file and len(self._sinks) >= _MAX_OPEN:
            self._suspend_one()
        sink = Hdf5Sink(
            self._directory,
            compression=self.options.compression,
            overwrite=self.options.overwrite,
            pixel_mask=self.options.pixel_mask,
            check=self.options.check,
            layout=self.options.layout,
            extras=self.options.extras,
            share=share,
        )
        sink.open(self.info)
        if sink.is_new:  # one of many, in the midst of the stream
            sink.begin_at(self._marker)
        else:
            self._found.setdefault(share, sink.marker)
        self._sinks[share] = sink
        if (before := self._counts.pop(share, None)) is not None:
            sink.counts.duplicate += before.duplicate
            sink.counts.invalid.update(before.invalid)
            sink.counts.refused = len(sink.counts.invalid)

    def _suspend_one(self) -> None:
        share, sink = next(iter(self._sinks.items()))
        del self._sinks[share]
        # rows beyond what is said to be there would not count when it is opened again
        sink.checkpoint(np.maximum(sink.marker, self.reached).tolist())
        sink.suspend()
        self._counts[share] = sink.counts

    def begin_again(self, share: Share) -> Hdf5Sink:
        """Throw a file away that is not complete, and return a new one for the same frames."""
        self._sinks.pop(share).abort()
        self._open(share)
        return self._sinks[share]

    def are_complete(self, span: tuple[int, int]) -> bool:
        """Tell whether every part is there and waits for its master file."""
        parts = part_paths(self._directory, self.info, self.options, span)
        return all(
            part.exists() and Target(self._directory, part.name, overwrite=False).journal.exists()
            for part in parts
        )

    def _target(self, name: str) -> Target:
        return Target(self._directory, name, overwrite=True)

    def _is_complete(self, share: Share) -> bool:
        """Tell whether a part was finished by an earlier writer, and waits for its master file."""
        target = self._target(f"{stem(self.info.start)}{share.suffix}.h5")
        path = target.final
        if not path.exists():
            return False
        if not target.journal.exists():
            # of a stream whose master was made
            if not self.options.overwrite:
                raise SinkRefusedError(f"{path} exists: choose another directory, or replace it")
            path.unlink()
            return False
        try:
            with h5py.File(path, locking=False) as file:
                key = file["entry/provenance"].attrs["stream_key"].decode()
                rows = Rows(file, base=0, share=share)
        except (OSError, KeyError) as error:
            raise SinkError(f"{path} exists and is no file of this stream: {error}") from error
        if key != self.info.start.stream_key.hex():
            raise SinkRefusedError(f"{path} exists, of another stream: choose another directory")
        # rows of frames that came and have no pixels
        bad = rows.numbers[(rows.valid == 0) & (rows.partition >= 0)].tolist()
        self._counts[share] = SinkCounts(
            written=int(rows.valid.sum()),
            invalid=dict.fromkeys(bad, "an earlier run could not write it"),
            refused=len(bad),
        )
        return True

    @property
    def counts(self) -> SinkCounts:
        """What became of the frames, in all files."""
        return SinkCounts.merged(
            [*self._counts.values(), *(sink.counts for sink in self._sinks.values())]
        )

    @property
    def open_sinks(self) -> Mapping[Share, Hdf5Sink]:
        """The sinks that are open now, by what they hold."""
        return self._sinks

    def every(self, span: tuple[int, int]) -> Iterator[tuple[Share, Hdf5Sink]]:
        """Yield all sinks whose files are not complete yet, one after the other."""
        for share in shares_of(self.info, self.options, span):
            if share.partitions > 1 and share.partition not in self.partitions:
                continue
            self._open(share)
            if share in self._sinks:
                yield share, self._sinks[share]

    def checkpoint(self, marker: Sequence[int]) -> None:
        """Bring everything to all files, and how far the log is in them."""
        for sink in self._sinks.values():
            sink.checkpoint(marker)
        self._marker = list(marker)

    def finish_parts(
        self, account: Mapping[str, Any], span: tuple[int, int], example: FrameLike
    ) -> None:
        """Complete the files that hold a share; ``example`` tells what any frame is like."""
        for share, sink in self.every(span):
            sink.expect(example)
            sink.finish_part(account, span)
            del self._sinks[share]
            self._counts[share] = sink.counts
            self._complete.add(share)

    def suspend(self) -> None:
        """Close all, and leave what is not finished to the next one; may be called twice."""
        for sink in self._sinks.values():
            sink.suspend()
        self._sinks.clear()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.suspend()
