"""The file that users open where a stream lies in several: the layout, and a view of the parts.

One strided mapping per part, made from what is there; nothing is copied but the columns.  It can be
made again at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import SinkError
from pipeline.frame import Module
from pipeline.nexus.nxmx import INCOMPLETE
from pipeline.reading.frame import canvas, sentinel
from pipeline.records import StreamInfo
from pipeline.sinks.hdf5.chunks import format_of
from pipeline.sinks.hdf5.files import Options, master_path, shares_of
from pipeline.sinks.hdf5.finished import Finished, columns_of
from pipeline.sinks.hdf5.journal import Journal
from pipeline.sinks.hdf5.layout import write_layout
from pipeline.sinks.hdf5.nodes import begin_specific, group
from pipeline.sinks.hdf5.provenance import write_provenance
from pipeline.sinks.hdf5.rows import Rows
from pipeline.sinks.hdf5.share import Share
from pipeline.sinks.hdf5.sink import WHOLE, stem
from pipeline.sinks.hdf5.table import Layout, new_file
from pipeline.sinks.hdf5.target import Target, sink_errors

_DATA = "entry/data/data"
_DETECTOR = "entry/instrument/detector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A finished file with a share of the frames."""

    share: Share
    path: Path
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    columns: Mapping[str, npt.NDArray[Any]]

    @property
    def count(self) -> int:
        """How many positions it has."""
        return len(self.columns["valid"])


def write_master(
    directory: Path,
    info: StreamInfo,
    options: Options,
    account: Mapping[str, Any],
    *,
    span: tuple[int, int],
    invalid: Sequence[int],
) -> str:
    """Write the master file of a stream whose parts are all there; returns its path.

    Raises SinkError if a part is not there or not as long as it must be.
    """
    target = Target(
        directory, master_path(directory, info, options).name, overwrite=options.overwrite
    )
    target.acquire()
    try:
        with sink_errors(target.final):
            parts = [
                _part(directory, info, share, span) for share in shares_of(info, options, span)
            ]
            file = new_file(target.rewritten)
            try:
                _write(
                    file,
                    info,
                    parts,
                    account,
                    span,
                    invalid,
                    target.final.name,
                    options,
                )
            finally:
                file.close()
            target.rewritten.replace(target.part)
        target.publish()
    finally:
        target.discard()
    for part in parts:
        _journal(part.path).unlink(missing_ok=True)
    return str(target.final)


def _part(directory: Path, info: StreamInfo, share: Share, span: tuple[int, int]) -> Part:
    path = directory / f"{stem(info.start)}{share.suffix}.h5"
    places = share.within(*span)
    assert places is not None
    with h5py.File(path, locking=False) as file:
        said = file["entry/provenance"].attrs
        part = Part(
            share=share,
            path=path,
            shape=tuple(said["frame_shape"].tolist()),
            dtype=said["frame_dtype"].decode(),
            encoding=said["encoding"].decode(),
            columns=Rows(file, base=int(said["first_place"]), share=share).saved(),
        )
        extent = file[_DATA].shape[0] if _DATA in file else part.count
    first = int(part.columns["number"][0]) if part.count else -1
    wanted = places[1] - places[0] + 1
    if (part.count, extent) != (wanted, wanted) or share.place(first) != places[0]:
        raise SinkError(
            f"{path} holds {part.count} positions from frame {first} on, not {wanted}: delete it"
            " and run the sink again"
        )
    return part


def _write(
    file: Any,
    info: StreamInfo,
    parts: Sequence[Part],
    account: Mapping[str, Any],
    span: tuple[int, int],
    invalid: Sequence[int],
    name: str,
    options: Options,
) -> None:
    first, count = span[0], span[1] - span[0] + 1
    for node, kind in (("entry", "NXentry"), ("entry/data", "NXdata"), (_DETECTOR, "NXdetector")):
        group(file, node, kind)
    group(file, "entry/instrument", "NXinstrument")
    group(file, "entry/provenance", "NXcollection")
    begin_specific(file)
    rows = Rows.create(file, base=first, capacity=count, share=WHOLE)
    rows.reach(count)
    rows.restore(_merged(file, rows, parts, info))
    rows.trim()
    if options.layout == "dectris":
        layout, mask = _links(file, parts), None
    else:
        layout, mask = _view(file, info, parts, first, count)
    columns, lowest = columns_of(file, _said(parts), base=first, count=count)
    done = Finished(file=file, base=first, layout=layout, rows=rows, columns=columns, first=lowest)
    facts = done.facts(info)
    if options.pixel_mask is not None:
        mask = options.pixel_mask
    elif mask is None:
        mask = done.mask(facts)
    write_layout(done, facts, name, mask=mask, kind=options.layout, extras=options.extras)
    write_provenance(done, facts, account, invalid)
    file.flush()


