"""What is joined, and the joining of one frame after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack
from urllib.parse import unquote

import numpy as np

from pipeline.errors import InvalidArgumentError
from pipeline.frame import AttributeValue
from pipeline.joining.lookup import HOWS, How
from pipeline.joining.series import Found, Span, ValueSeries, whole_numbers
from pipeline.naming import StreamId
from pipeline.protocols import StreamLog
from pipeline.reading.expressions import Columns
from pipeline.reading.frame import Frame
from pipeline.reading.table import gather
from pipeline.reading.values import Bools, Values
from pipeline.records import Int64s, Segment

#: Rows of a column that are looked up at once.
_ROWS = 65_536


@dataclass(slots=True, kw_only=True, eq=False)
class Join:
    """One stream of values and how its values come to frames.

    Attributes
    ----------
    late:
        Frames that were delivered before all their values were certain.
    missing:
        Frames that were delivered without one or more of the values.
    """

    stream: StreamId
    log: StreamLog
    how: How
    on: str
    tolerance: int | None
    wait_s: float
    prefix: str = ""
    names: Collection[str] | None = None
    late: int = 0
    missing: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise InvalidArgumentError("how", f"{self.how!r} is none of {', '.join(HOWS)}")
        if not isinstance(self.on, str) or not self.on:
            raise InvalidArgumentError("on", "is 'time', 'number' or the name of an attribute")
        if not 0 <= self.wait_s < 1e6:
            raise InvalidArgumentError("wait_s", f"{self.wait_s} is not a time to wait")

    def open(self) -> ValueSeries:
        """Return its values, from the start."""
        return ValueSeries(
            self.log, on=self.on, how=self.how, tolerance=self.tolerance, names=self.names
        )

    def count(self, *, late: bool, missing: bool) -> None:
        """Count a frame that was delivered."""
        with self._lock:
            self.late += late
            self.missing += missing


def related(name: StreamId, values: str) -> StreamId:
    """Return the stream that ``values`` means beside ``name``: channel[/stream], or a full name."""
    if not isinstance(values, str):
        raise InvalidArgumentError("values", f"must be a name or a stream, not {values!r:.60}")
    if values.count("/") == 2:
        return StreamId.parse(values)
    channel, _, stream = values.partition("/")
    return StreamId(name.beamtime, unquote(channel), unquote(stream) or name.stream)


class JoinOptions(TypedDict, total=False):
    """How values come to frames; see :meth:`pipeline.Stream.join`."""

    how: How
    on: str
    tolerance_s: float | None
    tolerance: int | None
    wait_s: float
    prefix: str
    names: Collection[str] | None


def make_join(stream: StreamId, log: StreamLog, **options: Unpack[JoinOptions]) -> Join:
    """Return a join; see :meth:`pipeline.Stream.join`."""
    on, names = options.get("on", "time"), options.get("names")
    tolerance, tolerance_s = options.get("tolerance"), options.get("tolerance_s")
    wrong = "tolerance" if on == "time" else "tolerance_s"
    given = tolerance if on == "time" else tolerance_s
    if given is not None:
        raise InvalidArgumentError(wrong, "seconds are for time, steps for an index")
    limit = tolerance if on != "time" else tolerance_s
    if limit is not None and not 0 <= limit < 1e9:
        raise InvalidArgumentError("tolerance", f"{limit} is not a distance")
    return Join(
        stream=stream,
        log=log,
        how=options.get("how", "step"),
        on=on,
        tolerance=None if limit is None else round(limit * 1e9) if on == "time" else int(limit),
        wait_s=options.get("wait_s", 1.0),
        prefix=options.get("prefix", ""),
        names=None if names is None else frozenset(names),
    )


class _Run:
    """Rows of a segment that were joined at once: what each join says, and its doubts."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        #: Values that all rows have, and those that differ: name, values, where they are known.
        self._same: dict[str, AttributeValue] = {}
        self._columns: list[tuple[str, list[Any], list[bool] | None]] = []
        #: Per join: whether its values are uncertain, and which rows lack some.
        self.flaws: list[tuple[Join, bool, Bools]] = []

    def add(self, name: str, found: Found) -> None:
        """Take a value; one of an earlier join stays."""
        if name in self._same or any(name == known for known, _, _ in self._columns):
            return
        if isinstance(found, Values):
            known = None if found.known is True else np.broadcast_to(found.known, found.data.shape)
            where = None if known is None or known.all() else known.tolist()
            self._columns.append((name, found.data.tolist(), where))
        else:
            self._same[name] = found.item() if isinstance(found, np.generic) else found

    def row(self, row: int) -> dict[str, AttributeValue]:
        """Return the values of a row by name."""
        values, at = dict(self._same), row - self.begin
        for name, column, known in self._columns:
            if known is None or known[at]:
                values[name] = column[at]
        return values


class JoinedRows:
    """What joins say about the rows of a segment, as far as they were delivered."""

    __slots__ = ("runs",)

    def __init__(self) -> None:
        self.runs: list[_Run] = []

    def find(self, row: int) -> _Run | None:
        """Return the run that has the row."""
        for run in reversed(self.runs):
            if run.begin <= row < run.end:
                return run
        return None

    def row(self, row: int) -> dict[str, AttributeValue]:
        """Return the values of a row by name; earlier joins win."""
        run = self.find(row)
        return run.row(row) if run is not None else {}


