"""Putting frames in order: pure bookkeeping, no input or output.

Two ways lead through.  The *lanes* (one per partition) hold runs of new frames of a detector that
is one image, in rising order: a frame costs a fraction of a microsecond there.  Everything else
(modules, frames out of order, copies, what lies behind a newer writer's claim) is *pending*,
number by number.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reading.fetch import Block
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.merge import Floors
from pipeline.reading.ranges import Ranges
from pipeline.records import Int64s, Located, Segment, Start

#: Holes wider than this are not searched number by number for skipped frames.
_MAX_SEARCHED = 1_000_000


@dataclass(slots=True)
class _Run:
    """Rows of one segment in a lane, from ``row`` on."""

    block: Block
    numbers: Int64s
    row: int
    head: int
    last: int


@dataclass(slots=True)
class _Part:
    """One module of a pending frame."""

    block: Block
    row: int
    epoch: int
    #: Behind the claim of a newer writer, whose own copy may still come and then wins.
    behind: bool
    offset: int


class Ordering:
    """Takes records in log order, gives frames in number order.

    ``missing``, ``incomplete`` and ``late`` grow as frames are taken; ``released`` are blocks that
    hold no further frame of the order, for the caller to empty.
    """

    def __init__(self, start: Start, first: int | None) -> None:
        self.floors = Floors(start)
        self.missing = Ranges()
        self.late = Ranges()
        self.incomplete = Ranges()
        #: The time at which records are taken in, by the caller's clock.
        self.now_s = 0.0
        self._born_s: dict[int, float] = {}
        self.released: list[Block] = []
        self._modules = start.module_indices
        self._plain = not start.modules
        self._begin = first if first is not None else 0
        self._asked_from = self._begin
        self._next: int | None = None
        self._lanes: list[deque[_Run]] = [deque() for _ in range(start.partitions)]
        #: Highest number ever taken in, per partition: above it nothing can be a copy.
        self._high = [-1] * start.partitions
        self._pending: dict[int, dict[int, _Part]] = {}
        self._heap: list[int] = []
        self._uses: dict[Block, int] = {}
        self._absent: set[int] = set()
        self._seen_before = False
        self._ceil = -1
        self._promised = 0
        self._finished = False

    # -- in ---------------------------------------------------------------------------------------

    def add(self, located: Located, block: Block | None) -> bool:
        """Take one record in (``block``: its payloads, for a segment); True if frames were kept."""
        value = located.value
        behind = self.floors.observe(located)
        self._ceil = max(self._ceil, value.ceil)
        if value.member and (len(value.skipped) or len(value.rejected)):
            self._absent.update(value.skipped.tolist())
            self._absent.update(value.rejected.tolist())
        if block is None or not isinstance(value, Segment) or not len(value.numbers):
            return False
        first = int(value.numbers[0])
        if first < self._asked_from:
            self._seen_before = True
        fresh = first > self._high[located.partition]
        if self._plain and fresh and not behind and first >= self._wanted:
            self._lane(located.partition, value, block)
            return True
        return self._sort_in(located, value, block, behind)

    @property
    def _wanted(self) -> int:
        return self._begin if self._next is None else self._next

    def _lane(self, partition: int, segment: Segment, block: Block) -> None:
        numbers = segment.numbers
        last = int(numbers[-1])
        self._high[partition] = last
        self._lanes[partition].append(_Run(block, numbers, 0, int(numbers[0]), last))

    def _sort_in(self, located: Located, segment: Segment, block: Block, behind: bool) -> bool:
        kept = 0
        for row, number in enumerate(segment.numbers.tolist()):
            if number < self._wanted:
                self._came_after(number)
            elif not self._in_lane(located.partition, number):
                part = _Part(block, row, segment.epoch, behind, located.offset)
                kept += self._pend(number, segment.module, part)
        last = int(segment.numbers[-1])
        self._high[located.partition] = max(self._high[located.partition], last)
        if kept:
            self._uses[block] = self._uses.get(block, 0) + kept
        return kept > 0

    def _came_after(self, number: int) -> None:
        """Report a frame whose place in the order is over, unless it is a copy."""
        if number in self.missing:
            self.missing.remove(number, number)
            self.late.add(number, number)
        elif number in self.incomplete or self._asked_from <= number < self._begin:
            self.late.add(number, number)

    def _in_lane(self, partition: int, number: int) -> bool:
        for run in self._lanes[partition]:
            if run.head <= number <= run.last:
                at = int(run.numbers.searchsorted(number))
                return int(run.numbers[at]) == number
        return False

    def _pend(self, number: int, module: int, part: _Part) -> int:
        parts = self._pending.get(number)
        if parts is None:
            parts = self._pending[number] = {}
            heapq.heappush(self._heap, number)
            self._born_s[number] = self.now_s
        known = parts.get(module)
        if known is not None:
            if not (known.behind and part.epoch > known.epoch):
                return 0
            self._unuse(known.block)
        parts[module] = part
        return 1

    def _unuse(self, block: Block) -> None:
        left = self._uses[block] - 1
        if left:
            self._uses[block] = left
        else:
            del self._uses[block]
            self.released.append(block)

    def finish(self, ends: Sequence[int]) -> None:
        """Say that the whole stream has been read, and the offsets where it ends.

        What a superseded writer managed to send behind the end does not belong to it.
        """
        self._finished = True
        for number, parts in list(self._pending.items()):
            end = ends[self.floors.partition_of(number)]
            for module in [m for m, part in parts.items() if part.offset >= end]:
                self._unuse(parts.pop(module).block)
            if not parts:
                del self._pending[number], self._born_s[number]

    def promise(self, end: int) -> None:
        """Say that no number below ``end`` will come any more (see :meth:`blocked_at`)."""
        self._promised = max(self._promised, end)

    # -- out --------------------------------------------------------------------------------------

    def take(self) -> list[Frame]:
        """Return the next frames of the order, or an empty list while they are not known."""
        while True:
            if self._next is not None:
                frames = self._take_at(self._next)
                if frames:
                    return frames
            head = self._head()
            if head is None:
                if self._finished and self._next is not None and self._next <= self._ceil:
                    self._pass(self._next, self._ceil + 1)
                return []
            if head == self._next or not self._known(self._wanted, head):
                return []
            if self._next is not None or self._seen_before:
                self._pass(self._wanted, head)
            else:
                self._begin = head
            self._next = head

    def _take_at(self, number: int) -> list[Frame]:
        lane = self._lanes[self.floors.partition_of(number)]
        if lane and lane[0].head == number:
            return self._take_run(lane)
        parts = self._pending.get(number)
        if parts is None or not self._ready(number, parts):
            return []
        del self._pending[number], self._born_s[number]
        self._next = number + 1
        if len(parts) < len(self._modules):
            self.incomplete.add(number, number)
        found = {m: Frame(number, p.block, p.row) for m, p in parts.items()}
        for part in parts.values():
            self._unuse(part.block)
        if self._plain:
            return list(found.values())
        return [ModularFrame(number, found)]

    def _take_run(self, lane: deque[_Run]) -> list[Frame]:
        """Take the consecutive numbers at the head of a lane."""
        run = lane[0]
        begin, end = run.row, len(run.numbers)
        if run.last - run.head != end - begin - 1:  # holes: up to the first of them
            rest = run.numbers[begin:]
            steps = rest[1:] - rest[:-1] != 1
            end = begin + int(steps.argmax()) + 1
        block, first = run.block, run.head
        frames = [Frame(first + i, block, begin + i) for i in range(end - begin)]
        self._next = first + end - begin
        if end == len(run.numbers):
            lane.popleft()
            self.released.append(block)
        else:
            run.row, run.head = end, int(run.numbers[end])
        return frames

    def _ready(self, number: int, parts: dict[int, _Part]) -> bool:
        settled = not any(part.behind for part in parts.values())
        if settled and len(parts) >= len(self._modules):
            return True
        return self._finished or number < self._promised or self.floors.passed(number)

    def _head(self) -> int | None:
        """Return the lowest number at hand."""
        while self._heap and self._heap[0] not in self._pending:
            heapq.heappop(self._heap)
        heads = [lane[0].head for lane in self._lanes if lane]
        if self._heap:
            heads.append(self._heap[0])
        return min(heads, default=None)

    def _known(self, first: int, end: int) -> bool:
        """Tell whether no number with first <= number < end will come any more."""
        if self._finished or end <= self._promised or not self.floors.not_passed(first, end):
            return True
        if not self._absent or end - first > _MAX_SEARCHED:
            return False
        passed, absent = self.floors.passed, self._absent
        return all(number in absent or passed(number) for number in range(first, end))

    def _pass(self, first: int, end: int) -> None:
        """Report a hole, but for what a derived stream skipped on purpose."""
        self.missing.add(first, end - 1)
        if not self._absent:
            return
        few = min(self._absent, range(first, end), key=len)
        for number in [n for n in few if n in self._absent and first <= n < end]:
            self.missing.remove(number, number)
        if len(self._absent) > 65536:
            self._absent = {n for n in self._absent if n >= end}

    # -- what the reader should do ----------------------------------------------------------------

    def blocked_at(self) -> int | None:
        """Return up to which number (exclusive) it waits to learn that none will come.

        None when it simply waits for new frames.
        """
        head = self._head()
        if head is None:
            return None
        return head + 1 if head in self._pending else head

    def waits_since(self) -> float | None:
        """Return when the frame whose turn it is was first seen; None if its modules are there."""
        head = self._head()
        return None if head is None else self._born_s.get(head)

    def overdue(self, since_s: float) -> int | None:
        """Return the number behind the frames in turn that were first seen before ``since_s``."""
        waits_s = self.waits_since()
        if waits_s is None or waits_s > since_s:
            return None
        end = 0
        for number in sorted(self._pending):
            if self._born_s[number] > since_s:
                break
            end = number + 1
        return end

    def needed(self) -> list[int]:
        """Return the partitions that must be read on before anything can be taken."""
        end = self.blocked_at()
        if end is None:
            return list(range(self.floors.partitions))
        wanted = self._wanted
        if self._next is not None:
            own = self.floors.partition_of(wanted)
            return sorted({own, *self.floors.not_passed(wanted, end)})
        return self.floors.not_passed(wanted, end)

    def buffered(self, partition: int) -> int:
        """Return how many segments of a partition wait in its lane."""
        return len(self._lanes[partition])

    @property
    def pending(self) -> int:
        """How many frames wait outside the lanes."""
        return len(self._pending)
