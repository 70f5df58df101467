"""CBF files as Pilatus detectors write them: one image, byte-offset compressed.

Layout: CIF text, a MIME-like section with ``X-Binary-...`` fields, the bytes 0C 1A 04 D5, the
compressed block, padding, and the closing ``--CIF-BINARY-FORMAT-SECTION----`` and ``;``
(the format of CBFlib; here as seen in real files).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from pipeline.codecs._view import byte_view
from pipeline.codecs.byte_offset import decode_byte_offset
from pipeline.errors import DecodeError
from pipeline.frame import Buffer

_SECTION = b"--CIF-BINARY-FORMAT-SECTION--"
_END = _SECTION + b"--"
_MARKER = b"\x0c\x1a\x04\xd5"
# camserver's text takes 1.5 kB; with a CIF template the block was seen to start past byte 6700.
# A file whose first megabyte has no block is not one of these.
_HEAD_NBYTES = (16 << 10, 1 << 20)
# The padding is 4095 bytes from camserver, 1 from others, announced or not; the rest is room for
# line ends.
_MAX_PADDING = 1 << 20
_TAIL_NBYTES = 4096 + 256

_CONTENTS = re.compile(rb"_array_data\.header_contents[ \t]*\r?\n;(.*?)\n;", re.DOTALL)
_CONVENTION = re.compile(rb"_array_data\.header_convention[ \t]+[\"']?([^\"'\r\n]*)")
_FIELD = re.compile(
    r"^(X-Binary-[A-Z-]+|Content-[A-Z0-9-]+)[ \t]*:[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE
)
_CONVERSION = re.compile(r"conversions[ \t]*=[ \t]*\"?([A-Za-z0-9_-]+)", re.IGNORECASE)
_ELEMENT = re.compile(r"\"?(signed|unsigned) (8|16|32|64)-bit integer\"?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CbfImage:
    """What the text of a CBF file says about its image.

    Parameters
    ----------
    header_text:
        The detector's lines from ``_array_data.header_contents``; empty where there are none.
    convention:
        ``_array_data.header_convention``, for example ``PILATUS_1.2``; empty where not given.
    width, height:
        Pixels along the fast and the slow axis; an array has the shape (height, width).
    binary_offset, binary_size:
        Where the compressed block starts in the file, and its length in bytes.
    md5:
        MD5 digest of the compressed block, None where the file gives none.
    dtype:
        Numpy name of the pixel type.
    padding:
        Bytes between the block and the closing marker, as announced.
    complete:
        Whether the whole block and the closing marker are there.  A file still being written, or
        cut short, is not complete.
    """

    header_text: str
    convention: str
    width: int
    height: int
    binary_offset: int
    binary_size: int
    md5: bytes | None
    dtype: str
    padding: int
    complete: bool


def parse(payload: Buffer) -> CbfImage:
    """Read the text parts of a CBF file; costs some 30 us, whatever the image's size.

    Raises
    ------
    DecodeError
        The bytes are no CBF file, end within its text, or say impossible things.
    """
    view = byte_view(payload)
    head, section, offset = _find_block(view)
    text = head[section:offset].decode("latin-1").replace("\r\n", "\n")
    fields = {name.lower(): value.strip() for name, value in _FIELD.findall(text)}
    _check_conversion(text)
    width = _integer(fields, "x-binary-size-fastest-dimension")
    height = _integer(fields, "x-binary-size-second-dimension")
    size = _integer(fields, "x-binary-size")
    padding = _integer(fields, "x-binary-size-padding", default=0)
    _check_sizes(fields, width, height, size)
    contents = _CONTENTS.search(head, 0, section)
    convention = _CONVENTION.search(head, 0, section)
    return CbfImage(
        header_text=_lines(contents[1]) if contents else "",
        convention=convention[1].decode("latin-1").strip() if convention else "",
        width=width,
        height=height,
        binary_offset=offset,
        binary_size=size,
        md5=_md5(fields),
        dtype=_dtype(fields),
        padding=padding,
        complete=_is_closed(view, offset + size, padding),
    )


def decode(payload: Buffer) -> npt.NDArray[Any]:
    """Return the image of a CBF file as a new array of shape (height, width).

    Raises
    ------
    DecodeError
        The bytes are no complete CBF file, or the block does not hold exactly its image.
    """
    view = byte_view(payload)
    return decode_image(view, parse(view))


def decode_image(payload: Buffer, image: CbfImage) -> npt.NDArray[Any]:
    """Return the pixels of a file that was parsed before, shape (height, width).

    The closing marker is not asked for: readers of damaged files may want what is there.
    """
    start, stop = image.binary_offset, image.binary_offset + image.binary_size
    view = byte_view(payload)
    if stop > view.nbytes:
        raise DecodeError(
            f"CBF: truncated, {view.nbytes - start} of {image.binary_size} bytes of the image"
        )
    pixels = decode_byte_offset(view[start:stop], image.width * image.height, image.dtype)
    return pixels.reshape(image.height, image.width)


def matches_md5(payload: Buffer, image: CbfImage) -> bool:
    """Tell whether the block has the MD5 the file announces; True where it announces none.

    Costs a core about 600 MB/s, and the file's transport has better checksums: optional.
    """
    start = image.binary_offset
    block = byte_view(payload)[start : start + image.binary_size]
    if image.md5 is None:
        return True
    return hashlib.md5(block, usedforsecurity=False).digest() == image.md5


def _find_block(view: memoryview) -> tuple[bytes, int, int]:
    """Return the file's text, where the binary section starts in it, and where its block does."""
    section = -1
    for nbytes in _HEAD_NBYTES:
        head = bytes(view[:nbytes])
        section = head.find(_SECTION)
        marker = head.find(_MARKER, section) if section >= 0 else -1
        if marker >= 0:
            return head[:marker], section, marker + len(_MARKER)
    if view.nbytes == 0:
        raise DecodeError("CBF: the file is empty")
    if section < 0:
        raise DecodeError("CBF: no binary section; this is no CBF file, or its text is cut short")
    raise DecodeError("CBF: the text of the binary section has no end (0C 1A 04 D5)")


