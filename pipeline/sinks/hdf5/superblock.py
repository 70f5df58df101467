"""Opening again what a killed writer has left: the superblock of an HDF5 file.

It says that somebody writes the file, and how long the file was when it was said last.  Layout of
versions 2 and 3 with addresses of 8 bytes, and its checksum (lookup3): the HDF5 File Format
Specification, version 3.0, II.A and VII.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pipeline.errors import SinkError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LENGTH = 48
#: Where in it: version, size of addresses, status flags, end of file, checksum.
_VERSION, _OFFSET_SIZE, _FLAGS, _END, _CHECKSUM = 8, 9, 11, 28, 44
_MASK = 0xFFFFFFFF
#: How far lookup3 turns its words while it mixes, and at the end.
_MIX = (4, 6, 8, 16, 19, 4)
_FINAL = (14, 11, 25, 16, 4, 14, 24)


def repair_superblock(path: Path) -> bool:
    """Let a file be opened again that a dead process has left; True if something was changed.

    Nobody may have it open.  Raises SinkError for a file that is none of HDF5, or whose superblock
    is damaged.
    """
    with path.open("r+b") as file:
        block = bytearray(file.read(_LENGTH))
        _check(path, block)
        size = file.seek(0, os.SEEK_END)
        (end,) = struct.unpack_from("<Q", block, _END)
        if block[_FLAGS] == 0 and end >= size:
            return False
        block[_FLAGS] = 0
        struct.pack_into("<Q", block, _END, max(end, size))
        struct.pack_into("<I", block, _CHECKSUM, lookup3(bytes(block[:_CHECKSUM])))
        file.seek(0)
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return True


def _check(path: Path, block: bytearray) -> None:
    if len(block) < _LENGTH or block[:8] != _SIGNATURE:
        raise SinkError(f"{path} is no HDF5 file")
    if block[_VERSION] not in (2, 3) or block[_OFFSET_SIZE] != 8:
        raise SinkError(f"{path}: superblock version {block[_VERSION]} is not one that is written")
    if struct.unpack_from("<I", block, _CHECKSUM)[0] != lookup3(bytes(block[:_CHECKSUM])):
        raise SinkError(f"{path}: its superblock is damaged (checksum)")


def lookup3(data: bytes) -> int:
    """Return Bob Jenkins' lookup3 hash (2006, public domain) with initial value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    words: tuple[int, ...] = struct.unpack(
        f"<{-(-len(data) // 12) * 3}I", data + bytes(-len(data) % 12)
    )
    last = len(words) - 3
    for at in range(0, last, 3):
        a, b, c = (a + words[at]), (b + words[at + 1]), (c + words[at + 2])
        for turn in _MIX:
            # each step turns the three roles on by one
            a = ((a - c) ^ _turned(c, turn)) & _MASK
            c = (c + b) & _MASK
            a, b, c = b, c, a
    if not data:
        return c
    a, b, c = (a + words[last]) & _MASK, (b + words[last + 1]) & _MASK, (c + words[last + 2])
    for turn in _FINAL:
        c = ((c ^ b) - _turned(b, turn)) & _MASK
        a, b, c = b, c, a
    return b


def _turned(value: int, bits: int) -> int:
    value &= _MASK
    return ((value << bits) | (value >> (32 - bits))) & _MASK
