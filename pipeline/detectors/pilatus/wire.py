"""Pilatus files: bytes to facts, no input or output.

Only what the bytes say: which files to read, and when, is the adapter's matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import tzinfo

from pipeline.codecs import cbf, edf
from pipeline.detectors.pilatus.header import Value, parse_date, parse_header
from pipeline.errors import InvalidFrameError
from pipeline.frame import INT64_MAX, Buffer

_NUMBER_IN_NAME = re.compile(r"(.*)_(\d+)", re.DOTALL)
# what an EDF header says about the bytes rather than about the detector
_EDF_LAYOUT = frozenset(
    (
        "HeaderID",
        "Image",
        "ByteOrder",
        "DataType",
        "Dim_1",
        "Dim_2",
        "Size",
        "Compression",
        "EDF_DataBlockID",
        "EDF_BinarySize",
        "EDF_HeaderSize",
        "Date",
        "date",
        "time",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PilatusFile:
    """What one image file says about itself.

    Parameters
    ----------
    shape:
        Pixels as (rows, columns).
    dtype:
        Numpy name of the pixel type; ``int32`` from any Pilatus.
    encoding:
        ``cbf``, ``tiff`` or ``edf``.
    timestamp_ns:
        The header's date, ns since 1970 (UTC); None where the header has none.
    attributes:
        Header values under well-known names, the others under their own in lower case.
    units:
        Units of those attributes that have one.
    """

    shape: tuple[int, int]
    dtype: str
    encoding: str
    timestamp_ns: int | None
    attributes: dict[str, Value]
    units: dict[str, str]


def read_cbf(payload: Buffer, *, timezone: tzinfo | None = None) -> PilatusFile:
    """Read the header of a complete CBF file.

    Parameters
    ----------
    payload:
        The whole file.
    timezone:
        Where the detector's clock is; None means UTC.

    Raises
    ------
    InvalidFrameError
        The file is no CBF, damaged or not complete; field ``payload``.
    """
    try:
        image = cbf.parse(payload)
    except ValueError as error:
        raise InvalidFrameError("payload", str(error)) from error
    if not image.complete:
        raise InvalidFrameError("payload", "CBF: the file is cut short: no closing marker")
    shape = (image.height, image.width)
    return _file(shape, image.dtype, "cbf", image.header_text, timezone)


def read_tiff(payload: Buffer, *, timezone: tzinfo | None = None) -> PilatusFile:
    """Read the header of a complete TIFF file; parameters and errors as for :func:`read_cbf`."""
    from pipeline.codecs import tiff

    try:
        image = tiff.parse(payload)
    except ValueError as error:
        raise InvalidFrameError("payload", str(error)) from error
    if not image.complete:
        raise InvalidFrameError("payload", f"TIFF: the file is cut short before byte {image.end}")
    if len(image.shape) != 2:
        raise InvalidFrameError("shape", f"TIFF: {image.shape} is not rows and columns")
    rows, columns = image.shape
    return _file((rows, columns), image.dtype, "tiff", image.description, timezone)


def read_edf(payload: Buffer, *, timezone: tzinfo | None = None) -> PilatusFile:
    """Read the header of a complete EDF file; parameters and errors as for :func:`read_cbf`."""
    try:
        image = edf.parse(payload)
    except ValueError as error:
        raise InvalidFrameError("payload", str(error)) from error
    if not image.complete:
        raise InvalidFrameError("payload", "EDF: the file is cut short")
    lines = [f"# {key} {value}" for key, value in image.header.items() if key not in _EDF_LAYOUT]
    dates = [image.header[key] for key in ("Date", "date", "time") if key in image.header]
    text = "\n".join(lines + [f"# {date}" for date in dates[:1]])
    return _file((image.height, image.width), image.dtype, "edf", text, timezone)


def complete_cbf(payload: Buffer) -> str | None:
    """Return why a CBF file is not complete, or None if it is."""
    try:
        image = cbf.parse(payload)
    except ValueError as error:
        return str(error)
    return None if image.complete else "CBF: no closing marker behind the image"


def complete_tiff(payload: Buffer) -> str | None:
    """Return why a TIFF file is not complete, or None if it is: the last strip must be there."""
    from pipeline.codecs import tiff

    try:
        image = tiff.parse(payload)
    except ValueError as error:
        return str(error)
    return None if image.complete else f"TIFF: the image ends at byte {image.end}"


def split_name(filename: str) -> tuple[str, int] | None:
    """Return the prefix and the number of an image file's name, None where it has no number.

    camserver counts with the digits after the last underscore: ``t_2_0035.cbf`` is number 35 of
    ``t_2``.
    """
    stem = filename.rpartition("/")[2]
    name = stem[: stem.rindex(".")] if "." in stem else stem
    match = _NUMBER_IN_NAME.fullmatch(name)
    if match is None or not match[2].isascii():
        return None
    # longer numbers are dates run together or hashes, and do not fit a frame number
    number = int(match[2]) if len(match[2]) <= 18 else -1
    return (match[1], number) if 0 <= number < INT64_MAX else None


def _file(
    shape: tuple[int, int], dtype: str, encoding: str, text: str, timezone: tzinfo | None
) -> PilatusFile:
    attributes, units, dates = parse_header(text)
    return PilatusFile(
        shape=shape,
        dtype=dtype,
        encoding=encoding,
        timestamp_ns=parse_date(dates[0], timezone) if dates else None,
        attributes=attributes,
        units=units,
    )
