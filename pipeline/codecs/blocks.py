"""Payloads without the framing of HDF5: lz4-block, bslz4-block, blosc.

``lz4-block`` is one bare LZ4 block, its size known from the shape (Eiger stream V1, EPICS);
``bslz4-block`` are the blocks of bitshuffle-LZ4 without the 12 bytes in front (EPICS);
``blosc`` is a buffer of Blosc 1, which describes itself (EPICS, xspd).

What can be told without decoding is checked first, and no decoder here writes outside its buffer
whatever it is given: ``LZ4_decompress_safe`` by the package lz4, dectris-compression for
bitshuffle, and C-Blosc 1.21, which checks each length inside a buffer.  Measured 2026-11-23: 60 000
damaged buffers of five compressors with their sizes left right, no crash, no wrong length (blosc
1.11.4); blosc2 decodes them too, but brings an HTTP client and 30 MB.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs import chunks
from pipeline.errors import DecodeError

_HDF5_HEADER = struct.Struct(">QI")
# version, version of the compressor, flags, typesize; bytes of pixels, of a block, of the buffer:
# README_CHUNK_FORMAT.rst of C-Blosc 1.21
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_VERSION = 2
_BLOSC_COPIED = 0x02
# A byte of LZ4 stands for 255 at most: LZ4 block format, "Parsing restrictions".
_LZ4_RATIO = 255


def find_problem(view: memoryview, encoding: str, nbytes: int, itemsize: int) -> str | None:
    """Return why a payload cannot hold ``nbytes`` bytes of pixels, or None; decodes nothing."""
    if encoding == "blosc":
        return _blosc_problem(view, nbytes)
    if encoding == "bslz4-block":
        return chunks.walk_bitshuffle(view, 0, nbytes, bitshuffle_block(itemsize), itemsize)
    if view.nbytes * _LZ4_RATIO < nbytes:
        return f"{view.nbytes} bytes cannot stand for {nbytes}"
    return None


def decode(view: memoryview, encoding: str, nbytes: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the pixels as a one-dimensional, read-only array.

    Raises
    ------
    DecodeError
        The payload is damaged, or not of this size.
    """
    problem = find_problem(view, encoding, nbytes, dtype.itemsize)
    if problem is not None:
        raise DecodeError(f"{encoding}: {problem}")
    if encoding == "bslz4-block":
        # as a chunk of HDF5, which the decoder knows: with its sizes in front
        header = _HDF5_HEADER.pack(nbytes, bitshuffle_block(dtype.itemsize))
        return chunks.decode(memoryview(header + bytes(view)), "bslz4", nbytes, dtype)
    raw = _unblosc(view) if encoding == "blosc" else _unlz4(view, nbytes)
    if len(raw) != nbytes:
        raise DecodeError(f"{encoding}: {len(raw)} bytes of pixels, not {nbytes}")
    return np.frombuffer(raw, dtype)


def bitshuffle_block(itemsize: int) -> int:
    """Return bitshuffle's default size of a block, in bytes, for elements of so many bytes.

    ``bshuf_default_block_size``: elements that fill 8192 bytes, a multiple of 8, 128 at least.
    """
    return max(8192 // itemsize // 8 * 8, 128) * itemsize


def _blosc_problem(view: memoryview, nbytes: int) -> str | None:
    if view.nbytes < _BLOSC_HEADER.size:
        return f"{view.nbytes} bytes, shorter than its header"
    version, _, flags, typesize, size, block, length = _BLOSC_HEADER.unpack_from(view)
    if version != _BLOSC_VERSION:
        return f"format version {version}, not {_BLOSC_VERSION}"
    if size != nbytes:
        return f"the header announces {size} bytes of pixels, not {nbytes}"
    if length != view.nbytes:
        return f"the header announces a buffer of {length} bytes, not {view.nbytes}"
    if typesize == 0:
        return "elements of 0 bytes"
    if nbytes and not 0 < block <= nbytes:
        return f"blocks of {block} bytes"
    if flags & _BLOSC_COPIED:
        needed = _BLOSC_HEADER.size + nbytes
        return None if length == needed else f"{length} bytes, but {needed} are said to be copied"
    blocks = -(-nbytes // block) if nbytes else 0
    # each block has an offset in a table, and a length in front of it
    if _BLOSC_HEADER.size + 8 * blocks > length:
        return f"{length} bytes are too few for {blocks} blocks"
    return None


def _unlz4(view: memoryview, nbytes: int) -> bytes:
    import lz4.block

    try:
        raw: bytes = lz4.block.decompress(view, uncompressed_size=nbytes)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError) as error:
        raise DecodeError(f"lz4-block: {error}") from error
    return raw


def _unblosc(view: memoryview) -> bytes:
    import blosc
    from blosc.blosc_extension import error as blosc_error

    try:
        raw: bytes = blosc.decompress(view)
    except (blosc_error, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise DecodeError(f"blosc: {error}") from error
    return raw