class _Rows:
    """The rows of a segment, as far as it takes to place them."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def __len__(self) -> int:
        return len(self._segment)

    def number(self) -> Int64s:
        return self._segment.numbers

    def timestamp_ns(self) -> Int64s:
        return self._segment.timestamps_ns

    def attribute(self, name: str) -> Values:
        return gather(name, [self._segment])


class _Joined:
    """Rows of a table with joined attributes where they have none themselves."""

    def __init__(self, own: Columns, joiner: Joiner) -> None:
        self._own = own
        self._joiner = joiner
        self.number, self.timestamp_ns, self.module = own.number, own.timestamp_ns, own.module

    def __len__(self) -> int:
        return len(self._own)

    def attribute(self, name: str) -> Values:
        own = self._own.attribute(name)
        if own.known is True or not len(self._own):
            return own
        return first_known(own, self._joiner.column(name, self._own))


def first_known(first: Values, other: Values) -> Values:
    """Return the first where it is known, else the other."""
    if first.known is False:
        return other
    if other.known is False or first.known is True:
        return first
    known = np.asarray(first.known, bool)
    return Values(np.where(known, first.data, other.data), known | np.asarray(other.known, bool))


def _places(on: str, rows: _Rows | Columns) -> Int64s:
    """Return where rows lie on the axis of a join; without the attribute at their number."""
    if on == "time":
        return rows.timestamp_ns()
    if on == "number":
        return rows.number()
    keys, known = whole_numbers(rows.attribute(on), len(rows))
    return np.where(known, keys, rows.number())


def _column(series: ValueSeries, name: str, at: Int64s, deadline: float) -> Values:
    """Return a value for each place, going through them in rising order."""
    order = np.argsort(at, kind="stable")
    rising = at[order]
    parts: list[Values] = []
    begin = 0
    while begin < len(rising):
        run = rising[begin : begin + _ROWS]
        run = run[: max(1, series.advance(Span.of(run), deadline))]
        parts.append(series.value(name, run))
        begin += len(run)
    known = np.zeros(len(at), bool)
    known[order] = np.concatenate([np.broadcast_to(part.known, part.data.shape) for part in parts])
    data = np.concatenate([part.data for part in parts])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Values(data[back], known)


class Joiner:
    """Gives frames their values, one after the other; for one thread."""

    def __init__(self, joins: Sequence[Join]) -> None:
        self._joins = [(join, join.open()) for join in joins]
        #: The least seconds between a record's time by the broker's clock and its reading here:
        #: the difference of the two clocks, once we are not behind.
        self._least_s = float("inf")

    def add(self, frame: Frame) -> None:
        """Wait for the frame's values, within the limits, and let it have them."""
        block, row = frame._block, frame._row
        rows = block.joined
        if not isinstance(rows, JoinedRows):
            rows = block.joined = JoinedRows()
        run = rows.find(row)
        if run is None:
            run = self._join(block.segment, row, self._seen(block.appended_ms))
            rows.runs.append(run)
        for join, late, missing in run.flaws:
            without = bool(missing[row - run.begin])
            if late or without:
                join.count(late=late, missing=without)

    def _seen(self, appended_ms: int) -> float:
        """Return since when (monotonic clock) a frame could have been read."""
        now = time.monotonic()
        if not appended_ms:
            return now
        behind_s = time.time() - appended_ms / 1000
        self._least_s = min(self._least_s, behind_s)
        return now - (behind_s - self._least_s)

    def _join(self, segment: Segment, row: int, seen: float) -> _Run:
        """Join a row and those behind it whose values are certain too."""
        spans: dict[str, Span] = {}
        count, sure = len(segment) - row, []
        for join, series in self._joins:
            span = spans.get(join.on)
            if span is None:
                span = spans[join.on] = Span.of(_places(join.on, _Rows(segment))[row:])
            sure.append(series.advance(span, seen + join.wait_s))
            count = min(count, max(1, sure[-1]))
        run = _Run(row, row + count)
        for (join, series), certain in zip(self._joins, sure, strict=True):
            found = series.values(spans[join.on], count)
            lacking = None if found else np.ones(count, bool)
            for name, values in found:
                run.add(join.prefix + name, values)
                if isinstance(values, Values) and values.known is not True:
                    unknown = ~np.broadcast_to(values.known, (count,))
                    lacking = unknown if lacking is None else lacking | unknown
            if not certain or (lacking is not None and lacking.any()):
                none = np.zeros(count, bool)
                run.flaws.append((join, not certain, none if lacking is None else lacking))
        return run

    # -- whole columns ----------------------------------------------------------------------------

    def may_have(self, name: str) -> bool:
        """Tell whether some join has this name, or one that has said nothing yet may have it."""
        return any(
            not series.tracks or name.removeprefix(join.prefix) in series.tracks
            for join, series in self._joins
            if name.startswith(join.prefix)
        )

    def names(self) -> list[str]:
        """Return the joined names that are known by now."""
        return [join.prefix + name for join, series in self._joins for name in series.tracks]

    def view(self, own: Columns) -> Columns:
        """Return rows of a table as an expression sees them, with the joined attributes."""
        return _Joined(own, self)

    def column(self, name: str, rows: Columns) -> Values:
        """Return a joined attribute of rows in any order, waiting within the limits."""
        found = Values(np.zeros(len(rows), np.int64), known=False)
        for join, series in self._joins:
            if name.startswith(join.prefix):
                at = _places(join.on, rows)
                deadline = time.monotonic() + join.wait_s
                found = first_known(found, _column(series, name[len(join.prefix) :], at, deadline))
        return found

    def close(self) -> None:
        """Release the logs; may be called twice."""
        for _, series in self._joins:
            series.close()
