"""Parts with a range of numbers that earlier writers have left, and where each range begins."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import h5py

from pipeline.sinks.hdf5.target import Target

#: In ``/entry/provenance`` of a part that holds a range of numbers: the lowest it may hold.
FIRST = "first_of_range"


def parts_in(directory: Path, stem: str) -> dict[str, int]:
    """Return the final names of the parts of a stream in a directory, with the index of each."""
    pattern = re.compile(rf"\.?({re.escape(stem)}(?:_m\d+)?_data_(\d{{6,}})\.h5)(?:\.part)?")
    entries = directory.iterdir() if directory.is_dir() else ()
    return {m[1]: int(m[2]) - 1 for e in entries if (m := pattern.fullmatch(e.name))}


def unfinished(targets: Iterable[Target], stream_key: bytes) -> dict[Target, int]:
    """Return the parts of a stream that still wait for their end or a master file.

    With each the lowest number that it may hold.  What cannot be read is none: who goes on with it
    sets it aside.
    """
    found = {}
    for target in targets:
        path = target.part
        if target.final.exists() and target.journal.exists():
            path = target.final
        with suppress(OSError, KeyError), h5py.File(path, swmr=True, locking=False) as file:
            said = file["entry/provenance"].attrs
            if said["stream_key"].decode() == stream_key.hex():
                found[target] = int(said[FIRST])
    return found


def throw_away(target: Target) -> None:
    """Remove an unfinished part; raises SinkError where another sink writes it."""
    target.acquire()
    target.final.unlink(missing_ok=True)
    target.discard()
