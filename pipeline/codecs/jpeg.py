"""JPEG images of cameras: 8 bits, grey or red-green-blue, decoded by Pillow.

The size is read from the markers (ITU-T T.81, annex B) before a decoder sees anything, so that a
small payload cannot ask for much memory or time.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.codecs._view import byte_view
from pipeline.errors import DecodeError
from pipeline.frame import Buffer

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
#: Baseline, extended and progressive; lossless and arithmetic ones come from no camera.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FRAME_HEADER = struct.Struct(">HBHHB")
# Below what Pillow warns of; no camera that sends JPEG has as many.
_MAX_PIXELS = 1 << 26
# A progressive image has about ten; each is a pass over all pixels, however short it is.
_MAX_SCANS = 64
# What Pillow 13 raises on damaged files, and what a parser of foreign bytes may run into.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    MemoryError,
    UserWarning,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegImage:
    """What the markers of a JPEG image say.

    Parameters
    ----------
    shape:
        Pixels as (rows, columns), or (rows, columns, 3) for red, green and blue.
    dtype:
        Always ``uint8``.
    complete:
        Whether the image ends with its end marker; zeros may follow it.
    """

    shape: tuple[int, ...]
    dtype: str
    complete: bool


def parse(payload: Buffer) -> JpegImage:
    """Read the size of a JPEG image; costs some 10 us.

    Raises
    ------
    DecodeError
        The bytes are no JPEG image, or one of a kind that is not read here.
    """
    view = byte_view(payload)
    if bytes(view[:2]) != _START:
        raise DecodeError("JPEG: the payload does not begin with its marker")
    precision, rows, columns, colours = _frame_header(view)
    if precision != 8:
        raise DecodeError(f"JPEG: {precision} bits a pixel, only 8 are read")
    if not rows or not columns or rows * columns > _MAX_PIXELS:
        raise DecodeError(f"JPEG: {rows} rows and {columns} columns are not read")
    if colours not in (1, 3):
        raise DecodeError(f"JPEG: {colours} colours, only 1 and 3 are read")
    shape = (rows, columns) if colours == 1 else (rows, columns, 3)
    ended = bytes(view[-64:]).rstrip(b"\0").endswith(_END)
    return JpegImage(shape=shape, dtype="uint8", complete=ended)


def _frame_header(view: memoryview) -> tuple[int, int, int, int]:
    """Follow the segments to the frame header; return its precision, rows, columns, colours."""
    offset = 2
    while offset + 4 <= view.nbytes:
        marker = view[offset + 1]
        if view[offset] != 0xFF:
            raise DecodeError(f"JPEG: no marker at byte {offset}")
        if marker == 0xFF:  # filling
            offset += 1
            continue
        if marker in _FRAMES and offset + 2 + _FRAME_HEADER.size <= view.nbytes:
            _, *facts = _FRAME_HEADER.unpack_from(view, offset + 2)
            return facts[0], facts[1], facts[2], facts[3]
        if marker in _OTHER_FRAMES or marker in (0xD9, 0xDA):
            raise DecodeError(f"JPEG: marker {marker:#x} before a frame of a known kind")
        length = int.from_bytes(view[offset + 2 : offset + 4], "big")
        if length < 2:
            raise DecodeError(f"JPEG: a segment of {length} bytes at byte {offset}")
        offset += 2 + length
    raise DecodeError("JPEG: cut short before the size of the image")


def decode(payload: Buffer) -> npt.NDArray[np.uint8]:
    """Return the image.

    A payload damaged behind its header may give wrong pixels: the format has no checksum.

    Raises
    ------
    DecodeError
        The bytes are no complete JPEG image, or the decoder gave up.
    """
    from PIL import Image

    found = parse(payload)
    data = bytes(byte_view(payload))
    if not found.complete:
        raise DecodeError("JPEG: the image is cut short: no end marker")
    if data.count(_SCAN) > _MAX_SCANS:
        raise DecodeError(f"JPEG: more than {_MAX_SCANS} scans")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            pixels = np.asarray(image)
    except (*_PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise DecodeError(f"JPEG: {error}") from error
    if pixels.shape != found.shape or pixels.dtype != np.uint8:
        raise DecodeError(f"JPEG: decoded to {pixels.shape} {pixels.dtype}, not {found.shape}")
    return pixels
