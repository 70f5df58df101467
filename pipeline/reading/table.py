"""All frames of a stream as numpy columns, merged by number and module.

About 70 bytes a frame, the decoded records included; attributes are gathered when asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.reading.merge import Floors
from pipeline.reading.ranges import unique
from pipeline.reading.values import Values
from pipeline.records import Column, Int64s, Located, Segment, Start

Rows = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
#: Encoding, shape and dtype of a frame.
Form = tuple[str, tuple[int, ...], str]
#: Payloads inside records are kept up to here; beyond, they are read again when asked for.
INLINE_NBYTES = 64 * 1024 * 1024


class _Growing:
    """A 1-D array that grows by doubling."""

    __slots__ = ("_data", "_used")

    def __init__(self, dtype: str) -> None:
        self._data: npt.NDArray[Any] = np.empty(1024, dtype)
        self._used = 0

    def extend(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        new = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        used = self._used + len(new)
        if used > len(self._data):
            grown = np.empty(max(used, 2 * len(self._data)), self._data.dtype)
            grown[: self._used] = self._data[: self._used]
            self._data = grown
        self._data[self._used : used] = new
        self._used = used

    @property
    def view(self) -> npt.NDArray[Any]:
        return self._data[: self._used]


@dataclass(frozen=True, slots=True)
class Merged:
    """What merging found.

    Parameters
    ----------
    rows:
        One row per number and module, in this order: the copy that counts.
    duplicate, conflict, late:
        Numbers (rising, each once) with a spare copy; with copies that differ; that came first
        below a floor already declared.
    redelivered:
        Derived streams: how many differing results came for frames that had one.
    """

    rows: Rows
    duplicate: Int64s
    conflict: Int64s
    late: Int64s
    redelivered: int


class FrameTable:
    """Grows by the records of a stream's log, in log order within each partition.

    Row i is the i-th frame (or module of a frame) that came, copies included.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        self.floors = Floors(start)
        #: The highest number any record says exists.
        self.ceil = -1
        self.records: list[Located] = []
        self._columns = {
            "numbers": _Growing("i8"),
            "timestamps_ns": _Growing("i8"),
            "checksums": _Growing("u4"),
            "digests": _Growing("u4"),
            "lengths": _Growing("u4"),
        }
        self._record_of = _Growing("i4")
        #: Per record: first row, module, the floor before it, and whether it lay behind a claim.
        self._begins: list[int] = []
        self._modules: list[int] = []
        self._floors_before: list[int] = []
        self._behind: list[bool] = []
        self._absent: dict[str, list[Int64s]] = {"skipped": [], "rejected": []}
        self._names: dict[str, None] = {}
        self._layouts: set[tuple[str, ...]] = set()
        self._inline_nbytes = 0
        self._count = 0
        self._merged: tuple[int, Merged] | None = None
        self._attributes: dict[str, tuple[int, Values]] = {}

    def __len__(self) -> int:
        return self._count

    # -- in ---------------------------------------------------------------------------------------

    def update(self, records: Iterable[Located]) -> int:
        """Take records in; return the number of rows there were before."""
        before, first_record = self._count, len(self.records)
        for located in records:
            value = located.value
            floor = self.floors.floor(value.module, located.partition)
            behind = self.floors.observe(located)
            self.ceil = max(self.ceil, value.ceil)
            if len(value.skipped):
                self._absent["skipped"].append(value.skipped)
            if len(value.rejected):
                self._absent["rejected"].append(value.rejected)
            if isinstance(value, Segment) and len(value.numbers):
                self._keep(located, value, floor, behind)
        segments = [r.value for r in self.records[first_record:]]
        if segments:
            for name, column in self._columns.items():
                column.extend([getattr(segment, name) for segment in segments])
            lengths = [len(segment.numbers) for segment in segments if isinstance(segment, Segment)]
            indices = np.arange(first_record, len(self.records), dtype="i4")
            self._record_of.extend([np.repeat(indices, lengths)])
        return before

    def _keep(self, located: Located, segment: Segment, floor: int, behind: bool) -> None:
        if segment.inline:
            self._inline_nbytes += len(segment.inline)
            if self._inline_nbytes > INLINE_NBYTES:
                located = replace(located, value=replace(segment, inline=b""))
        self.records.append(located)
        self._begins.append(self._count)
        self._modules.append(segment.module)
        self._floors_before.append(floor)
        self._behind.append(behind)
        self._count += len(segment.numbers)
        layout = tuple([column.name for column in segment.columns])
        if layout not in self._layouts:
            self._layouts.add(layout)
            self._names.update(dict.fromkeys(layout))

    # -- columns ----------------------------------------------------------------------------------

    @property
    def numbers(self) -> Int64s:
        """Frame number of each row."""
        return self._columns["numbers"].view

    @property
    def timestamps_ns(self) -> Int64s:
        """Time of each row, ns since 1970."""
        return self._columns["timestamps_ns"].view

    @property
    def checksums(self) -> npt.NDArray[np.uint32]:
        """CRC-32C of each row's payload."""
        return self._columns["checksums"].view

    @property
    def digests(self) -> npt.NDArray[np.uint32]:
        """CRC-32C of each row's shape, dtype, encoding and source attributes."""
        return self._columns["digests"].view

    @property
    def nbytes(self) -> npt.NDArray[np.uint32]:
        """Bytes of each row's payload."""
        return self._columns["lengths"].view

    @property
    def modules(self) -> Int64s:
        """Module of each row."""
        modules: Int64s = np.array(self._modules, np.int64)[self._record_of.view]
        return modules

    @property
    def skipped(self) -> Int64s:
        """Source frames of a derived stream that gave no result; in any order."""
        return _joined(self._absent["skipped"])

    @property
    def rejected(self) -> Int64s:
        """Source frames of a derived stream that were given up; in any order."""
        return _joined(self._absent["rejected"])

    def locate(self, row: int) -> tuple[Located, int]:
        """Return the record of a row, and the row within it."""
        record = int(self._record_of.view[row])
        return self.records[record], row - self._begins[record]

    def has_inline(self) -> bool:
        """Tell whether a payload lies in its record."""
        return self._inline_nbytes > 0

    def places(self, rows: Rows) -> tuple[Int64s, Int64s]:
        """Return of these rows the indices of their records, and the rows within those."""
        records: Int64s = self._record_of.view[rows].astype(np.int64)
        begins = np.array([self._begins[record] for record in records.tolist()], np.int64)
        return records, rows - begins

    def sources(self) -> tuple[Int64s, Int64s]:
        """Return partition and offset of each row's record."""
        record_of = self._record_of.view
        partitions = np.array([r.partition for r in self.records], np.int64)
        offsets = np.array([r.offset for r in self.records], np.int64)
        return partitions[record_of], offsets[record_of]

    def forms(self) -> tuple[list[Form], Int64s]:
        """Return the forms that frames have, and which of them each row has."""
        known: dict[Form, int] = {}
        segments = [r.value for r in self.records if isinstance(r.value, Segment)]
        of_record = [known.setdefault((s.encoding, s.shape, s.dtype), len(known)) for s in segments]
        return list(known), np.array(of_record, np.int64)[self._record_of.view]

    def names(self) -> list[str]:
        """Return the names of all attributes that some frame has."""
        found = dict(self._names)
        for located in self.records:
            if isinstance(located.value, Segment):
                for text in filter(None, located.value.extra):
                    found.update(dict.fromkeys(json.loads(text)))
        return list(found)

    def has_name(self, name: str) -> bool:
        """Tell whether some frame has this attribute."""
        if name in self._names:
            return True
        quoted = json.dumps(name)
        segments = (r.value for r in self.records if isinstance(r.value, Segment))
        return any(quoted in text for segment in segments for text in segment.extra)

    def view(self, begin: int = 0) -> TableView:
        """Return the rows from ``begin`` on as an expression sees them."""
        return TableView(self, begin)

    def attribute(self, name: str, begin: int = 0) -> Values:
        """Return an attribute of the rows from ``begin`` on."""
        if begin:
            return self._gather(name, begin)
        known = self._attributes.get(name)
        if known is None or known[0] != self._count:
            known = self._attributes[name] = self._count, self._gather(name, 0)
        return known[1]

    def _gather(self, name: str, begin: int) -> Values:
        if begin >= self._count:
            return Values(np.empty(0))
        first = int(self._record_of.view[begin])
        segments = [r.value for r in self.records[first:] if isinstance(r.value, Segment)]
        values = gather(name, segments)
        skip = begin - self._begins[first]
        return values if not skip else Values(values.data[skip:], values.known_from(skip))

    # -- merging ----------------------------------------------------------------------------------

    def merged(self) -> Merged:
        """Return which rows count; worked out anew only when rows have come."""
        if self._merged is None or self._merged[0] != self._count:
            self._merged = self._count, self._merge()
        return self._merged[1]

    def _merge(self) -> Merged:
        numbers, record_of = self.numbers, self._record_of.view
        late = numbers < np.array(self._floors_before, np.int64)[record_of]
        if self.start.modules:
            modules = self.modules
            order = np.lexsort((modules, numbers))
            in_order, of_module = numbers[order], modules[order]
            same = (in_order[1:] == in_order[:-1]) & (of_module[1:] == of_module[:-1])
        else:
            order = np.argsort(numbers, kind="stable")
            in_order = numbers[order]
            same = in_order[1:] == in_order[:-1]
        heads = np.concatenate((np.ones(min(len(order), 1), bool), ~same))
        rows = order[heads]
        late_numbers = unique(numbers[rows[late[rows]]])
        none = np.empty(0, np.int64)
        if not same.any():
            return Merged(rows, none, none, late_numbers, 0)
        duplicate, conflict, redelivered = self._resolve(order, heads, rows)
        return Merged(rows, duplicate, conflict, late_numbers, redelivered)

    def _resolve(self, order: Rows, heads: Bools, rows: Rows) -> tuple[Int64s, Int64s, int]:
        """Choose among copies; ``rows`` is changed where the first is not the one that counts."""
        group_of = np.cumsum(heads) - 1
        spare = np.flatnonzero(~heads)
        copies, firsts = order[spare], rows[group_of[spare]]
        differs = np.zeros(len(copies), bool)
        for name in ("checksums", "digests", "lengths"):
            column = self._columns[name].view
            differs |= column[copies] != column[firsts]
        numbers = self.numbers
        duplicate = unique(numbers[copies[~differs]])
        conflicts, redelivered = [], 0
        for group in unique(group_of[spare[differs]]).tolist():
            low = int(np.searchsorted(group_of, group))
            high = int(np.searchsorted(group_of, group, "right"))
            members = order[low:high].tolist()
            if self._segment(members[0]).member:
                redelivered += int(differs[group_of[spare] == group].sum())
            else:
                conflicts.append(int(numbers[members[0]]))
                rows[group] = self._winner(members)
        return duplicate, unique(np.array(conflicts, np.int64)), redelivered

    def _winner(self, members: list[int]) -> int:
        """Return the first copy in the log that no newer writer's copy beats."""
        epochs = [self._segment(row).epoch for row in members]
        newest = max(epochs)
        for row, epoch in zip(members, epochs, strict=True):
            if epoch == newest or not self._behind[int(self._record_of.view[row])]:
                return row
        return members[0]

    def _segment(self, row: int) -> Segment:
        value = self.locate(row)[0].value
        if not isinstance(value, Segment):  # only segments have rows
            raise TypeError(value)
        return value


