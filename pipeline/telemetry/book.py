"""The numbers of this process, read from their owners when somebody asks.

Publishers, members of groups and sinks register once a stream and count nothing for it: what they
know anyway is read at a scrape.  Only latencies are noted as they occur, once for each record.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pipeline.telemetry.names import BUCKETS, METRICS

Owner = TypeVar("Owner")
#: Name and further label values to value; what a reader of an owner returns.
Numbers = Mapping[str | tuple[str, ...], float]
OTHER = "other"
#: Streams that have series of their own: some days of scans, and a page that a person can read.
STREAMS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Whose numbers they are: the labels that most metrics have."""

    beamtime: str = ""
    detector: str = ""
    stream: str = ""
    group: str = ""


class Histogram:
    """Counts of latencies; ``note`` is for one thread at a time, ``values`` for any."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        #: Per bucket of BUCKETS, the last one for what is longer than all.
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total_s = 0.0

    def note(self, seconds: float, frames: int = 1) -> None:
        """Note that so many frames took so long each."""
        # Clocks of two machines differ: a little less than nothing is nothing.
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BUCKETS, seconds)] += frames
        self.total_s += seconds * frames

    def add(self, other: Histogram) -> None:
        """Add what another one counted."""
        for index, count in enumerate(other.counts):
            self.counts[index] += count
        self.total_s += other.total_s


@dataclass(slots=True, eq=False)
class Totals:
    """What is known of one place: values by metric and further labels, histograms by stage."""

    values: dict[tuple[str, ...], float] = field(default_factory=lambda: defaultdict(float))
    stages: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))

    def add(self, numbers: Numbers, stages: Mapping[str, Histogram], *, ended: bool) -> None:
        """Add one owner's; of one that has ended only what it has counted, not what was so."""
        for name, value in numbers.items():
            key = (name,) if isinstance(name, str) else name
            if not ended or METRICS[key[0]].kind == "counter":
                self.values[key] += value
        for stage, histogram in stages.items():
            self.stages[stage].add(histogram)

    def merge(self, other: Totals) -> None:
        """Add all of another one."""
        for key, value in other.values.items():
            self.values[key] += value
        for stage, histogram in other.stages.items():
            self.stages[stage].add(histogram)


class Meter:
    """What one owner tells; ``close`` keeps its counts and forgets the owner.

    ``stages``: its histograms, to be filled by the owner.
    """

    def __init__(self, book: Book, place: Place, read: Callable[[], Numbers | None]) -> None:
        self._book = book
        self.place = place
        self.stages: dict[str, Histogram] = {}
        self._read = read
        self.last: Numbers = {}
        #: Its owner is gone.
        self.over = False

    def stage(self, name: str) -> Histogram:
        """Return the histogram of a stage, the same one each time."""
        return self.stages.setdefault(name, Histogram())

    def look(self) -> None:
        """Read the owner, if it is still there."""
        try:
            found = self._read()
        except RuntimeError:  # it changed while it was read: what it said last holds
            return
        if found is None:
            self.over = True
        else:
            self.last = found

    def close(self) -> None:
        """Keep the counts; may be called twice."""
        self._book.close(self)


class Book:
    """All meters of a process, and what closed ones have counted.  Thread-safe.

    The newest ``streams`` streams have series of their own; older ones are added up under
    ``stream="other"`` of their beamtime and detector, and of these pairs, too, only the newest
    ``streams`` are told apart.  Counters never fall by that.
    """

    def __init__(self, streams: int = STREAMS) -> None:
        self.streams = streams
        self._lock = threading.Lock()
        self._meters: list[Meter] = []
        #: Oldest first; of streams that have series of their own, then of all else.
        self._totals: OrderedDict[Place, Totals] = OrderedDict()
        self._older: OrderedDict[Place, Totals] = OrderedDict()
        self._folded = 0

    def watch(self, place: Place, owner: Owner, read: Callable[[Owner], Numbers]) -> Meter:
        """Ask ``owner`` at each scrape by ``read``, as long as it lives; it is not kept alive."""
        alive = weakref.ref(owner)

        def ask() -> Numbers | None:
            found = alive()
            return None if found is None else read(found)

        meter = Meter(self, place, ask)
        with self._lock:
            self._drop_ended()
            self._meters.append(meter)
            kept = self._totals if place.stream else self._older
            kept.setdefault(place, Totals())
            kept.move_to_end(place)
            self._fold()
        return meter

    def close(self, meter: Meter) -> None:
        """Keep what a meter has counted."""
        with self._lock:
            if meter in self._meters:
                if not meter.over:
                    meter.look()
                self._end(meter)

    def collect(self) -> Iterator[tuple[Place, Totals]]:
        """Yield everything as it is now."""
        with self._lock:
            for meter in self._meters:
                meter.look()
            self._drop_ended()
            found = {place: Totals() for place in (*self._totals, *self._older)}
            for place, kept in (*self._totals.items(), *self._older.items()):
                found[place].merge(kept)
            for meter in self._meters:
                place = self._known_as(meter.place)
                found[place].add(meter.last, meter.stages, ended=False)
        yield from found.items()

    @property
    def folded(self) -> int:
        """How many streams have lost their own series so far."""
        return self._folded

    # -- with the lock --------------------------------------------------------------------------

    def _drop_ended(self) -> None:
        for meter in [meter for meter in self._meters if meter.over]:
            self._end(meter)

    def _end(self, meter: Meter) -> None:
        self._meters.remove(meter)
        place = self._known_as(meter.place)
        kept = self._totals.get(place) or self._older[place]
        kept.add(meter.last, meter.stages, ended=True)

    def _known_as(self, place: Place) -> Place:
        """Return under which place it is told at the moment."""
        other = replace(place, stream=OTHER)
        for candidate in (place, other):
            if candidate in self._totals or candidate in self._older:
                return candidate
        return Place(beamtime=OTHER, detector=OTHER, stream=OTHER, group=OTHER)

    def _fold(self) -> None:
        """Give the oldest streams up that are too many."""
        while len(self._totals) > self.streams:
            place, totals = self._totals.popitem(last=False)
            other = replace(place, stream=OTHER)
            self._older.setdefault(other, Totals()).merge(totals)
            self._older.move_to_end(other)
            self._folded += 1
        while len(self._older) > self.streams:
            _, totals = self._older.popitem(last=False)
            rest = Place(beamtime=OTHER, detector=OTHER, stream=OTHER, group=OTHER)
            self._older.setdefault(rest, Totals()).merge(totals)
            self._older.move_to_end(rest)


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return the upper bound of the bucket that a share of the frames is below; None if empty."""
    wanted, seen = share * sum(histogram.counts), 0
    if not wanted:
        return None
    for bound, count in zip((*BUCKETS, float("inf")), histogram.counts, strict=True):
        seen += count
        if seen >= wanted:
            return bound
    return float("inf")


#: Of this process.  One, as a process has one address for metrics; owners only add to it.
BOOK = Book()
