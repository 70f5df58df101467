"""Frames that match an expression: first what there is, in order, then what comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np

from pipeline.errors import ExpressionError, StreamTimeoutError
from pipeline.protocols import StreamLog
from pipeline.reading.expressions import Columns, Expression
from pipeline.reading.feed import FrameFeed
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame
from pipeline.reading.live import LiveTable
from pipeline.reading.ordered import CATCH_UP_S, IDLE_S
from pipeline.reading.ranges import Ranges
from pipeline.reading.table import Rows


class Beside(Protocol):
    """Attributes that come from elsewhere."""

    def may_have(self, name: str) -> bool: ...  # noqa: D102 -- whether it is one of them
    def names(self) -> list[str]: ...  # noqa: D102 -- those that are known
    def view(self, own: Columns) -> Columns: ...  # noqa: D102 -- rows with what they have beside


class SelectedFrames(Iterator[Frame]):
    """Matching frames, each once: in number order up to now, later ones as they come.

    With ``follow`` it ends with the stream, without it with what there is now.  Can be resumed
    after StreamTimeoutError.
    """

    def __init__(
        self,
        expression: Expression,
        log: StreamLog,
        live: LiveTable,
        fetcher: Fetcher,
        origin: Origin,
        *,
        follow: bool,
        timeout_s: float | None,
        deadline_s: float | None = None,
        beside: Beside | None = None,
    ) -> None:
        self._beside = beside
        self._deadline_s = deadline_s
        self._incomplete = Ranges()
        #: When frames that match and lack modules were first seen; what was past its deadline, and
        #: how far the log is to be read before it is given as it is.
        self._born_s: dict[int, float] = {}
        self._barrier: tuple[list[int], list[int]] | None = None
        self._expression = expression
        self._log = log
        self._live = live
        self._fetcher = fetcher
        self._origin = origin
        self._follow = follow
        self._timeout_s = timeout_s
        self._feed: Iterator[Frame] = iter(())
        self._seen = Ranges()
        self._examined = 0
        self._generation = -1
        self._modules = len(log.info(refresh=False).start.module_indices)
        #: Detectors with modules: rows of frames that match and lack modules, by number.
        self._partial: dict[int, dict[int, int]] = {}
        self._matched: set[int] = set()
        self._ends: tuple[int, ...] | None = None
        self._looked = 0.0
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        frame = next(self._feed, None)
        if frame is None:
            self._feed = self._advance()
            frame = next(self._feed)
        if self._origin.modules and frame.missing_modules:
            self._incomplete.add(frame.number, frame.number)
        return frame

    @property
    def incomplete(self) -> list[list[int]]:
        """Numbers given without all their modules, as inclusive ranges."""
        return self._incomplete.lists()

    def _advance(self) -> Iterator[Frame]:
        begun = time.monotonic()
        first = self._generation == -1
        if first:
            self._ends = self._live.refresh().end_offsets
            self._looked = time.monotonic()
        while not self._over:
            rows = self._examine()
            if len(rows):
                return FrameFeed(self._live, rows, self._fetcher, self._origin, ahead=True)
            if self._over:
                break
            left = IDLE_S if self._timeout_s is None else begun + self._timeout_s - time.monotonic()
            if not self._live.poll(min(max(left, 0.0), IDLE_S)):
                self._look(force=left <= 0)
                if left <= 0 and (self._ends is None or left < -CATCH_UP_S):
                    raise StreamTimeoutError(self._origin.stream, self._timeout_s or 0.0)
        return iter(())

    def _look(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._ends is None and (force or now - self._looked >= IDLE_S):
            self._looked = now
            info = self._log.info(refresh=True)
            if info.end_offsets is not None:
                self._live.end_at(info.end_offsets)
                self._ends = info.end_offsets

    def _examine(self) -> Rows:
        """Return the rows of matching frames that have come since the last look."""
        with self._live.lock:
            table = self._live.table
            if self._generation != self._live.generation:
                self._generation, self._examined = self._live.generation, 0
            # The end first: rows that come after this look are no part of it.
            over = not self._follow or (self._ends is not None and self._live.reached(self._ends))
            rows = self._backlog() if self._examined == 0 else self._arrived()
            self._examined = len(table)
            if self._partial and self._deadline_s is not None:
                rows = np.concatenate((rows, self._overdue(self._deadline_s)))
            if over and self._partial:
                rest = [r for n in sorted(self._partial) for r in self._rows_of(n)]
                self._partial = {}
                rows = np.concatenate((rows, np.array(rest, np.intp)))
            self._over = over
            return rows

    def _overdue(self, deadline_s: float) -> Rows:
        """Return the rows of frames that have waited long enough for their other modules."""
        now = time.monotonic()
        waiting = self._matched.intersection(self._partial)
        self._born_s = {number: self._born_s.get(number, now) for number in waiting}
        if self._barrier is None:
            late = [number for number in waiting if now - self._born_s[number] >= deadline_s]
            if not late:
                return np.empty(0, np.intp)
            self._barrier = late, self._log.bounds()[1]
        numbers, offsets = self._barrier
        if not self._live.reached(offsets) or self._examined < len(self._live.table):
            return np.empty(0, np.intp)
        self._barrier = None
        given = sorted(waiting.intersection(numbers))
        rows = [row for number in given for row in self._rows_of(number)]
        for number in given:
            del self._partial[number]
        return np.array(rows, np.intp)

    def _backlog(self) -> Rows:
        """Everything there is so far, merged and in order."""
        table = self._live.table
        mask = self._expression.mask(self._view(0))
        if len(table):
            self._check_names()
        rows = table.merged().rows
        numbers = table.numbers
        if self._modules == 1 and not self._origin.modules:
            rows = rows[mask[rows]]
        else:
            rows = rows[np.isin(numbers[rows], numbers[rows[mask[rows]]])]
            rows = self._set_aside(rows)
        if self._seen:
            rows = rows[[int(n) not in self._seen for n in numbers[rows]]]
        for first, last in Ranges.of(numbers[rows]):
            self._seen.add(first, last)
        return rows

    def _set_aside(self, rows: Rows) -> Rows:
        """Return the rows without those of frames whose other modules may still come."""
        if self._ends is not None or not self._follow:
            return rows
        table, kept = self._live.table, []
        modules, numbers = table.modules, table.numbers
        frames: dict[int, dict[int, int]] = {}
        for row in rows.tolist():
            frames.setdefault(int(numbers[row]), {})[int(modules[row])] = row
        for number, parts in frames.items():
            if len(parts) >= self._modules or table.floors.passed(number):
                kept += list(parts.values())
            else:
                self._partial[number] = parts
                self._matched.add(number)
        return np.array(kept, np.intp)

    def _view(self, begin: int) -> Columns:
        own = self._live.table.view(begin)
        return own if self._beside is None else self._beside.view(own)

    def _check_names(self) -> None:
        table, beside = self._live.table, self._beside
        unknown = [
            name
            for name in self._expression.names
            if not table.has_name(name) and not (beside is not None and beside.may_have(name))
        ]
        if unknown:
            try:
                beside_names = beside.names() if beside is not None else []
                self._expression.check_names([*table.names(), *beside_names])
            except ExpressionError:
                self._over = True
                raise

    def _arrived(self) -> Rows:
        """Rows of new matching frames, in order within what came at once."""
        table, begin = self._live.table, self._examined
        if begin == len(table):
            return np.empty(0, np.intp)
        mask = self._expression.mask(self._view(begin))
        if self._origin.modules:
            return self._joined(begin, mask.tolist())
        found = (np.flatnonzero(mask) + begin).tolist()
        numbers = table.numbers
        chosen = {}
        for row in found:
            number = int(numbers[row])
            if number not in self._seen:
                self._seen.add(number, number)
                chosen[number] = row
        return np.array([chosen[number] for number in sorted(chosen)], np.intp)

    def _joined(self, begin: int, mask: list[bool]) -> Rows:
        table = self._live.table
        modules = table.modules[begin:].tolist()
        for row, number in enumerate(table.numbers[begin:].tolist()):
            if number not in self._seen:
                self._partial.setdefault(number, {}).setdefault(modules[row], begin + row)
                if mask[row]:
                    self._matched.add(number)
        rows: list[int] = []
        for number in sorted(self._partial):
            whole = len(self._partial[number]) >= self._modules
            if whole or table.floors.passed(number):
                rows += self._rows_of(number)
                del self._partial[number]
        return np.array(rows, np.intp)

    def _rows_of(self, number: int) -> list[int]:
        """Return the rows of a frame if it matches; it is done with then."""
        if number not in self._matched:
            return []
        self._matched.discard(number)
        self._seen.add(number, number)
        return [row for _, row in sorted(self._partial[number].items())]
