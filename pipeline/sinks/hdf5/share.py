"""Which frames of a stream one file holds, and at which place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.frame import INT64_MAX, Module

Ints = npt.NDArray[np.int64]
#: Room in one of many files where nobody said how many frames come.
_LARGE = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """All frames of a stream, or those of one partition, module or range of numbers.

    Places count the share's own numbers: frame n of a whole stream has place n.  Of a partition,
    which has every ``partitions``-th run of ``chunk`` numbers, the runs follow one another.

    Parameters
    ----------
    suffix:
        What the file's name has behind that of the stream.
    module:
        The only module it holds; None for all.
    first, last:
        The lowest and the highest number it holds.
    """

    suffix: str = ""
    module: int | None = None
    chunk: int = 1
    partitions: int = 1
    partition: int = 0
    first: int = 0
    last: int = INT64_MAX - 1

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole stream, in a file of its own."""
        return self == Share()

    @property
    def is_range(self) -> bool:
        """Whether it is one of many ranges of numbers."""
        return self.last - self.first < INT64_MAX - 1

    def expected(self, whole: int | None) -> int | None:
        """Return how many frames to make room for, ``whole`` being those of the stream."""
        if self.last - self.first < _LARGE:
            return self.last - self.first + 1
        if self.partitions == 1:
            return whole
        return whole // self.partitions + 2 * self.chunk if whole else _LARGE

    def place(self, number: int) -> int:
        """Return the place of a frame that the share holds."""
        if self.partitions == 1:
            return number
        return number // self.chunk // self.partitions * self.chunk + number % self.chunk

    def places(self, numbers: Ints) -> Ints:
        """Return :meth:`place` of many."""
        if self.partitions == 1:
            return numbers
        runs = numbers // self.chunk // self.partitions
        places: Ints = runs * self.chunk + numbers % self.chunk
        return places

    def numbers(self, places: Ints) -> Ints:
        """Return the frames' numbers by their places."""
        if self.partitions == 1:
            return places
        runs = places // self.chunk * self.partitions + self.partition
        numbers: Ints = runs * self.chunk + places % self.chunk
        return numbers

    def within(self, first: int, last: int) -> tuple[int, int] | None:
        """Return the first and the last place of its numbers in a range; None if it has none."""
        first, last = max(first, self.first), min(last, self.last)
        ahead = (self.partition - first // self.chunk) % self.partitions
        if ahead:
            first = (first // self.chunk + ahead) * self.chunk
        behind = (last // self.chunk - self.partition) % self.partitions
        if behind:
            last = (last // self.chunk - behind + 1) * self.chunk - 1
        return (self.place(first), self.place(last)) if first <= last else None

    def holds(self, numbers: Ints, modules: Ints) -> npt.NDArray[np.bool_]:
        """Tell which frames, given by number and module, belong to it."""
        found = (numbers >= self.first) & (numbers <= self.last)
        if self.partitions > 1:
            found &= numbers // self.chunk % self.partitions == self.partition
        if self.module is not None:
            found &= modules == self.module
        return found


def range_share(index: int, size: int, origin: int) -> Share:
    """Return one of the ranges of ``size`` numbers, one of which begins with ``origin``.

    Number 0 is in the range of ``index`` 0 or -1.
    """
    first = index * size + origin % size
    return Share(suffix=f"_data_{index + 1:06d}", first=first, last=first + size - 1)


def range_index(number: int, size: int, origin: int) -> int:
    """Return the index of the range that a number is in."""
    return (number - origin % size) // size


def by_module(modules: Sequence[Module], share: Share) -> Iterator[Share]:
    """Yield a share for each module of a detector, ``share`` itself where it has none."""
    if not modules:
        yield share
    for module in modules:
        yield replace(share, module=module.index, suffix=f"_m{module.index}{share.suffix}")
