"""Messages of the stream V2: one CBOR map each.

Sources: DECTRIS, "Stream V2" specification; RFC 8949 (CBOR), RFC 8746 (typed arrays).  Real
messages begin with tag 55799, others do without; any field but ``type`` may be absent, null or of
another type on some firmware.  Bytes to facts, no input or output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeGuard

import cbor2
import numpy as np

from pipeline.detectors.eiger.messages import (
    MAX_IMAGE,
    MAX_PIXELS,
    End,
    Image,
    Message,
    Pixels,
    Start,
    fact,
    is_number,
    known_names,
    rotation,
    shown,
)
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue, nbytes_of

#: Typed arrays of RFC 8746, tag to numpy type.
_TYPED = {
    64: "|u1", 68: "|u1", 65: ">u2", 66: ">u4", 67: ">u8", 69: "<u2", 70: "<u4", 71: "<u8",
    72: "|i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip
_ROWS_FIRST, _COLUMNS_FIRST, _COMPRESSED = 40, 1040, 56500
_ENCODINGS = {"bslz4": "bslz4", "lz4": "lz4"}
#: What :func:`_start` treats by itself.
_HANDLED = frozenset(
    (
        "type", "series_id", "series_unique_id", "channels", "goniometer", "threshold_energy",
        "number_of_images", "flatfield", "pixel_mask", "countrate_correction_lookup_table",
        "user_data",
    )
)  # fmt: skip
_MAX_TEXT = 4096
_MAX_KEY = 100
#: Channels of the largest model, and room.
_MAX_CHANNELS = 16
#: A message has some dozens of items, three deep; what users set may have more.  Without a bound,
#: items that refer to each other (tags 28, 29) make a few bytes endless.
_MAX_ITEMS, _MAX_DEPTH = 100_000, 24
#: Masks and flat fields of a 16M with three channels are 0.4 GB.
_MAX_ATTACHED_NBYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class _Compressed:
    algorithm: Any
    itemsize: Any
    data: bytes


@dataclass(frozen=True, slots=True)
class _Typed:
    dtype: np.dtype[Any]
    data: bytes | _Compressed


@dataclass(frozen=True, slots=True)
class _Grid:
    """An array with axes; ``typed`` is None where it is no typed array."""

    dims: Any
    typed: Any


def is_message(head: memoryview) -> bool:
    """Tell whether bytes begin as a CBOR map does, with or without the self-describing tag."""
    if bytes(head[:3]) == b"\xd9\xd9\xf7":
        return True
    return head.nbytes > 0 and head[0] >> 5 == 5


def parse(message: memoryview) -> Message:
    """Return what one message says; a payload is copied once.

    Raises
    ------
    InvalidFrameError
        It is no message of this stream, is incomplete, or contradicts itself.
    """
    try:
        found = cbor2.loads(bytes(message), tag_hook=_tagged)
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidFrameError("message", f"no CBOR: {error}"[:300]) from error
    except (MemoryError, ArithmeticError, LookupError, AttributeError) as error:
        raise InvalidFrameError("message", f"damaged CBOR: {type(error).__name__}") from error
    if not isinstance(found, Mapping):
        raise InvalidFrameError("message", "no CBOR map")
    _check_extent(found)
    kind = found.get("type")
    series, unique = _series(found)
    if kind == "start":
        return _start(series, unique, found)
    if kind == "image":
        return _image(series, unique, found)
    if kind == "end":
        return End(series=series, unique=unique)
    raise InvalidFrameError("type", f"{shown(kind)} is unknown")


def _check_extent(found: Mapping[Any, Any]) -> None:
    """Refuse what has no end, or one too far off."""
    items, waiting = 0, [(0, found)]
    while waiting:
        depth, value = waiting.pop()
        inner: Any = ()
        if isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            inner = value
        elif isinstance(value, cbor2.CBORTag):
            inner = (value.value,)
        items += len(inner)
        if items > _MAX_ITEMS or depth > _MAX_DEPTH:
            raise InvalidFrameError("message", "too many items, or too deep")
        waiting.extend((depth + 1, item) for item in inner)


def _tagged(first: Any, second: Any) -> Any:
    # cbor2 5 passes (decoder, tag), cbor2 6 (tag, immutable)
    tag = second if isinstance(second, cbor2.CBORTag) else first
    number, value = tag.tag, tag.value
    if number in _TYPED and isinstance(value, (bytes, _Compressed)):
        return _Typed(np.dtype(_TYPED[number]), value)
    if number in (_ROWS_FIRST, _COLUMNS_FIRST) and _is_list(value, 2):
        # columns first is sent by no detector that was seen: refused, for want of axes
        dims = list(value[0]) if _is_list(value[0]) and number == _ROWS_FIRST else None
        return _Grid(dims, value[1])
    if number == _COMPRESSED and _is_list(value, 3) and isinstance(value[2], bytes):
        return _Compressed(value[0], value[1], value[2])
    return tag


def _is_list(value: Any, length: int | None = None) -> bool:
    return isinstance(value, (list, tuple)) and length in (None, len(value))


def _series(found: Mapping[str, Any]) -> tuple[int, str | None]:
    series, unique = found.get("series_id"), found.get("series_unique_id")
    if isinstance(series, bool) or not isinstance(series, int) or not 0 <= series <= MAX_IMAGE:
        raise InvalidFrameError("series_id", f"{shown(series)} is no series")
    return series, unique[:100] if isinstance(unique, str) and unique else None


# -- start --------------------------------------------------------------------------------------


def _start(series: int, unique: str | None, found: Mapping[str, Any]) -> Start:
    plain = {
        key[:_MAX_KEY]: _plain(value)
        for key, value in found.items()
        if isinstance(key, str) and key not in _HANDLED
    }
    metadata: dict[str, AttributeValue] = {
        k: v for k, v in known_names(plain).items() if v is not None
    }
    channels = _names(found.get("channels"))
    metadata.update(_thresholds(found.get("threshold_energy")))
    metadata.update(_goniometer(found.get("goniometer")))
    if found.get("user_data"):
        metadata["user_data"] = _text(found["user_data"])
    attachments, problems = _attachments(found)
    size = (found.get("image_size_y"), found.get("image_size_x"))
    announced = found.get("number_of_images")
    return Start(
        series=series,
        unique=unique,
        metadata=metadata,
        channels=channels,
        shape=size if _is_shape(size) else None,  # type: ignore[arg-type]
        frame_time_s=_positive(found.get("frame_time")),
        announced=announced if _is_count(announced) and announced else None,
        attachments=attachments,
        problems=tuple(problems),
    )


def _names(value: Any) -> tuple[str, ...]:
    if not _is_list(value):
        return ()
    return tuple(_name(name) for name in value[:_MAX_CHANNELS])


def _name(value: Any) -> str:
    """Return the name of a channel; some firmware has numbers for names."""
    return (value if isinstance(value, str) else shown(value))[:_MAX_KEY]


def _thresholds(value: Any) -> dict[str, AttributeValue]:
    if is_number(value):
        return {"threshold_eV": value}
    if not isinstance(value, Mapping):
        return {}
    energies = {_name(k): v for k, v in list(value.items())[:_MAX_CHANNELS] if is_number(v)}
    if len(energies) == 1:
        return {"threshold_eV": next(iter(energies.values()))}
    return {"threshold_energy": dict(energies)} if energies else {}


def _goniometer(value: Any) -> dict[str, AttributeValue]:
    if not isinstance(value, Mapping):
        return {}
    axes = {
        _name(axis): (turn.get("start"), turn.get("increment"))
        for axis, turn in list(value.items())[:_MAX_CHANNELS]
        if isinstance(turn, Mapping)
    }
    told = {
        axis: {"start": a, "increment": b}
        for axis, (a, b) in axes.items()
        if is_number(a) and is_number(b)
    }
    return {**({"goniometer": told} if told else {}), **rotation(axes)}


def _attachments(found: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays of a start by name: of each channel where they are given so."""
    arrays: dict[str, Any] = {}
    problems: list[str] = []
    left_nbytes = _MAX_ATTACHED_NBYTES
    for key, name in (
        ("flatfield", "flatfield"),
        ("pixel_mask", "pixel_mask"),
        ("countrate_correction_lookup_table", "countrate_table"),
    ):
        given = found.get(key)
        if given is None:
            continue
        named = given if isinstance(given, Mapping) else {"": given}
        for channel, value in list(named.items())[:_MAX_CHANNELS]:
            try:
                array = _array(value, left_nbytes)
                left_nbytes -= array.nbytes
                several = channel and len(named) > 1
                arrays[f"{name}_{_name(channel)}" if several else name] = array
            except (InvalidFrameError, ValueError) as error:
                problems.append(f"{key}: {error}")
    return arrays, problems


