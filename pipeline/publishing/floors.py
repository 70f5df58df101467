"""How far one writer is with one module: what is unacknowledged, and which holes stay open."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pipeline.records import NO_CEIL, NO_FLOOR

#: More open holes than this and the oldest are given up (their frames would count as late).
_MAX_HOLES = 10_000


class Progress:
    """Computes ``floor`` and ``ceil``; the caller holds the publisher's lock.

    Parameters
    ----------
    hole_wait_s:
        How long a number that was skipped may still come before the floor passes it.
    """

    def __init__(
        self,
        partitions: int,
        *,
        hole_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.floor = NO_FLOOR
        self.ceils = [NO_CEIL] * partitions
        self.highest = NO_CEIL
        self._hole_wait_s = hole_wait_s
        self._clock = clock
        self._pending: dict[int, int] = {}
        #: (first number, ticket), some of them of tickets that are not pending any more: a file
        #: may have 100,000 tickets, and their least number is asked for with each record.
        self._lowest: list[tuple[int, int]] = []
        #: [first, last, deadline] of numbers that were skipped and may still come.
        self._holes: deque[list[float]] = deque()

    def resume(self, floor: int, ceils: Sequence[int], present: Iterable[int] = ()) -> None:
        """Go on where an earlier writer stopped, with the numbers it got acknowledged.

        What is not ``present`` between its floor and its ceil may have been lost with it and come
        again from the same source: the floor stays below until a newer number is taken.
        """
        self.floor = max(self.floor, floor)
        self.ceils = [max(a, b) for a, b in zip(self.ceils, ceils, strict=True)]
        self.highest = max(self.highest, self.floor - 1)
        for number in sorted(present):
            if number > self.highest + 1:
                break
            self.highest = max(self.highest, number)

    def taken(self, number: int) -> None:
        """Note a number that the source gave, before it is queued under a ticket."""
        if number > self.highest:
            first = self.highest + 1
            if self._hole_wait_s and number > first and first > self.floor - 1:
                self._holes.append([first, number - 1, self._clock() + self._hole_wait_s])
                if len(self._holes) > _MAX_HOLES:
                    self._holes.popleft()
            self.highest = number
        elif self._holes:
            self._fill(number)

    def taken_all(self, numbers: Sequence[int]) -> None:
        """Note rising numbers of one draft, as :meth:`taken` does one by one."""
        if self._hole_wait_s or self._holes:
            for number in numbers:
                self.taken(number)
        elif numbers:
            self.highest = max(self.highest, numbers[-1])

    def _fill(self, number: int) -> None:
        for index, hole in enumerate(self._holes):
            if hole[0] <= number <= hole[1]:
                rest = [[hole[0], number - 1, hole[2]], [number + 1, hole[1], hole[2]]]
                del self._holes[index]
                for part in reversed([part for part in rest if part[0] <= part[1]]):
                    self._holes.insert(index, part)
                return

    def queued(self, ticket: int, first_number: int) -> None:
        """Note frames from ``first_number`` on as queued; they hold the floor."""
        self._pending[ticket] = first_number
        heapq.heappush(self._lowest, (first_number, ticket))

    def acknowledged(self, ticket: int) -> None:
        """Note that the frames of a ticket are on the topic."""
        self._pending.pop(ticket, None)

    def current_floor(self) -> int:
        """Return the floor now; it never falls."""
        if self.highest == NO_CEIL:
            return self.floor
        now = self._clock()
        while self._holes and self._holes[0][2] <= now:
            self._holes.popleft()
        bound = self.highest + 1
        while self._lowest and self._lowest[0][1] not in self._pending:
            heapq.heappop(self._lowest)
        if self._lowest:
            bound = min(bound, self._lowest[0][0])
        if self._holes:
            bound = min(bound, int(self._holes[0][0]))
        self.floor = max(self.floor, bound)
        return self.floor

    def sent(self, partition: int, highest: int) -> int:
        """Note frames up to ``highest`` as sent to a partition; return its ceil."""
        self.ceils[partition] = max(self.ceils[partition], highest)
        return self.ceils[partition]
