"""Payloads that are chunks of HDF5 datasets: bslz4, bszstd, lz4, gzip, zstd.

Their framing is checked against the announced size before any decoder sees them, because a
decoder that believes a wrong header reads and writes outside its buffers (bitshuffle on a payload
with 12 unexpected bytes: segmentation fault).

bslz4, bszstd and lz4 are decoded by dectris-compression, which stays inside its buffers on any
input; the LZ4 filter that HDF5 loads may use ``LZ4_decompress_fast``, which does not.  Nor is
zstd left to HDF5: its filter (hdf5plugin 7.1) reads a truncated chunk as zeros, without an error.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError

_BITSHUFFLE = frozenset(("bslz4", "bszstd"))
_HDF5_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def find_problem(view: memoryview, encoding: str, nbytes: int, itemsize: int) -> str | None:
    """Return what is wrong with the framing of a chunk of ``nbytes`` raw bytes, or None.

    A bslz4 image of 1.2 MB costs 13 us.
    """
    if encoding in _BITSHUFFLE:
        return _bitshuffle_problem(view, nbytes, itemsize)
    if encoding == "lz4":
        return _lz4_problem(view, nbytes)
    if encoding == "gzip":
        return _gzip_problem(view)
    return _zstd_problem(view, nbytes)


def decode(view: memoryview, encoding: str, nbytes: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the pixels of a chunk as a one-dimensional, read-only array.

    Raises
    ------
    DecodeError
        The framing or the compressed stream is damaged, or not of this size.
    """
    problem = find_problem(view, encoding, nbytes, dtype.itemsize)
    if problem is not None:
        raise DecodeError(f"{encoding}: {problem}")
    if encoding == "gzip":
        raw = _inflate(view, nbytes)
    elif encoding == "zstd":
        raw = _unzstd(view, nbytes)
    else:
        raw = _decompress(view, encoding, dtype)
    if len(raw) != nbytes:
        raise DecodeError(f"{encoding}: {len(raw)} bytes of pixels, not {nbytes}")
    return np.frombuffer(raw, dtype)


def _bitshuffle_problem(view: memoryview, nbytes: int, itemsize: int) -> str | None:
    if view.nbytes < _HDF5_HEADER.size:
        return f"{view.nbytes} bytes, shorter than its header"
    total, block = _HDF5_HEADER.unpack_from(view)
    if total != nbytes:
        return f"the header announces {total} bytes of pixels, not {nbytes}"
    if block == 0 or block % (8 * itemsize):
        return f"blocks of {block} bytes are not a multiple of 8 pixels"
    return walk_bitshuffle(view, _HDF5_HEADER.size, nbytes, block, itemsize)


def walk_bitshuffle(
    view: memoryview, offset: int, nbytes: int, block: int, itemsize: int
) -> str | None:
    """Return what is wrong with bitshuffled blocks of ``block`` raw bytes from ``offset`` on."""
    rest = nbytes % block
    raw_tail = rest % (8 * itemsize)  # fewer than 8 pixels are stored as they are
    blocks = nbytes // block + (rest > raw_tail)
    return _walk(view, offset, blocks, raw_tail)


def _lz4_problem(view: memoryview, nbytes: int) -> str | None:
    if view.nbytes < _HDF5_HEADER.size:
        return f"{view.nbytes} bytes, shorter than its header"
    total, block = _HDF5_HEADER.unpack_from(view)
    if total != nbytes:
        return f"the header announces {total} bytes of pixels, not {nbytes}"
    if block == 0:
        return "blocks of 0 bytes"
    return _walk(view, _HDF5_HEADER.size, -(-nbytes // block), 0)


def _walk(view: memoryview, offset: int, blocks: int, raw_tail: int) -> str | None:
    """Follow the lengths of the blocks; they must end where the payload does."""
    end = view.nbytes - raw_tail
    # a block takes five bytes at least: no long walk through a short payload
    if blocks * 5 > end - offset:
        return f"{view.nbytes} bytes are too few for {blocks} blocks"
    if _ends_at(view, offset, blocks) == end:
        return None
    return _first_problem(view, offset, blocks, end)


def _ends_at(view: memoryview, offset: int, blocks: int) -> int:
    """Return where the last block ends, -1 if it cannot be followed; nothing else in the loop."""
    length_at = _LENGTH.unpack_from
    try:
        for _ in range(blocks):
            (length,) = length_at(view, offset)
            if not length:
                return -1
            offset += 4 + length
    except struct.error:  # behind the end
        return -1
    return offset


def _first_problem(view: memoryview, offset: int, blocks: int, end: int) -> str:
    for index in range(blocks):
        if offset + 4 > end:
            return f"cut short before block {index} of {blocks}"
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += 4 + length
        if length == 0 or offset > end:
            return f"block {index} of {blocks} has an impossible length, {length}"
    return f"{end - offset} bytes too many behind the last block"


def _gzip_problem(view: memoryview) -> str | None:
    if view.nbytes < 6:
        return f"{view.nbytes} bytes, shorter than an empty stream"
    # RFC 1950: method 8, and the two bytes are a multiple of 31
    if view[0] & 0x0F != 8 or (view[0] << 8 | view[1]) % 31:
        return "not a zlib stream"
    return None


def _zstd_problem(view: memoryview, nbytes: int) -> str | None:
    """RFC 8878, section 3.1.1: the frame must say how long its content is."""
    if bytes(view[:4]) != _ZSTD_MAGIC:
        return "not a zstd frame"
    if view.nbytes < 6:
        return "cut short in its header"
    descriptor = view[4]
    size_flag, single = descriptor >> 6, descriptor >> 5 & 1
    width = {0: single, 1: 2, 2: 4, 3: 8}[size_flag]
    if not width:
        return "the frame does not say how long its content is"
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    field = bytes(view[start : start + width])
    if len(field) < width:
        return "cut short in its header"
    size = int.from_bytes(field, "little") + (256 if width == 2 else 0)
    return None if size == nbytes else f"the frame announces {size} bytes, not {nbytes}"


def _decompress(view: memoryview, encoding: str, dtype: np.dtype[Any]) -> bytes:
    from dectris.compression import decompress

    try:
        raw: bytes = decompress(bytes(view), encoding, elem_size=dtype.itemsize)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise DecodeError(f"{encoding}: {error}") from error
    return raw


def _inflate(view: memoryview, nbytes: int) -> bytes:
    """Inflate at most one byte more than expected: a small stream can hold gigabytes."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(view, nbytes + 1)
    except zlib.error as error:
        raise DecodeError(f"gzip: {error}") from error
    if not stream.eof or stream.unused_data:
        raise DecodeError(f"gzip: the stream does not end with its {nbytes} bytes of pixels")
    return raw


def _unzstd(view: memoryview, nbytes: int) -> bytes:
    import zstandard

    try:
        raw: bytes = zstandard.ZstdDecompressor().decompress(
            view, max_output_size=nbytes, allow_extra_data=False
        )
    except (zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"zstd: {error}") from error
    return raw
