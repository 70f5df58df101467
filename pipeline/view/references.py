"""kerchunk references: a stored stream as a zarr array whose chunks are the frames where they lie.

Version 1 of the references (fsspec's ReferenceFileSystem), metadata of zarr format 2.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import DecodeError
from pipeline.nexus.tree import Array, PerFrame
from pipeline.nexus.tree import Group as GroupNode
from pipeline.reading.frame import sentinel
from pipeline.records import Segment
from pipeline.view.nodes import H5View
from pipeline.view.snapshot import Snapshot
from pipeline.view.zarr_codec import FrameCodec

#: The payloads that numcodecs reads as they are; our ``gzip`` is a zlib stream.
_STOCK: dict[str, dict[str, Any] | None] = {
    "raw": None,
    "gzip": {"id": "zlib", "level": 1},
    "zstd": {"id": "zstd", "level": 1},
    "blosc": {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 1, "blocksize": 0},
}
#: Beyond, a number is more likely a clock than a counter; each takes some bytes of the file.
MAX_POSITIONS = 2**24
_AXES = ("y", "x")
#: xarray decodes these to datetime64[ns].
_TIME = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
Entry = tuple[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What all chunks have in common; ``modules`` is empty for a detector that is one image."""

    shape: tuple[int, ...]
    dtype: str
    encoding: str
    modules: tuple[int, ...]


def references(view: H5View, url_of: Callable[[str], str]) -> Iterator[Entry]:
    """Yield key and value of each reference: ``data`` and the values beside it.

    Parameters
    ----------
    url_of:
        The URL of a blob's key.

    Raises
    ------
    DecodeError
        The frames (or modules) are not of one shape, type and encoding, or their numbers are too
        far apart.
    """
    snapshot = view.snapshot
    layout = _layout(snapshot)
    yield ".zgroup", {"zarr_format": 2}
    yield ".zattrs", {"stream": str(view.stream), **_metadata(snapshot)}
    names = []
    for name, column, attributes in _columns(snapshot):
        if " " not in name:  # CF parts the names of coordinates by spaces
            names.append(name)
        yield from _inline(name, column, attributes)
    if layout.shape:
        yield from _images(snapshot, layout, names)
        yield from _chunks(snapshot, layout, url_of)


def _layout(snapshot: Snapshot) -> _Layout:
    stream = snapshot.frames.origin.stream
    if snapshot.count > MAX_POSITIONS:
        raise DecodeError(
            f"frame numbers {snapshot.base} to {snapshot.base + snapshot.count - 1} of {stream}"
            f" make more than {MAX_POSITIONS} positions: are they counters?"
        )
    kinds = [(tuple(s.shape), s.dtype, s.encoding) for s in snapshot.segments()]
    found = sorted(set(kinds), key=kinds.index)
    if len(found) > 1:
        shown = ", ".join(f"{shape} {dtype} {encoding}" for shape, dtype, encoding in found[:4])
        raise DecodeError(
            f"{stream} has frames of several kinds ({shown}): zarr has one shape, type and codec"
            " for all; use stream.h5() or `lichtstrom sink hdf5`"
        )
    shape, dtype, encoding = found[0] if found else ((), "uint8", "none")
    modules = tuple(module.index for module in snapshot.frames.origin.modules)
    return _Layout(shape=shape, dtype=dtype, encoding=encoding, modules=modules)


def _metadata(snapshot: Snapshot) -> dict[str, Any]:
    """Return the stream's metadata; NaN and infinities, which JSON has not, as text."""
    said = {**snapshot.info.start.metadata, **snapshot.info.metadata}
    found: dict[str, Any] = json.loads(json.dumps(said), parse_constant=str)
    return found


