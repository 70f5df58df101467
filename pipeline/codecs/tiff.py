"""TIFF files with one image, read with tifffile.

Pilatus detectors write a header of 4096 bytes and one uncompressed strip; other flavours are read
too as long as they have a single page that numpy can hold.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.codecs._view import byte_view
from pipeline.errors import DecodeError
from pipeline.frame import Buffer

# Damaged files raise struct.error, LookupError and ValueError (its own error is one) in tifffile
# 2026.3.3; the others are what a parser of foreign bytes may run into.
_TIFFFILE_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    OSError,
    RuntimeError,
    struct.error,
    MemoryError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffImage:
    """What the directory of a TIFF file says about its first image.

    Parameters
    ----------
    description:
        The ImageDescription tag; Pilatus detectors put their header lines there.
    shape:
        Pixels as (rows, columns), or with a third axis for colours.
    dtype:
        Numpy name of the pixel type.
    end:
        Where the last strip ends; a file shorter than this is not complete.
    offset:
        Where the pixels start if they lie in one uncompressed piece, else None.
    byteorder:
        ``<`` or ``>``.
    complete:
        Whether all strips are inside the file.
    """

    description: str
    shape: tuple[int, ...]
    dtype: str
    end: int
    offset: int | None
    byteorder: str
    complete: bool


def parse(payload: Buffer) -> TiffImage:
    """Read the directory of a TIFF file; costs some 0.1 ms.

    Raises
    ------
    DecodeError
        The bytes are no TIFF file, or its directory is cut off or damaged.
    """
    view = byte_view(payload)
    try:
        with tifffile.TiffFile(_file(payload)) as tiff:
            return _describe(tiff.pages.first, tiff.byteorder, view.nbytes)
    except DecodeError:
        raise
    except _TIFFFILE_ERRORS as error:
        raise DecodeError(f"TIFF: {error}") from error


def _describe(
    page: tifffile.TiffPage | tifffile.TiffFrame, byteorder: str, nbytes: int
) -> TiffImage:
    if not isinstance(page, tifffile.TiffPage) or page.dtype is None:
        raise DecodeError("TIFF: the pixels have no type that numpy knows")
    strips = zip(page.dataoffsets, page.databytecounts, strict=True)
    end = max((offset + size for offset, size in strips), default=0)
    plain = page.is_contiguous and page.nbytes == sum(page.databytecounts)
    return TiffImage(
        description=page.description,
        shape=tuple(page.shape),
        dtype=page.dtype.name,
        end=end,
        offset=page.dataoffsets[0] if plain else None,
        byteorder=byteorder,
        complete=0 < end <= nbytes,
    )


def decode(payload: Buffer, *, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Return the image, which must have the given shape and type.

    Uncompressed pixels in one piece come as a read-only view on the payload.

    Raises
    ------
    DecodeError
        The bytes are no complete TIFF file with such an image.
    """
    view = byte_view(payload)
    image = parse(payload)
    if (image.shape, image.dtype) != (tuple(shape), dtype):
        raise DecodeError(f"TIFF: has {image.shape} {image.dtype}, not {tuple(shape)} {dtype}")
    if not image.complete:
        raise DecodeError(f"TIFF: truncated, {view.nbytes} of {image.end} bytes")
    if image.offset is not None:
        kind = np.dtype(dtype).newbyteorder(image.byteorder)  # type: ignore[arg-type]  # < or >
        count = int(np.prod(shape, dtype=np.int64))
        pixels = np.frombuffer(view.toreadonly(), kind, count, image.offset)
        return pixels.astype(kind.newbyteorder("="), copy=False).reshape(shape)
    try:
        with tifffile.TiffFile(_file(payload)) as tiff:
            return np.asarray(tiff.pages.first.asarray())
    except _TIFFFILE_ERRORS as error:
        raise DecodeError(f"TIFF: {error}") from error


class _ViewFile(io.RawIOBase):
    """Bytes of somebody else as a file: BytesIO would copy all 25 MB to read a directory."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._view.nbytes}[whence]
        if start + offset < 0:
            raise ValueError("seek before the start")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._view[self._at : self._at + len(buffer)]
        buffer[: piece.nbytes] = piece
        self._at += piece.nbytes
        return piece.nbytes

    def read(self, size: int = -1) -> bytes:
        # not the base class's: a damaged directory may ask for gigabytes
        stop = self._view.nbytes if size < 0 else self._at + size
        piece = bytes(self._view[self._at : stop])
        self._at += len(piece)
        return piece


def _file(payload: Buffer) -> Any:  # tifffile needs read, seek and tell, asks for IO[bytes]
    # BytesIO shares the memory of bytes and copies anything else
    return io.BytesIO(payload) if isinstance(payload, bytes) else _ViewFile(byte_view(payload))
