"""Messages of the legacy stream (V1): several parts, JSON and raw bytes in turn.

Source: SIMPLON API documentation 1.8.0, "Stream"; what real detectors send beyond it is said where
it is allowed for.  Bytes to facts, no input or output.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

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
    known_names,
    rotation,
    shown,
)
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue, nbytes_of

_ENCODING = re.compile(r"(?:bs(?P<bits>8|16|32))?-?(?P<lz4>lz4)?(?P<order>[<>])?")
_DTYPES = ("uint8", "uint16", "uint32")
#: Parts of a start that are arrays: type in the header without its first letter, which some texts
#: of the vendor leave out, name of the attachment, dtype.
_TABLES = {
    "flatfield-1.0": ("flatfield", "<f4"),
    "pixelmask-1.0": ("pixel_mask", "<u4"),
    "countrate_table-1.0": ("countrate_table", "<f4"),
}
_AXES = ("chi", "kappa", "omega", "phi", "two_theta")
#: Text behind an image or a start that users may set; more of it does not fit a frame's attributes.
_MAX_APPENDIX = 4096
_MAX_KEY = 100
#: JSON parts are small; a configuration is about 2 kB.
_MAX_JSON_NBYTES = 1 << 20

Parts = Sequence[memoryview]


def parse(parts: Parts) -> Message:
    """Return what one multipart message says.

    Raises
    ------
    InvalidFrameError
        It is no message of this stream, is incomplete, or contradicts itself.
    """
    head = _json(parts, 0)
    kind = head.get("htype")
    series = _integer(head, "series", 0, MAX_IMAGE)
    if kind == "dheader-1.0":
        return _start(series, head, parts)
    if kind == "dimage-1.0":
        return _image(series, head, parts)
    if kind == "dseries_end-1.0":
        return End(series=series)
    raise InvalidFrameError("htype", f"{shown(kind)} is unknown")


def _start(series: int, head: dict[str, Any], parts: Parts) -> Start:
    config: dict[str, Any] = {}
    attachments: dict[str, Any] = {}
    problems: list[str] = []
    rest = list(range(1, len(parts)))
    if rest and head.get("header_detail") != "none":
        config = _json(parts, rest.pop(0))
    while len(rest) >= 2 and (table := _table(parts, rest[0])) is not None:
        try:
            name, array = _array(table, parts[rest[1]])
        except InvalidFrameError as error:
            problems.append(str(error))
        else:
            attachments[name] = array
        del rest[:2]
    facts = {key[:_MAX_KEY]: fact(value) for key, value in config.items()}
    metadata = known_names({key: value for key, value in facts.items() if value is not None})
    axes = {a: (config.get(f"{a}_start"), config.get(f"{a}_increment")) for a in _AXES}
    metadata.update(rotation(axes))
    if rest:
        metadata["header_appendix"] = bytes(parts[rest[0]][:_MAX_APPENDIX]).decode(errors="replace")
    columns: Any = config.get("x_pixels_in_detector")
    rows: Any = config.get("y_pixels_in_detector")
    return Start(
        series=series,
        metadata=metadata,
        channels=("",),
        shape=(rows, columns) if _is_shape(rows, columns) else None,
        frame_time_s=_positive(config.get("frame_time")),
        announced=_announced(config),
        attachments=attachments,
        problems=tuple(problems),
    )


def _announced(config: dict[str, Any]) -> int | None:
    """Return how many images were asked for: of triggers only, where each gives one."""
    images, triggers = config.get("nimages"), config.get("ntrigger")
    images = 1 if config.get("trigger_mode") in ("inte", "exte") else images
    counts = [c for c in (images, triggers) if isinstance(c, int) and 0 < c <= MAX_IMAGE]
    return counts[0] * counts[1] if len(counts) == 2 else None


def _table(parts: Parts, at: int) -> dict[str, Any] | None:
    """Return the header of an array, of whatever kind; None if the part is no such header."""
    try:
        found = _json(parts, at)
    except InvalidFrameError:
        return None
    return found if isinstance(found.get("htype"), str) and "shape" in found else None


def _array(table: dict[str, Any], data: memoryview) -> tuple[str, Any]:
    htype, shape = table["htype"], table["shape"]
    if htype.removeprefix("d") not in _TABLES:
        raise InvalidFrameError("htype", f"{htype!r:.60} is unknown")
    name, dtype = _TABLES[htype.removeprefix("d")]
    if not isinstance(shape, list) or len(shape) != 2 or not _is_shape(*shape):
        raise InvalidFrameError(name, f"its shape is {shown(shape)}")
    # [width, height] of an image; a table of (cutoff, rate) pairs is told as it lies
    axes = tuple(shape) if name == "countrate_table" else tuple(reversed(shape))
    if data.nbytes != 4 * shape[0] * shape[1]:
        raise InvalidFrameError(name, f"{data.nbytes} bytes for a shape of {shape}")
    return name, np.frombuffer(data, dtype).reshape(axes).copy()


def _image(series: int, head: dict[str, Any], parts: Parts) -> Image:
    if len(parts) < 3:
        raise InvalidFrameError("parts", f"an image of {len(parts)} parts")
    number = _integer(head, "frame", 0, MAX_IMAGE)
    data = _json(parts, 1)
    config = _json(parts, 3) if len(parts) > 3 else {}
    attributes: dict[str, AttributeValue] = {}
    for key, name in (("stop_time", "stop_time_ns"), ("real_time", "real_time_ns")):
        if _is_count(config.get(key)):
            attributes[name] = config[key]
    start_ns = config.get("start_time")
    if _is_count(start_ns):
        attributes["start_time_ns"] = start_ns
    if isinstance(head.get("hash"), str) and head["hash"]:
        attributes["hash"] = head["hash"][:64]
    if len(parts) > 4:
        attributes["image_appendix"] = bytes(parts[4][:_MAX_APPENDIX]).decode(errors="replace")
    return Image(
        series=series,
        number=number,
        pixels=(_pixels(data, parts[2]),),
        start_ns=start_ns if _is_count(start_ns) else None,
        attributes=attributes,
    )


def _pixels(data: dict[str, Any], blob: memoryview) -> Pixels:
    shape, dtype = data.get("shape"), data.get("type")
    if not isinstance(shape, list) or len(shape) != 2 or not _is_shape(*shape):
        raise InvalidFrameError("shape", f"{shown(shape)} is not width and height")
    if dtype not in _DTYPES:
        raise InvalidFrameError("dtype", f"{shown(dtype)} is not one of {', '.join(_DTYPES)}")
    size = data.get("size")
    if isinstance(size, int) and size != blob.nbytes:
        raise InvalidFrameError("payload", f"{blob.nbytes} bytes, announced are {size}")
    rows, columns = shape[1], shape[0]
    encoding = _encoding(data.get("encoding"), dtype)
    if encoding == "raw" and blob.nbytes != nbytes_of((rows, columns), dtype):
        raise InvalidFrameError("payload", f"{blob.nbytes} bytes for {rows} x {columns} {dtype}")
    return Pixels(channel="", shape=(rows, columns), dtype=dtype, encoding=encoding, payload=blob)


def _encoding(text: object, dtype: str) -> str:
    """Return our name of ``[bs<bits>][[-]lz4][<|>]``."""
    found = _ENCODING.fullmatch(text) if isinstance(text, str) else None
    if found is None or found["order"] == ">" or (found["bits"] and not found["lz4"]):
        raise InvalidFrameError("encoding", f"{shown(text)} is unknown")
    if not found["lz4"]:
        return "raw"
    if not found["bits"]:
        return "lz4-block"
    if int(found["bits"]) != 8 * np.dtype(dtype).itemsize:
        raise InvalidFrameError("encoding", f"{shown(text)} for pixels of {dtype}")
    return "bslz4"


def _json(parts: Parts, at: int) -> dict[str, Any]:
    if at >= len(parts):
        raise InvalidFrameError("parts", f"only {len(parts)} of them")
    if parts[at].nbytes > _MAX_JSON_NBYTES:
        raise InvalidFrameError(f"part {at}", f"{parts[at].nbytes} bytes of JSON")
    try:
        found = json.loads(bytes(parts[at]))
    except (ValueError, RecursionError) as error:
        raise InvalidFrameError(f"part {at}", f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidFrameError(f"part {at}", "no JSON object")
    return found


def _integer(found: dict[str, Any], key: str, low: int, high: int) -> int:
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidFrameError(key, f"{shown(value)} is not a number of it")
    return value


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_shape(*extents: object) -> bool:
    sizes = [e for e in extents if _is_count(e) and e]
    return len(sizes) == len(extents) and math.prod(sizes) <= MAX_PIXELS


def _positive(value: object) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    return float(value) if good else None  # type: ignore[arg-type]
