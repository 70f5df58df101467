"""A frame table that takes any number at any time, by moving to a new file where it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError
from pipeline.nexus.nxmx import INCOMPLETE, INVALID_PAYLOAD, LATE_DUPLICATE
from pipeline.protocols import FrameLike
from pipeline.sinks.hdf5.share import Share
from pipeline.sinks.hdf5.table import FrameTable, Layout, check_positions
from pipeline.sinks.hdf5.target import Target

#: Inclusive ranges of frame numbers, by their name in the account.
Ranges = Mapping[str, list[tuple[int, int]]]

#: Frames a file can take when the source does not say how many come; 16 bytes of (sparse) file
#: each, and a copy of the file when there are more.
_CAPACITY = 2**20
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
    table:
        As it was created or resumed; it lies in ``target.part``.
    """

    def __init__(self, target: Target, *, table: FrameTable) -> None:
        self._target = target
        self._moves = 0
        self.table = table

    @classmethod
    def create(
        cls,
        target: Target,
        *,
        stream_key: bytes,
        layout: Layout,
        number: int,
        expected: int | None,
        marker: Sequence[int],
        share: Share,
    ) -> Self:
        """Begin a file with frame ``number`` at position 0, until a lower one comes.

        ``expected``: how many frames the source says there will be; None if it does not.
        """
        table = FrameTable.create(
            target.rewritten,
            stream_key=stream_key,
            base=share.place(number),
            capacity=min(expected or _CAPACITY, _MAX_POSITIONS),
            layout=layout,
            marker=marker,
            share=share,
        )
        target.rewritten.replace(target.part)
        return cls(target, table=table)

    def put(
        self,
        frame: FrameLike,
        chunk: memoryview | None,
        pixels: npt.NDArray[Any] | None,
        problem: int,
        source: tuple[int, int],
    ) -> None:
        """Write one frame, at whatever cost; see :meth:`FrameTable.put`."""
        place = self.table.share.place(frame.number)
        self._make_room(place, place)
        self.table.put(frame, chunk, pixels, problem, source)

    def is_written(self, number: int) -> bool:
        """Whether a valid frame of this number has been written."""
        rows, position = self.table.rows, self._position(number)
        return 0 <= position < len(rows) and bool(rows.valid[position])

    def source(self, number: int) -> tuple[int, int]:
        """Return partition and offset of the record of a frame that was written."""
        rows, position = self.table.rows, self._position(number)
        return int(rows.partition[position]), int(rows.offset[position])

    def note(self, number: int, bit: int) -> None:
        """Set a status bit of a frame that was written."""
        position = self._position(number)
        self.table.rows.mark(position, position, bit)

    def complete(self, ranges: Ranges, span: tuple[int, int] | None = None) -> None:
        """Let the positions be exactly the numbers known to exist, and all of them filled.

        ``span``: what is known elsewhere, the lowest and the highest number of the stream.
        """
        share = self.table.share
        known = [pair for name in _EXISTING for pair in ranges.get(name, [])]
        if span is not None:
            known.append(span)
        places = [found for pair in known if (found := share.within(*pair)) is not None]
        if self._written is not None:
            places.append(self._written)
        first = min((pair[0] for pair in places), default=self.table.base)
        last = max((pair[1] for pair in places), default=first - 1)
        self._make_room(first, max(first, last), exact=True)
        self.table.rows.reach(last - first + 1)
        for name, bit in _STATUS.items():
            for pair in ranges.get(name, []):
                if (found := share.within(*pair)) is not None:
                    self._mark(found, bit)
        self.table.fill()

    @property
    def _written(self) -> tuple[int, int] | None:
        """The first and the last place of which something was written."""
        rows = self.table.rows
        there = np.flatnonzero((rows.valid != 0) | (rows.status != 0))
        if not len(there):
            return None
        return self.table.base + int(there[0]), self.table.base + int(there[-1])

    def _position(self, number: int) -> int:
        return self.table.share.place(number) - self.table.base

    def close(self) -> None:
        """Close the file; may be called twice."""
        self.table.close()

    def _make_room(self, first: int, last: int, *, exact: bool = False) -> None:
        """Have positions for these two places; with ``exact`` ``first`` is position 0."""
        table = self.table
        base = first if exact else min(first, table.base)
        end = max(last + 1, table.base + len(table.rows))
        check_positions(base, end, _MAX_POSITIONS)
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
        target = self._target
        self.table = self.table.moved(target.rewritten, base=base, capacity=capacity)
        target.rewritten.replace(target.part)

    def _mark(self, pair: tuple[int, int], bit: int) -> None:
        """Set a status bit for all places of a range that have a position."""
        rows, base = self.table.rows, self.table.base
        first, last = max(pair[0] - base, 0), min(pair[1] - base, len(rows) - 1)
        if first <= last:
            rows.mark(first, last, bit)


def ranges_of(name: str, value: object) -> list[tuple[int, int]]:
    """Return a list of ranges from an account; raises InvalidArgumentError for anything else."""
    try:
        return [(int(first), int(last)) for first, last in (value or ())]  # type: ignore[attr-defined]  # checked by trying
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"account[{name!r}]", f"{value!r} is no list of ranges"
        ) from error
