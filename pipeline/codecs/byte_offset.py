"""The byte-offset compression of CBF: pixels as signed differences of one to fifteen bytes.

A difference that fits in -127..127 is one byte.  Else 0x80 follows, then two bytes; if those are
0x8000, four more; if those are 0x80000000, eight more (little-endian, two's complement; CBFlib's
"x-CBF_BYTE_OFFSET").  A file of a Pilatus 6M has some hundred longer differences, so
decoding is one running sum over bytes with rare exceptions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.codecs._view import byte_view
from pipeline.errors import DecodeError
from pipeline.frame import Buffer

# Bytes decoded at a time; smaller pieces were slower, larger ones equal (2026-11-23).
_PIECE_NBYTES = 1 << 18
# Below one long difference in this many bytes, copying the stretches between them is faster than
# a mask over all bytes (measured 2026-11-23: equal at about 1000).
_SPARSE = 1000

_Int64s = npt.NDArray[np.int64]


class _Escapes(NamedTuple):
    """Differences longer than a byte: where they start, how long they are, what they say."""

    starts: _Int64s
    nbytes: _Int64s
    values: _Int64s


def decode_byte_offset(block: Buffer, count: int, dtype: str = "int32") -> npt.NDArray[Any]:
    """Return the ``count`` pixels in ``block`` as a new one-dimensional array.

    Sums wrap around as the integers of the pixel type do.  Any bytes are safe to decode: what does
    not hold exactly ``count`` differences is an error, and memory stays proportional to ``count``,
    which is refused when it exceeds the number of bytes.

    Raises
    ------
    DecodeError
        The block ends inside a difference, or holds more or fewer than ``count``.
    """
    raw = np.frombuffer(byte_view(block), np.int8)
    kind = np.dtype(dtype)
    if not 0 <= count <= raw.size:
        raise DecodeError(f"byte offset: {raw.size} bytes cannot hold {count} pixels")
    sums = np.empty(count, np.int64 if kind.itemsize == 8 else np.int32)
    start = done = 0
    while start < raw.size:
        stop = min(start + _PIECE_NBYTES, raw.size)
        escapes = _find_escapes(raw, start, stop)
        if escapes.starts.size:
            stop = max(stop, start + int(escapes.starts[-1] + escapes.nbytes[-1]))
        pixels = stop - start - int((escapes.nbytes - 1).sum())
        if stop > raw.size:
            raise DecodeError("byte offset: the block ends inside a pixel")
        if pixels > count - done:
            raise DecodeError(f"byte offset: the block holds more than {count} pixels")
        piece = sums[done : done + pixels]
        _spread(raw[start:stop], escapes, piece)
        if done:
            # as an array: a numpy scalar would warn when it wraps
            np.add(piece[:1], sums[done - 1 : done], out=piece[:1])
        np.cumsum(piece, out=piece)
        start, done = stop, done + pixels
    if done != count:
        raise DecodeError(f"byte offset: the block holds {done} pixels, not {count}")
    if kind.itemsize < 4:
        return sums.astype(kind)
    return sums if kind == sums.dtype else sums.view(kind)


def _spread(part: npt.NDArray[np.int8], escapes: _Escapes, piece: npt.NDArray[Any]) -> None:
    """Write the differences in ``part``, one per pixel, to ``piece``."""
    starts, nbytes, values = escapes
    if not starts.size:
        piece[...] = part
        return
    extra = nbytes - 1
    where = starts - (np.cumsum(extra) - extra)
    if starts.size * _SPARSE < part.size:
        at = pixel = 0
        for first, index, size in zip(
            starts.tolist(), where.tolist(), nbytes.tolist(), strict=True
        ):
            piece[pixel:index] = part[at:first]
            at, pixel = first + size, index + 1
        piece[pixel:] = part[at:]
    else:
        keep = np.ones(part.size, bool)
        for offset in range(1, int(nbytes.max())):
            longer = starts[nbytes > offset] if offset > 2 else starts
            keep[longer + offset] = False
        piece[...] = part[keep]
    piece[where] = values.astype(piece.dtype)  # modulo 2**32: sums wrap


def _find_escapes(raw: npt.NDArray[np.int8], start: int, stop: int) -> _Escapes:
    """Find the long differences that begin in ``raw[start:stop]``, counted from ``start``.

    ``start`` itself must begin a pixel; the last difference may end behind ``stop``.
    """
    starts = np.flatnonzero(raw[start:stop] == -128).astype(np.int64) + start
    if not starts.size:
        return _Escapes(starts, starts, starts)
    values = _little_endian(raw, starts + 1, 2)
    nbytes = np.full(starts.size, 3, np.int64)
    for shorter, width in ((2, 4), (4, 8)):
        # in the second round: only what was widened before can be -2**31
        longer = np.flatnonzero(values == -(1 << (8 * shorter - 1)))
        values[longer] = _little_endian(raw, starts[longer] + nbytes[longer], width)
        nbytes[longer] += width
    real = _begin_pixels(starts, nbytes)
    return _Escapes(starts[real] - start, nbytes[real], values[real])


def _little_endian(raw: npt.NDArray[np.int8], at: _Int64s, width: int) -> _Int64s:
    """Return the signed integers of ``width`` bytes at ``at``; past the end, bytes repeat.

    What is read past the end is never used: the caller refuses a block that ends inside a pixel.
    """
    # the highest byte carries the sign, the others do not
    values = raw.take(at + (width - 1), mode="clip").astype(np.int64)
    low = raw.view(np.uint8)
    for offset in reversed(range(width - 1)):
        values <<= 8
        values |= low.take(at + offset, mode="clip")
    return values


def _begin_pixels(starts: _Int64s, nbytes: _Int64s) -> npt.NDArray[np.bool_]:
    """Tell which bytes 0x80 begin a difference; the others lie inside an earlier, longer one.

    A byte that no earlier candidate covers is sure to begin one, and what a sure one covers is
    sure not to.  The few left, covered by doubtful ones alone, are decided one after the other.
    """
    ends = starts + nbytes
    real = starts >= _reach_before(ends)
    if not real.all():
        clear = starts >= _reach_before(np.where(real, ends, 0))
        doubtful = np.flatnonzero(clear & ~real)
        free = 0
        for index, begin, end in zip(
            doubtful.tolist(), starts[doubtful].tolist(), ends[doubtful].tolist(), strict=True
        ):
            if begin >= free:
                real[index] = True
                free = end
    return real


def _reach_before(ends: _Int64s) -> _Int64s:
    """Return how far the candidates before each one reach."""
    reach = np.zeros_like(ends)
    np.maximum.accumulate(ends[:-1], out=reach[1:])
    return reach


def encode_byte_offset(array: npt.NDArray[Any]) -> bytes:
    """Return the pixels of an integer array, in C order, as a byte-offset block.

    For simulators and tests: it costs some 20 ns a pixel.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    # 64-bit differences wrap, and so does the sum that undoes them
    wide = flat.view(np.int64) if flat.dtype.itemsize == 8 else flat.astype(np.int64)
    deltas = np.diff(wide, prepend=np.int64(0))
    widths = np.ones(deltas.size, np.int64)
    for limit, extra in ((127, 2), (2**15 - 1, 4), (2**31 - 1, 8)):
        widths[(deltas > limit) | (deltas < -limit)] += extra
    ends = np.cumsum(widths)
    out = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for total, width, prefix in (
        (1, 1, b""),
        (3, 2, b"\x80"),
        (7, 4, b"\x80\x00\x80"),
        (15, 8, b"\x80\x00\x80\x00\x00\x00\x80"),
    ):
        chosen = np.flatnonzero(widths == total)
        first = ends[chosen] - total
        for offset, byte in enumerate(prefix):
            out[first + offset] = byte
        columns = deltas[chosen].astype(f"<i{width}").view(np.uint8).reshape(-1, width)
        out[first[:, None] + len(prefix) + np.arange(width)] = columns
    return out.tobytes()
