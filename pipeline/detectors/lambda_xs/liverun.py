"""What is known of the run of a Lambda that goes on: numbers and arrivals of every port."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.detectors.lambda_xs.wire import Head, Pace, Unwrapper
from pipeline.detectors.lambda_xs.xspd import Setup


@dataclass(slots=True, eq=False)
class LiveRun:
    """The run that goes on."""

    key: str
    setup: Setup
    begun_s: float
    touched_s: float
    numbers: dict[tuple[int, int], Unwrapper] = field(default_factory=dict)
    heard_s: dict[tuple[int, int], float] = field(default_factory=dict)
    paces: dict[tuple[int, int], Pace] = field(default_factory=dict)
    #: Index of each port among those of the stream.
    places: tuple[int, ...] = ()
    bad: int = 0
    complete: set[tuple[int, int]] = field(default_factory=set)

    @property
    def highest(self) -> int:
        """The highest number of any port, -1 before the first."""
        known = [u.last for u in self.numbers.values() if u.last is not None]
        return max(known, default=-1)

    @property
    def repeated(self) -> int:
        """How many sub-images came again."""
        return sum(unwrapper.repeated for unwrapper in self.numbers.values())

    def number(self, key: tuple[int, int], head: Head, came_s: float, *, fresh: bool) -> int | None:
        """Return a frame's whole number, None for one that came before.

        The clock helps where the detector runs by itself and the message is ``fresh``: it came at
        ``came_s`` and did not wait before.
        """
        unwrapper = self.numbers.setdefault(key, Unwrapper())
        pace, passed, period_s = None, 0.0, self.setup.period_s
        if fresh and self.setup.free_running and period_s:
            pace = self.paces.setdefault(key, Pace(period_s))
            if unwrapper.last is not None:
                passed = pace.passed(unwrapper.last, came_s)
        number = unwrapper.whole(head, passed=passed, frames=self.setup.n_frames)
        if pace is not None and number is not None:
            pace.arrived(number, came_s)
        self.heard_s[key] = came_s
        return number