class TableView:
    """Rows of a table from ``begin`` on, as :meth:`Expression.mask` reads them."""

    def __init__(self, table: FrameTable, begin: int) -> None:
        self._table = table
        self._begin = begin

    def __len__(self) -> int:
        return len(self._table) - self._begin

    def number(self) -> Int64s:
        """Return the frame numbers."""
        return self._table.numbers[self._begin :]

    def timestamp_ns(self) -> Int64s:
        """Return the frame times."""
        return self._table.timestamps_ns[self._begin :]

    def module(self) -> Int64s:
        """Return the modules."""
        return self._table.modules[self._begin :]

    def attribute(self, name: str) -> Values:
        """Return an attribute, and where there is one."""
        return self._table.attribute(name, self._begin)


def _joined(arrays: list[Int64s]) -> Int64s:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def gather(name: str, segments: Sequence[Segment]) -> Values:
    """Return one attribute of all frames of some segments."""
    parts = [_of_segment(name, segment) for segment in segments]
    if all(part.known is True for part in parts):
        known: Any = True
    else:
        known = np.concatenate(
            [np.broadcast_to(np.asarray(part.known), len(part.data)) for part in parts]
        )
    kinds = {part.data.dtype.kind for part in parts if part.known is not False}
    if "O" in kinds and kinds != {"O"}:
        return Values(np.concatenate([part.data.astype(object) for part in parts]), known)
    wanted = object if kinds == {"O"} else np.float64 if "f" in kinds else np.int64
    return Values(np.concatenate([part.data.astype(wanted, copy=False) for part in parts]), known)


def _of_segment(name: str, segment: Segment) -> Values:
    column = next((c for c in segment.columns if c.name == name), None)
    if column is not None:
        return _of_column(column)
    count = len(segment.numbers)
    if segment.extra:
        quoted = json.dumps(name)
        if any(quoted in text for text in segment.extra):
            return _of_extra(name, quoted, segment.extra)
    return Values(np.zeros(count, np.int64), known=False)


def _of_column(column: Column) -> Values:
    known: Any = True if column.present is None else column.present
    if isinstance(column.values, np.ndarray):
        return Values(column.values, known)
    return Values(_objects(column.values), known)


def _of_extra(name: str, quoted: str, extra: Sequence[str]) -> Values:
    found = [json.loads(text) if quoted in text else {} for text in extra]
    known = np.array([name in entry for entry in found], bool)
    return Values(_objects([entry.get(name) for entry in found]), known)


def _objects(values: Sequence[object]) -> npt.NDArray[np.object_]:
    """Return an object array of exactly these values, lists too."""
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = value
    return array
