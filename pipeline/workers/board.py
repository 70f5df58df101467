"""Which frame each process has in hand, seen from outside when it crashes."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Self

_CELL = struct.Struct("<qq")
#: Processes of one worker command, and frames remembered as crashed.
_SLOTS = 1024
_CRASHES = 256


class Board:
    """A small file that all processes of one worker map; each process writes its own slot."""

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, (_SLOTS + _CRASHES) * _CELL.size)
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)

    def begin(self, slot: int, number: int) -> None:
        """Note the frame in hand."""
        _CELL.pack_into(self._map, slot * _CELL.size, number, 1)

    def end(self, slot: int) -> None:
        """Note that nothing is in hand."""
        _CELL.pack_into(self._map, slot * _CELL.size, 0, 0)

    def crashed(self, slot: int) -> int | None:
        """Count the frame that a dead process had in hand as crashed; return its number."""
        number, busy = _CELL.unpack_from(self._map, slot * _CELL.size)
        if not busy:
            return None
        self.end(slot)
        for at in range(_SLOTS, _SLOTS + _CRASHES):
            known, count = _CELL.unpack_from(self._map, at * _CELL.size)
            if not count or known == number:
                _CELL.pack_into(self._map, at * _CELL.size, number, count + 1)
                break
        return int(number)

    def crashes(self, number: int) -> int:
        """Return how often a process died with this frame in hand."""
        for at in range(_SLOTS, _SLOTS + _CRASHES):
            known, count = _CELL.unpack_from(self._map, at * _CELL.size)
            if not count:
                return 0
            if known == number:
                return int(count)
        return 0

    def close(self) -> None:
        """Unmap and remove the file."""
        self._map.close()
        Path(self.path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
