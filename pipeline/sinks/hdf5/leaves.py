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
        outside, corner = _first_axis(source.vspace)
        inside, inner = _first_axis(source.src_space, _length(path, source, len(outside)))
        module = corners.get(corner)
        if module is None or any(inner) or len(inside) != len(outside):
            yield Finding(path.name, where, "is not shown where it belongs", _REMADE)
            continue
        yield Leaf(
            path=path.parent / source.file_name,
            dataset=source.dset_name.strip("/"),
            module=module,
            inside=inside,
            outside=outside,
        )


def _length(path: Path, source: Any, otherwise: int) -> int:
    try:
        with h5py.File(path.parent / source.file_name, locking=False) as file:
            return int(file[source.dset_name].shape[0])
    except (KeyError, OSError):  # told by who looks at the sources
        return otherwise


def _first_axis(space: Any, length: int | None = None) -> tuple[Positions, tuple[int, ...]]:
    """Return which positions a selection takes of the first axis, and where it begins in others.

    ``length`` of the axis where everything is selected: that of a source is not written down.
    """
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        shape = space.get_simple_extent_dims()
        return np.arange(shape[0] if length is None else length), (0,) * (len(shape) - 1)
    start, stride, count, block = space.get_regular_hyperslab()
    runs = start[0] + stride[0] * np.arange(count[0])
    positions = (runs[:, None] + np.arange(block[0])).ravel()
    return positions.astype(np.int64), tuple(start[1:])
