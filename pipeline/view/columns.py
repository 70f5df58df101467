"""What the frames of a table say, as columns of one type each.

A column is int64 until a fraction comes (then float64) or a text (then text), as in the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.nexus.nxmx import ABSENT
from pipeline.nexus.text import as_text
from pipeline.nexus.tree import TEXT, Array
from pipeline.reading.table import FrameTable
from pipeline.reading.values import Values
from pipeline.records import Located, Segment
from pipeline.wire.columns import unpack_row

#: More names than this are not columns but data; the further ones share a column of JSON.
MAX_COLUMNS = 512
REST = "other_attributes"
_INT, _FLOAT, _TEXT = range(3)
_RANK = {"int64": _INT, "float64": _FLOAT, "text": _TEXT}
_DTYPES = {_INT: np.dtype(np.int64), _FLOAT: np.dtype(np.float64), _TEXT: TEXT}
_FILL: dict[int, Any] = {_INT: ABSENT, _FLOAT: np.nan, _TEXT: ""}


class Kinds:
    """The names that frames use and the type that holds all values of each."""

    def __init__(self) -> None:
        self._ranks: dict[str, int] = {}
        self._seen: set[tuple[tuple[str, str], ...]] = set()
        self._records = 0

    def update(self, records: list[Located]) -> None:
        """Take note of the records that came since the last call."""
        for located in records[self._records :]:
            if isinstance(located.value, Segment):
                self._observe(located.value)
        self._records = len(records)

    def _observe(self, segment: Segment) -> None:
        layout = tuple((column.name, column.kind) for column in segment.columns)
        if layout not in self._seen:
            self._seen.add(layout)
            for name, kind in layout:
                self._widen(name, _RANK[kind])
        for text in filter(None, segment.extra):
            for name, value in json.loads(text).items():
                if value is not None:
                    self._widen(name, _rank_of(value))

    def _widen(self, name: str, rank: int) -> None:
        self._ranks[name] = max(self._ranks.get(name, _INT), rank)

    @property
    def columns(self) -> dict[str, np.dtype[Any]]:
        """Name and type of each column."""
        names = list(self._ranks)[:MAX_COLUMNS]
        return {name: _DTYPES[self._ranks[name]] for name in names}

    @property
    def rest(self) -> frozenset[str]:
        """Names that have no column of their own."""
        return frozenset(list(self._ranks)[MAX_COLUMNS:])


def _rank_of(value: object) -> int:
    if isinstance(value, int):  # bool too, as 0 and 1
        return _INT if ABSENT < value < 2**63 else _TEXT
    return _FLOAT if isinstance(value, float) else _TEXT


def column_of(values: Values, rows: npt.NDArray[np.intp], dtype: np.dtype[Any]) -> Array:
    """Return the values of some rows of a table as a column of this type, absent ones marked."""
    rank = next(rank for rank, known in _DTYPES.items() if known == dtype)
    data = values.data[rows]
    known = np.broadcast_to(np.asarray(values.known), len(values.data))[rows].copy()
    if data.dtype == object:
        known &= np.array([value is not None for value in data], bool)
    found = np.full(len(rows), _FILL[rank], dtype)
    if rank != _TEXT:
        found[known] = data[known].astype(dtype)
        return found
    for row in np.flatnonzero(known).tolist():
        value = data[row]
        found[row] = as_text(value.item() if isinstance(value, np.generic) else value)
    return found


def rest_of(table: FrameTable, rows: Iterable[int], names: frozenset[str]) -> Array:
    """Return, as JSON, what rows of a table say under these names; "" where they say nothing."""
    found = [_rest(table, row, names) for row in rows]
    return np.array([as_text(said) if said else "" for said in found], object)


def _rest(table: FrameTable, row: int, names: frozenset[str]) -> dict[str, Any]:
    located, inner = table.locate(row)
    segment = located.value
    if not isinstance(segment, Segment):
        return {}
    said = unpack_row(segment.columns, segment.extra, inner)
    return {name: value for name, value in said.items() if name in names and value is not None}
