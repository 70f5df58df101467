"""Which series an image belongs to, by its uniqueId and its time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

#: Threads of a plugin pass each other by so many frames at most.
_DISORDER = 64
_WRAP = 1 << 32
#: Numbers that turn over come back that near at least.
_NEAR = 1_000_000
_RECENT = 4096

Verdict = Literal["new", "repeat", "restart"]


@dataclass(slots=True, kw_only=True, eq=False)
class Numbering:
    """Unwraps the 32-bit ``uniqueId`` of one series, and sees when another begins.

    Lower by more than a little, or lower with a later time: the driver counts from the start
    again.  The same number at the same time is a repeat, at a later time another acquisition.
    """

    last: int | None = None
    first: int = 0
    highest: int = 0
    time_ns: int = 0
    received: int = 0
    repeated: int = 0
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def judge(self, unique_id: int, time_ns: int) -> tuple[Verdict, int]:
        """Say what an image is, and its number; nothing is noted yet."""
        if self.last is None:
            return "new", unique_id % _WRAP
        step = (unique_id - self.last + _WRAP // 2) % _WRAP - _WRAP // 2
        number = self.last + step
        is_later = time_ns > self.time_ns
        if step > 0 and not (unique_id % _WRAP < self.last % _WRAP and step > _NEAR):
            return "new", number
        if number in self._recent and not is_later:
            return "repeat", number
        if number < 0 or is_later or step < -_DISORDER:
            return "restart", unique_id % _WRAP
        return "new", number

    def note(self, number: int, time_ns: int) -> None:
        """Count an image of this series."""
        if not self.received:
            self.first = self.highest = number
        self.first, self.highest = min(self.first, number), max(self.highest, number)
        self.last = number if self.last is None else max(self.last, number)
        self.time_ns = max(self.time_ns, time_ns)
        self._recent.append(number)
        self.received += 1

    @property
    def missing(self) -> int:
        """How many numbers between the first and the last never came."""
        return self.highest - self.first + 1 - self.received if self.received else 0
