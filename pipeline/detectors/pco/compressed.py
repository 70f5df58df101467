"""The first pixels of a compressed TIFF image, where the camera's time stamp is.

Camware may save single images with LZW.  Readers decode them as a whole; for the stamp the first 28
bytes are enough, and no library is needed for them.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

LZW, DEFLATE = 5, (8, 32946)
_CLEAR, _END = 256, 257


def first_pixels(
    strip: bytes | memoryview, *, compression: int, predictor: int, count: int
) -> npt.NDArray[np.uint16] | None:
    """Return the first pixels of a strip of uint16, None if they cannot be read.

    Parameters
    ----------
    compression, predictor:
        The values of these TIFF tags; predictor 2 stores differences along a row.
    """
    try:
        if compression == LZW:
            content = _lzw(strip, 2 * count)
        elif compression in DEFLATE:
            content = zlib.decompressobj().decompress(bytes(strip[:4096]), 2 * count)
        else:
            return None
    except zlib.error:
        return None
    if len(content) < 2 * count or predictor not in (1, 2):
        return None
    pixels = np.frombuffer(content[: 2 * count], "<u2").astype(np.uint16)
    return np.cumsum(pixels, dtype=np.uint16) if predictor == 2 else pixels


def _lzw(strip: bytes | memoryview, wanted: int) -> bytes:
    """Return the first bytes of a strip that TIFF's LZW has compressed (TIFF 6.0, section 13)."""
    # a code gives one byte at least, so far fewer bytes than this are needed
    head = bytes(strip[: 2 * wanted + 4])
    bits, length = int.from_bytes(head, "big"), 8 * len(head)
    table = [bytes([value]) for value in range(256)] + [b"", b""]
    out, at, width, last = b"", 0, 9, b""
    while len(out) < wanted and at + width <= length:
        code = bits >> (length - at - width) & ((1 << width) - 1)
        at += width
        if code == _END:
            break
        if code == _CLEAR:
            del table[258:]
            width, last = 9, b""
            continue
        if code >= len(table) + bool(last):
            break  # damaged
        entry = table[code] if code < len(table) else last + last[:1]
        if last:
            table.append(last + entry[:1])
        out, last = out + entry, entry
        # codes grow one step early (TIFF 6.0); a few bytes never get there
        width = min(12, max(9, (len(table) + 1).bit_length()))
    return out
