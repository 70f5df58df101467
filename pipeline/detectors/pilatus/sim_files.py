"""The three file formats of camserver, written for the simulator.

Nothing here is shared with the readers in :mod:`pipeline.codecs` but the byte-offset encoder.
"""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

_TIFF_HEADER_NBYTES = 4096
_CBF_PADDING = 4095


def md5_text(block: bytes) -> str:
    """Return the Content-MD5 of a compressed block."""
    return base64.b64encode(hashlib.md5(block, usedforsecurity=False).digest()).decode()


def cbf_file(
    shape: tuple[int, ...], block: bytes, header: list[str], name: str, *, md5: str | None = None
) -> bytes:
    """Return a miniCBF file around a compressed block of int32, as camserver lays it out.

    ``header`` are the lines with their ``# ``; ``md5`` saves computing it again.
    """
    rows, columns = shape
    text = [
        "###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors",
        "",
        f"data_{name}",
        "",
        '_array_data.header_convention "PILATUS_1.2"',
        "_array_data.header_contents",
        ";",
        *header,
        ";",
        "",
        "_array_data.data",
        ";",
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        f"X-Binary-Size: {len(block)}",
        "X-Binary-ID: 1",
        'X-Binary-Element-Type: "signed 32-bit integer"',
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
        f"Content-MD5: {md5 or md5_text(block)}",
        f"X-Binary-Number-of-Elements: {rows * columns}",
        f"X-Binary-Size-Fastest-Dimension: {columns}",
        f"X-Binary-Size-Second-Dimension: {rows}",
        f"X-Binary-Size-Padding: {_CBF_PADDING}",
        "",
        "",
    ]
    head = "\r\n".join(text).encode("latin-1", "replace")
    end = b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"
    return b"".join((head, b"\x0c\x1a\x04\xd5", block, bytes(_CBF_PADDING), end))


def tiff_file(image: npt.NDArray[np.int32], header: list[str]) -> bytes:
    """Return a TIFF file with camserver's header of 4096 bytes and one strip."""
    rows, columns = image.shape
    text = ("\r\n".join(header) + "\r\n\0").encode("latin-1", "replace")
    entries: list[
        tuple[int, int, int, int]
    ] = [  # tag, type (4 long, 3 short, 2 text), count, value
        (256, 4, 1, columns),
        (257, 4, 1, rows),
        (258, 3, 1, 32),  # bits
        (259, 3, 1, 1),  # no compression
        (262, 3, 1, 1),  # black is zero
        (270, 2, len(text), 0),  # description; its place follows
        (273, 4, 1, _TIFF_HEADER_NBYTES),
        (277, 3, 1, 1),
        (278, 4, 1, rows),
        (279, 4, 1, 4 * rows * columns),
        (339, 3, 1, 2),  # signed integers
    ]
    out = io.BytesIO()
    out.write(b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little"))
    after = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        out.write(tag.to_bytes(2, "little") + kind.to_bytes(2, "little"))
        where = after if tag == 270 else value
        out.write(count.to_bytes(4, "little") + where.to_bytes(4, "little"))
    out.write(bytes(4) + text)
    return out.getvalue().ljust(_TIFF_HEADER_NBYTES, b"\0") + _pixels(image)


def edf_file(image: npt.NDArray[np.int32], header: list[str]) -> bytes:
    """Return an EDF file; the header lines become entries as far as they have a keyword."""
    rows, columns = image.shape
    entries = [
        ("HeaderID", "EH:000001:000000:000000"),
        ("Image", "1"),
        ("ByteOrder", "LowByteFirst"),
        ("DataType", "SignedInteger"),
        ("Dim_1", str(columns)),
        ("Dim_2", str(rows)),
        ("Size", str(4 * rows * columns)),
        ("Date", header[1].lstrip("# ")),
    ]
    for line in header[4:]:
        keyword, _, rest = line.lstrip("# ").partition(" ")
        entries.append((keyword.rstrip(":"), rest.lstrip("= ")))
    text = "{\n" + "".join(f"{key} = {value} ;\n" for key, value in entries)
    nbytes = -(-(len(text) + 2) // 512) * 512
    return (text.ljust(nbytes - 2) + "}\n").encode("latin-1", "replace") + _pixels(image)


def _pixels(image: npt.NDArray[Any]) -> bytes:
    return image.astype("<i4", copy=False).tobytes()
