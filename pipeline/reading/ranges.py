"""Sets of frame numbers as inclusive ranges: holes may be as wide as the numbers are."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.records import Int64s


def unique(values: Int64s) -> Int64s:
    """Return the values rising and each once.

    ``np.unique`` hashes first, which takes a second for a million numbers that rise already.
    """
    steps = values[1:] > values[:-1]
    if steps.all():
        return values
    ordered = np.sort(values, kind="stable")
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


class Ranges:
    """A set of integers, kept as sorted ranges that neither touch nor overlap."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    @classmethod
    def of(cls, numbers: Int64s | Iterable[int]) -> Ranges:
        """Return the set of ``numbers``, which may come in any order and more than once."""
        given = numbers if isinstance(numbers, np.ndarray) else np.array(list(numbers), np.int64)
        found = cls()
        if not len(given):
            return found
        values = unique(given)
        cuts = np.flatnonzero(np.diff(values) > 1)
        found._firsts = values[np.concatenate(([0], cuts + 1))].tolist()
        found._lasts = values[np.concatenate((cuts, [len(values) - 1]))].tolist()
        return found

    def add(self, first: int, last: int) -> None:
        """Add all numbers from ``first`` to ``last``, both included."""
        if last < first:
            return
        low = bisect.bisect_left(self._lasts, first - 1)
        high = bisect.bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take out all numbers from ``first`` to ``last``, both included."""
        if last < first:
            return
        low = bisect.bisect_left(self._lasts, first)
        high = bisect.bisect_right(self._firsts, last)
        if low >= high:
            return
        left, right = self._firsts[low], self._lasts[high - 1]
        kept = [(left, first - 1)] if left < first else []
        kept += [(last + 1, right)] if right > last else []
        self._firsts[low:high] = [a for a, _ in kept]
        self._lasts[low:high] = [b for _, b in kept]

    def common(self, other: Ranges) -> Ranges:
        """Return the numbers that are in both."""
        found = Ranges()
        ours, theirs = list(self), list(other)
        at = to = 0
        while at < len(ours) and to < len(theirs):
            found.add(max(ours[at][0], theirs[to][0]), min(ours[at][1], theirs[to][1]))
            if ours[at][1] < theirs[to][1]:
                at += 1
            else:
                to += 1
        return found

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_left(self._lasts, number)
        return at < len(self._firsts) and self._firsts[at] <= number

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __len__(self) -> int:
        """Return how many numbers there are, not how many ranges."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of each range."""
        return zip(list(self._firsts), list(self._lasts), strict=True)

    def lists(self) -> list[list[int]]:
        """Return the ranges as JSON has them: ``[[first, last], ...]``."""
        return [[a, b] for a, b in self]
