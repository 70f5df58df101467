"""Where the frames of a file come from and which of them are there: ``/entry/provenance``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from pipeline.naming import StreamId
from pipeline.nexus.facts import Facts
from pipeline.nexus.text import as_text
from pipeline.sinks.hdf5.finished import Finished
from pipeline.sinks.hdf5.nodes import attribute, field, group


def write_provenance(
    done: Finished, facts: Facts, account: Mapping[str, Any], invalid: Sequence[int]
) -> None:
    """Write the account, as JSON and as numbers, and what the sink made of the frames."""
    start = facts.info.start
    collection = group(done.file["entry"], "provenance", "NXcollection")
    attribute(
        collection,
        stream=str(StreamId(start.beamtime, start.detector, start.stream)),
        stream_key=start.stream_key.hex(),
        writer_version=_version(),
        encoding=done.layout.images.encoding if done.layout.images else "none",
    )
    field(collection, "account", json.dumps(dict(account), default=str))
    field(collection, "metadata", as_text(dict(facts.metadata)))
    for name, value in account.items():
        if isinstance(value, bool | int | float | str):
            field(collection, name, np.int8(value) if isinstance(value, bool) else value)
        elif (ranges := _ranges(value)) is not None:
            field(collection, name, ranges)
    field(collection, "frames_written", int(done.rows.valid.sum()))
    field(collection, "frames_invalid", np.array(invalid, np.int64))


def _ranges(value: object) -> Any:
    """Return inclusive ranges as (n, 2) integers; None for anything else."""
    if not isinstance(value, list | tuple):
        return None
    try:
        return np.array(value, np.int64).reshape(len(value), 2)
    except (TypeError, ValueError, OverflowError):
        return None


def _version() -> str:
    try:
        return version("lichtstrom")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
