"""A checksum file beside the files of a stream, as ``sha256sum --check`` reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.sinks.hdf5.target import sink_errors, sync


def write_digests(path: Path, parts: Sequence[Path]) -> Path:
    """Write ``<path>.sha256`` for a file and those it refers to, all in one directory.

    Reads every byte of them. Raises SinkError.
    """
    target = path.with_name(f"{path.name}.sha256")
    partial = path.with_name(f".{path.name}.sha256.part")
    with sink_errors(target):
        lines = []
        for file in (path, *parts):
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            lines.append(f"{digest}  {file.name}\n")
        partial.write_text("".join(lines))
        sync(partial)
        partial.replace(target)
    return target
