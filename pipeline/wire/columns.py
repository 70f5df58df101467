"""Attributes of many frames as packed columns, and back.

An int64, float64 or text value that most frames have becomes a column; what is rare, mixed, nested,
boolean or null goes into one JSON object per frame.  A column costs a fraction of a
microsecond a frame to write and to read, and a filter over it is one numpy expression.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import InvalidFrameError, WireError
from pipeline.frame import INT64_MAX, MAX_ATTRIBUTES_NBYTES, AttributeValue
from pipeline.records import Column, ColumnKind

_KINDS: Mapping[type, ColumnKind] = {int: "int64", float: "float64", str: "text"}


def check_attributes(attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    """Return ``attributes`` with numpy scalars turned into Python's; all names and values fit.

    Raises
    ------
    InvalidFrameError
        A name that is not text, a value that JSON cannot hold, or more than 64 KiB in all.
    """
    if not isinstance(attributes, Mapping):
        raise InvalidFrameError("attributes", f"must be a dict, not {type(attributes).__name__}")
    checked = {name: _check_value(name, value) for name, value in attributes.items()}
    nbytes = attributes_nbytes(checked)
    if nbytes > MAX_ATTRIBUTES_NBYTES:
        raise InvalidFrameError(
            "attributes",
            f"{nbytes} bytes, at most {MAX_ATTRIBUTES_NBYTES}: use out.attach() or a second stream"
            " for large values",
        )
    return checked


def _check_value(name: object, value: object) -> AttributeValue:
    if not isinstance(name, str):
        raise InvalidFrameError("attributes", f"a name must be text, not {type(name).__name__}")
    if not 0 < len(name) <= 200 or not _is_unicode(name):
        raise InvalidFrameError("attributes", f"{name!r:.60} is not a name of 1 to 200 characters")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > INT64_MAX:
        raise InvalidFrameError("attributes", f"{name}: the integer does not fit 64 bits")
    if type(value) in (int, float, bool, type(None)):
        return value  # type: ignore[return-value]  # one of the four just tested
    if isinstance(value, str) and _is_unicode(value):
        return str.__str__(value)
    try:
        text = json.dumps(value)
        if not isinstance(value, str) and len(text) <= MAX_ATTRIBUTES_NBYTES:
            return json.loads(text)  # type: ignore[no-any-return]  # JSON by definition
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(value).__name__  # not the value: it may be too large or too deep to print
        raise InvalidFrameError("attributes", f"{name}: a {kind} that is not JSON") from error
    problem = "is not valid Unicode" if isinstance(value, str) else f"{len(text)} bytes of JSON"
    raise InvalidFrameError("attributes", f"{name}: {problem}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def attributes_nbytes(attributes: Mapping[str, AttributeValue]) -> int:
    """Return about how many bytes checked attributes take in a record."""
    return sum(len(name.encode()) + _value_nbytes(v) for name, v in attributes.items())


def _value_nbytes(value: AttributeValue) -> int:
    if isinstance(value, (int, float)) or value is None:
        return 8
    return len(value.encode()) if isinstance(value, str) else len(json.dumps(value))


def most_nbytes(attributes: Mapping[str, AttributeValue]) -> int:
    """Return what checked attributes take in a record at most, in columns or as JSON."""
    total = 0
    for name, value in attributes.items():
        total += _name_nbytes(name)
        if isinstance(value, str):
            total += _text_nbytes(value)
        elif isinstance(value, (list, dict)):
            total += len(json.dumps(value))
    return total


@functools.lru_cache(4096)
def _name_nbytes(name: str) -> int:
    """Return what a name takes at most, and a number with it: 24 digits and the punctuation."""
    return 30 + _text_nbytes(name)


def _text_nbytes(text: str) -> int:
    # JSON escapes quotes, control characters and what is not ASCII (12 bytes where UTF-16 has two).
    return len(text) * (2 if text.isascii() and text.isprintable() else 12)


def pack(rows: Sequence[Mapping[str, AttributeValue]]) -> tuple[tuple[Column, ...], list[str]]:
    """Return (columns, JSON text per frame) of the attributes of consecutive frames."""
    if not any(rows):
        return (), []
    names = dict.fromkeys(name for row in rows for name in row)
    columns = []
    for name in names:
        kinds = [type(row[name]) for row in rows if name in row]
        kind = _KINDS.get(kinds[0]) if kinds.count(kinds[0]) == len(kinds) else None
        # A column has room for every frame: a thousand rare names would make it a million values.
        if kind is not None and 2 * len(kinds) >= len(rows):
            columns.append(_pack_column(name, kind, rows))
    packed = {column.name for column in columns}
    rest = [{k: v for k, v in row.items() if k not in packed} for row in rows]
    if not any(rest):
        return tuple(columns), []
    return tuple(columns), [json.dumps(row) if row else "" for row in rest]


def _pack_column(
    name: str, kind: ColumnKind, rows: Sequence[Mapping[str, AttributeValue]]
) -> Column:
    empty: Any = "" if kind == "text" else 0
    values: Any = [row.get(name, empty) for row in rows]
    present = np.array([name in row for row in rows], dtype=np.bool_)
    return Column(
        name=name,
        kind=kind,
        values=tuple(values) if kind == "text" else np.array(values, dtype=kind),
        present=None if present.all() else present,
    )


def unpack_row(columns: Sequence[Column], extra: Sequence[str], row: int) -> dict[str, Any]:
    """Return the attributes of frame ``row`` of a segment as a dictionary of Python values."""
    found: dict[str, Any] = {}
    for column in columns:
        if column.present is None or column.present[row]:
            value = column.values[row]
            found[column.name] = value if isinstance(value, str) else value.item()
    if extra and extra[row]:
        found.update(json.loads(extra[row]))
    return found


def column_to_wire(column: Column) -> dict[str, object]:
    """Return the Avro ``Column`` of a column."""
    if column.kind == "text":
        encoded = [str(value).encode() for value in column.values]
        ends = np.cumsum([len(e) for e in encoded], dtype="<u4")
        values = ends.tobytes() + b"".join(encoded)
    else:
        values = np.asarray(column.values, dtype="<" + _CODES[column.kind]).tobytes()
    present = b"" if column.present is None else column.present.tobytes()
    return {"name": column.name, "kind": column.kind, "values": values, "present": present}


_CODES: Mapping[str, str] = {"int64": "i8", "float64": "f8"}


def column_from_wire(column: Mapping[str, Any], count: int) -> Column:
    """Return the column of ``count`` frames that an Avro ``Column`` holds.

    Raises WireError if its bytes do not fit.
    """
    kind, data = column["kind"], column["values"]
    if kind == "text":
        values: Any = _text_from_wire(data, count)
    elif kind in _CODES and len(data) == 8 * count:
        values = np.frombuffer(data, dtype="<" + _CODES[kind])
    else:
        raise WireError(f"column {column['name']!r} of kind {kind!r} does not hold {count} values")
    present = None
    if column["present"]:
        if len(column["present"]) != count:
            raise WireError(f"column {column['name']!r}: presence does not hold {count} values")
        present = np.frombuffer(column["present"], dtype=np.uint8) != 0
    return Column(name=column["name"], kind=kind, values=values, present=present)


def _text_from_wire(data: bytes, count: int) -> tuple[str, ...]:
    text = data[4 * count :]
    ends = np.frombuffer(data, dtype="<u4", count=count).tolist() if len(data) >= 4 * count else []
    starts = [0, *ends]
    if len(ends) != count or starts.pop() != len(text) or sorted(ends) != ends:
        raise WireError(f"text column does not hold {count} values")
    try:
        return tuple(text[a:b].decode() for a, b in zip(starts, ends, strict=True))
    except UnicodeDecodeError as error:
        raise WireError("text column is not UTF-8") from error
