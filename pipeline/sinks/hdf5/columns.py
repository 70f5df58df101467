"""What frames say besides pixels, one dataset per attribute, row i for the frame at position i.

Rows are collected and written in blocks, so memory does not grow with the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.frame import AttributeValue
from pipeline.nexus.nxmx import ABSENT
from pipeline.nexus.text import as_text, link_name

Kind = Literal["int64", "float64", "text"]
#: Each kind can hold the values of those before it.
_KINDS: tuple[Kind, ...] = ("int64", "float64", "text")
#: Rows of a column's chunk; 32 KiB of numbers.
_CHUNK = 4096
#: Rows kept in memory before they are written.
_BLOCK = 256
#: More names than this are not columns but data; the further ones go into one JSON column.
_MAX_COLUMNS = 512
REST = "other_attributes"


def kind_of(value: object) -> Kind:
    """Return the narrowest kind of column that holds ``value``."""
    if isinstance(value, int):  # bool too, as 0 and 1
        return "int64" if ABSENT < value < 2**63 else "text"
    return "float64" if isinstance(value, float) else "text"


class Column:
    """One dataset, growing; its kind widens when a value does not fit."""

    def __init__(self, group: Any, name: str, *, capacity: int, kind: Kind, fill: Any) -> None:
        self.kind: Kind = kind
        self._group = group
        self._name = name
        self._capacity = capacity
        self._fill = fill
        self.dataset = self._create(kind)
        self._positions: list[int] = []
        self._values: list[Any] = []

    def put(self, position: int, value: Any, kind: Kind) -> None:
        """Take the value of one row."""
        if kind != self.kind and _KINDS.index(kind) > _KINDS.index(self.kind):
            self._widen(kind)
        self._positions.append(position)
        self._values.append(value)

    def flush(self) -> None:
        """Write what was collected."""
        if not self._positions:
            return
        positions = np.array(self._positions, dtype=np.int64)
        values = self._array(self._values)
        order = np.argsort(positions, kind="stable")
        self._reach(int(positions[order[-1]]) + 1)
        for run in np.split(order, np.flatnonzero(np.diff(positions[order]) != 1) + 1):
            start = int(positions[run[0]])
            self.dataset[start : start + len(run)] = values[run]
        self._positions, self._values = [], []

    def resize(self, count: int) -> None:
        """Write what was collected and set the number of rows."""
        self.flush()
        self.dataset.resize(count, axis=0)

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield what was written: first row, and values."""
        for start in range(0, self.dataset.shape[0], 16 * _CHUNK):
            yield start, self.dataset[start : start + 16 * _CHUNK]

    def write_block(self, start: int, values: npt.NDArray[Any]) -> None:
        """Write rows from ``start`` on at once."""
        self._reach(start + len(values))
        self.dataset[start : start + len(values)] = values

    def _array(self, values: list[Any]) -> npt.NDArray[Any]:
        if self.kind == "text":
            return np.array([as_text(value) for value in values], dtype=object)
        return np.array(values, dtype=self.dataset.dtype)

    def _create(self, kind: Kind) -> Any:
        text = kind == "text"
        return self._group.create_dataset(
            self._name,
            shape=(0,),
            maxshape=(self._capacity,),
            chunks=(min(_CHUNK, self._capacity),),
            dtype=h5py.string_dtype() if text else np.asarray(self._fill).dtype,
            fillvalue=None if text else self._fill,
        )

    def _widen(self, kind: Kind) -> None:
        """Begin the dataset anew as the wider ``kind``, with the same rows."""
        self.flush()
        narrow, old = self.dataset, self.kind
        del self._group[self._name]  # the space is lost; it happens once or twice per column
        self.kind, self._fill = kind, (np.float64(np.nan) if kind == "float64" else "")
        self.dataset = self._create(kind)
        for start in range(0, narrow.shape[0], 16 * _CHUNK):
            self.write_block(start, _widened(narrow[start : start + 16 * _CHUNK], old, kind))

    def _reach(self, count: int) -> None:
        if count > self.dataset.shape[0]:
            self.dataset.resize(min(self._capacity, -(-count // _CHUNK) * _CHUNK), axis=0)


def _widened(values: npt.NDArray[Any], old: Kind, new: Kind) -> npt.NDArray[Any]:
    absent = values == ABSENT if old == "int64" else np.isnan(values)
    if new == "float64":
        return np.where(absent, np.nan, values.astype(np.float64))
    texts = ["" if gone else as_text(v) for v, gone in zip(values.tolist(), absent, strict=True)]
    return np.array(texts, dtype=object)


class Columns:
    """All attributes of the frames, below ``detector``."""

    def __init__(self, detector: Any, *, capacity: int) -> None:
        self._capacity = capacity
        self._group = detector.create_group("attributes")
        self._columns: dict[str, Column] = {}
        self._rows = 0

    def add(self, position: int, attributes: Mapping[str, Any]) -> None:
        """Take what one frame says."""
        rest: dict[str, AttributeValue] = {}
        for name, value in attributes.items():
            if value is None:
                continue
            column = self._column(name, value)
            if column is None:
                rest[name] = value
            else:
                column.put(position, value, kind_of(value))
        if rest:
            self._make(REST, "text").put(position, rest, "text")
        self._rows += 1
        if self._rows % _BLOCK == 0:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        for column in self._columns.values():
            column.flush()

    def resize(self, count: int) -> None:
        """Write what was collected and set the number of rows."""
        for column in self._columns.values():
            column.resize(count)

    @property
    def names(self) -> list[str]:
        """The names of all columns, as the frames have them."""
        return list(self._columns)

    def dataset(self, name: str) -> Any:
        """Return the dataset of a column."""
        return self._columns[name].dataset

    def _column(self, name: str, value: object) -> Column | None:
        column = self._columns.get(name)
        if column is not None or len(self._columns) >= _MAX_COLUMNS:
            return column
        return self._make(name, kind_of(value))

    def _make(self, name: str, kind: Kind) -> Column:
        if name not in self._columns:
            fill: Any = {"int64": np.int64(ABSENT), "float64": np.float64(np.nan)}.get(kind, "")
            self._columns[name] = Column(
                self._group, link_name(name), capacity=self._capacity, kind=kind, fill=fill
            )
        return self._columns[name]
