"""The NXmx tree of :mod:`pipeline.nexus`, written around the frames of a finished file."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import h5py
import numpy as np

from pipeline.nexus.facts import Facts
from pipeline.nexus.nxmx import Frames, nxmx
from pipeline.nexus.text import utc
from pipeline.nexus.tree import Array, Deferred, Field, Group, Images, Link, PerFrame
from pipeline.sinks.hdf5.finished import Finished
from pipeline.sinks.hdf5.mapping import MappedField, add_mapped

log = logging.getLogger(__name__)
LayoutKind = Literal["nxmx", "nxdata", "dectris"]
#: Values of a dataset written at once.
_BLOCK = 2**16


def write_layout(
    done: Finished,
    facts: Facts,
    name: str,
    *,
    mask: Array | None,
    kind: LayoutKind = "nxmx",
    mapping: Sequence[MappedField] = (),
) -> None:
    """Write everything but the provenance; ``mask``: (rows, columns) uint32, None if all is good.

    What is there already, as the frames and their columns, only gets its attributes.
    """
    tree = nxmx(facts, _frames(done, mask))
    tree.set(file_name=name, file_time=utc(time.time_ns()))
    if kind == "dectris":
        _by_links(tree)
    elif kind == "nxdata":
        _generic(tree, done, facts, mask)
    for path in add_mapped(tree, facts, mapping):
        log.warning("a mapped field has no value and is not in the file path=%s", path)
    _write(done.file, tree)


def _by_links(tree: Group) -> None:
    """Let the images be ``data_000001`` and on: never both, fabio counts the frames twice."""
    entry = _group(tree, "entry")
    data = _group(entry, "data")
    if data.nodes.pop("data", None) is not None:
        data.set(signal="data_000001")
        _group(entry, "instrument", "detector").nodes.pop("data", None)


def _generic(tree: Group, done: Finished, facts: Facts, mask: Array | None) -> None:
    """Leave out what makes it NXmx, and add the time axis of a plain NXdetector."""
    entry = _group(tree, "entry")
    detector = _group(entry, "instrument", "detector")
    del entry.nodes["definition"]
    detector.nodes.pop("detectorSpecific", None)
    detector.nodes.pop("pixel_mask", None)
    if mask is not None:
        detector.field("pixel_mask", mask)
    begin = facts.earliest_ns
    times = done.rows.timestamps_ns.astype(np.float64)
    seconds = np.where(times > 0, (times - begin) / 1e9, np.nan)
    detector.field("start_time", _column(seconds), units="s", start=utc(begin))
    source = entry.nodes.pop("source")
    _group(entry, "instrument").nodes["source"] = source  # where the generic classes have it


def _group(tree: Group, *names: str) -> Group:
    for name in names:
        node = tree.nodes[name]
        assert isinstance(node, Group)
        tree = node
    return tree


def _frames(done: Finished, mask: Array | None) -> Frames:
    count, layout, rows = len(done), done.layout, done.rows
    shape = (count, *layout.shape)
    pixels = Images(shape=shape, dtype=np.dtype(layout.dtype), read=_not_copied)
    return Frames(
        base=done.base,
        count=count,
        shape=layout.shape,
        images=pixels if layout.images is not None else None,
        timestamp=_column(rows.timestamps_ns),
        valid=_column(rows.valid),
        status=_column(rows.status),
        attributes={name: _stored(done, name) for name in done.columns.names},
        mask=mask,
    )


def _not_copied(*_: object) -> Array:
    raise NotImplementedError("the frames are in the file already")


def _column(values: Array) -> PerFrame:
    return PerFrame(count=len(values), dtype=values.dtype, at=lambda places: values[places])


def _stored(done: Finished, name: str) -> PerFrame:
    dataset = done.columns.dataset(name)
    return PerFrame(count=len(done), dtype=dataset.dtype, at=lambda places: dataset[...][places])


def _write(target: Any, tree: Group) -> None:
    target.attrs.update(tree.attributes)
    for name, node in tree.nodes.items():
        if isinstance(node, Group):
            _write(target.require_group(name), node)
        elif isinstance(node, Link):
            # another name of the same dataset: XDS and the NXmx definition each look at their own
            target[name] = target[node.target] if _is_mask(name) else h5py.SoftLink(node.target)
        else:
            _write_field(target, name, node)


def _is_mask(name: str) -> bool:
    return name == "pixel_mask"


def _write_field(target: Any, name: str, node: Field) -> None:
    value = node.value
    if name not in target:
        if isinstance(value, PerFrame):
            target.create_dataset(name, shape=(value.count,), dtype=value.dtype)
            for start in range(0, value.count, _BLOCK):
                end = min(start + _BLOCK, value.count)
                target[name][start:end] = value.at(np.arange(start, end))
        elif isinstance(value, Deferred):
            target.create_dataset(name, data=value.make())
        elif not isinstance(value, Images):
            data = value.item() if value.dtype == object else value
            target.create_dataset(name, data=data)
    target[name].attrs.update(node.attributes)