def _said(parts: Sequence[Part]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield what the frames say; of several modules the lowest one has the last word."""
    for part in sorted(parts, key=lambda part: -(part.share.module or 0)):
        if _journal(part.path).exists():
            journal = Journal(_journal(part.path))
            journal.close()
            yield from journal


def _journal(path: Path) -> Path:
    return Target(path.parent, path.name, overwrite=False).journal


def _merged(
    file: Any, rows: Rows, parts: Sequence[Part], info: StreamInfo
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of all parts at the positions of the whole."""
    merged = {name: column.copy() for name, column in rows.saved().items()}
    positions = [part.columns["number"] - rows.base for part in parts]
    if not info.start.modules:
        for part, places in zip(parts, positions, strict=True):
            for name, column in merged.items():
                column[places] = part.columns[name]
        return merged
    indices = list(info.start.module_indices)
    present = np.zeros((len(rows), len(indices)), np.uint8)
    for part, places in zip(reversed(parts), reversed(positions), strict=True):
        valid = part.columns["valid"] == 1
        present[places, indices.index(part.share.module or 0)] = valid
        for name in ("timestamp", "sequence", "partition", "offset"):
            merged[name][places[valid]] = part.columns[name][valid]
        merged["nbytes"][places] += part.columns["nbytes"]
        merged["status"][places] |= part.columns["status"]
    whole, some = present.all(axis=1), present.any(axis=1)
    merged["valid"][:] = whole
    merged["status"][some & ~whole] |= INCOMPLETE
    file.create_dataset(f"{_DETECTOR}/module_valid", data=present)
    return merged


def _links(file: Any, parts: Sequence[Part]) -> Layout:
    """Link to the data files, as DECTRIS' file writer does; returns the layout of the images."""
    example = parts[0]
    if example.encoding == "none":
        return Layout(shape=(), dtype=example.dtype, images=None)
    for index, part in enumerate(parts, 1):
        file["entry/data"][f"data_{index:06d}"] = h5py.ExternalLink(part.path.name, _DATA)
    images = format_of(example.encoding)
    return Layout(shape=example.shape, dtype=example.dtype, images=images)


def _view(
    file: Any, info: StreamInfo, parts: Sequence[Part], first: int, count: int
) -> tuple[Layout, npt.NDArray[np.uint32] | None]:
    """Make the virtual dataset of all images, if there are any.

    Returns its layout, and the mask of the gaps between modules.
    """
    example = parts[0]
    modules = info.start.modules
    if example.encoding == "none":
        return Layout(shape=(), dtype=example.dtype, images=None), None
    shape, corners = arrangement(modules, example.shape)
    mask = _gaps(shape, parts, corners) if len(shape) == 2 and modules else None
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dtype = np.dtype(example.dtype)
    creation.set_fill_value(np.array(sentinel(example.dtype), dtype))
    for part in parts:
        if part.dtype != example.dtype or (not modules and part.shape != example.shape):
            raise SinkError(f"{part.path}: {part.shape} {part.dtype}, others differ")
        corner = corners[part.share.module] if modules else (0,) * len(shape)
        for piece in _pieces(part, first):
            _map(creation, (count, *shape), part, piece, corner)
    space = h5py.h5s.create_simple((count, *shape))
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file["entry/data"].id, b"data", kind, space, creation)
    layout = Layout(shape=shape, dtype=example.dtype, images=format_of(example.encoding))
    return layout, mask


def arrangement(
    modules: Sequence[Module], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[int | None, tuple[int, ...]]]:
    """Return the shape of a frame, and where in it the first pixel of each module is.

    Modules that are turned cannot be mapped into one image; they lie one behind the other.
    """
    if not modules:
        return shape, {}
    if any(module.rotation_deg for module in modules):
        sizes = [module.shape for module in modules]
        largest = tuple(np.max(sizes, axis=0).tolist())
        return (len(modules), *largest), {m.index: (i, 0, 0) for i, m in enumerate(modules)}
    whole, corners = canvas(tuple(modules))
    return whole, dict(corners.items())


def _gaps(
    shape: tuple[int, ...], parts: Sequence[Part], corners: Mapping[int | None, tuple[int, ...]]
) -> npt.NDArray[np.uint32]:
    """Return the pixel mask of a tiled detector: bit 0 where no module is."""
    mask = np.ones(shape, np.uint32)
    for part in parts:
        row, column = corners[part.share.module]
        height, width = part.shape
        mask[row : row + height, column : column + width] = 0
    return mask


@dataclass(frozen=True, slots=True)
class _Piece:
    """``runs`` of ``length`` frames, one behind the other in a part, ``stride`` apart outside."""

    source: int
    target: int
    runs: int
    length: int
    stride: int


def _pieces(part: Part, first: int) -> Iterator[_Piece]:
    """Yield a part's runs: one of equal ones, and at its ends those that are cut."""
    share, count = part.share, part.count
    if share.partitions == 1:
        yield _Piece(0, int(part.columns["number"][0]) - first, 1, count, count)
        return
    base = share.place(int(part.columns["number"][0]))
    at = 0
    while at < count:
        begin = (base + at) % share.chunk
        length = min(share.chunk - begin, count - at)
        runs = 1 if length < share.chunk else (count - at) // share.chunk
        target = int(part.columns["number"][at]) - first
        yield _Piece(at, target, runs, length, share.chunk * share.partitions)
        at += runs * length


def _map(
    creation: Any, shape: tuple[int, ...], part: Part, piece: _Piece, corner: tuple[int, ...]
) -> None:
    """Let positions of the whole be those of a piece of a part."""
    extra = (1,) * (len(shape) - 1 - len(part.shape))  # the axis of modules
    ones = (1,) * (len(shape) - 1)
    outside = h5py.h5s.create_simple(shape)
    outside.select_hyperslab(
        (piece.target, *corner),
        (piece.runs, *ones),
        (max(piece.stride, piece.length), *ones),
        (piece.length, *extra, *part.shape),
    )
    inside = h5py.h5s.create_simple((part.count, *part.shape))
    inside.select_hyperslab(
        (piece.source, *((0,) * len(part.shape))), (piece.runs * piece.length, *part.shape)
    )
    creation.set_virtual(outside, part.path.name.encode(), _DATA.encode(), inside)
