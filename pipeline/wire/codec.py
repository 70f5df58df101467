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
from pipeline.frame import Module
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
    try:
        plain = fastavro.schemaless_reader(io.BytesIO(body), schema.parsed, None)
        return from_plain(kind, cast(dict[str, Any], plain))
    except WireError as error:
        raise WireError(str(error), where=where) from error
    except (PipelineError, ValueError, TypeError, KeyError, IndexError, EOFError) as error:
        raise WireError(f"damaged {schema.name} record: {error!r:.200}", where=where) from error
    except (struct.error, MemoryError, OverflowError, RecursionError) as error:
        raise WireError(f"damaged {schema.name} record: {error!r:.200}", where=where) from error


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
    schema = make_schema(text)
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


def from_plain(kind: type[T], plain: Mapping[str, Any]) -> T:
    """Return the record of class ``kind``; unknown fields of newer schemas are left aside."""
    count = len(plain["numbers"]) // 8 if "numbers" in plain else 0
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # record classes are dataclasses
    values = {k: _field_in(k, v, count) for k, v in plain.items() if k in known}
    record = kind(**values)
    if isinstance(record, records.Segment):
        _check_segment(record)
    return record


def _field_in(name: str, value: Any, count: int) -> Any:
    if isinstance(value, bytes) and name in _PACKED:
        return np.frombuffer(value, dtype=_PACKED[name])
    if name in _JSON:
        return json.loads(value)
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
    if count and (segment.numbers[0] < 0 or (np.diff(segment.numbers) <= 0).any()):
        raise WireError("segment: frame numbers do not rise")
    if count and segment.offsets.min() < 0:
        raise WireError("segment: negative offset")
    if not segment.blob and count:
        end = int((segment.offsets + segment.lengths).max())
        if end > len(segment.inline):
            raise WireError(f"segment: inline payload ends at {len(segment.inline)}, not {end}")