def _array(value: Any, max_nbytes: int) -> Any:
    """Return a grid, or a typed array of one axis, decoded."""
    grid = value if isinstance(value, _Grid) else _Grid(None, value)
    if not isinstance(grid.typed, _Typed):
        raise InvalidFrameError("array", "it is no typed array")
    dtype, data = grid.typed.dtype, grid.typed.data
    if grid.dims is None and not isinstance(data, bytes):
        raise InvalidFrameError("array", "it has no axes")
    shape = tuple(grid.dims) if grid.dims is not None else (len(data) // dtype.itemsize,)  # type: ignore[arg-type]
    if not 0 < len(shape) <= 3 or not _is_shape(shape):
        raise InvalidFrameError("array", f"its axes are {shown(shape)}")
    if math.prod(shape) * dtype.itemsize > max_nbytes:
        raise InvalidFrameError("array", f"with its axes {shape} all of them take too much memory")
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype).reshape(shape).copy()
    from pipeline.codecs import decode

    encoding, payload = _framed(data, dtype)
    return decode(payload, encoding=encoding, shape=shape, dtype=dtype.newbyteorder("=").name)


# -- image --------------------------------------------------------------------------------------


def _image(series: int, unique: str | None, found: Mapping[str, Any]) -> Image:
    number = found.get("image_id")
    if not _is_count(number) or number > MAX_IMAGE:
        raise InvalidFrameError("image_id", f"{shown(number)} is no number")
    data = found.get("data")
    if not isinstance(data, Mapping) or not 0 < len(data) <= _MAX_CHANNELS:
        raise InvalidFrameError("data", "no map of channels")
    pixels = tuple(_pixels(_name(channel), grid) for channel, grid in data.items())
    attributes: dict[str, AttributeValue] = {}
    for key in ("start_time", "stop_time", "real_time"):
        seconds = _ratio_ns(found.get(key))
        if seconds is not None:
            attributes[f"{key}_ns"] = seconds
    if found.get("user_data"):
        attributes["user_data"] = _text(found["user_data"])
    return Image(
        series=series,
        unique=unique,
        number=number,
        pixels=pixels,
        start_ns=_ratio_ns(found.get("start_time")),
        epoch_ns=_date_ns(found.get("series_date")),
        attributes=attributes,
    )