def _lines(text: bytes) -> str:
    return text.decode("latin-1").replace("\r\n", "\n").strip("\r\n")


def _integer(fields: dict[str, str], name: str, default: int | None = None) -> int:
    text = fields.get(name)
    if text is None:
        if default is None:
            raise DecodeError(f"CBF: no {name} field")
        return default
    # isascii: str.isdigit also takes other scripts' digits
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise DecodeError(f"CBF: {name} is {text[:40]!r}, not a size")
    return int(text)


def _check_conversion(text: str) -> None:
    conversion = _CONVERSION.search(text)
    if conversion is None or conversion[1].lower() != "x-cbf_byte_offset":
        name = conversion[1] if conversion else "none"
        raise DecodeError(f"CBF: compression {name!r}; only x-CBF_BYTE_OFFSET is read")


def _check_sizes(fields: dict[str, str], width: int, height: int, size: int) -> None:
    """Refuse dimensions that cannot be, before anything is allocated for them."""
    if _integer(fields, "x-binary-size-third-dimension", default=1) > 1:
        raise DecodeError("CBF: three dimensions; one image a file is expected")
    count = width * height
    if not 0 < count <= size:
        # each pixel takes at least one byte
        raise DecodeError(f"CBF: {width} x {height} pixels do not fit into {size} bytes")
    elements = _integer(fields, "x-binary-number-of-elements", default=count)
    if elements != count:
        raise DecodeError(f"CBF: {elements} elements announced for {width} x {height} pixels")
    padding = _integer(fields, "x-binary-size-padding", default=0)
    if padding > _MAX_PADDING:
        raise DecodeError(f"CBF: {padding} bytes of padding")


def _dtype(fields: dict[str, str]) -> str:
    # where no type is given: every Pilatus file seen is signed
    text = fields.get("x-binary-element-type", "signed 32-bit integer")
    element = _ELEMENT.fullmatch(text.strip().lower())
    if element is None:
        raise DecodeError(f"CBF: element type {text[:60]!r} is not an integer type")
    order = fields.get("x-binary-element-byte-order", "LITTLE_ENDIAN").upper()
    if order != "LITTLE_ENDIAN":
        raise DecodeError(f"CBF: byte order {order[:40]!r}; byte offset is little-endian")
    return f"{'u' if element[1] == 'unsigned' else ''}int{element[2]}"


def _md5(fields: dict[str, str]) -> bytes | None:
    text = fields.get("content-md5")
    if not text:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"CBF: Content-MD5 {text[:40]!r} is not base64") from error
    if len(digest) != 16:
        raise DecodeError(f"CBF: Content-MD5 {text[:40]!r} is not 16 bytes")
    return digest


def _is_closed(view: memoryview, end: int, padding: int) -> bool:
    """Look for the closing marker and its ``;`` behind the block.

    Some converters write no line end before the marker, nor after the ``;``; and not all keep to
    the padding they announce, so it is searched for.
    """
    tail = bytes(view[end : end + padding + _TAIL_NBYTES])
    marker = tail.find(_END)
    return marker >= 0 and b";" in tail[marker + len(_END) :]
