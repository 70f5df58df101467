"""What the Connect converter must show of records, from Python's own codec.

``python tests/services/converter_vectors.py`` writes them for the Java tests; a test says when that
is due.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
FILE = ROOT / "connectors/avro-converter/src/test/resources/records.jsonl"
sys.path.insert(0, str(ROOT / "tests"))

from wire_samples import samples, segment  # noqa: E402 -- the path is set above

from pipeline.records import Column  # noqa: E402
from pipeline.wire import codec  # noqa: E402


def lines() -> str:
    """One JSON object a line: ``name``, ``bytes`` of the record in hex, ``shown`` by Connect."""
    bare = segment(
        columns=(),
        extra=(),
        **{name: np.array([], np.int64) for name in ("skipped", "rejected")},
    )
    records = [*samples().values(), bare]
    return "".join(json.dumps(_vector(record)) + "\n" for record in records)


def _vector(record: Any) -> dict[str, Any]:
    encoded = codec.encode(record)
    found = codec.decode(encoded)
    plain = codec.to_plain(found)
    shown = {name: _shown(name, getattr(found, name), value) for name, value in plain.items()}
    return {"name": type(record).__name__, "bytes": encoded.hex(), "shown": shown}


def _shown(name: str, value: Any, plain: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if name == "columns":
        return [_column(column) for column in value]
    if name == "stream_key":
        return value.hex()
    return _json(plain)


def _column(column: Column) -> dict[str, Any]:
    values = [value if isinstance(value, str) else value.item() for value in column.values]
    if column.present is not None:
        present = column.present.tolist()
        values = [value if there else None for value, there in zip(values, present, strict=True)]
    kinds = dict.fromkeys(("int64", "float64", "text"))
    return {"name": column.name, "kind": column.kind, **kinds, column.kind: values}


def _json(plain: Any) -> Any:
    """An Avro value as Connect's JsonConverter writes it: bytes in base64."""
    if isinstance(plain, bytes):
        return base64.b64encode(plain).decode()
    if isinstance(plain, dict):
        return {name: _json(value) for name, value in plain.items()}
    return [_json(value) for value in plain] if isinstance(plain, list | tuple) else plain


if __name__ == "__main__":
    FILE.write_text(lines())