def _pixels(channel: str, grid: Any) -> Pixels:
    if not isinstance(grid, _Grid) or not isinstance(grid.typed, _Typed):
        raise InvalidFrameError("data", f"channel {channel!r} is no array of rows and columns")
    shape = tuple(grid.dims) if grid.dims is not None else ()
    if len(shape) != 2 or not _is_shape(shape):
        raise InvalidFrameError("shape", f"{shown(grid.dims)} is not rows and columns")
    dtype, data = grid.typed.dtype, grid.typed.data
    if dtype.byteorder == ">":
        raise InvalidFrameError("dtype", "big-endian pixels")
    if isinstance(data, bytes):
        encoding, payload = "raw", data
        if len(data) != nbytes_of(shape, dtype.name):
            raise InvalidFrameError("payload", f"{len(data)} bytes for {shape} {dtype.name}")
    else:
        encoding, payload = _framed(data, dtype)
    return Pixels(
        channel=channel, shape=shape, dtype=dtype.name, encoding=encoding, payload=payload
    )


def _framed(data: _Compressed, dtype: np.dtype[Any]) -> tuple[str, bytes]:
    """Return our name of a compression, and the bytes, framed as in HDF5."""
    encoding = _ENCODINGS.get(data.algorithm) if isinstance(data.algorithm, str) else None
    if encoding is None:
        raise InvalidFrameError("encoding", f"{shown(data.algorithm)} is unknown")
    if encoding == "bslz4" and data.itemsize != dtype.itemsize:
        raise InvalidFrameError("encoding", f"elements of {shown(data.itemsize)} for {dtype.name}")
    return encoding, data.data


# -- values -------------------------------------------------------------------------------------


def _plain(value: Any) -> AttributeValue:
    """Return a value that JSON can hold; None for what cannot be told."""
    return value.isoformat() if isinstance(value, datetime) else fact(value)


def _text(value: Any) -> str:
    """Return what a user has set: a text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(_jsonable(value))
    return text[:_MAX_TEXT]


def _jsonable(value: Any) -> Any:
    # cbor2 6 gives mappings and lists that cannot be changed
    if isinstance(value, Mapping):
        return {_name(key): _jsonable(item) for key, item in value.items()}
    if _is_list(value):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, (str, bool)) or is_number(value):
        return value
    return shown(value)


def _ratio_ns(value: Any) -> int | None:
    """Return [numerator, denominator] of seconds in ns."""
    if not _is_list(value, 2) or not all(_is_count(n) for n in value) or not value[1]:
        return None
    nanoseconds = int(value[0]) * 10**9 // int(value[1])
    return nanoseconds if nanoseconds < 2**63 else None


def _date_ns(value: Any) -> int | None:
    """Return a date, also one that is plain text, as ns since 1970; with no zone it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    since = value.replace(tzinfo=None) - datetime(1970, 1, 1)
    offset = value.utcoffset()
    seconds = since - offset if offset is not None else since
    nanoseconds = (seconds.days * 86400 + seconds.seconds) * 10**9 + seconds.microseconds * 1000
    return nanoseconds if 0 <= nanoseconds < 2**62 else None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_shape(shape: Any) -> bool:
    return all(_is_count(n) and n for n in shape) and math.prod(shape) <= MAX_PIXELS


def _positive(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    return float(value) if good else None
