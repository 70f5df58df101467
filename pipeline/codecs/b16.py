"""B16 files: one image of a PCO camera.

A header of little-endian 32-bit fields, an optional comment, then rows of uint16 from the top (user
manuals of the pco.edge, chapter "Image File Formats").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.codecs._view import byte_view
from pipeline.errors import DecodeError
from pipeline.frame import Buffer

_BASIC = struct.Struct("<4s5i")
#: Sensors have some thousand pixels a side; anything far above is no camera's header.
_MAX_EXTENT = 1 << 16
#: The basic header, and a comment of any sane length.
_MAX_HEADER = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class B16Image:
    """What the header of a B16 file says.

    Parameters
    ----------
    shape:
        Pixels as (rows, columns); both images of a double shutter, one above the other, are one
        image of twice the rows.
    dtype:
        Always ``uint16``.
    offset:
        Where the pixels start: 1024 from the current vendor writer, 488 in older files.
    complete:
        Whether the file has exactly the length that it announces.
    """

    shape: tuple[int, int]
    dtype: str
    offset: int
    complete: bool


def parse(payload: Buffer) -> B16Image:
    """Read the header of a B16 file.

    Raises
    ------
    DecodeError
        The bytes are no B16 file, or its fields contradict each other.
    """
    view = byte_view(payload)
    if view.nbytes < _BASIC.size:
        raise DecodeError(f"B16: {view.nbytes} bytes are less than a header")
    magic, nbytes, offset, columns, rows, _extended = _BASIC.unpack_from(view)
    if magic.upper() != b"PCO-":
        raise DecodeError("B16: the file does not begin with PCO-")
    if not (0 < columns < _MAX_EXTENT and 0 < rows < _MAX_EXTENT):
        raise DecodeError(f"B16: {rows} rows and {columns} columns are no image")
    if not _BASIC.size <= offset <= _MAX_HEADER:
        raise DecodeError(f"B16: a header of {offset} bytes")
    images, rest = divmod(nbytes - offset, 2 * rows * columns)
    if rest or images not in (1, 2):
        raise DecodeError(f"B16: {nbytes} bytes announced, not {offset} + 2 x {rows} x {columns}")
    return B16Image(
        shape=(images * rows, columns),
        dtype="uint16",
        offset=offset,
        complete=view.nbytes == nbytes,
    )


def decode(payload: Buffer) -> npt.NDArray[np.uint16]:
    """Return the image as a read-only view on the payload.

    Raises
    ------
    DecodeError
        The bytes are no complete B16 file.
    """
    view = byte_view(payload)
    image = parse(view)
    if not image.complete:
        raise DecodeError(f"B16: {view.nbytes} bytes are not what the header announces")
    rows, columns = image.shape
    pixels = np.frombuffer(view.toreadonly(), "<u2", rows * columns, image.offset)
    return pixels.astype(np.uint16, copy=False).reshape(image.shape)
