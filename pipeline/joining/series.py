"""Following a stream of values: forward with the frames that ask, in bounded memory."""

from __future__ import annotations

import heapq
import json
import time
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError
from pipeline.joining.lookup import How, look_up
from pipeline.joining.track import NOWHERE, Track
from pipeline.protocols import Cursor, StreamLog
from pipeline.reading.merge import Floors
from pipeline.reading.ordered import CATCH_UP_S, IDLE_S
from pipeline.reading.table import gather
from pipeline.reading.values import Bools, Values
from pipeline.records import Int64s, Located, Segment

#: Values read ahead of the first place that was asked for, so that others are certain, too.
_AT_ONCE = 65_536
_NOTHING: tuple[int, int, list[Any]] = (0, NOWHERE, [])
#: A column of values, or one that holds for all places.
Found = Values | Any
#: What every key lies below once the stream has ended.
_ALL = 2**63 - 1
#: Records that wait for earlier ones before a hole is given up.
_MOST_WAITING = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """Places on the axis of a join, at least one, and the lowest and highest of them."""

    at: Int64s
    low: int
    high: int

    @classmethod
    def of(cls, at: Int64s) -> Self:
        """Return the span of these places."""
        if len(at) == 1:
            only = int(at[0])
            return cls(at, only, only)
        return cls(at, int(at.min()), int(at.max()))


