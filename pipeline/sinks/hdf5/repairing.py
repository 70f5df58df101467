"""Letting a file be opened again whose writer was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py

from pipeline.errors import SinkError
from pipeline.sinks.hdf5.salvage import extend
from pipeline.sinks.hdf5.superblock import repair_superblock
from pipeline.sinks.hdf5.target import Target, sink_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What was done, and what the file holds now.

    ``before``: the first 48 bytes as they were, to undo it; ``frames``: None where the file does
    not say how many it holds.
    """

    changed: bool
    before: bytes
    frames: int | None


def repair_file(path: Path) -> Repair:
    """Clear the mark of a writer that is no more, and set the file's length; nothing else.

    Raises SinkError for a file that somebody writes now, and one that cannot be opened even so.
    """
    if not path.is_file():
        raise SinkError(f"{path} is not there, or no file")
    with sink_errors(path), _alone(path):
        with path.open("rb") as file:
            before = file.read(48)
        changed = repair_superblock(path)
        changed = extend(path) or changed
        with h5py.File(path, locking=False) as file:
            list(file)  # get() takes what cannot be read for what is not there
            valid = file.get("entry/instrument/detector/frame_valid")
            frames = None if valid is None else int((valid[...] == 1).sum())
    return Repair(changed=changed, before=before, frames=frames)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock that a sink writing this file would hold."""
    name = path.name
    final = name[1:-5] if name.startswith(".") and name.endswith(".part") else name
    target = Target(path.parent, final, overwrite=True)
    target.acquire()
    try:
        holder = _writer_of(path)
        if holder is not None:
            raise SinkError(f"{path} is open for writing in process {holder}: end that first")
        yield
    finally:
        target.leave()


def _writer_of(path: Path) -> int | None:
    """Return a process of this machine that has the file open for writing, as far as it shows."""
    wanted = path.stat()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            found = entry.stat()
            if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            facts = (entry.parent.parent / "fdinfo" / entry.name).read_text()
            flags = int(facts.split("flags:")[1].split()[0], 8)
            if flags & os.O_ACCMODE:
                return int(entry.parent.parent.name)
    return None
