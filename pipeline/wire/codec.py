"""Records to bytes and back: Avro single-object encoding.

Source of the format: Apache Avro 1.12 specification, "Single object encoding".  Confluent's
framing (first byte 00, then a registry's schema id) is read too when a resolver is given.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

import fastavro
import numpy as np

from pipeline import records
from pipeline.errors import PipelineError, UnknownSchemaError, WireError
from pipeline.frame import INT64_MAX, Module
from pipeline.policy import Policy
from pipeline.wire.columns import column_from_wire, column_to_wire
from pipeline.wire.schemas import Schema, by_fingerprint, make_schema, shipped

Record = (
    records.Segment
    | records.Mark
    | records.Pointer
    | records.Start
    | records.Claim
    | records.End
    | records.ManifestRef
    | records.UserMetadata
    | records.Attachment
    | records.Deleted
    | records.Seal
    | Policy
)
T = TypeVar("T")
#: Fetches the text of a schema by fingerprint (8 bytes) or registry id (int); None: unknown.
Resolver = Callable[[bytes | int], str | None]

_PACKED: Mapping[str, str] = {
    "numbers": "<i8",
    "timestamps_ns": "<i8",
    "offsets": "<i8",
    "lengths": "<u4",
    "checksums": "<u4",
    "digests": "<u4",
    "skipped": "<i8",
    "rejected": "<i8",
}
#: What reading damaged bytes, or a schema that only looks like one of ours, may raise.
_DAMAGE = (
    PipelineError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    struct.error,
    MemoryError,
    RecursionError,
)
_JSON = frozenset({"metadata", "run", "lineage", "account"})
_PER_FRAME = ("timestamps_ns", "offsets", "lengths", "checksums", "digests")


def encode(record: Record) -> bytes:
    """Return the record with its schema's marker in front."""
    schema = shipped()[type(record)]
    buffer = io.BytesIO()
    buffer.write(schema.marker)
    fastavro.schemaless_writer(buffer, schema.parsed, to_plain(record))
    return buffer.getvalue()


def decode(data: bytes, *, where: str = "", resolve: Resolver | None = None) -> Record:
    """Return the record that ``data`` holds; ``where`` goes into error messages.

    Raises
    ------
    UnknownSchemaError
        Written with a schema that neither this version nor ``resolve`` knows.
    WireError
        Not a record of ours, or damaged.
    """
    kind, schema, body = _schema_of(data, where, resolve)
    stream = io.BytesIO(body)
    try:
        plain = fastavro.schemaless_reader(stream, schema.parsed, None)
        record = from_plain(kind, cast(dict[str, Any], plain))
    except WireError as error:
        raise WireError(str(error), where=where) from error
    except _DAMAGE as error:
        raise WireError(f"damaged {schema.name} record: {error!r:.200}", where=where) from error
    if stream.tell() != len(body):
        left = len(body) - stream.tell()
        raise WireError(f"damaged {schema.name} record: {left} bytes behind it", where=where)
    return record


def _schema_of(
    data: bytes, where: str, resolve: Resolver | None
) -> tuple[type[Record], Schema, memoryview]:
    body = memoryview(data)
    if data[:2] == b"\xc3\x01" and len(data) >= 10:
        key: bytes | int = data[2:10]
        known = by_fingerprint().get(data[2:10])
        if known is not None:
            return known[0], known[1], body[10:]
        rest = body[10:]
    elif data[:1] == b"\x00" and len(data) >= 5 and resolve is not None:
        key, rest = struct.unpack(">I", data[1:5])[0], body[5:]
    else:
        raise WireError(f"not a record of ours (begins {data[:4].hex() or 'empty'})", where=where)
    text = resolve(key) if resolve is not None else None
    name = key.hex() if isinstance(key, bytes) else str(key)
    if text is None:
        raise UnknownSchemaError(name, where=where)
    try:
        schema = make_schema(text)
    except WireError as error:
        raise WireError(f"schema {name}: {error}", where=where) from error
    kinds = {s.name.rpartition(".")[2]: kind for kind, s in shipped().items()}
    kind = kinds.get(schema.name.rpartition(".")[2])
    if kind is None or (isinstance(key, bytes) and schema.fingerprint != key):
        raise UnknownSchemaError(name, where=where)
    return kind, schema, rest


