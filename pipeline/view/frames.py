"""The frames of a table by position, and their pixels: only what is asked for is read."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import BlobNotFoundError, DecodeError
from pipeline.nexus.tree import Array, Int64s
from pipeline.reading.fetch import Block, Fetcher, Origin, Window
from pipeline.reading.frame import Frame, ModularFrame, sentinel
from pipeline.reading.live import LiveTable
from pipeline.reading.table import FrameTable, Rows
from pipeline.records import Located, Segment

#: Frames whose reading is planned together.
_AHEAD = 256
#: From this many bytes a frame, some of its rows are read alone; a request costs as much as
#: reading 100 kB to 1 MB, depending on the store.
_PARTIAL_NBYTES = 1 << 20


@dataclass(slots=True, eq=False)
class _Run:
    """Rows of one record that follow each other: one read."""

    located: Located
    first: int
    last: int
    uses: int = 0
    block: Block | None = field(default=None)


class FrameSet:
    """Which rows of a table are the frames of a stream; rows do not change once they are there.

    Parameters
    ----------
    rows:
        One row per number and module, in this order.
    """

    def __init__(
        self, live: LiveTable, table: FrameTable, rows: Rows, fetcher: Fetcher, origin: Origin
    ) -> None:
        self._live = live
        self._table = table
        self._fetcher = fetcher
        self.origin = origin
        self._rows = rows
        numbers = table.numbers[rows]
        heads = np.ones(len(numbers), bool)
        heads[1:] = numbers[1:] != numbers[:-1]
        begins = np.flatnonzero(heads)
        #: The numbers of the frames, rising, and how many rows (modules) each has.
        self.numbers: Int64s = numbers[begins]
        self.counts: Int64s = np.diff(np.append(begins, len(numbers))).astype(np.int64)
        self._begins = begins
        #: The row of each frame that speaks for it: its lowest module's.
        self.heads: Rows = rows[begins]

    def find(self, numbers: Int64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        """Return where these numbers are among the frames, and which of them are there at all."""
        at = np.searchsorted(self.numbers, numbers).astype(np.int64)
        inside = at < len(self.numbers)
        found = np.zeros(len(at), bool)
        found[inside] = self.numbers[at[inside]] == numbers[inside]
        return at, found

    def frames(self, which: Sequence[int]) -> Iterator[Frame]:
        """Yield some of the frames, by their place in ``numbers``, reading ahead."""
        for begin in range(0, len(which), _AHEAD):
            yield from self._batch(which[begin : begin + _AHEAD])

    def frame(self, at: int) -> Frame:
        """Return one frame, of which nothing is read before it is asked for."""
        (parts,) = self._plan([at])
        for run, _ in parts:
            run.block = self._open(run)
        return self._frame(parts)

    def rows_of(self, at: int) -> list[tuple[Located, int]]:
        """Return record and row of a frame, or of its modules."""
        begin = int(self._begins[at])
        with self._live.lock:
            rows = self._rows[begin : begin + int(self.counts[at])]
            return [self._table.locate(int(row)) for row in rows]

    def _batch(self, which: Sequence[int]) -> Iterator[Frame]:
        window = Window(self._fetcher.prefetch_nbytes)
        plan = self._plan(which)
        order = dict.fromkeys(run for parts in plan for run, _ in parts)
        for rank, run in enumerate(order):
            run.block = self._open(run)
            window.add(rank, run.block)
        window.pump()
        for parts in plan:
            yield self._frame(parts)
            for run, _ in parts:
                run.uses -= 1
                if not run.uses and run.block is not None:
                    window.release(run.block)
                    run.block = None
            window.pump()

    def _plan(self, which: Sequence[int]) -> list[list[tuple[_Run, int]]]:
        """Return for each frame its parts: the read they come with, and the row of the record."""
        open_runs: dict[int, _Run] = {}
        plan = []
        for at in which:
            parts = []
            for located, row in self.rows_of(at):
                run = open_runs.get(id(located))
                if run is None or row != run.last + 1:
                    run = open_runs[id(located)] = _Run(located, row, row)
                run.last = row
                run.uses += 1
                parts.append((run, row))
            plan.append(parts)
        return plan

    def _open(self, run: _Run) -> Block:
        segment = run.located.value
        assert isinstance(segment, Segment)  # only segments have rows
        return self._fetcher.open(
            segment,
            self.origin,
            slice(run.first, run.last + 1),
            functools.partial(self._live.reload, run.located),
        )

    def _frame(self, parts: list[tuple[_Run, int]]) -> Frame:
        frames = []
        for run, row in parts:
            assert run.block is not None  # released after its last use
            number = int(run.block.segment.numbers[row])
            frames.append(Frame(number, run.block, row))
        if not self.origin.modules:
            return frames[0]
        return ModularFrame(frames[0].number, {frame.module: frame for frame in frames})

    def part(self, at: int, first: int, count: int) -> Array | None:
        """Read only ``count`` rows of pixels from ``first`` on; None where that is no gain.

        Such a part cannot be compared with the frame's checksum.
        """
        located, row = self.rows_of(at)[0]
        segment = located.value
        assert isinstance(segment, Segment)  # only segments have rows
        length = int(segment.lengths[row])
        if segment.encoding != "raw" or not segment.blob:
            return None
        pitch = length // segment.shape[0]
        if length < _PARTIAL_NBYTES or 2 * count * pitch > length:
            return None
        dtype = np.dtype(segment.dtype).newbyteorder("<")
        begin = int(segment.offsets[row]) + first * pitch
        data = self._fetcher.get(segment.blob, begin, count * pitch)
        if data.nbytes != count * pitch:
            raise BlobNotFoundError(segment.blob, store=self._fetcher.url)
        return np.frombuffer(data, dtype).reshape(count, *segment.shape[1:])


class Pixels:
    """Images of one shape and type, by position.

    Parameters
    ----------
    base:
        The number of the frame at position 0.
    usable:
        Of each frame of ``frames``: whether all of it came.  Where it is False, as where there is
        no frame, pixels hold the sentinel.
    """

    def __init__(
        self,
        frames: FrameSet,
        *,
        base: int,
        usable: npt.NDArray[np.bool_],
        shape: tuple[int, ...],
        dtype: str,
    ) -> None:
        self._frames = frames
        self._base = base
        self._usable = usable
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._sentinel = sentinel(dtype)

    def read(self, places: Int64s, rest: tuple[Any, ...]) -> Array:
        """Return frames, or ``rest`` of each; see :class:`pipeline.nexus.tree.Images`.

        Raises
        ------
        DecodeError
            A frame is damaged, or has another shape or type than the others.
        ChecksumError, BlobNotFoundError, StoreUnavailableError
            As reading a frame does.
        """
        cut = np.broadcast_to(np.empty((), self._dtype), self._shape)[rest].shape
        stack = np.full((len(places), *cut), self._sentinel, self._dtype)
        if not stack.size:
            return stack
        at, there = self._frames.find(places + self._base)
        there[there] = self._usable[at[there]]
        slots = np.flatnonzero(there).tolist()
        wanted = at[slots].tolist()
        if wanted and self._fill_parts(stack, slots, wanted, rest):
            return stack
        for slot, frame in zip(slots, self._frames.frames(wanted), strict=True):
            self._check(frame.number, frame.shape, frame.dtype)
            stack[slot] = frame.array[rest]
        return stack

    def _fill_parts(
        self, stack: Array, slots: list[int], wanted: list[int], rest: tuple[Any, ...]
    ) -> bool:
        """Fill the stack from single rows of the frames; False where one cannot be read so."""
        if len(self._shape) < 2 or self._frames.origin.modules:
            return False
        first, count = _span(rest[0], self._shape[0])
        inner = (_shifted(rest[0], first, self._shape[0]), *rest[1:])
        for slot, at in zip(slots, wanted, strict=True):
            segment = self._frames.rows_of(at)[0][0].value
            assert isinstance(segment, Segment)  # only segments have rows
            self._check(int(self._frames.numbers[at]), segment.shape, segment.dtype)
            pixels = self._frames.part(at, first, count)
            if pixels is None:
                return False
            stack[slot] = pixels[inner]
        return True

    def _check(self, number: int, shape: tuple[int, ...], dtype: str) -> None:
        if shape != self._shape or np.dtype(dtype) != self._dtype:
            raise DecodeError(
                f"frame {number} of {self._frames.origin.stream} is {shape} {dtype}, others are"
                f" {self._shape} {self._dtype}: read it with stream.frame({number})"
            )


def _span(part: Any, extent: int) -> tuple[int, int]:
    """Return first and number of the rows between the ends of what is selected."""
    chosen = np.atleast_1d(np.arange(extent)[part])
    first = int(chosen.min())
    return first, int(chosen.max()) - first + 1


def _shifted(part: Any, first: int, extent: int) -> Any:
    """Return the same selection in rows that begin with ``first``."""
    chosen = np.arange(extent)[part] - first
    return int(chosen) if np.ndim(chosen) == 0 else chosen
