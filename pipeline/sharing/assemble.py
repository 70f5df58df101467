"""From records to whole frames: modules brought together, copies left out.

All modules of a frame share its partition, so one partition is enough to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.reading.fetch import Block, Fetcher, Origin
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.merge import Floors
from pipeline.reading.ranges import Ranges
from pipeline.records import Located, Segment, Start
from pipeline.sharing.progress import Taken, finish


@dataclass(slots=True, eq=False)
class Part:
    """One row of a record."""

    block: Block
    row: int
    taken: Taken


@dataclass(slots=True, eq=False)
class Unit:
    """One frame with what its settling finishes."""

    number: int
    parts: dict[int, Part]

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

    def __init__(self, start: Start, fetcher: Fetcher, origin: Origin) -> None:
        self._floors = Floors(start)
        self._fetcher = fetcher
        self._origin = origin
        self._wanted = len(start.module_indices)
        self._given = Ranges()
        self._pending: dict[int, dict[int, Part]] = {}

    def add(self, located: Located, taken: Taken | None) -> Iterator[Unit]:
        """Take a record, accounted for in ``taken``; yield the frames that became whole."""
        value = located.value
        self._floors.observe(located)
        if isinstance(value, Segment) and taken is not None:
            block = self._fetcher.open(value, self._origin)
            block.appended_ms = located.timestamp_ms
            for row, number in enumerate(value.numbers.tolist()):
                if taken.done[row]:
                    self._given.add(number, number)
                    continue
                yield from self._row(number, value.module, Part(block, row, taken))
        if self._pending:
            yield from self._passed()

    def _row(self, number: int, module: int, part: Part) -> Iterator[Unit]:
        if number in self._given and number not in self._pending:
            finish(part.taken, part.row)  # a copy
            return
        parts = self._pending.setdefault(number, {})
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

    def flush(self) -> Iterator[Unit]:
        """Yield what is left at the end of the stream, incomplete as it is."""
        for number in list(self._pending):
            yield self._give(number)

    def _give(self, number: int) -> Unit:
        self._given.add(number, number)
        return Unit(number, self._pending.pop(number))
