"""Getting one frame by its number, and following the newest one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from pipeline.errors import ClosedError, FrameNotFoundError, StreamTimeoutError
from pipeline.protocols import Cursor, Lookup, StreamLog
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.merge import Floors
from pipeline.reading.ordered import CATCH_UP_S, IDLE_S
from pipeline.reading.sample import sample_of
from pipeline.records import Located, Segment

#: A search in the log is a few reads; the log's own limits are shorter for each.
SEARCH_S = 10.0
#: A following cursor this far behind is given up for a look at the end of the log.
_MAX_LAG = 2000
#: ... which is asked when the last call was longer ago than this.
_FRESH_S = 1.0
#: How far below the newest number a complete frame is searched for, one by one.
_MAX_BACK = 64
#: Frames of several modules that the follower keeps together.
_KEPT = 256


def row_of(segment: Segment, number: int) -> int | None:
    """Return the row of a frame in a segment, or None."""
    row = int(segment.numbers.searchsorted(number))
    return row if row < len(segment) and int(segment.numbers[row]) == number else None


def same_content(a: Segment, row_a: int, b: Segment, row_b: int) -> bool:
    """Tell whether two records announce the same payload and the same header."""
    return bool(
        a.checksums[row_a] == b.checksums[row_b]
        and a.digests[row_a] == b.digests[row_b]
        and a.lengths[row_a] == b.lengths[row_b]
    )


class SingleReader:
    """Finds single frames; may be used by several threads where its log may."""

    def __init__(self, log: StreamLog, fetcher: Fetcher, origin: Origin) -> None:
        self._log = log
        self._fetcher = fetcher
        self._origin = origin
        #: Set by the owner to end waiting calls, from another thread.
        self.stopped = False

    def check_open(self) -> None:
        """Raise ClosedError once the stream was closed."""
        if self.stopped:
            raise ClosedError(f"stream {self._origin.stream} was closed")

    def frame(self, number: int, *, timeout_s: float | None, least: int) -> Frame:
        """Return frame ``number`` with at least ``least`` modules (fewer if no more will come).

        Raises FrameNotFoundError once ``timeout_s`` is over or it is known not to come.
        """
        begun = time.monotonic()
        self.check_open()
        # The usual case is one search and nothing else: each further question to the log would
        # cost as much as the frame.
        parts = self._choose(number, self._log.find(number, timeout_s=SEARCH_S))
        if len(parts) >= least:
            return self.build(number, parts, least)
        high = self._log.bounds()[1]  # before the next search: nothing may fall in between
        cursor: Cursor | None = None
        try:
            while True:
                self.check_open()
                ended = self._log.info(refresh=True).end_offsets is not None
                lookup = self._log.find(number, timeout_s=SEARCH_S)
                parts = self._choose(number, lookup)
                over = timeout_s is not None and begun + timeout_s <= time.monotonic()
                if len(parts) >= least or (parts and (ended or over or lookup.passed)):
                    return self.build(number, parts, least)
                if ended or over or lookup.passed:
                    raise self._absent(number, ended=ended, passed=lookup.passed)
                cursor = cursor or self._log.cursor(high)
                self._wait(cursor, number, begun, timeout_s)
        finally:
            if cursor is not None:
                cursor.close()

    def _wait(self, cursor: Cursor, number: int, begun: float, timeout_s: float | None) -> None:
        """Wait a moment for a record that says something about ``number``."""
        partition = self._log.info(refresh=False).start.partition_of(number)
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            left = IDLE_S if timeout_s is None else begun + timeout_s - now
            if left <= 0 or now - looked > IDLE_S:
                return
            for located in cursor.poll(min(left, IDLE_S)):
                value = located.value
                if located.partition == partition and (
                    value.floor > number
                    or (isinstance(value, Segment) and row_of(value, number) is not None)
                ):
                    return

    def _absent(self, number: int, *, ended: bool, passed: bool) -> FrameNotFoundError:
        if not ended and not passed:
            return FrameNotFoundError(self._origin.stream, number, "not yet")
        first, last = self._extent()
        inside = first is not None and last is not None and first <= number <= last
        sample = sample_of(self._log.info(refresh=False).start)
        if inside and sample is not None and number not in sample.missing:
            return FrameNotFoundError(self._origin.stream, number, "not sampled")
        return FrameNotFoundError(self._origin.stream, number, "missing" if inside else "outside")

    def _extent(self) -> tuple[int | None, int | None]:
        """Return about the first and the last number: what each partition begins and ends with."""
        tail = self._log.tail(timeout_s=SEARCH_S)
        if not tail:
            return None, None
        awaited = {located.partition for located in tail}
        firsts = []
        cursor = self._log.cursor()
        deadline = time.monotonic() + SEARCH_S
        try:
            while awaited and time.monotonic() < deadline:
                for located in cursor.poll(IDLE_S):
                    if isinstance(located.value, Segment) and len(located.value):
                        firsts.append(int(located.value.numbers[0]))
                        awaited.discard(located.partition)
        finally:
            cursor.close()
        return min(firsts, default=None), max(_last(located) for located in tail)

    def _choose(self, number: int, lookup: Lookup) -> dict[int, tuple[Segment, int]]:
        """Return per module the record that counts, by the rule of merging."""
        found: dict[int, tuple[Segment, int]] = {}
        behind: set[int] | None = None
        for located in lookup.records:
            segment = located.value
            row = row_of(segment, number) if isinstance(segment, Segment) else None
            if row is None or not isinstance(segment, Segment):
                continue
            known = found.get(segment.module)
            if known is None:
                found[segment.module] = segment, row
            elif segment.epoch > known[0].epoch and not same_content(*known, segment, row):
                if behind is None:
                    behind = self._behind(lookup)
                first = next(r for r in lookup.records if r.value is known[0])
                if first.offset in behind:
                    found[segment.module] = segment, row
        return found

    def _behind(self, lookup: Lookup) -> set[int]:
        """Return the offsets of records that lie behind a newer writer's claim; reads them all."""
        start = self._log.info(refresh=False).start
        floors = Floors(start)
        partition, last = lookup.records[0].partition, lookup.records[-1].offset
        cursor = self._log.cursor()
        cursor.pause(p for p in range(start.partitions) if p != partition)
        behind = set()
        deadline = time.monotonic() + SEARCH_S
        try:
            while cursor.positions()[partition] <= last and time.monotonic() < deadline:
                for located in cursor.poll(IDLE_S):
                    if located.partition == partition and floors.observe(located):
                        behind.add(located.offset)
        finally:
            cursor.close()
        return behind

    def build(self, number: int, parts: dict[int, tuple[Segment, int]], least: int) -> Frame:
        """Return the frame made of these rows; of their objects only these are read.

        It has an image if it has ``least`` modules.
        """
        frames, origin = {}, replace(self._origin, least=least)
        for module, (segment, row) in parts.items():
            block = self._fetcher.open(segment, origin, slice(row, row + 1))
            frames[module] = Frame(number, block, row)
        if self._origin.modules:
            return ModularFrame(number, frames)
        return next(iter(frames.values()))


