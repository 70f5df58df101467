"""Reading and writing files by the fewest calls, and by what there is on Windows.

Windows has neither vectored nor positioned calls, and cannot flush a folder (its file systems
journal names); the flag O_BINARY is only there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

#: Not inherited by children; bytes as they are.
OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_all(descriptor: int, views: Sequence[memoryview]) -> None:
    """Write the views back to back."""
    rest = list(views)
    while rest:
        if hasattr(os, "writev"):
            count = os.writev(descriptor, rest)
        else:
            count = os.write(descriptor, rest[0])
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if count:
            rest[0] = rest[0][count:]


def read_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Fill ``data`` from ``offset`` on; return how many bytes there were.

    The descriptor is used by one thread.
    """
    done = 0
    while done < len(data):
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [data[done:]], offset + done)
        else:
            os.lseek(descriptor, offset + done, os.SEEK_SET)
            piece = os.read(descriptor, len(data) - done)
            count = len(piece)
            data[done : done + count] = piece
        if not count:
            break
        done += count
    return done


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
