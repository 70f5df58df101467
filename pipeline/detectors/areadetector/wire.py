"""NTNDArray as areaDetector serves it: a structure's fields to facts, no input or output.

Sources: EPICS normative types (``epics:nt/NTNDArray:1.0``); ADCore, ``ntndArrayConverter.cpp`` and
``NDPluginCodec.cpp``, for the names of codecs and what their payloads look like.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.codecs import byte_view
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue, nbytes_of

#: Between 1970 and 1990, where EPICS begins to count: drivers that store Unix time add it twice.
EPICS_EPOCH_S = 631_152_000
#: A time stamp that far ahead of our clock has it added twice.
_TOO_LATE_S = EPICS_EPOCH_S // 2
#: No image is larger.
MAX_NBYTES = 1 << 32
_MAX_ATTRIBUTES = 256
_MAX_TEXT = 4096
_MAX_LIST = 64
#: Together they must fit a frame's 64 KiB of attributes as JSON.
_MAX_ATTRIBUTES_NBYTES = 32 * 1024
_NAME = re.compile(r"[^\x00-\x20]{1,128}")
# Scalar types of pvData, as codec.parameters names the pixels.
_TYPES = {
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "uint8",
    6: "uint16",
    7: "uint32",
    8: "uint64",
    9: "float32",
    10: "float64",
}
_CODECS = {
    "jpeg": "jpeg",
    "zlib": "gzip",
    "blosc": "blosc",
    "lz4": "lz4-block",
    "lz4hdf5": "lz4",
    "bslz4": "bslz4-block",
}
# A source that forwards HDF5's chunks leaves their header in front, under the same name.
_FRAMED = {"lz4-block": "lz4", "bslz4-block": "bslz4"}
COLOR_MODES = ("mono", "bayer", "RGB1", "RGB2", "RGB3", "YUV444", "YUV422", "YUV411")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One update of the channel.

    Parameters
    ----------
    unique_id:
        The driver's number, as served: 32 bits, signed.
    timestamp_ns:
        ns since 1970 (UTC); None where the driver gives none.
    shape:
        (rows, columns), or three extents with colours where ``color_mode`` puts them: last in
        RGB1, in the middle in RGB2, first in RGB3.
    payload:
        The pixels, or what the codec made of them; a view on memory that is ours.
    region:
        What part of the sensor was read, by name; empty for all of it.
    skipped:
        How many attributes had no value that can be kept.
    """

    unique_id: int
    timestamp_ns: int | None
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    payload: memoryview
    color_mode: str
    codec: str
    region: Mapping[str, AttributeValue] = field(default_factory=dict)
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    skipped: int = 0


def parse_image(update: Mapping[str, Any], *, clock: str = "auto", now_ns: int) -> Image | None:
    """Return the image of an update, None for an empty array: nothing was ever acquired.

    Parameters
    ----------
    update:
        The structure's fields as a dictionary, numeric arrays as numpy arrays.
    clock:
        ``unix``: time stamps are right; ``late``: 631152000 s too late; ``auto``: too late where
        they lie some ten years ahead of ``now_ns``.

    Raises
    ------
    InvalidFrameError
        The structure is no NTNDArray, or contradicts itself.
    """
    pixels, extents = _value(update), _extents(update)
    if not extents and not pixels.nbytes:
        return None
    unique_id = _integer(update, "uniqueId", -(1 << 31), (1 << 32) - 1)
    attributes, skipped = _attributes(update.get("attribute"))
    mode = _color_mode(attributes.pop("colormode", 0))
    shape = tuple(extent["size"] for extent in reversed(extents))
    dtype, encoding, payload, codec = _payload(update, pixels, shape)
    return Image(
        unique_id=unique_id,
        timestamp_ns=_timestamp_ns(update, clock, now_ns),
        shape=shape,
        dtype=dtype,
        encoding=encoding,
        payload=payload,
        color_mode=mode,
        codec=codec,
        region=_region(extents),
        attributes=attributes,
        skipped=skipped,
    )


# -- pixels -------------------------------------------------------------------------------------