class ValueSeries:
    """The values of one stream along time or an index; for one thread.

    It is read as far as it is asked for and not further, and forgets what lies far behind; asked
    for that, it reads the stream again from its start.

    Attributes
    ----------
    horizon:
        The stream's own time (or index): what lies below will not change any more, unless values
        come out of order.
    """

    def __init__(
        self,
        log: StreamLog,
        *,
        on: str,
        how: How,
        tolerance: int | None,
        names: Collection[str] | None,
    ) -> None:
        info = log.info(refresh=False)
        if info.start.modules:
            raise InvalidArgumentError("values", f"{info.start.stream} has modules: it has images")
        self._log = log
        self._on = on
        self._how: How = how
        self._tolerance = tolerance
        self._names = names
        self._ends = info.end_offsets
        self._cursor: Cursor | None = None
        self._looked = self._checked = float("-inf")
        self._silent_at: int | None = None
        self._lowest, self._fresh = NOWHERE, 0
        self._begin()

    def _begin(self) -> None:
        self.close()
        self.tracks: dict[str, Track] = {}
        self.horizon = NOWHERE
        self._dropped = NOWHERE
        self._same = _NOTHING
        self._next = 0
        self._waiting: list[tuple[int, int, Segment]] = []
        self._count = 0
        self._floors = Floors(self._log.info(refresh=False).start)
        #: Offsets per partition that have to be reached before a wait may end.
        self._target = [0] * self._floors.partitions
        #: Where the horizon was when a wait ended for nothing.
        self._silent_at = None

    def close(self) -> None:
        """Release the log; may be called twice."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    # -- asking -----------------------------------------------------------------------------------

    def certain(self, at: Int64s) -> Bools:
        """Tell for each place whether what :meth:`values` says there is final."""
        if self.horizon == _ALL:
            return np.ones(len(at), bool)
        sure: Bools = at < self.horizon
        tracks = self.tracks.values()
        if self._how == "exact" and tracks and not sure.all():
            here = [track.gap(at) == 0 for track in tracks]
            sure |= np.logical_and.reduce(here)
        if self._how not in ("linear", "nearest"):
            return sure
        for track in tracks:
            if self._how == "linear" and track.data.dtype == object:
                continue
            done = track.followed(at)
            if self._tolerance is not None:
                done |= at < self.horizon - self._tolerance
            if self._how == "nearest":
                gap = track.gap(at)
                done |= (gap >= 0) & (gap < self.horizon - at)
            sure &= done
        return sure

    def _all_certain(self, span: Span) -> bool:
        """Tell, at little cost, whether all places are certain; False may be wrong."""
        if self.horizon == _ALL:
            return True
        if span.high >= self.horizon:
            return False
        return self._how in ("step", "exact") or all(
            track.followed_by(span.high) for track in self.tracks.values()
        )

    def values(self, span: Span, count: int) -> list[tuple[str, Found]]:
        """Return the values of all names for the first ``count`` places, as known now.

        A value that is the same for all places stands for itself.
        """
        since, until, found = self._same
        if since <= span.low and span.high < until:
            return found
        found = [(name, self._find(track, span, count)) for name, track in self.tracks.items()]
        if self._how == "step" and self._tolerance is None:
            self._remember(span, found)
        return found

    def _remember(self, span: Span, found: list[tuple[str, Found]]) -> None:
        """Keep what holds up to the next value of any name: most often for the next frames too."""
        if not any(isinstance(values, Values) for _, values in found):
            following = [track.next_key for track in self.tracks.values()]
            self._same = span.low, min(following, default=NOWHERE), found

    def _find(self, track: Track, span: Span, count: int) -> Found:
        how = self._how
        if self._tolerance is None and how in ("step", "linear"):
            place = track.bracket(span.low, span.high)
            if place is not None:
                before, after = place
                if how == "step" or track.data.dtype == object:
                    return track.data[before]
                if after >= 0:
                    return Values(track.line(before, after, span.at[:count]))
        return look_up(track.keys, track.data, span.at[:count], how, self._tolerance)

    def value(self, name: str, at: Int64s) -> Values:
        """Return one value for these places, as far as it is known now."""
        track = self.tracks.get(name) or Track()
        return look_up(track.keys, track.data, at, self._how, self._tolerance)

    def advance(self, span: Span, deadline: float) -> int:
        """Read on until the first place is certain, and what is there for the others.

        Waits up to ``deadline`` (of the monotonic clock) for values that may still come; what is
        in the log by then is read in any case (10 s at most).  A stream that was silent when a
        wait ended is waited for again only after it has said something.  Returns how many places
        in front are certain.
        """
        self._lowest = span.low
        if span.low <= self._dropped:
            self._begin()
        if self._all_certain(span):
            return len(span.at)
        self._fresh = 0
        unsure = np.flatnonzero(~self._wait(span.at, deadline))
        return int(unsure[0]) if len(unsure) else len(span.at)

    def _drain(self, at: Int64s) -> Bools:
        """Read what is there now, as long as it is of use for these places."""
        while not (sure := self.certain(at)).all() and self._fresh < _AT_ONCE and self._poll(0):
            pass
        return sure

    def _wait(self, at: Int64s, deadline: float) -> Bools:
        while not (sure := self._drain(at))[0]:
            self._fresh = 0
            left_s = deadline - time.monotonic()
            if left_s > 0 and self._silent_at != self.horizon:
                if not self._poll(min(left_s, IDLE_S)):
                    self._look_for_end()
            elif not self._is_read():
                self._poll(IDLE_S)
            elif not self._look_for_end():
                self._silent_at = self.horizon
                return sure
        return sure

    def _is_read(self) -> bool:
        """Tell whether all is read that was in the log a moment ago."""
        now = time.monotonic()
        if self._reached(self._target) and now - self._checked >= IDLE_S:
            self._target, self._checked = self._log.bounds()[1], now
        return self._reached(self._target) or now - self._checked > CATCH_UP_S

    # -- reading ----------------------------------------------------------------------------------

    def _poll(self, timeout_s: float) -> bool:
        if self.horizon == _ALL:
            return False
        if self._cursor is None:
            self._cursor = self._log.cursor()
            weakref.finalize(self, self._cursor.close)  # an iterator that nobody closed
        records = self._cursor.poll(timeout_s)
        for located in records:
            if self._ends is None or located.offset < self._ends[located.partition]:
                self._take(located)
        self._settle()
        for track in self.tracks.values():
            self._dropped = max(self._dropped, track.forget(self._lowest))
        if self._ends is not None and self._reached(self._ends):
            self._settle(at_end=True)
            self.horizon = _ALL
            self.close()
        return bool(records)

    def _reached(self, offsets: Sequence[int]) -> bool:
        if self.horizon == _ALL:
            return True
        if self._cursor is None:
            return False
        return all(p >= o for p, o in zip(self._cursor.positions(), offsets, strict=True))

    def _look_for_end(self) -> bool:
        """Ask, now and then, whether the stream has ended; True when that is news."""
        now = time.monotonic()
        if self._ends is not None or now - self._looked < IDLE_S:
            return False
        self._looked = now
        self._ends = self._log.info(refresh=True).end_offsets
        return self._ends is not None

    def _take(self, located: Located) -> None:
        self._floors.observe(located)
        segment = located.value
        if isinstance(segment, Segment) and len(segment):
            self._count += 1
            heapq.heappush(self._waiting, (int(segment.numbers[0]), self._count, segment))

    def _settle(self, *, at_end: bool = False) -> None:
        """Take what is in order by number; a hole is waited for as long as it may be filled."""
        waiting = self._waiting
        while waiting:
            first = waiting[0][0]
            hole = first > self._next and bool(self._floors.not_passed(self._next, first))
            if hole and not at_end and len(waiting) <= _MOST_WAITING:
                return
            segment = heapq.heappop(waiting)[2]
            fresh = int(segment.numbers.searchsorted(self._next))
            if fresh < len(segment):
                self._keep(segment, fresh)
                self._next = int(segment.numbers[-1]) + 1

    def _keep(self, segment: Segment, fresh: int) -> None:
        self._same = _NOTHING
        self._fresh += len(segment) - fresh
        plain = self._on in ("time", "number") and not segment.extra
        if plain and all(column.present is None for column in segment.columns):
            self._keep_plain(segment, fresh)
            return
        keys, keyed = keys_of(segment, self._on)
        keys, keyed = keys[fresh:], keyed[fresh:]
        if not keyed.any():
            return
        self.horizon = max(self.horizon, int(keys[keyed].max()))
        for name in _names(segment):
            if self._takes(name):
                found = gather(name, [segment])
                wanted = keyed & np.broadcast_to(np.asarray(found.known), len(segment))[fresh:]
                self._extend(name, keys[wanted], found.data[fresh:][wanted])

    def _keep_plain(self, segment: Segment, fresh: int) -> None:
        """Keep values that all rows have: most often it is one, in a record of its own."""
        keys = (segment.timestamps_ns if self._on == "time" else segment.numbers)[fresh:]
        self.horizon = max(self.horizon, int(keys[0] if len(keys) == 1 else keys.max()))
        for column in segment.columns:
            if self._takes(column.name):
                values = column.values
                data = values if isinstance(values, np.ndarray) else np.array(values, object)
                self._extend(column.name, keys, data[fresh:])

    def _takes(self, name: str) -> bool:
        return name != self._on and (self._names is None or name in self._names)

    def _extend(self, name: str, keys: Int64s, data: npt.NDArray[Any]) -> None:
        track = self.tracks.get(name)
        if track is None:
            track = self.tracks[name] = Track()
        track.extend(keys, data)


def keys_of(segment: Segment, on: str) -> tuple[Int64s, Bools]:
    """Return where the rows of a segment lie, and which of them say so."""
    if on == "time":
        return segment.timestamps_ns, np.ones(len(segment), bool)
    if on == "number":
        return segment.numbers, np.ones(len(segment), bool)
    return whole_numbers(gather(on, [segment]), len(segment))


def whole_numbers(found: Values, count: int) -> tuple[Int64s, Bools]:
    """Return the values that are whole numbers, and where there is one; zero elsewhere."""
    known = np.array(np.broadcast_to(np.asarray(found.known), count))
    keys = np.zeros(count, np.int64)
    if found.data.dtype.kind == "f":
        known &= (found.data == np.trunc(found.data)) & (np.abs(found.data) < 2.0**62)
    elif found.data.dtype.kind != "i":
        known[:] = False
    keys[known] = found.data[known].astype(np.int64)
    return keys, known


def _names(segment: Segment) -> dict[str, None]:
    names = dict.fromkeys(column.name for column in segment.columns)
    for text in filter(None, segment.extra):
        names.update(dict.fromkeys(json.loads(text)))
    return names
