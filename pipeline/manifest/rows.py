"""Segments and marks as rows of a manifest part: their Avro schema, encoding and decoding.

A row is one record of the log with where it lay: partition, offset and the broker's time.  The
row's schema is put together from the schemas of the wire, so that the two cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from fastavro.schema import parse_schema

from pipeline.errors import PipelineError, WireError
from pipeline.manifest.container import encode_row
from pipeline.records import Located, Mark, Segment
from pipeline.wire.codec import from_plain, to_plain
from pipeline.wire.schemas import shipped

_FIELDS = {"segment": Segment, "mark": Mark}


@cache
def row_schema() -> Any:
    """Return the schema of a row, parsed."""
    named: set[str] = set()
    return parse_schema(
        {
            "type": "record",
            "name": "Stored",
            "namespace": "org.lichtstrom",
            "doc": "A record of the stream's log: exactly one of segment and mark is set.",
            "fields": [
                {"name": "partition", "type": "int"},
                {"name": "offset", "type": "long"},
                {"name": "timestamp_ms", "type": "long", "doc": "by the broker's clock"},
                *(
                    {
                        "name": name,
                        "type": ["null", _once(json.loads(shipped()[kind].text), named)],
                        "default": None,
                    }
                    for name, kind in _FIELDS.items()
                ),
            ],
        }
    )


def _once(definition: Any, named: set[str]) -> Any:
    """Return a schema in which a type that was defined before is only named, as Avro demands."""
    if isinstance(definition, list):
        return [_once(entry, named) for entry in definition]
    if not isinstance(definition, dict):
        return definition
    if definition.get("type") in ("record", "fixed", "enum"):
        name = definition["name"]
        if name in named:
            return name
        named.add(name)
    return {k: _once(v, named) if k in _NESTING else v for k, v in definition.items()}


_NESTING = frozenset({"type", "fields", "items", "values"})


def encode_located(found: Located, value: Segment | Mark) -> bytes:
    """Return the row of ``value``, which was found (perhaps with its payloads) at ``found``."""
    name = "segment" if isinstance(value, Segment) else "mark"
    return encode_row(
        row_schema(),
        {
            "partition": found.partition,
            "offset": found.offset,
            "timestamp_ms": found.timestamp_ms,
            # The pair names the branch of the union; without it fastavro would try them all.
            name: (f"org.lichtstrom.{_FIELDS[name].__name__}", to_plain(value)),
        },
    )


def decode_located(rows: Sequence[Mapping[str, Any]], *, where: str) -> list[Located]:
    """Return the records that rows of a part hold; rows of unknown kinds are left out.

    Raises
    ------
    WireError
        A row that contradicts itself.
    """
    try:
        return [_located(row, name) for row in rows for name in _FIELDS if row.get(name)]
    except (PipelineError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"damaged row: {error!r:.200}", where=where) from error


def row_holds(row: Mapping[str, Any], number: int) -> bool:
    """Return whether a row is a segment with frame ``number``."""
    segment = row.get("segment")
    if not segment:
        return False
    numbers = segment["numbers"]
    return bool((np.frombuffer(numbers, "<i8", len(numbers) // 8) == number).any())


def _located(row: Mapping[str, Any], name: str) -> Located:
    value: Segment | Mark = from_plain(_FIELDS[name], row[name])
    return Located(
        partition=row["partition"],
        offset=row["offset"],
        timestamp_ms=row["timestamp_ms"],
        value=value,
    )