def _last(located: Located) -> int:
    return int(located.value.numbers[-1]) if isinstance(located.value, Segment) else -1


class Newest:
    """Follows the newest frame; the first call looks at the end of the log, later ones follow."""

    def __init__(self, log: StreamLog, single: SingleReader, origin: Origin) -> None:
        self._log = log
        self._single = single
        self._origin = origin
        self._cursor: Cursor | None = None
        self._used = 0.0
        self._parts: dict[int, dict[int, tuple[Segment, int]]] = {}

    def get(self, after: int | None, *, timeout_s: float | None, least: int) -> Frame:
        """Return the newest frame with ``least`` modules, newer than ``after`` if that is given.

        Raises StreamTimeoutError, or FrameNotFoundError when the stream ends without one.
        """
        begun = looked = time.monotonic()
        cursor = self._follow(least)
        if after is None:
            self._catch_up(cursor)
        ends = self._log.info(refresh=False).end_offsets
        floor = -1 if after is None else after
        while True:
            self._single.check_open()
            number = self._newest(least)
            if number is not None and number > floor:
                return self._single.build(number, self._parts[number], least)
            now = time.monotonic()
            if ends is None and now - looked >= IDLE_S:
                ends, looked = self._log.info(refresh=True).end_offsets, now
            if ends is not None and _reached(cursor, ends):
                raise FrameNotFoundError(self._origin.stream, floor + 1, "outside")
            left = IDLE_S if timeout_s is None else begun + timeout_s - now
            if left <= 0:
                if ends is None and self._log.info(refresh=True).end_offsets is not None:
                    ends = self._log.info(refresh=False).end_offsets
                    continue
                raise StreamTimeoutError(self._origin.stream, timeout_s or 0.0)
            self._take(cursor.poll(min(left, IDLE_S)))
            self._drain(cursor)

    def _follow(self, least: int) -> Cursor:
        """Return a cursor near the end of the log."""
        used, self._used = self._used, time.monotonic()
        if self._cursor is not None:
            if self._used - used < _FRESH_S:
                self._drain(self._cursor)
                return self._cursor
            high = self._log.bounds()[1]
            lag = sum(h - p for h, p in zip(high, self._cursor.positions(), strict=True))
            if lag <= _MAX_LAG:
                self._drain(self._cursor)
                return self._cursor
            self.close()
        high = self._log.bounds()[1]  # before the tail: nothing may fall in between
        self._take(self._log.tail(timeout_s=SEARCH_S))
        if self._origin.modules and self._newest(least) is None:
            self._search_back(least)
        self._cursor = self._log.cursor(high)
        return self._cursor

    def _search_back(self, least: int) -> None:
        """Find the newest frame with enough modules below what the tail shows."""
        newest = max(self._parts, default=-1)
        for number in range(newest, max(-1, newest - _MAX_BACK), -1):
            self._take(self._log.find(number, timeout_s=SEARCH_S).records, only=number)
            if len(self._parts.get(number, ())) >= least:
                return

    def _catch_up(self, cursor: Cursor) -> None:
        """Read up to what is in the log now: ``latest`` shows what was published before it."""
        high = self._log.bounds()[1]
        deadline = time.monotonic() + CATCH_UP_S
        while not _reached(cursor, high) and time.monotonic() < deadline:
            self._take(cursor.poll(IDLE_S))

    def _drain(self, cursor: Cursor) -> None:
        for _ in range(_MAX_LAG):
            records = cursor.poll(0)
            if not records:
                return
            self._take(records)

    def _take(self, records: Iterable[Located], only: int | None = None) -> None:
        for located in records:
            segment = located.value
            if not isinstance(segment, Segment) or not len(segment):
                continue
            numbers = segment.numbers[-_KEPT:] if only is None else [only]
            keep = numbers if self._origin.modules else numbers[-1:]
            for number in (int(n) for n in keep):
                row = row_of(segment, number)
                if row is not None:
                    parts = self._parts.setdefault(number, {})
                    parts.setdefault(segment.module, (segment, row))
        if len(self._parts) > 2 * _KEPT:
            self._parts = dict(sorted(self._parts.items())[-_KEPT:])

    def _newest(self, least: int) -> int | None:
        return max((n for n, parts in self._parts.items() if len(parts) >= least), default=None)

    def close(self) -> None:
        """Stop following."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None


def _reached(cursor: Cursor, offsets: Iterable[int]) -> bool:
    return all(p >= o for p, o in zip(cursor.positions(), offsets, strict=True))
