"""The files of QXRD and XIS, written for the simulator.

Nothing here is shared with the readers.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

import numpy.typing as npt

_FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff_parts(image: npt.NDArray[Any], name: str, moment: datetime) -> tuple[bytes, bytes]:
    """Return what stands before and behind the pixels of a TIFF file as libtiff writes it.

    One strip, no RowsPerStrip, the directory at the end.
    """
    rows, columns = image.shape
    nbytes = image.nbytes
    document = name.encode("latin-1", "replace") + b"\0"
    date = f"{moment:%Y:%m:%d %H:%M:%S}".encode() + b"\0"
    start = 8 + nbytes
    entries: list[tuple[int, int, int, int | bytes]] = [
        (256, 3, 1, columns),
        (257, 3, 1, rows),
        (258, 3, 1, image.dtype.itemsize * 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (269, 2, len(document), document),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (279, 4, 1, nbytes),
        (284, 3, 1, 1),
        (306, 2, len(date), date),
        (339, 3, 1, _FORMATS[image.dtype.kind]),
    ]
    out = [struct.pack("<H", len(entries))]
    at, tail = start + 2 + 12 * len(entries) + 4, b""
    for tag, kind, count, value in entries:
        if isinstance(value, int):
            field = struct.pack("<I", value)
        elif len(value) <= 4:
            field = value.ljust(4, b"\0")
        else:
            field = struct.pack("<I", at + len(tail))
            tail += value + bytes(len(value) % 2)
        out.append(struct.pack("<HHI", tag, kind, count) + field)
    return b"II*\0" + struct.pack("<I", start), b"".join([*out, bytes(4), tail])


def sidecar(facts: dict[str, Any], moment: datetime, *, filler_nbytes: int = 0) -> bytes:
    """Return a ``.metadata`` file as Qt writes it: sorted sections, ``[metadata]`` last.

    Parameters
    ----------
    facts:
        Replace or add values; None leaves a key out.
    moment:
        Local time.
    filler_nbytes:
        Of sections about the integration in front, which later versions write.
    """
    values: dict[str, Any] = {
        "cameraGain": 0,
        "dataType": 5,
        "dataTypeName": "Subtracted Data",
        "dateString": f"{moment:%Y.%m.%d : %H:%M:%S}.{moment.microsecond // 1000:03d}",
        "dateTime": "@Variant(\\0\\0\\0\\x10\\0%\\x88\\xbf\\x3\\x8c\\xd5\\xb3\\xff)",
        "exposureTime": 0.0667,
        "extraInputs": "@Invalid()",
        "hBinning": 1,
        "imageNumber": 0,
        "imageSaved": 1,
        "nPhases": 1,
        "normalization\\size": 0,
        "phaseNumber": 0,
        "qtVersion": "4.8.6",
        "qxrdVersion": "0.9.9",
        "readoutMode": 0,
        "summedExposures": 1,
        "timeStamp": f"{moment.timestamp():.3f}",
        "triggered": 0,
        "used": "true",
        "userComment1": '"scan 12, 5\\xb0 C \\"hot\\""',
        "vBinning": 1,
    }
    values |= facts
    lines = ["", "[metadata]"]
    lines += [f"{k}={v}" for k, v in sorted(values.items()) if v is not None]
    head = []
    if filler_nbytes:
        head = ["[integrator]", "oversample=1", "[integrated]"]
        head += [f"x\\{n}\\value={n / 7:.6f}" for n in range(filler_nbytes // 22)]
    return "\r\n".join([*head, *lines, ""]).encode("latin-1")


def his_header(shape: tuple[int, int], count: int, kind: str, integration_us: float) -> bytes:
    """Return the 100 bytes in front of the frames of a HIS file."""
    rows, columns = shape
    code, nbytes = {"uint16": (4, 2), "uint32": (32, 4), "float64": (2, 8)}[kind]
    head = struct.pack("<HHHI", 0x7000, 68, 100, 100 + count * rows * columns * nbytes)
    head += struct.pack("<HHHHHHHdH", 32, 1, 1, columns, rows, count, 0, integration_us, code)
    return head.ljust(100, b"\0")
