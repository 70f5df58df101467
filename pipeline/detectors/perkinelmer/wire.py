"""Files of QXRD and XIS: bytes and names to facts, no input or output."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from pipeline.codecs._view import byte_view
from pipeline.detectors.perkinelmer import qtini
from pipeline.detectors.reading import FileHeader, read_tiff
from pipeline.detectors.tiff_pages import iter_pages
from pipeline.errors import InvalidFrameError
from pipeline.frame import INT64_MAX, AttributeValue, Buffer

SIDECAR = ".metadata"
OVERFLOW = ".overflow"
#: Attributes are to stay small beside an image; a plain sidecar has 700 bytes.
MAX_ATTRIBUTES_NBYTES = 8192
_NAMES = {"exposureTime": "exposure_s"}
#: ``dateTime`` is a binary variant of ``dateString``.
_LEFT_OUT = frozenset(("dateTime",))
_DATE_STRING = re.compile(
    r"(\d{4})\.(\d\d)\.(\d\d) : (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?", re.ASCII
)
_DATE_TAG = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)()", re.ASCII)
_SECONDS = re.compile(r"(\d{1,10})(?:\.(\d{1,12}))?", re.ASCII)
_HIS = struct.Struct("<HHHIHHHHHHHdH")
_HIS_TYPES = {2: "float64", 4: "uint16", 12: "int16", 32: "uint32", 40: "int32"}


@dataclass(frozen=True, slots=True)
class Name:
    """What a file name of QXRD says.

    Parameters
    ----------
    prefix:
        Everything in front of the counters, the detector's name included; with ``.dark`` and
        further counters behind it, so that equal numbers of one prefix are one image.
    number:
        The first counter.
    suffixes:
        Counters behind it: a phase, the count of a name that existed, or both.
    dark:
        Whether it is a dark image.
    """

    prefix: str
    number: int
    suffixes: tuple[int, ...] = ()
    dark: bool = False


def split_name(stem: str, *, digits: int) -> Name:
    """Return what a name without its extension says; without a counter it is number 0.

    Other programs than QXRD write ``x_00012``; nothing but its last counter is looked at then.

    Parameters
    ----------
    digits:
        How many digits a counter has at least: ``scan-2014-00001`` has one counter of five.
    """
    dark = stem.lower().endswith(".dark")
    base = stem[:-5] if dark else stem
    end = ".dark" if dark else ""
    found = re.fullmatch(rf"(.*?)-?((?:(?<=-)\d{{{digits},18}}(?:-(?=\d)|$))+)", base, re.DOTALL)
    if found is None:
        plain = re.fullmatch(rf"(.*?)_(\d{{{digits},18}})", base, re.DOTALL)
        if plain is None:
            return Name(stem, 0, dark=dark)
        return Name(plain[1] + end, int(plain[2]), dark=dark)
    number, *suffixes = (int(part) for part in found[2].split("-"))
    if number >= INT64_MAX:
        return Name(stem, 0, dark=dark)
    tail = "".join(f".{part}" for part in found[2].split("-")[1:])
    return Name(found[1] + tail + end, number, tuple(suffixes), dark)


def meaning_of_suffix(name: Name, values: Mapping[str, str]) -> dict[str, AttributeValue]:
    """Say whether a second counter is a phase, or the count of a name that existed already.

    ``x-00105-00001.tif`` may be either; the sidecar's nPhases tells, where it has one.  Sidecars
    of 2010 lack it; the title then is the name without that count.
    """
    if not name.suffixes:
        return {}
    phases = qtini.value_of(values.get("nPhases", ""))
    last = name.suffixes[-1]
    if len(name.suffixes) > 1:
        return {"phase": name.suffixes[0], "retake": last}
    if isinstance(phases, int) and phases > 1:
        return {"phase": last}
    if isinstance(phases, int) and phases in (0, 1):
        return {"retake": last}
    title, file_name = values.get("title", ""), values.get("fileName", "")
    if phases == "" and title and f"-{last:05d}" in file_name and f"-{last:05d}" not in title:
        return {"retake": last}
    return {"ambiguous_counter": last}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a ``.metadata`` file says.

    Parameters
    ----------
    values:
        Raw values of its section ``[metadata]``.
    attributes:
        Those that became attributes.
    whole:
        Whether it has that section and ends in a complete line.
    is_more:
        Whether it holds anything that is not in ``attributes``.
    """

    values: Mapping[str, str]
    attributes: dict[str, AttributeValue]
    whole: bool
    is_more: bool


