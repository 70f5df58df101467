"""A frame table that takes any number at any time, by moving to a new file where it must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from pipeline.errors import SinkError
from pipeline.protocols import FrameLike
from pipeline.sinks.hdf5.table import (
    INCOMPLETE,
    INVALID_PAYLOAD,
    LATE_DUPLICATE,
    FrameTable,
    Layout,
)
from pipeline.sinks.hdf5.target import Target

#: Inclusive ranges of frame numbers, by their name in the account.
Ranges = Mapping[str, list[tuple[int, int]]]

#: Frames a file can take when the source does not say how many come; 16 bytes of (sparse) file
#: each, and a copy of the file when there are more.
_CAPACITY = 2**18
#: Positions in one file: beyond, a number is more likely a clock than a counter.
_MAX_POSITIONS = 2**24
#: So many times a lower number costs a copy that fits exactly; after that copies leave room in
#: front, as much as there is behind, so that descending input costs a few copies and not n.
_EXACT_MOVES = 4
#: Ranges of the account whose numbers exist though no frame of them may have come.
_EXISTING = ("missing", "corrupt", "incomplete")
_STATUS = {
    "corrupt": INVALID_PAYLOAD,
    "incomplete": INCOMPLETE,
    "late": LATE_DUPLICATE,
    "duplicate": LATE_DUPLICATE,
}


class GrowingTable:
    """The table in ``target.part``, whatever numbers come.

    Parameters
    ----------
    number:
        Of the first frame that comes: position 0, until a lower one comes.
    expected:
        How many frames the source says there will be; None if it does not.
    """

    def __init__(
        self, target: Target, *, layout: Layout, number: int, expected: int | None
    ) -> None:
        self._target = target
        self._moves = 0
        self._lowest: int | None = None
        capacity = min(expected or _CAPACITY, _MAX_POSITIONS)
        self.table = FrameTable(target.part, base=number, capacity=capacity, layout=layout)

    def put(self, frame: FrameLike, pixels: npt.NDArray[Any] | None, problem: int) -> None:
        """Write one frame, at whatever cost; see :meth:`FrameTable.put`."""
        self._make_room(frame.number, frame.number)
        self.table.put(frame, pixels, problem)
        self._lowest = frame.number if self._lowest is None else min(self._lowest, frame.number)

    def is_written(self, number: int) -> bool:
        """Whether a valid frame of this number has been written."""
        position = number - self.table.base
        return 0 <= position < len(self.table.valid) and bool(self.table.valid[position])

    def note(self, number: int, bit: int) -> None:
        """Set a status bit of a frame that was written."""
        self.table.status[number - self.table.base] |= bit

    def complete(self, ranges: Ranges) -> None:
        """Let the positions be exactly the numbers known to exist, and all of them filled."""
        existing = [pair for name in _EXISTING for pair in ranges.get(name, [])]
        firsts = [first for first, _ in existing]
        if self._lowest is not None:
            firsts.append(self._lowest)
        first = min(firsts, default=self.table.base)
        written = self.table.base + len(self.table.valid)
        last = max([written - 1, *(last for _, last in existing)])
        self._make_room(first, last, exact=True)
        self.table.fill(max(last - first + 1, 0))
        for name, bit in _STATUS.items():
            for pair in ranges.get(name, []):
                self._mark(pair, bit)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self.table.close()

    def _make_room(self, first: int, last: int, *, exact: bool = False) -> None:
        """Have positions for these two numbers; with ``exact`` ``first`` is position 0."""
        table = self.table
        base = first if exact else min(first, table.base)
        end = max(last + 1, table.base + len(table.valid))
        if end - base > _MAX_POSITIONS:
            raise SinkError(
                f"frame numbers {base} to {end - 1} do not fit into one file, which takes"
                f" {_MAX_POSITIONS} positions, missing frames included: are they counters?"
            )
        capacity = table.capacity
        if end - base > capacity:
            capacity = min(4 * (end - base), _MAX_POSITIONS)
        if base < table.base and not exact:
            base = self._with_margin(base, end)
            capacity = min(max(capacity, 2 * (end - base)), _MAX_POSITIONS)
        if base != table.base or capacity != table.capacity:
            self._move(base, max(capacity, end - base))

    def _with_margin(self, base: int, end: int) -> int:
        self._moves += 1
        if self._moves <= _EXACT_MOVES:
            return base
        return max(0, base - (end - base), end - _MAX_POSITIONS)

    def _move(self, base: int, capacity: int) -> None:
        self.table = self.table.moved(self._target.rewritten, base=base, capacity=capacity)
        self._target.rewritten.replace(self._target.part)

    def _mark(self, pair: tuple[int, int], bit: int) -> None:
        """Set a status bit for all numbers of a range that have a position."""
        status, base = self.table.status, self.table.base
        for position in range(max(pair[0] - base, 0), min(pair[1] - base + 1, len(status))):
            status[position] |= bit
