"""What readers refuse of an HDF5 file of a detector, and chunks that cannot be decoded.

The rules are those of the readers named in ``docs/sinks/check.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the filters
import numpy as np

from pipeline import codecs
from pipeline.errors import DecodeError
from pipeline.sinks.hdf5.attributes import wrong_attributes
from pipeline.sinks.hdf5.chunks import encoding_of
from pipeline.sinks.hdf5.findings import MOST_NAMED, Finding

Progress = Callable[[int, int], object]
_DATA = "entry/data"
_DETECTOR = "entry/instrument/detector"
#: Of HDF5 that the 1.10 tools read.
_NEWEST_SUPERBLOCK = 3
#: Chunks between two signs of life.
_STEP = 16


def findings_of(path: Path, progress: Progress, seen: set[Path] | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a file and those it refers to, each once (``seen``).

    :func:`.checking.check_file` does this where a crash does no harm.
    """
    seen = set() if seen is None else seen
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    with path.open("rb") as raw:
        head = raw.read(9)
    if head[:8] != b"\x89HDF\r\n\x1a\n":
        yield Finding(path.name, "/", "is no HDF5 file", "take it from the stream again")
        return
    if head[8] > _NEWEST_SUPERBLOCK:
        what = f"superblock version {head[8]}: HDF5 1.10 cannot open it"
        yield Finding(path.name, "/", what, "write it with libver v110")
    with h5py.File(path, locking=False) as file:
        group = file.get(_DATA)
        if not isinstance(group, h5py.Group):
            yield Finding(path.name, _DATA, "is not there", "is it a file of a detector?")
            return
        yield from wrong_attributes(path, file)
        yield from _mask(path, file)
        yield from _account(path, file)
        names = [name for name in group if name.startswith("data")]
        if not names and f"{_DETECTOR}/frame_valid" not in file:
            yield Finding(path.name, _DATA, "holds no images", "is it a file of a detector?")
        if "data" in names and len(names) > 1:
            what = f"{names[1]} beside data: some readers take the frames twice"
            yield Finding(path.name, _DATA, what, "remove one kind")
        for name in names:
            yield from _named(path, file, name, progress, seen)
        yield from _lengths(path, group, sorted(name for name in names if name != "data"))


def _named(
    path: Path, file: Any, name: str, progress: Progress, seen: set[Path]
) -> Iterator[Finding]:
    """Look at one dataset of images, or at the file that a link leads to."""
    where = f"{_DATA}/{name}"
    link = file[_DATA].get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        part = path.parent / link.filename
        if not part.is_file():
            what = f"the link leads nowhere ({link.filename})"
            yield Finding(path.name, where, what, "put that file beside this one")
            return
        yield from findings_of(part, progress, seen)
    try:
        data = file[where]
    except (KeyError, OSError):
        yield Finding(path.name, where, "the link leads nowhere", "take it from the stream again")
        return
    if not isinstance(link, h5py.ExternalLink) and isinstance(data, h5py.Dataset):
        yield from _images(path, data, progress, seen)


def _lengths(path: Path, group: Any, names: list[str]) -> Iterator[Finding]:
    """Look whether all data files but the last are as long as the first."""
    lengths = []
    for name in names:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink) and not (path.parent / link.filename).is_file():
            return  # told already; to open a pipe would wait for ever
        try:
            lengths.append(len(group[name]))
        except (KeyError, OSError, TypeError):  # told already, too
            return
    for name, length in list(zip(names, lengths, strict=True))[1:]:
        if length > lengths[0] or (length < lengths[0] and name != names[-1]):
            what = f"{length} images, {names[0]} has {lengths[0]}: XDS with DECTRIS' plugin counts"
            todo = "take it from the stream again, or Diamond's plugin"
            yield Finding(path.name, f"{_DATA}/{name}", f"{what} wrong", todo)
            return


def _mask(path: Path, file: Any) -> Iterator[Finding]:
    mask = file.get(f"{_DETECTOR}/detectorSpecific/pixel_mask")
    if mask is not None and mask.chunks is not None:
        what = "is chunked: XDS' plugins cannot read it"
        yield Finding(path.name, mask.name, what, "write it contiguous")


