"""EDF files as Pilatus detectors write them: a text header in braces, then the pixels.

The header is padded with blanks to a multiple of 512 bytes and ends with ``}`` and a line feed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs._view import byte_view
from pipeline.errors import DecodeError
from pipeline.frame import Buffer

# Usual headers have 512 to 5120 bytes.
_HEAD_NBYTES = 1 << 16
_DTYPES = {
    "signedbyte": "i1",
    "unsignedbyte": "u1",
    "signedshort": "i2",
    "unsignedshort": "u2",
    "signedinteger": "i4",
    "unsignedinteger": "u4",
    "signedlong": "i4",
    "unsignedlong": "u4",
    "signed64": "i8",
    "unsigned64": "u8",
    "float": "f4",
    "floatvalue": "f4",
    "double": "f8",
    "doublevalue": "f8",
}
_ORDERS = {"lowbytefirst": "<", "highbytefirst": ">"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfImage:
    """What the header of an EDF file says about its first image.

    Parameters
    ----------
    header:
        The header's entries, keys as written.
    width, height:
        ``Dim_1`` and ``Dim_2``; an array has the shape (height, width).
    layout:
        Numpy type string with byte order of the pixels in the file.
    offset:
        Where the pixels start.
    complete:
        Whether all pixels are there.
    """

    header: dict[str, str]
    width: int
    height: int
    layout: str
    offset: int
    complete: bool

    @property
    def dtype(self) -> str:
        """Numpy name of the pixel type."""
        return np.dtype(self.layout).name


def parse(payload: Buffer) -> EdfImage:
    """Read the header of an EDF file.

    Raises
    ------
    DecodeError
        The bytes are no EDF file, end within its header, or say impossible things.
    """
    view = byte_view(payload)
    head = bytes(view[:_HEAD_NBYTES])
    if not head.lstrip(b"\r\n ").startswith(b"{"):
        raise DecodeError("EDF: the file does not start with '{'")
    end = re.search(rb"}\r?\n", head)
    if end is None:
        raise DecodeError("EDF: the header has no end; the file is cut short, or no EDF file")
    header = _entries(head[: end.start()].decode("latin-1"))
    lower = {key.lower(): value for key, value in header.items()}
    width, height = _extent(lower, "dim_1"), _extent(lower, "dim_2")
    layout = _layout(lower)
    needed = width * height * np.dtype(layout).itemsize
    return EdfImage(
        header=header,
        width=width,
        height=height,
        layout=layout,
        offset=end.end(),
        complete=view.nbytes - end.end() >= needed,
    )


def decode(payload: Buffer) -> npt.NDArray[Any]:
    """Return the image as a read-only view on the payload, or a copy if it is big-endian.

    Raises
    ------
    DecodeError
        The bytes are no complete EDF file.
    """
    view = byte_view(payload)
    image = parse(view)
    if not image.complete:
        raise DecodeError(f"EDF: truncated, {view.nbytes - image.offset} bytes of pixels are there")
    count = image.width * image.height
    pixels = np.frombuffer(view.toreadonly(), image.layout, count, image.offset)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return native.reshape(image.height, image.width)


def _entries(text: str) -> dict[str, str]:
    """Split ``key = value ;``; by hand, as blanks by the thousand make expressions slow."""
    pairs = (entry.partition("=") for entry in re.split("[;\n]", text.lstrip("\r\n {")))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals and key.strip()}


def _extent(header: dict[str, str], key: str) -> int:
    text = header.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise DecodeError(f"EDF: {key} is {text[:40]!r}, not a size")
    return int(text)


def _layout(header: dict[str, str]) -> str:
    kind = _DTYPES.get(header.get("datatype", "").lower())
    order = _ORDERS.get(header.get("byteorder", "lowbytefirst").lower())
    if kind is None or order is None:
        found = header.get("datatype", "")[:40], header.get("byteorder", "")[:40]
        raise DecodeError(f"EDF: DataType {found[0]!r} with ByteOrder {found[1]!r} is unknown")
    if header.get("compression", "none").lower() not in ("", "none"):
        raise DecodeError("EDF: compressed files are not read")
    return order + kind
