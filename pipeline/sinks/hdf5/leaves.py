"""Which files have the pixels that a file shows, and which of their frames it shows where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.frame import Module
from pipeline.sinks.hdf5.findings import Finding
from pipeline.sinks.hdf5.master import arrangement

_DATA = "entry/data/data"
_REMADE = "make the master file again"
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """Frames of one dataset: position ``inside[k]`` of it is ``outside[k]`` of the whole."""

    path: Path
    dataset: str
    module: int
    inside: Positions
    outside: Positions


def leaves_of(path: Path, file: Any, modules: Sequence[Module]) -> Iterator[Leaf | Finding]:
    """Yield where the frames of an open file lie: in itself, or by links or views elsewhere."""
    data = file.get(_DATA)
    links = [name for name in sorted(file["entry/data"]) if name.startswith("data_")]
    if links and data is None:
        yield from _linked(path, file, links)
    elif data is not None and data.is_virtual:
        yield from _viewed(path, data, modules)
    else:
        places = np.arange(file["entry/data/frame_number"].shape[0])
        yield Leaf(path=path, dataset=_DATA, module=0, inside=places, outside=places)


def _linked(path: Path, file: Any, names: Sequence[str]) -> Iterator[Leaf]:
    begin = 0
    for name in names:
        link = file["entry/data"].get(name, getlink=True)
        try:
            count = file["entry/data"][name].shape[0]
        except (KeyError, OSError):  # told by who looks at the links
            return
        yield Leaf(
            path=path.parent / link.filename,
            dataset=link.path,
            module=0,
            inside=np.arange(count),
            outside=np.arange(begin, begin + count),
        )
        begin += count


def _viewed(path: Path, data: Any, modules: Sequence[Module]) -> Iterator[Leaf | Finding]:
    """Yield the sources of a virtual dataset; the pixel where one begins tells the module."""
    corners: Mapping[tuple[int, ...], int] = {(0,) * (data.ndim - 1): 0}
    if modules:
        found = arrangement(modules, ())[1]
        corners = {corner: index or 0 for index, corner in found.items()}
    for source in data.virtual_sources():
        where = f"{data.name} from {source.file_name}"
        shape = _shape(path, source)
        if shape is None:  # told by who looks at the sources
            continue
        outside, inside = _Selection(source.vspace, data.shape), _Selection(source.src_space, shape)
        module = corners.get(outside.corner)
        is_whole = (
            inside.extent == shape[1:] == outside.extent[len(outside.extent) - len(shape) + 1 :]
        )
        if module is None or not is_whole or len(inside.positions) != len(outside.positions):
            yield Finding(path.name, where, "is not shown where it belongs", _REMADE)
            continue
        yield Leaf(
            path=path.parent / source.file_name,
            dataset=source.dset_name.strip("/"),
            module=module,
            inside=inside.positions,
            outside=outside.positions,
        )


def _shape(path: Path, source: Any) -> tuple[int, ...] | None:
    try:
        with h5py.File(path.parent / source.file_name, locking=False) as file:
            return tuple(file[source.dset_name].shape)
    except (KeyError, OSError):
        return None


class _Selection:
    """What a mapping takes: positions of the first axis, and where it begins in the others.

    ``extent``: how many elements of each other axis, 0 where some in between are left out.
    """

    def __init__(self, space: Any, shape: tuple[int, ...]) -> None:
        if space.get_select_type() == h5py.h5s.SEL_ALL:
            start, stride, count, block = (0,) * len(shape), shape, (1,) * len(shape), shape
        else:
            start, stride, count, block = space.get_regular_hyperslab()
        runs = start[0] + stride[0] * np.arange(count[0], dtype=np.int64)
        self.positions: Positions = (runs[:, None] + np.arange(block[0])).ravel()
        self.corner: tuple[int, ...] = tuple(start[1:])
        axes = zip(stride[1:], count[1:], block[1:], strict=True)
        self.extent = tuple(c * b if c == 1 or s == b else 0 for s, c, b in axes)
