"""Plays what a source gives, at a pace: an adapter whose device is stored data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.errors import InvalidArgumentError
from pipeline.frame import INT64_MAX, AttributeValue, FrameHeader
from pipeline.protocols import AdapterEvent, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.reading.choice import FrameChoice

Numbers = Literal["keep", "new"]
Times = Literal["now", "shift", "keep"]
#: Gives the events of a source, once through.
Source = Callable[[], Iterator[AdapterEvent | None]]
#: A pause in recorded times longer than this is a break of the experiment, and not waited for.
MAX_PAUSE_S = 10.0


@dataclass(slots=True, eq=False)
class _Series:
    """One series as it is played."""

    name: str
    #: Seconds by our clock when its first frame was due.
    begun_s: float
    #: Time of its first frame, as recorded and as played, ns.
    recorded_ns: int
    played_ns: int
    #: Recorded time of the last frame, and how long before now it was due (breaks left out).
    last_ns: int
    due_s: float = 0.0
    first: int = 0
    last: int = -1
    count: int = 0


class ReplayAdapter:
    """A :class:`pipeline.protocols.DetectorAdapter` that plays a source.

    Payloads are passed on as they are, in their encoding.

    Parameters
    ----------
    source:
        Called for each round; a series of a later round is a stream of its own.
    rate_hz:
        Frames per second; None: by the recorded times (breaks of more than 10 s are cut to that),
        at once where there are none.
    numbers:
        ``keep`` the recorded numbers, with their gaps, or ``new`` ones from 0 without gaps.
    times:
        Start of exposure: ``now``, when it is played; ``keep``, as recorded; ``shift``, as
        recorded with the first one moved to now.
    frames:
        Which frames to play; None for all.
    rounds:
        How often to play it; 0: until it is stopped.
    stop:
        When it is set, what is being played ends, as aborted.
    clock, clock_ns, sleep:
        For tests: monotonic seconds, nanoseconds since 1970, and waiting.
    """

    name = "replay"

    def __init__(
        self,
        source: Source,
        *,
        rate_hz: float | None = None,
        numbers: Numbers = "keep",
        times: Times = "now",
        frames: FrameChoice | None = None,
        rounds: int = 1,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rate_hz is not None and not 0 < rate_hz < 1e9:
            raise InvalidArgumentError("rate_hz", f"{rate_hz!r} is not a rate")
        self._source = source
        self._rate_hz = rate_hz
        self._numbers = numbers
        self._times = times
        self._frames = frames
        self._rounds = rounds
        self._stop = stop or threading.Event()
        #: The series that has begun and not ended.
        self._playing = ""
        self._clock = clock
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._series: dict[str, _Series] = {}
        self._run = f"{clock_ns():x}"

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield the source's events when they are due, None while it waits."""
        played = 0
        while not self._rounds or played < self._rounds:
            played += 1
            self._series.clear()
            for event in self._source():
                yield from self._pass_on(event, played, poll_s)
                if self._stop.is_set():
                    if self._playing:
                        yield SeriesEnd(series=self._playing, state="aborted")
                    return
            yield None

    def _pass_on(
        self, event: AdapterEvent | None, played: int, poll_s: float
    ) -> Iterator[AdapterEvent | None]:
        if event is None:
            yield None
            return
        series = f"{event.series}#{played}"
        if isinstance(event, SeriesBegin):
            self._playing = series
            yield self._begin(event, played)
        elif isinstance(event, SourceFrame):
            yield from self._play(event, played, poll_s)
        else:
            if isinstance(event, SeriesEnd):
                self._playing = ""
            yield replace(event, series=series)

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Keep what was played."""

    def check(self) -> Mapping[str, AttributeValue]:
        """Say how many frames the source has, by reading it once."""
        frames = sum(isinstance(event, SourceFrame) for event in self._source())
        return {"frames": frames}

    def close(self) -> None:
        """Nothing is held between events."""

    def _begin(self, event: SeriesBegin, played: int) -> SeriesBegin:
        run: dict[str, AttributeValue] = {
            "adapter": self.name,
            "series": event.series,
            "round": played,
            "play": self._run,
        }
        whole = self._frames is None
        return replace(
            event,
            series=f"{event.series}#{played}",
            run=run,
            rate_hz=self._rate_hz or event.rate_hz,
            expected=event.expected if whole else None,
            late=False,
        )

    def _play(
        self, event: SourceFrame, played: int, poll_s: float
    ) -> Iterator[AdapterEvent | None]:
        header = event.header
        series = self._series.get(event.series)
        if series is None:
            now_s, now_ns, stamp = self._clock(), self._clock_ns(), header.timestamp_ns
            series = _Series(event.series, now_s, stamp, now_ns, stamp, first=header.number)
            self._series[event.series] = series
        if self._frames is not None and not self._chosen(header.number, series.first):
            return
        if header.number != series.last:  # else another module of the same frame
            series.due_s += self._step_s(series, header.timestamp_ns)
            series.last, series.last_ns = header.number, header.timestamp_ns
            series.count += 1
        yield from self._wait(series.begun_s + series.due_s, poll_s)
        number = header.number if self._numbers == "keep" else series.count - 1
        header = replace(header, number=number, timestamp_ns=self._stamp(series, header))
        yield replace(event, series=f"{event.series}#{played}", header=header, token=None)

    def _chosen(self, number: int, first: int) -> bool:
        import numpy as np

        assert self._frames is not None  # asked by the caller
        return bool(self._frames.mask(np.array([number], np.int64), first)[0])

    def _step_s(self, series: _Series, stamp_ns: int) -> float:
        """Return how long after the frame before this one is due."""
        if not series.count:
            return 0.0
        if self._rate_hz is not None:
            return 1 / self._rate_hz
        return min(max(0, stamp_ns - series.last_ns) / 1e9, MAX_PAUSE_S)

    def _stamp(self, series: _Series, header: FrameHeader) -> int:
        if self._times == "keep":
            return header.timestamp_ns
        if self._times == "now":
            return self._clock_ns()
        moved = series.played_ns + header.timestamp_ns - series.recorded_ns
        return min(max(0, moved), INT64_MAX)

    def _wait(self, due_s: float, poll_s: float) -> Iterator[None]:
        """Wait until a frame is due; give the runner a turn at least every ``poll_s``."""
        while (left_s := due_s - self._clock()) > 0 and not self._stop.is_set():
            self._sleep(min(left_s, poll_s))
            if left_s > poll_s:
                yield None
