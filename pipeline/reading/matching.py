"""An expression over the rows of one record, before anything of their payloads is read."""

from __future__ import annotations

import difflib
import logging

import numpy as np

from pipeline.reading.expressions import NAMES, Expression
from pipeline.reading.table import gather
from pipeline.reading.values import Bools, Values
from pipeline.records import Int64s, Segment

log = logging.getLogger(__name__)
#: After so many frames without an attribute it is taken for mistyped, and the log says so.
_SUSPICIOUS = 1000


class SegmentView:
    """The rows of one record, as :meth:`Expression.mask` reads them."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def __len__(self) -> int:
        return len(self._segment.numbers)

    def number(self) -> Int64s:
        """Return the frame numbers."""
        return self._segment.numbers

    def timestamp_ns(self) -> Int64s:
        """Return the frame times."""
        return self._segment.timestamps_ns

    def module(self) -> Int64s:
        """Return the module of each row, which is the record's."""
        found: Int64s = self._segment.numbers * 0 + self._segment.module
        return found

    def attribute(self, name: str) -> Values:
        """Return an attribute, and where there is one."""
        return gather(name, [self._segment])


class RecordFilter:
    """Says of each row of a record whether an expression selects it.

    A stream that is being taken may still bring an attribute that no frame has had so far, so a
    name that nobody knows is no error here: the log has one warning, with the nearest known name.
    """

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._unseen = dict.fromkeys(expression.names)
        self._known: set[str] = set()
        self._rows = 0

    def mask(self, segment: Segment) -> Bools:
        """Return for each row whether it is selected."""
        view = SegmentView(segment)
        if self._unseen:
            self._watch(view, segment)
        return self.expression.mask(view)

    def _watch(self, view: SegmentView, segment: Segment) -> None:
        self._known.update(column.name for column in segment.columns)
        for name in list(self._unseen):
            if np.any(view.attribute(name).known):
                del self._unseen[name]
        before, self._rows = self._rows, self._rows + len(view)
        if not self._unseen or not before < _SUSPICIOUS <= self._rows:
            return
        for name in self._unseen:
            near = difflib.get_close_matches(name, [*self._known, *NAMES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            log.warning("none of %d frames has an attribute %r%s", self._rows, name, hint)