def read_sidecar(payload: bytes) -> Sidecar:
    """Read a sidecar, or the end of one; nothing in it is an error."""
    values, others = qtini.section(payload.decode("latin-1"), "metadata")
    attributes: dict[str, AttributeValue] = {}
    left = MAX_ATTRIBUTES_NBYTES
    for key, raw in values.items():
        value = qtini.value_of(raw)
        if value is None or key in _LEFT_OUT:
            continue
        left -= len(key) + 4 * len(raw) + 8
        if left < 0:
            others = True
            break
        attributes[attribute_name(key)] = value
    exposure = attributes.get("exposure_s")
    if isinstance(exposure, int):
        attributes["exposure_s"] = float(exposure)
    whole = bool(values) and payload.endswith(b"\n")
    return Sidecar(values=values, attributes=attributes, whole=whole, is_more=others)


def attribute_name(key: str) -> str:
    """Return ``summed_exposures`` for ``summedExposures``."""
    if key in _NAMES:
        return _NAMES[key]
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_") or "unnamed"


def time_of(values: Mapping[str, str], tag: str, timezone: tzinfo | None) -> tuple[int | None, str]:
    """Return the time of an image in ns since 1970 (UTC), and which value said it.

    ``timeStamp`` first, then ``dateString`` in the given zone, then the TIFF's DateTime.
    """
    stamp = _SECONDS.fullmatch(values.get("timeStamp", ""))
    if stamp is not None and int(stamp[1]):
        return int(stamp[1]) * 10**9 + _nanoseconds(stamp[2]), "timeStamp"
    text = values.get("dateString", "").strip('"')
    for pattern, date, source in (
        (_DATE_STRING, text, "dateString"),
        (_DATE_TAG, tag, "DateTime"),
    ):
        found = pattern.fullmatch(date)
        time_ns = _moment(found, timezone or UTC) if found else None
        if time_ns is not None:
            return time_ns, source
    return None, "file"


def _moment(found: re.Match[str], timezone: tzinfo) -> int | None:
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * 10**9 + _nanoseconds(found[7]) if seconds >= 0 else None


def _nanoseconds(fraction: str | None) -> int:
    return int((fraction or "0")[:9].ljust(9, "0"))


def read_image(payload: Buffer) -> tuple[FileHeader, str]:
    """Return shape and type of a whole TIFF file, and its DateTime.

    Raises
    ------
    InvalidFrameError
        It is no TIFF file, or its directory, which libtiff writes last, is not there yet.
    """
    try:
        header = read_tiff(payload)
    except InvalidFrameError:
        raise
    except ValueError as error:
        raise InvalidFrameError("payload", str(error)) from error
    if len(header.shape) != 2:
        raise InvalidFrameError("shape", f"TIFF: {header.shape} is not rows and columns")
    # also refuses a directory whose texts are still to come
    return header, next(iter_pages(byte_view(payload))).date


@dataclass(frozen=True, slots=True, kw_only=True)
class HisFile:
    """What the header of a HIS file says.

    Parameters
    ----------
    shape:
        Pixels of a frame as (rows, columns).
    offset:
        Where the first frame starts.
    count:
        How many frames follow each other.
    attributes:
        ``integration_s``, ``correction``, ``first_row`` and ``first_column`` (from 1).
    """

    shape: tuple[int, int]
    dtype: str
    offset: int
    count: int
    attributes: dict[str, AttributeValue]


def read_his(payload: Buffer) -> HisFile:
    """Read the header of a whole HIS file.

    Raises
    ------
    InvalidFrameError
        It is no HIS file, of a type that is not known, or not whole.
    """
    view = byte_view(payload)
    if len(view) < 100:
        raise InvalidFrameError("payload", f"HIS: {len(view)} bytes are less than a header")
    fields = _HIS.unpack_from(view)
    magic, head, _version, nbytes, image_head, left, top, right, bottom, count = fields[:10]
    correction, integration_us, kind = fields[10:]
    if magic != 0x7000:
        raise InvalidFrameError("payload", "HIS: the file does not begin with 7000")
    dtype = _HIS_TYPES.get(kind)
    if dtype is None:
        raise InvalidFrameError("dtype", f"HIS: number type {kind}")
    rows, columns, offset = bottom - top + 1, right - left + 1, head + image_head
    if rows < 1 or columns < 1 or not count or head < _HIS.size:
        raise InvalidFrameError("shape", f"HIS: {count} frames of {rows} x {columns}")
    end = offset + count * rows * columns * int(dtype[-2:]) // 8
    if not len(view) == nbytes == end:
        raise InvalidFrameError(
            "payload", f"HIS: {len(view)} bytes, the header says {nbytes}, its frames end at {end}"
        )
    attributes: dict[str, AttributeValue] = {"first_row": top, "first_column": left}
    attributes["correction"] = correction
    if 0 < integration_us < 1e12:
        attributes["integration_s"] = integration_us / 1e6
    return HisFile(
        shape=(rows, columns), dtype=dtype, offset=offset, count=count, attributes=attributes
    )