def to_plain(record: Record) -> dict[str, Any]:
    """Return the record as the dictionary that its Avro schema describes."""
    return {f.name: _field_out(f.name, getattr(record, f.name)) for f in fields(record)}


def _field_out(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, dtype=_PACKED[name]).tobytes()
    if name in _JSON:
        return json.dumps(dict(value))
    if name == "columns":
        return [column_to_wire(column) for column in value]
    if name == "modules":
        return [{f.name: getattr(m, f.name) for f in fields(m)} for m in value]
    if name == "quarantined":
        return [dict(entry) for entry in value]
    return value


def _object(name: str, text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise WireError(f"{name}: a JSON {type(found).__name__} in place of an object")
    return found


def from_plain(kind: type[T], plain: Mapping[str, Any]) -> T:
    """Return the record of class ``kind``; unknown fields of newer schemas are left aside."""
    count = len(plain["numbers"]) // 8 if "numbers" in plain else 0
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # record classes are dataclasses
    values = {k: _field_in(k, v, count) for k, v in plain.items() if k in known}
    record = kind(**values)
    check = _CHECKS.get(kind)
    if check is not None:
        check(record)
    return record


def _field_in(name: str, value: Any, count: int) -> Any:
    if isinstance(value, bytes) and name in _PACKED:
        return np.frombuffer(value, dtype=_PACKED[name])
    if name in _JSON:
        return _object(name, value)
    if name == "columns":
        return tuple(column_from_wire(column, count) for column in value)
    if name == "modules":
        return tuple(
            Module(
                index=m["index"],
                shape=tuple(m["shape"]),
                position=tuple(m["position"]),
                rotation_deg=m["rotation_deg"],
            )
            for m in value
        )
    return tuple(value) if isinstance(value, list) else value


def _check_segment(segment: records.Segment) -> None:
    count = len(segment.numbers)
    for name in _PER_FRAME:
        if len(getattr(segment, name)) != count:
            raise WireError(f"segment: {name} has {len(getattr(segment, name))} of {count} values")
    if segment.extra and len(segment.extra) != count:
        raise WireError(f"segment: extra has {len(segment.extra)} of {count} values")
    for text in filter(None, segment.extra):
        _object("segment: extra", text)
    if not count:
        return
    numbers, offsets = segment.numbers, segment.offsets
    # Compared, not subtracted: a difference of two large numbers wraps around.
    if numbers[0] < 0 or (numbers[1:] <= numbers[:-1]).any():
        raise WireError("segment: frame numbers do not rise")
    if offsets.min() < 0 or (offsets > INT64_MAX - segment.lengths.astype(np.int64)).any():
        raise WireError("segment: an offset that no object has")
    if not segment.blob:
        end = int((offsets + segment.lengths).max())
        if end > len(segment.inline):
            raise WireError(f"segment: inline payload ends at {len(segment.inline)}, not {end}")


def _check_start(start: records.Start) -> None:
    if start.partitions < 1 or start.frames_per_chunk < 1:
        raise WireError(f"start: {start.partitions} partitions, {start.frames_per_chunk} a chunk")
    if len(start.offsets) != start.partitions or min(start.offsets) < 0:
        raise WireError(f"start: offsets {start.offsets} of {start.partitions} partitions")
    indices = [module.index for module in start.modules]
    if len(set(indices)) != len(indices):
        raise WireError("start: two modules of one index")


def _check_end(end: records.End) -> None:
    if end.state not in records.ENDED_STATES:
        raise WireError(f"end: {end.state!r} is not how a stream ends")


_CHECKS: Mapping[type, Callable[[Any], None]] = {
    records.Segment: _check_segment,
    records.Start: _check_start,
    records.End: _check_end,
}
