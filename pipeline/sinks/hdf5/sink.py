"""The HDF5 sink: one NXmx file per stream, there under its name only when it is finished."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import (
    ClosedError,
    InvalidArgumentError,
    SinkError,
    SinkRefusedError,
)
from pipeline.naming import file_name
from pipeline.nexus.nxmx import LATE_DUPLICATE
from pipeline.protocols import FrameLike
from pipeline.records import Start, StreamInfo
from pipeline.sinks.hdf5.chunks import Compression, choose_format
from pipeline.sinks.hdf5.counts import SinkCounts
from pipeline.sinks.hdf5.finished import finishing
from pipeline.sinks.hdf5.flavours import LayoutKind
from pipeline.sinks.hdf5.growing import GrowingTable, Ranges, ranges_of
from pipeline.sinks.hdf5.journal import Journal
from pipeline.sinks.hdf5.layout import Extra, write_layout
from pipeline.sinks.hdf5.prepare import Check, Prepared, prepared
from pipeline.sinks.hdf5.provenance import write_provenance
from pipeline.sinks.hdf5.salvage import left_behind, note_places
from pipeline.sinks.hdf5.share import Ints, Share
from pipeline.sinks.hdf5.table import Layout
from pipeline.sinks.hdf5.target import Target, is_full, short_name, sink_errors

log = logging.getLogger(__name__)

WHOLE = Share()
_RANGES = ("missing", "corrupt", "incomplete", "late", "duplicate")


def stem(start: Start) -> str:
    """Return how the names of all files of a stream begin."""
    return short_name(f"{file_name(start.detector)}_{file_name(start.stream)}")


class Hdf5Sink:
    """Writes a stream to ``<directory>/<detector>_<stream>.h5``.

    Frames are written as they come, in any order, by one thread; memory grows by 32 bytes per
    frame.  ``docs/sinks/hdf5.md`` says what is where in the file, how it is read while it grows,
    and what it costs when numbers do not ascend.

    What a sink has left that was ended before ``finish``, by ``kill -9`` or by leaving its block,
    the next one for the same stream goes on with: see :attr:`marker`.

    Parameters
    ----------
    directory:
        Where the file goes; made if it does not exist.
    compression:
        ``bslz4``; ``none``; ``as-is`` for the encoding of the first frame, where HDF5 knows it.
    overwrite:
        Replace a file of this name, in the moment the new one is complete.
    pixel_mask:
        (rows, columns) uint32, bits as NXmx ``pixel_mask``; None derives it from a Pilatus' first
        frame (-1 gap, -2 dead), and is 0 for other detectors.
    check:
        What is looked at of payloads that are written as they came: ``framing`` (their header and
        the length of each block, by which a wrong one crashes readers) or ``full`` (decoded).
    layout:
        ``nxmx``; ``nxdata``: the same without what is NXmx' own; ``nxtomo``.
    extras:
        What else the file gets: :class:`.mapping.Mapped`, :class:`.joining.Joined`.
    share:
        The frames that this file holds, if others hold the rest: it is then ended by
        :meth:`finish_part`, and a master file refers to it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        compression: Compression = "bslz4",
        overwrite: bool = False,
        pixel_mask: npt.NDArray[np.uint32] | None = None,
        check: Check = "framing",
        layout: LayoutKind = "nxmx",
        extras: Sequence[Extra] = (),
        share: Share = WHOLE,
    ) -> None:
        if compression not in ("as-is", "bslz4", "none"):
            raise InvalidArgumentError("compression", f"{compression!r}: as-is, bslz4 or none")
        if check not in ("framing", "full"):
            raise InvalidArgumentError("check", f"{check!r}: framing or full")
        self.counts = SinkCounts()
        self.share = share
        self._directory = Path(directory)
        self._compression: Compression = compression
        self._overwrite = overwrite
        self._mask = pixel_mask
        self._check: Check = check
        self._kind = layout
        self._extras = extras
        self._info: StreamInfo | None = None
        self._target: Target | None = None
        self._frames: GrowingTable | None = None
        self._journal: Journal | None = None
        self._layout: Layout | None = None
        self._marker: list[int] = []
        self._checkpoint_s = 0.0

    def open(self, info: StreamInfo) -> None:
        """Take the name and its lock, and go on with what an earlier sink has left.

        Raises SinkError if the file cannot be written.
        """
        if self._target is not None:
            raise ClosedError("a sink writes one stream: make another one")
        start = info.start
        name = f"{stem(start)}{self.share.suffix}.h5"
        target = Target(self._directory, name, overwrite=self._overwrite)
        target.acquire()
        self._info, self._target = info, target
        # the last counts the frames that were given without the place of their record
        self._marker = [*start.offsets, 0]
        try:
            with sink_errors(target.final):
                self._go_on(target, start)
                target.part.touch()  # now rather than with the first frame
                self._journal = Journal(target.journal)
        except SinkError:
            self._close()
            target.leave()
            raise

    def _go_on(self, target: Target, start: Start) -> None:
        try:
            found = left_behind(target, stream_key=start.stream_key, share=self.share)
        except (OSError, KeyError, ValueError, RuntimeError, SinkError) as error:
            if is_full(error):  # it is good, and can be used when there is room
                raise
            aside = target.set_aside()
            log.warning("an unfinished file was set aside path=%s reason=%s", aside, error)
            return
        if found is None:
            target.journal.unlink(missing_ok=True)  # of whom, nobody knows
            return
        if len(found.marker) != len(self._marker):
            found.close()
            raise SinkRefusedError(
                f"{target.part} was written with another number of partitions: delete it, or"
                " choose another directory"
            )
        self._frames = GrowingTable(target, table=found)
        self._layout = found.layout
        self._marker = list(found.marker)
        self.counts.written = int(found.rows.valid.sum())
        log.info("going on with an unfinished file frames=%d", self.counts.written)

    @property
    def is_new(self) -> bool:
        """Whether the file has no frame yet, nor had one that an earlier sink left."""
        return self._frames is None

    def begin_at(self, marker: Sequence[int]) -> None:
        """Tell a new file that what is below ``marker`` is none of its own."""
        self._marker[:-1] = marker

    @property
    def marker(self) -> list[int]:
        """Per partition of the stream's topic the first offset that is not in the file for good.

        Records from there on have to be given again after ``open``; frames among them that are
        there already are passed over.
        """
        return self._marker[:-1]

    @property
    def form(self) -> tuple[tuple[int, ...], str] | None:
        """Shape and dtype that frames of the file have; None while it has none."""
        return None if self._layout is None else (self._layout.shape, self._layout.dtype)

    def expect(self, frame: FrameLike) -> None:
        """Let the first frame decide what all frames of the file are like; reads no payload."""
        if self._layout is None:
            shape = tuple(frame.shape)
            images = choose_format(self._compression, frame.encoding) if shape else None
            self._layout = Layout(shape=shape, dtype=frame.dtype, images=images)

    def prepare(self, frame: FrameLike) -> Prepared:
        """Fetch and check one frame; may run in any thread once one was expected.

        Raises what ``frame.array`` raises when the store is away.
        """
        self.expect(frame)
        assert self._layout is not None
        return prepared(frame, self._layout, self._check)

    def is_written(self, number: int) -> bool:
        """Whether a valid frame of this number is in the file."""
        return self._frames is not None and self._frames.is_written(number)

    def source(self, number: int) -> tuple[int, int]:
        """Return partition and offset of the record of a frame that is in the file."""
        if not self.is_written(number):
            raise InvalidArgumentError("number", f"frame {number} is not in the file")
        assert self._frames is not None
        return self._frames.source(number)

    def holds(self, numbers: Ints, partitions: Ints, offsets: Ints) -> npt.NDArray[np.bool_]:
        """Tell for each frame whether it is in the file, from this very record."""
        if self._frames is None:
            return np.zeros(len(numbers), np.bool_)
        return self._frames.table.rows.holds(numbers, partitions, offsets)

    def write(self, frame: FrameLike, source: tuple[int, int] | None = None) -> None:
        """Take one frame, ``source`` being partition and offset of its record.

        One whose pixels cannot be had becomes a missing frame, counted in ``counts.invalid``.
        Raises SinkError when the file cannot be written, and what ``frame.array`` raises when the
        store is away: the same frame can be given again.
        """
        self._opened()
        if self.is_written(frame.number):
            self.put_again(frame.number, source)
        else:
            self.put(self.prepare(frame), source)

    def put(self, ready: Prepared, source: tuple[int, int] | None = None) -> None:
        """Write a prepared frame, in the place of one that is there; see :meth:`write`."""
        target, info, journal = self._opened()
        number = ready.frame.number
        was_there = self.is_written(number)
        with sink_errors(target.final):
            if self._frames is None:
                self._frames = self._created(target, info, ready.layout, number)
            if source is None:
                source = len(self._marker) - 1, self._marker[-1]
                self._marker[-1] += 1
            self._frames.put(ready.frame, ready.chunk, ready.pixels, ready.problem, source)
            journal.add(number, ready.attributes)
        self.counts.note(number, ready.reason, was_there=was_there)

    def put_again(self, number: int, source: tuple[int, int] | None = None) -> None:
        """Note another copy of a frame; the same record read again after a restart is none."""
        assert self._frames is not None
        if source is None or self._frames.source(number) != source:
            self.counts.duplicate += 1
            self._frames.note(number, LATE_DUPLICATE)

    def checkpoint(self, marker: Sequence[int] | None = None, *, every_s: float = 0.0) -> None:
        """Bring to the file what was written, then ``marker``: it is there whatever happens.

        Does nothing within ``every_s`` of the last one.  ``kill -9`` costs nothing then; the power
        does, what the system has not brought to the disk yet.
        """
        target, _, journal = self._opened()
        now = time.monotonic()
        if now - self._checkpoint_s < every_s:
            return
        self._checkpoint_s = now
        if marker is not None:
            self._marker[:-1] = marker
        if self._frames is not None:
            with sink_errors(target.final):
                journal.flush()
                self._frames.table.checkpoint(self._marker)

    def finish(self, account: Mapping[str, Any]) -> str:
        """Complete the file, bring it to the disk and give it its name; returns the path.

        Positions go from the first to the last number known to exist, by the frames that came and
        the ranges of ``account``.  After a SinkError nothing is published.
        """
        target, info, journal = self._opened()
        ranges = {name: ranges_of(name, account.get(name)) for name in _RANGES}
        with sink_errors(target.final):
            frames = self._frames or self._no_frames(target, info, ranges)
            self._frames = frames
            frames.complete(ranges)
            self.checkpoint()
            note_places(target, frames.table)
            frames.close()
            with finishing(target.part, frames.table, journal) as done:
                facts = done.facts(info)
                mask = done.mask(facts) if self._mask is None else self._mask
                write_layout(
                    done,
                    facts,
                    target.final.name,
                    mask=mask,
                    kind=self._kind,
                    extras=self._extras,
                )
                write_provenance(done, facts, account, sorted(self.counts.invalid))
            journal.close()
        target.publish()
        log.info(
            "file finished path=%s frames=%d missing=%d invalid=%d",
            target.final,
            self.counts.written,
            len(frames.table.rows) - self.counts.written,
            len(self.counts.invalid),
        )
        return str(target.final)

    def finish_part(self, account: Mapping[str, Any], span: tuple[int, int]) -> str:
        """Complete a file that holds a share of the stream; returns the path.

        ``span``: the lowest and the highest number of the whole stream.  What the frames say
        besides stays in the journal until the master file has it.
        """
        target, info, journal = self._opened()
        ranges = {name: ranges_of(name, account.get(name)) for name in _RANGES}
        with sink_errors(target.final):
            if self._frames is None:
                place = self.share.within(*span)
                assert place is not None, "an empty share has no file"
                assert self._layout is not None, "expect() tells what it would be like"
                first = int(self.share.numbers(np.array([place[0]]))[0])
                self._frames = self._created(target, info, self._layout, first)
            self._frames.complete(ranges, span)
            self.checkpoint()
            self._frames.close()
            journal.close()
        target.publish(keep=(target.journal,))
        return str(target.final)

    def suspend(self) -> None:
        """Close, and leave what is not finished to the next sink for this stream.

        May be called twice, and after ``finish``.
        """
        is_empty = self._frames is None
        self._close()
        if self._target is not None:
            if is_empty:
                self._target.discard()
            else:
                self._target.leave()

    def abort(self) -> None:
        """Close and remove what is not finished; may be called twice, and after ``finish``."""
        self._close()
        if self._target is not None:
            self._target.discard()

    def _close(self) -> None:
        frames, self._frames = self._frames, None
        try:
            if self._journal is not None:
                self._journal.close()
            if frames is not None:
                frames.close()
        except (OSError, RuntimeError) as error:  # a full disk: HDF5 cannot write its cache
            log.warning("file could not be closed error=%s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.suspend()

    def _opened(self) -> tuple[Target, StreamInfo, Journal]:
        if (
            self._target is None
            or self._info is None
            or self._journal is None
            or not self._target.held
        ):
            raise ClosedError("the sink is not open: open() begins, finish() and abort() end it")
        return self._target, self._info, self._journal

    def _created(
        self, target: Target, info: StreamInfo, layout: Layout, number: int
    ) -> GrowingTable:
        if self._mask is not None and self._mask.shape != layout.shape:
            raise SinkError(
                f"pixel_mask has shape {self._mask.shape}, the frames have {layout.shape}"
            )
        return GrowingTable.create(
            target,
            stream_key=info.start.stream_key,
            layout=layout,
            number=number,
            expected=self.share.expected(info.expected),
            marker=self._marker,
            share=self.share,
        )

    def _no_frames(self, target: Target, info: StreamInfo, ranges: Ranges) -> GrowingTable:
        layout = Layout(shape=(), dtype="uint8", images=None)
        numbers = [first for pairs in ranges.values() for first, _ in pairs]
        return self._created(target, info, layout, min(numbers, default=0))