def _value(update: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    value = update.get("value")
    if value is None:  # a union of which nothing is selected
        return np.zeros(0, np.uint8)
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "biuf":
        raise InvalidFrameError("payload", f"the value is no array of numbers: {type(value)}")
    return np.ascontiguousarray(value)


def _extents(update: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the dimensions, x first; each has a size of 1 or more."""
    found = update.get("dimension")
    if found is None:
        found = ()
    if not isinstance(found, Sequence) or len(found) > 8:
        raise InvalidFrameError("shape", "dimension is no list of at most 8")
    for extent in found:
        if not isinstance(extent, Mapping):
            raise InvalidFrameError("shape", "a dimension is empty")
        _integer(extent, "size", 1, (1 << 31) - 1)
    return list(found)


def _payload(
    update: Mapping[str, Any], pixels: np.ndarray[Any, Any], shape: tuple[int, ...]
) -> tuple[str, str, memoryview, str]:
    codec = update.get("codec")
    name = codec.get("name", "") if isinstance(codec, Mapping) else ""
    if not isinstance(name, str):
        raise InvalidFrameError("encoding", "the codec has no name")
    name = name.strip()
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    view = byte_view(little)
    if name in ("", "none"):
        return _plain(little, view, shape)
    encoding = _CODECS.get(name)
    if encoding is None:
        raise InvalidFrameError("encoding", f"codec {name[:40]!r} is unknown")
    if pixels.dtype.itemsize != 1:
        raise InvalidFrameError("payload", f"codec {name}: the value holds {pixels.dtype}")
    kind = codec.get("parameters") if isinstance(codec, Mapping) else None
    dtype = _TYPES.get(kind) if isinstance(kind, int) else None
    if dtype is None:
        raise InvalidFrameError("dtype", f"codec {name}: pixels of type {kind!r:.40}")
    nbytes = _checked_nbytes(shape, dtype)
    plain_nbytes = _integer(update, "uncompressedSize", 0, MAX_NBYTES)
    if plain_nbytes != nbytes:
        raise InvalidFrameError("payload", f"{plain_nbytes} bytes announced for {shape} {dtype}")
    size = _integer(update, "compressedSize", 1, MAX_NBYTES)
    if size > view.nbytes:
        raise InvalidFrameError("payload", f"{view.nbytes} bytes of {size}")
    view = view[:size]
    # no block begins so: LZ4's first offset, bitshuffle's first length would be 0
    if encoding in _FRAMED and bytes(view[:8]) == plain_nbytes.to_bytes(8, "big"):
        encoding = _FRAMED[encoding]
    return dtype, encoding, view, name


def _plain(
    pixels: np.ndarray[Any, Any], view: memoryview, shape: tuple[int, ...]
) -> tuple[str, str, memoryview, str]:
    dtype = pixels.dtype.name
    if view.nbytes != _checked_nbytes(shape, dtype):
        raise InvalidFrameError("payload", f"{view.nbytes} bytes for {shape} {dtype}")
    return dtype, "raw", view, ""


def _checked_nbytes(shape: tuple[int, ...], dtype: str) -> int:
    if len(shape) not in (1, 2, 3):
        raise InvalidFrameError("shape", f"{len(shape)} dimensions")
    nbytes = nbytes_of(shape, dtype)
    if nbytes >= MAX_NBYTES:
        raise InvalidFrameError("shape", f"{shape} {dtype} is absurd")
    return nbytes


def _color_mode(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return "mono"
    return COLOR_MODES[value] if 0 <= value < len(COLOR_MODES) else f"mode {value}"


def _region(extents: Sequence[Mapping[str, Any]]) -> dict[str, AttributeValue]:
    """Return offset, binning and mirroring of rows and columns where they say something."""
    if len(extents) != 2:
        return {}
    found: dict[str, AttributeValue] = {}
    for name, key, default in (("offset", "offset", 0), ("binning", "binning", 1)):
        values = [extent.get(key, default) for extent in reversed(extents)]
        if all(isinstance(value, int) for value in values) and values != [default] * 2:
            found[f"roi_{name}" if name == "offset" else name] = [int(value) for value in values]
    mirrored = [bool(extent.get("reverse")) for extent in reversed(extents)]
    return {**found, "mirrored": [*mirrored]} if any(mirrored) else found


# -- the rest -----------------------------------------------------------------------------------


def _integer(fields: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidFrameError(name, f"{value!r:.40} is no integer of {low} to {high}")
    return value


def _timestamp_ns(update: Mapping[str, Any], clock: str, now_ns: int) -> int | None:
    for name in ("dataTimeStamp", "timeStamp"):
        stamp = update.get(name)
        if not isinstance(stamp, Mapping):
            continue
        seconds, nanoseconds = stamp.get("secondsPastEpoch"), stamp.get("nanoseconds")
        if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
            continue
        # a driver without a clock sends 0, which as EPICS time is the beginning of 1990
        if seconds in (0, EPICS_EPOCH_S) or not 0 <= nanoseconds < 10**9:
            continue
        ahead = seconds - now_ns // 10**9 > _TOO_LATE_S
        if clock == "late" or (clock == "auto" and ahead):
            seconds -= EPICS_EPOCH_S
        if 0 < seconds < 1 << 33:
            return seconds * 10**9 + nanoseconds
    return None


def _attributes(found: Any) -> tuple[dict[str, AttributeValue], int]:
    """Return the attributes that are values of a bounded size, and how many are not."""
    values: dict[str, AttributeValue] = {}
    nbytes = skipped = 0
    if not isinstance(found, Sequence):
        return values, 0
    for item in found:
        name = item.get("name") if isinstance(item, Mapping) else None
        name = name if isinstance(name, str) else ""
        value = _plain_value(item.get("value")) if name else None
        cost = len(name) + len(str(value))
        if (
            value is None
            or len(values) >= _MAX_ATTRIBUTES
            or nbytes + cost > _MAX_ATTRIBUTES_NBYTES
            or not _NAME.fullmatch(name)
        ):
            skipped += 1
            continue
        values[name.lower()] = value
        nbytes += cost
    return values, skipped


def _plain_value(value: Any) -> AttributeValue:
    """Return an attribute's value, None if it is none that can be kept."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int):
        return value if -(1 << 63) <= value < 1 << 63 else None
    if isinstance(value, str):
        return value.rstrip("\0")[:_MAX_TEXT]
    if isinstance(value, np.ndarray | list | tuple) and len(value) <= _MAX_LIST:
        items = [_plain_value(item) for item in value if not isinstance(item, list | np.ndarray)]
        return items if len(items) == len(value) and None not in items else None
    return None


# -- whether the device acquires ----------------------------------------------------------------

#: Words of DetectorState_RBV (ADCore, ``ADBase.template``) while nothing is acquired.
_RESTING = frozenset(("idle", "done", "disconnected", "initializing", "waiting", "off", "no"))
_BROKEN = frozenset(("error", "aborted"))


def parse_activity(update: Mapping[str, Any]) -> str:
    """Return ``busy``, ``idle``, or ``aborted`` from a scalar or an enumeration.

    Any number but 0 is busy; of an enumeration the word counts, as in ``DetectorState_RBV``.

    Raises
    ------
    InvalidFrameError
        The value is neither.
    """
    value = update.get("value")
    if isinstance(value, Mapping):
        index, choices = value.get("index"), value.get("choices")
        if not isinstance(index, int):
            raise InvalidFrameError("value", "an enumeration without an index")
        known = isinstance(choices, Sequence) and 0 <= index < len(choices)
        word = str(choices[index]).strip().lower() if known and choices else ""
        if word in _BROKEN:
            return "aborted"
        return "idle" if word in _RESTING or (not word and index == 0) else "busy"
    if isinstance(value, bool | int | float):
        return "busy" if value else "idle"
    raise InvalidFrameError("value", f"{type(value).__name__} is no state")


def count_of(update: Mapping[str, Any]) -> int | None:
    """Return the number that a counting channel has, None if it has none."""
    value = update.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value < 1 << 62 else None
