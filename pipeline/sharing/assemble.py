"""From records to whole frames: modules brought together, copies left out.

All modules of a frame share its partition, so one partition is enough to know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.reading.fetch import Block, Fetcher, Origin
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.matching import RecordFilter
from pipeline.reading.merge import Floors
from pipeline.reading.ranges import Ranges
from pipeline.reading.values import Bools
from pipeline.records import Located, Segment, Start
from pipeline.sharing.progress import Taken, finish


@dataclass(slots=True, eq=False)
class Part:
    """One row of a record."""

    block: Block
    row: int
    taken: Taken
    #: The group's expression selects it; without one, all are.
    selected: bool = True


@dataclass(slots=True, eq=False)
class Unit:
    """One frame with what its settling finishes."""

    number: int
    parts: dict[int, Part]

    @property
    def selected(self) -> bool:
        """Whether it is to be delivered: one module that is selected brings the others along."""
        return any(part.selected for part in self.parts.values())

    def frame(self, origin: Origin) -> Frame:
        """Return the frame as readers see it."""
        frames = {m: Frame(self.number, p.block, p.row) for m, p in self.parts.items()}
        if origin.modules:
            return ModularFrame(self.number, frames)
        return next(iter(frames.values()))

    def finish(self) -> None:
        """Flag all its rows as done."""
        for part in self.parts.values():
            finish(part.taken, part.row)


class Assembler:
    """Makes units of one partition's records; a number is given once."""

    def __init__(
        self,
        start: Start,
        fetcher: Fetcher,
        origin: Origin,
        where: RecordFilter | None = None,
    ) -> None:
        self._where = where
        self._floors = Floors(start)
        self._fetcher = fetcher
        self._origin = origin
        self._wanted = len(start.module_indices)
        self._given = Ranges()
        self._pending: dict[int, dict[int, Part]] = {}
        self._born_s: dict[int, float] = {}
        #: Frames past their deadline, and how far the partition is to be read before they go.
        self._late: tuple[list[int], int] | None = None

    def add(self, located: Located, taken: Taken | None) -> Iterator[Unit]:
        """Take a record, accounted for in ``taken``; yield the frames that became whole."""
        value = located.value
        self._floors.observe(located)
        if isinstance(value, Segment) and taken is not None:
            block, selected = self._open(value)
            block.appended_ms = located.timestamp_ms
            for row, number in enumerate(value.numbers.tolist()):
                if taken.done[row]:
                    self._given.add(number, number)
                    continue
                part = Part(block, row, taken, selected is None or bool(selected[row]))
                yield from self._row(number, value.module, part)
        if self._pending:
            yield from self._passed()

    def _open(self, segment: Segment) -> tuple[Block, Bools | None]:
        """Return the payloads, of which nothing is read yet, and which rows are selected."""
        if self._where is None:
            return self._fetcher.open(segment, self._origin), None
        selected = self._where.mask(segment)
        rows = None if self._origin.modules else slice(*_extent(selected))
        return self._fetcher.open(segment, self._origin, rows), selected

    def _row(self, number: int, module: int, part: Part) -> Iterator[Unit]:
        if number in self._given and number not in self._pending:
            finish(part.taken, part.row)  # a copy
            return
        parts = self._pending.setdefault(number, {})
        if self._wanted > 1:
            self._born_s.setdefault(number, time.monotonic())
        if module in parts:
            finish(part.taken, part.row)
            return
        parts[module] = part
        if len(parts) >= self._wanted:
            yield self._give(number)

    def _passed(self) -> Iterator[Unit]:
        """Yield frames whose other modules will not come any more."""
        for number in [n for n in self._pending if self._floors.passed(n)]:
            yield self._give(number)

    def overdue(self, deadline_s: float) -> bool:
        """Tell whether frames have waited so long for modules, and :meth:`give_up` is to come."""
        since_s = time.monotonic() - deadline_s
        return self._late is None and any(born_s <= since_s for born_s in self._born_s.values())

    def give_up(self, deadline_s: float, end: int) -> None:
        """Hand these frames out once the partition was read up to offset ``end``."""
        since_s = time.monotonic() - deadline_s
        self._late = [n for n, born_s in self._born_s.items() if born_s <= since_s], end

    def given_up(self, position: int) -> Iterator[Unit]:
        """Yield frames past their deadline, the partition having been read up to ``position``."""
        if self._late is not None and position >= self._late[1]:
            numbers, self._late = self._late[0], None
            for number in numbers:
                if number in self._pending:
                    yield self._give(number)

    def flush(self) -> Iterator[Unit]:
        """Yield what is left at the end of the stream, incomplete as it is."""
        for number in list(self._pending):
            yield self._give(number)

    def _give(self, number: int) -> Unit:
        self._given.add(number, number)
        self._born_s.pop(number, None)
        return Unit(number, self._pending.pop(number))


def _extent(selected: Bools) -> tuple[int, int]:
    """Return the rows that are read at once: from the first selected one to the last."""
    rows = selected.nonzero()[0]
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
