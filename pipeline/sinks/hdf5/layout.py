"""The NXmx tree of :mod:`pipeline.nexus`, written around the frames of a finished file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np

from pipeline.nexus.facts import Facts
from pipeline.nexus.nxmx import Frames, nxmx
from pipeline.nexus.text import utc
from pipeline.nexus.tree import Array, Field, Group, Images, Link, Node, PerFrame
from pipeline.sinks.hdf5.finished import Finished
from pipeline.sinks.hdf5.flavours import LayoutKind, column, shape_tree
from pipeline.sinks.hdf5.nodes import SPECIFIC

#: Adds to the tree; returns what it could not.
Extra = Callable[[Group, Finished, Facts], list[str]]
log = logging.getLogger(__name__)
#: Values of a dataset written at once.
_BLOCK = 2**16


def write_layout(
    done: Finished,
    facts: Facts,
    name: str,
    *,
    mask: Array | None,
    kind: LayoutKind = "nxmx",
    extras: Sequence[Extra] = (),
) -> None:
    """Write everything but the provenance; ``mask``: (rows, columns) uint32, None if all is good.

    What is there already, as the frames and their columns, only gets its attributes.
    """
    tree = nxmx(facts, _frames(done, mask))
    tree.set(file_name=name, file_time=utc(time.time_ns()))
    shape_tree(kind, tree, done, facts, mask)
    if SPECIFIC in done.file and not _has(tree, SPECIFIC):
        del done.file[SPECIFIC]
    for extra in extras:
        for path in extra(tree, done, facts):
            log.warning("a wanted field has no value and is not in the file path=%s", path)
    _write(done.file, tree)


def _has(tree: Group, path: str) -> bool:
    node: Node = tree
    for name in path.split("/"):
        if not isinstance(node, Group) or name not in node.nodes:
            return False
        node = node.nodes[name]
    return True


def _frames(done: Finished, mask: Array | None) -> Frames:
    count, layout, rows = len(done), done.layout, done.rows
    shape = (count, *layout.shape)
    pixels = Images(shape=shape, dtype=np.dtype(layout.dtype), read=_not_copied)
    return Frames(
        base=done.base,
        count=count,
        shape=layout.shape,
        images=pixels if layout.images is not None else None,
        timestamp=column(rows.timestamps_ns),
        valid=column(rows.valid),
        status=column(rows.status),
        attributes={name: _stored(done, name) for name in done.columns.names},
        mask=mask,
    )


def _not_copied(*_: object) -> Array:
    raise NotImplementedError("the frames are in the file already")


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
            is_mask = name == "pixel_mask"
            target[name] = target[node.target] if is_mask else h5py.SoftLink(node.target)
        else:
            _write_field(target, name, node)


def _write_field(target: Any, name: str, node: Field) -> None:
    value = node.value
    if name not in target:
        if isinstance(value, PerFrame):
            target.create_dataset(name, shape=(value.count,), dtype=value.dtype)
            for start in range(0, value.count, _BLOCK):
                end = min(start + _BLOCK, value.count)
                target[name][start:end] = value.at(np.arange(start, end))
        elif isinstance(value, np.ndarray):
            data = value.item() if value.dtype == object else value
            target.create_dataset(name, data=data)
    target[name].attrs.update(node.attributes)
