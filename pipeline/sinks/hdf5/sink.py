"""The HDF5 sink: one NXmx file per stream, there under its name only when it is finished."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import (
    BlobNotFoundError,
    ChecksumError,
    ClosedError,
    FrameExpiredError,
    IncompleteFrameError,
    InvalidArgumentError,
    SinkError,
)
from pipeline.naming import file_name
from pipeline.protocols import FrameLike
from pipeline.records import StreamInfo
from pipeline.sinks.hdf5.chunks import Compression, choose_format
from pipeline.sinks.hdf5.facts import Facts
from pipeline.sinks.hdf5.growing import GrowingTable, Ranges
from pipeline.sinks.hdf5.nxmx import write_layout
from pipeline.sinks.hdf5.provenance import write_provenance
from pipeline.sinks.hdf5.table import INCOMPLETE, INVALID_PAYLOAD, LATE_DUPLICATE, NO_BLOB, Layout
from pipeline.sinks.hdf5.target import Target, short_name, sink_errors

log = logging.getLogger(__name__)

_RANGES = ("missing", "corrupt", "incomplete", "late", "duplicate")


@dataclass(slots=True, kw_only=True)
class SinkCounts:
    """What became of the frames that a sink was given.

    ``invalid`` holds the numbers whose pixels could not be written, with the reason: they do not
    decode, or have another shape or dtype than the first frame.
    """

    written: int = 0
    duplicate: int = 0
    invalid: dict[int, str] = field(default_factory=dict)


class Hdf5Sink:
    """Writes a stream to ``<directory>/<detector>_<stream>.h5``.

    Frames are written as they come, in any order, by one thread; memory does not grow but by two
    bytes per frame.  ``docs/sinks/hdf5.md`` says what is where in the file, and what it costs
    when numbers do not ascend.

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
    """

    def __init__(
        self,
        directory: Path,
        *,
        compression: Compression = "bslz4",
        overwrite: bool = False,
        pixel_mask: npt.NDArray[np.uint32] | None = None,
    ) -> None:
        if compression not in ("as-is", "bslz4", "none"):
            raise InvalidArgumentError("compression", f"{compression!r}: as-is, bslz4 or none")
        self.counts = SinkCounts()
        self._directory = Path(directory)
        self._compression: Compression = compression
        self._overwrite = overwrite
        self._mask = pixel_mask
        self._facts: Facts | None = None
        self._target: Target | None = None
        self._frames: GrowingTable | None = None

    def open(self, info: StreamInfo) -> None:
        """Take the name and its lock; raises SinkError if the file cannot be written."""
        if self._target is not None:
            raise ClosedError("a sink writes one stream: make another one")
        start = info.start
        name = short_name(f"{file_name(start.detector)}_{file_name(start.stream)}")
        target = Target(self._directory, f"{name}.h5", overwrite=self._overwrite)
        target.acquire()
        self._facts, self._target = Facts(info=info, mask=self._mask), target
        try:
            with sink_errors(target.final):
                target.part.touch()  # now rather than with the first frame
        except SinkError:
            self.abort()
            raise

    def write(self, frame: FrameLike) -> None:
        """Take one frame.

        One whose pixels cannot be had becomes a missing frame, counted in ``counts.invalid``.
        Raises SinkError when the file cannot be written, and what ``frame.array`` raises when the
        store is away: the same frame can be given again.
        """
        target, facts = self._opened()
        frames = self._frames
        if frames is not None and frames.is_written(frame.number):
            self.counts.duplicate += 1
            frames.note(frame.number, LATE_DUPLICATE)
            return
        layout = frames.table.layout if frames is not None else self._layout_of(frame)
        pixels, problem, reason = _pixels_of(frame, layout)
        with sink_errors(target.final):
            if frames is None:
                expected = facts.info.expected
                frames = self._frames = GrowingTable(
                    target, layout=layout, number=frame.number, expected=expected
                )
            frames.put(frame, pixels, problem)
        facts.see(frame, pixels)
        self._count(frame.number, reason)

    def finish(self, account: Mapping[str, Any]) -> str:
        """Complete the file, bring it to the disk and give it its name; returns the path.

        Positions go from the first to the last number known to exist, by the frames that came and
        the ranges of ``account``.  After a SinkError nothing is published; call ``abort``.
        """
        target, facts = self._opened()
        ranges = {name: _pairs(name, account.get(name)) for name in _RANGES}
        with sink_errors(target.final):
            frames = self._frames or self._no_frames(target, ranges)
            self._frames = frames
            frames.complete(ranges)
            write_layout(frames.table, facts, target.final.name)
            write_provenance(frames.table, facts, account, sorted(self.counts.invalid))
            frames.table.file.flush()
            frames.close()
        target.publish()
        log.info(
            "file finished path=%s frames=%d missing=%d invalid=%d",
            target.final,
            self.counts.written,
            len(frames.table.valid) - self.counts.written,
            len(self.counts.invalid),
        )
        return str(target.final)

    def abort(self) -> None:
        """Close and remove what is not finished; may be called twice, and after ``finish``."""
        frames, self._frames = self._frames, None
        try:
            if frames is not None:
                frames.close()
        except (OSError, RuntimeError) as error:  # a full disk: HDF5 cannot write its cache
            log.warning("file could not be closed error=%s", error)
        finally:
            if self._target is not None:
                self._target.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _opened(self) -> tuple[Target, Facts]:
        if self._target is None or self._facts is None or not self._target.held:
            raise ClosedError("the sink is not open: open() begins, finish() and abort() end it")
        return self._target, self._facts

    def _layout_of(self, frame: FrameLike) -> Layout:
        shape = tuple(frame.shape)
        images = choose_format(self._compression, frame.encoding) if shape else None
        return Layout(shape=shape, dtype=frame.dtype, images=images)

    def _no_frames(self, target: Target, ranges: Ranges) -> GrowingTable:
        layout = Layout(shape=(), dtype="uint8", images=None)
        numbers = [first for pairs in ranges.values() for first, _ in pairs]
        return GrowingTable(target, layout=layout, number=min(numbers, default=0), expected=None)

    def _count(self, number: int, reason: str) -> None:
        if not reason:
            self.counts.written += 1
            self.counts.invalid.pop(number, None)
            return
        if not self.counts.invalid:  # the first tells what is wrong; the end tells how many
            log.warning("frame cannot be written number=%d reason=%s", number, reason)
        self.counts.invalid[number] = reason


def _pixels_of(frame: FrameLike, layout: Layout) -> tuple[npt.NDArray[Any] | None, int, str]:
    """Return the frame's pixels or None, a bit of ``frame_status``, and what is wrong."""
    alike = (tuple(frame.shape), frame.dtype) == (layout.shape, layout.dtype)
    if not alike and (layout.images is not None or frame.shape):
        reason = f"{frame.shape} {frame.dtype}, the file has {layout.shape} {layout.dtype}"
        return None, INVALID_PAYLOAD, reason
    if frame.encoding == "none":
        return None, 0, ""
    try:
        # Decoded also where the payload itself is written: a chunk that is damaged inside can
        # crash whoever reads the file (nexus.md section 5); 7-9 GB/s.
        pixels = np.asarray(frame.array)
    except IncompleteFrameError as error:
        return None, INCOMPLETE, str(error)
    except (BlobNotFoundError, FrameExpiredError) as error:
        return None, NO_BLOB, str(error)
    except (ChecksumError, ValueError) as error:  # DecodeError is a ValueError
        return None, INVALID_PAYLOAD, str(error)
    if pixels.shape != layout.shape or pixels.dtype.newbyteorder("=") != np.dtype(frame.dtype):
        return None, INVALID_PAYLOAD, f"decodes to {pixels.shape} {pixels.dtype}"
    return pixels, 0, ""


def _pairs(name: str, value: object) -> list[tuple[int, int]]:
    try:
        return [(int(first), int(last)) for first, last in (value or ())]  # type: ignore[attr-defined]  # checked by trying
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"account[{name!r}]", f"{value!r} is no list of ranges"
        ) from error