def _images(snapshot: Snapshot, layout: _Layout, beside: list[str]) -> Iterator[Entry]:
    dtype = np.dtype(layout.dtype)
    stock = layout.encoding in _STOCK
    codec = FrameCodec(layout.encoding, layout.shape, layout.dtype)
    outer = (len(layout.modules),) if layout.modules else ()
    array = _array(
        dtype,
        (snapshot.count, *outer, *layout.shape),
        (1,) * (1 + len(outer)) + layout.shape,
    )
    array["compressor"] = _STOCK[layout.encoding] if stock else codec.get_config()
    array["fill_value"] = _json(sentinel(dtype), dtype)
    yield "data/.zarray", array
    axes = len(layout.shape)
    names = _AXES[-axes:] if axes <= len(_AXES) else tuple(f"axis_{i}" for i in range(axes))
    told = [asdict(module) for module in snapshot.frames.origin.modules]
    yield (
        "data/.zattrs",
        {
            "_ARRAY_DIMENSIONS": ["frame_number", *(["module"] if outer else []), *names],
            # CF's word for what xarray shows as coordinates
            "coordinates": " ".join(beside),
            **({"modules": told} if told else {}),
        },
    )


def _chunks(snapshot: Snapshot, layout: _Layout, url_of: Callable[[str], str]) -> Iterator[Entry]:
    """Yield where each frame or module lies; the payload itself where that is in a record."""
    tail = ".0" * len(layout.shape)
    middle = {index: f".{at}" for at, index in enumerate(layout.modules)}
    for at, number in enumerate(snapshot.frames.numbers.tolist()):
        for located, row in snapshot.frames.rows_of(at):
            segment = located.value
            assert isinstance(segment, Segment)  # only segments have rows
            if segment.blob:
                place = int(segment.offsets[row]), int(segment.lengths[row])
                value: Any = [url_of(segment.blob), *place]
            else:
                value = _base64(snapshot.frames.frame(at).modules[segment.module].payload)
            yield f"data/{number - snapshot.base}{middle.get(segment.module, '')}{tail}", value


def _columns(snapshot: Snapshot) -> Iterator[tuple[str, PerFrame, dict[str, Any]]]:
    """Yield the numbers beside the frames: name, values, attributes."""
    entry = _group(snapshot.tree, "entry")
    detector = _group(_group(entry, "instrument"), "detector")
    attributes = _group(detector, "attributes")
    taken = {"data", "frame_number", "timestamp", "frame_valid"}
    wanted = [
        ("frame_number", _group(entry, "data"), "frame_number", {}),
        ("timestamp", detector, "timestamp", _TIME),
        ("frame_valid", detector, "frame_valid", {}),
        *((f"attribute_{n}" if n in taken else n, attributes, n, {}) for n in attributes.nodes),
    ]
    for name, group, node, more in wanted:
        field: Any = group.nodes[node]
        if field.value.dtype.kind in "iuf":
            units = field.attributes.get("units", b"").decode() if not more else ""
            yield name, field.value, {**more, **({"units": units} if units else {})}


def _inline(name: str, column: PerFrame, attributes: dict[str, Any]) -> Iterator[Entry]:
    values = column.at(np.arange(column.count, dtype=np.int64))
    if name == "timestamp":  # what xarray takes for a time; 0, where no frame is, is none
        values = values.astype(np.int64)
    array = _array(values.dtype, values.shape, (max(1, len(values)),))
    array["fill_value"] = _absent(name, values)
    yield f"{name}/.zarray", array
    yield f"{name}/.zattrs", {"_ARRAY_DIMENSIONS": ["frame_number"], **attributes}
    if len(values):
        yield f"{name}/0", _base64(values.astype(values.dtype.newbyteorder("<")).tobytes())


def _absent(name: str, values: Array) -> Any:
    """Return the value that says "none"; None where all values are some."""
    if values.dtype.kind == "f":
        return "NaN"
    none = 0 if name == "timestamp" else np.iinfo(values.dtype).min
    signed = values.dtype.kind == "i"
    return int(none) if signed and bool((values == none).any()) else None


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], chunks: tuple[int, ...]) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype.newbyteorder("<").str,
        "compressor": None,
        "filters": None,
        "fill_value": None,
        "order": "C",
    }


def _json(value: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "c":
        return ["NaN", 0.0]
    return "NaN" if dtype.kind == "f" else dtype.type(value).item()


def _base64(data: bytes | memoryview) -> str:
    return "base64:" + base64.b64encode(data).decode()


def _group(parent: GroupNode, name: str) -> GroupNode:
    found = parent.nodes[name]
    assert isinstance(found, GroupNode)  # as the layout makes it
    return found
