"""Finishing a file cannot be undone half way: what lies where is noted first, beside the file.

Groups, columns and texts are added when nobody reads the file any more, and not in a way that
survives the death of the process.  The chunks do not move then, so a new file can be made of them.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sinks.hdf5.chunks import format_of
from pipeline.sinks.hdf5.rows import Rows
from pipeline.sinks.hdf5.share import Share
from pipeline.sinks.hdf5.superblock import repair_superblock
from pipeline.sinks.hdf5.table import FrameTable, Layout
from pipeline.sinks.hdf5.target import Target, sync


def note_places(target: Target, table: FrameTable) -> None:
    """Write down what is needed to make the table again from the bytes of its file."""
    count = len(table.rows)
    places = table.images.places(count) if table.images is not None else (np.zeros(0),) * 2
    layout = table.layout
    facts = {
        "inode": target.part.stat().st_ino,
        "base": table.base,
        "capacity": table.capacity,
        "marker": table.marker,
        "stream_key": table.stream_key,
        "shape": layout.shape,
        "dtype": layout.dtype,
        "encoding": layout.images.encoding if layout.images is not None else "none",
    }
    partial = target.places.with_suffix(".new")
    with partial.open("wb") as file:
        np.savez(
            file,
            facts=np.array(json.dumps(facts)),
            allow_pickle=False,
            address=places[0],
            size=places[1],
            **table.rows.saved(),
        )
    sync(partial)
    partial.replace(target.places)


def left_behind(target: Target, *, stream_key: bytes, share: Share) -> FrameTable | None:
    """Return the table that a writer which is no more has left; None if there is none.

    Raises OSError, KeyError, ValueError, RuntimeError or SinkError where it cannot be used.
    """
    if not target.part.exists() or not target.part.stat().st_size:
        return None
    if _died_finishing(target):
        return salvaged(target, stream_key=stream_key, share=share)
    target.places.unlink(missing_ok=True)
    repair_superblock(target.part)
    extend(target.part)
    return FrameTable.resume(target.part, stream_key=stream_key, share=share)


def extend(path: Path) -> bool:
    """Let a file that met a full disk be as long as its superblock says: HDF5 insists.

    True if it was not.
    """
    with path.open("r+b") as file:
        (end,) = struct.unpack("<Q", file.read(36)[28:])
        if end <= file.seek(0, os.SEEK_END):
            return False
        file.truncate(end)
    return True


def _died_finishing(target: Target) -> bool:
    try:
        with np.load(target.places) as saved:
            facts = json.loads(str(saved["facts"]))
        return bool(facts["inode"] == target.part.stat().st_ino)
    except (OSError, KeyError, ValueError):
        return False


def salvaged(target: Target, *, stream_key: bytes, share: Share) -> FrameTable:
    """Make the table again in a new file, which takes the old one's place."""
    with np.load(target.places) as saved:
        columns = {name: saved[name] for name in saved.files}
    facts: dict[str, Any] = json.loads(str(columns.pop("facts")))
    if facts["stream_key"] != stream_key.hex():
        raise ValueError("it is of another stream")
    encoding = facts["encoding"]
    table = FrameTable.create(
        target.rewritten,
        stream_key=stream_key,
        base=facts["base"],
        capacity=facts["capacity"],
        layout=Layout(
            shape=tuple(facts["shape"]),
            dtype=facts["dtype"],
            images=None if encoding == "none" else format_of(encoding),
        ),
        marker=facts["marker"],
        share=share,
    )
    _copy_chunks(target.part, table, columns)
    _restore(table.rows, columns)
    table.checkpoint(facts["marker"])
    target.rewritten.replace(target.part)
    target.places.unlink(missing_ok=True)
    return table


def _copy_chunks(path: Path, table: FrameTable, columns: dict[str, Any]) -> None:
    if table.images is None:
        return
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for position in np.flatnonzero(columns["valid"]).tolist():
            address, size = int(columns["address"][position]), int(columns["size"][position])
            table.images.write_chunk(position, os.pread(source, size, address))
    finally:
        os.close(source)


def _restore(rows: Rows, columns: dict[str, Any]) -> None:
    if len(columns["valid"]):
        rows.restore(columns)