def _account(path: Path, file: Any) -> Iterator[Finding]:
    """Compare the rows with what the file says was written."""
    valid = file.get(f"{_DETECTOR}/frame_valid")
    written = file.get("entry/provenance/frames_written")
    data = file[_DATA].get("data")
    if valid is None:
        return
    count = int((valid[...] == 1).sum())
    if written is not None and count != int(written[()]):
        what = f"{count} frames are marked valid, {int(written[()])} were written"
        yield Finding(path.name, valid.name, what, "take it from the stream again")
    if isinstance(data, h5py.Dataset) and data.shape[0] != valid.shape[0]:
        what = f"{data.shape[0]} frames, but {valid.shape[0]} rows that describe them"
        yield Finding(path.name, data.name, what, "take it from the stream again")


def _images(path: Path, data: Any, progress: Progress, seen: set[Path]) -> Iterator[Finding]:
    if data.is_virtual:
        yield from _sources(path, data, progress, seen)
        return
    yield from _form(path, data)
    if data.chunks is not None:
        yield from _chunks(path, data, progress)


def _form(path: Path, data: Any) -> Iterator[Finding]:
    """Yield how the dataset differs from what all readers take."""

    def found(what: str) -> Finding:
        return Finding(path.name, data.name, what, "write it with lichtstrom sink hdf5")

    if data.chunks is None:
        yield found("is not chunked: it cannot be read frame by frame")
        return
    if data.chunks != (1, *data.shape[1:]):
        yield found(f"chunks of {data.chunks}, not of one frame: XDS' plugins refuse them")
    if data.maxshape[0] is None:
        yield found("has no greatest length: DECTRIS' XDS plugin aborts")
    filters = data.id.get_create_plist().get_nfilters()
    if filters > 1:
        yield found(f"{filters} filters: XDS' plugins take one")
    there = data.id.get_num_chunks()
    if data.chunks == (1, *data.shape[1:]) and there < data.shape[0]:
        yield found(f"{data.shape[0] - there} of {data.shape[0]} chunks are not there")


def _sources(path: Path, data: Any, progress: Progress, seen: set[Path]) -> Iterator[Finding]:
    """Look at every file behind a virtual dataset, and whether it is as long as it must be."""
    for source in data.virtual_sources():
        if source.file_name == ".":  # in this file
            continue
        where, part = f"{data.name} from {source.file_name}", path.parent / source.file_name
        if not part.is_file():
            what = "the file is not there: its frames read as missing"
            yield Finding(path.name, where, what, "put it beside this one")
            continue
        yield from findings_of(part, progress, seen)
        try:
            with h5py.File(part, locking=False) as file:
                shape = file[source.dset_name].shape
        except (KeyError, OSError):
            shape = (0,)
        length, needed = shape[0], _needed(source, shape)
        if length < needed:
            what = f"has {length} frames, {needed} are needed: reading fails"
            yield Finding(path.name, where, what, "take it from the stream again")


def _needed(source: Any, shape: tuple[int, ...]) -> int:
    """Return how many frames a mapping takes from its source."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return int(source.vspace.get_select_npoints() // max(1, np.prod(shape[1:], dtype=int)))
    return int(source.src_space.get_select_bounds()[1][0]) + 1


def _chunks(path: Path, data: Any, progress: Progress) -> Iterator[Finding]:
    """Decode every chunk: framing first, by which a wrong one would crash the library."""
    encoding = encoding_of(data)
    shape, dtype = data.shape[1:], data.dtype.name
    origin = (0,) * len(shape)
    bad = 0
    for position in range(data.shape[0]):
        if position % _STEP == 0:
            progress(position, data.shape[0])
        try:
            if encoding is None:
                data[position]
            else:
                _, payload = data.id.read_direct_chunk((position, *origin))
                codecs.decode(payload, encoding=encoding, shape=shape, dtype=dtype)
        except (DecodeError, OSError, RuntimeError, ValueError) as error:
            bad += 1
            if bad <= MOST_NAMED:
                what = f"the frame cannot be decoded ({error})"
                where = f"{data.name}[{position}]"
                yield Finding(path.name, where, what, "take it from the stream again")
    if bad > MOST_NAMED:
        what = f"{bad - MOST_NAMED} more frames cannot be decoded"
        yield Finding(path.name, data.name, what, "take it from the stream again")
