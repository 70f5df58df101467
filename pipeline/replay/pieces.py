"""Where the images of an HDF5 data set lie, through links and virtual datasets to other files.

A master file names its data files; they must lie in its directory or below: a file from elsewhere
does not get to say what else of this machine is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.detectors import h5index
from pipeline.errors import InvalidFrameError

if TYPE_CHECKING:
    import h5py

#: Groups where images are looked for first, in this order.
_PLACES = ("entry/data", "entry/instrument/detector")
_MAX_OBJECTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Images that lie in one file, by position in the whole stack.

    Parameters
    ----------
    first, step:
        Image ``i`` of the index is at position ``first + i * step``.
    skip, count, stride:
        Of the index's images, those used: ``count`` from ``skip`` on, every ``stride``-th.
    """

    path: Path
    index: h5index.ImageIndex
    first: int
    step: int = 1
    skip: int = 0
    stride: int = 1
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A data set whose images are no ranges of bytes: read by HDF5, published raw."""

    path: Path
    dataset: str
    shape: tuple[int, ...]
    dtype: str
    why: str


Stack = Sequence[Piece] | Decoded


def find_stack(path: Path, dataset: str = "") -> Stack:
    """Return where the images of a file (or of a master file) lie.

    Parameters
    ----------
    dataset:
        The data set; "": ``/entry/data``, then ``/entry/instrument/detector``, then the largest
        data set of three axes in the file.

    Raises
    ------
    InvalidFrameError
        There are none, a file is damaged or not there, or lies elsewhere.
    """
    with h5index.opened(path) as file:
        if dataset:
            return _resolve(path, file, [dataset.strip("/")])
        for place in _PLACES:
            names = _image_names(file, place)
            if names:
                return _resolve(path, file, names)
        largest = _largest(file)
        if largest is None:
            raise InvalidFrameError("file", f"{path}: no data set of images (three axes) in it")
        return _resolve(path, file, [largest])


def _image_names(file: h5py.File, place: str) -> list[str]:
    """Return the data sets of images in a group: ``data``, or all that are numbered."""
    import h5py

    group = h5index.find(file, place)
    if not isinstance(group, h5py.Group):
        return []
    named = [name for name in group if isinstance(name, str)][:_MAX_OBJECTS]
    if "data" in named and _ndim(file, f"{place}/data") in (3, 4, None):
        return [f"{place}/data"]
    return sorted(f"{place}/{name}" for name in named if name.startswith("data_"))


def _ndim(file: h5py.File, name: str) -> int | None:
    """Return the number of axes of a data set, None where a link leaves the file."""
    import h5py

    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        return None
    found = file.get(name)
    return found.ndim if isinstance(found, h5py.Dataset) else -1


def _largest(file: h5py.File) -> str | None:
    """Return the data set of three axes with the most pixels."""
    import h5py

    found: list[tuple[int, str]] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "iuf":
            found.append((item.size, name))

    file.visititems(look)
    return max(found)[1] if found else None


def _resolve(path: Path, file: h5py.File, names: Sequence[str]) -> Stack:
    pieces: list[Piece] = []
    position = 0
    for name in names:
        found = _dataset(path, file, name)
        if isinstance(found, Decoded):
            if len(names) > 1:
                raise InvalidFrameError("file", f"{path}: {name}: {found.why}")
            return found
        stack = list(found)
        pieces += [_moved(piece, position) for piece in stack]
        position = max((_end(piece) for piece in pieces), default=position)
    return pieces


def _moved(piece: Piece, by: int) -> Piece:
    from dataclasses import replace

    return replace(piece, first=piece.first + by)


def _end(piece: Piece) -> int:
    return piece.first + max(0, piece.count - 1) * piece.step + 1


def _dataset(path: Path, file: h5py.File, name: str) -> Stack:
    """Return the images of one data set, or of what its name leads to."""
    import h5py

    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        other = _beside(path, link.filename)
        with h5index.opened(other) as inner:
            return _dataset(other, inner, str(link.path))
    if isinstance(link, h5py.SoftLink):
        return _dataset(path, file, str(link.path))
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise InvalidFrameError("file", f"{path}: there is no data set {name}")
    if found.file.filename != file.filename:  # through a group that lies in another file
        raise InvalidFrameError("file", f"{path}: {name} leads to {found.file.filename}")
    try:
        if found.is_virtual:
            return _virtual(path, found)
        index = h5index.index_images(found)
    except InvalidFrameError as error:
        return _decoded(path, found, str(error))
    return [Piece(path=path, index=index, first=0, count=index.count)]


def _decoded(path: Path, dataset: h5py.Dataset, why: str) -> Decoded:
    nbytes = int(np.prod(dataset.shape[1:], dtype=object)) * dataset.dtype.itemsize
    absurd = nbytes > h5index.MAX_IMAGE_NBYTES or dataset.shape[0] > h5index.MAX_IMAGES
    if dataset.ndim != 3 or dataset.dtype.kind not in "iuf" or absurd:
        raise InvalidFrameError("file", f"{path}: {dataset.name} {dataset.shape}: {why}")
    _check_sources(path, dataset)
    return Decoded(
        path=path,
        dataset=str(dataset.name),
        shape=tuple(dataset.shape),
        dtype=dataset.dtype.newbyteorder("<").name,
        why=why,
    )


def _check_sources(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse a data set whose pixels HDF5 would read from elsewhere."""
    if dataset.external:
        raise InvalidFrameError("file", f"{path}: {dataset.name} lies in files that are not HDF5")
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        other = path if source.file_name == "." else _beside(path, source.file_name)
        with h5index.opened(other) as inner:
            if h5index.find(inner, source.dset_name) is None:
                raise InvalidFrameError("file", f"{other}: there is no {source.dset_name} in it")


def _virtual(path: Path, dataset: h5py.Dataset) -> list[Piece]:
    """Return the sources of a virtual data set; whole images along the first axis."""
    pieces = []
    for source in dataset.virtual_sources():
        first, step, count = _along_first(source.vspace, dataset.shape)
        other = path if source.file_name == "." else _beside(path, source.file_name)
        with h5index.opened(other) as inner:
            images = h5index.find(inner, source.dset_name)
            if images is None or not hasattr(images, "chunks"):
                raise InvalidFrameError("file", f"{other}: there is no {source.dset_name}")
            index = h5index.index_images(images)
            skip, stride, many = _along_first(source.src_space, images.shape)
        count = min(count, many)
        pieces.append(
            Piece(
                path=other,
                index=index,
                first=first,
                step=step,
                skip=skip,
                stride=stride,
                count=count,
            )
        )
    return sorted(pieces, key=lambda piece: piece.first)


def _along_first(space: Any, extent: tuple[int, ...]) -> tuple[int, int, int]:
    """Return start, step and count of a selection of whole images.

    ``extent``: of the data set; where all of it is selected, the file does not keep it.
    """
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return 0, 1, int(extent[0])
    if not space.is_regular_hyperslab():
        raise InvalidFrameError("file", "a virtual data set whose images lie in no even steps")
    start, stride, count, block = space.get_regular_hyperslab()
    whole = all(
        s == 0 and c * b == n and (c == 1 or st == b)
        for s, st, c, b, n in zip(
            start[1:], stride[1:], count[1:], block[1:], extent[1:], strict=True
        )
    )
    if not whole or (block[0] != 1 and count[0] != 1):
        raise InvalidFrameError("file", "a virtual data set whose images are put together of parts")
    if count[0] == 1:
        return int(start[0]), 1, min(int(block[0]), int(extent[0]))
    return int(start[0]), int(stride[0]), min(int(count[0]), int(extent[0]))


def _beside(master: Path, name: str) -> Path:
    """Return the path of a file that a master names; it must lie beside it or below."""
    folder = master.parent.resolve()
    other = (folder / name).resolve()
    if not other.is_relative_to(folder):
        raise InvalidFrameError(
            "file", f"{master} refers to {name}, outside its directory: copy both into one"
        )
    if not other.is_file():
        raise InvalidFrameError("file", f"{master} refers to {name}, which is not there")
    return other


def length_of(stack: Stack) -> int:
    """Return how many positions a stack has."""
    if isinstance(stack, Decoded):
        return stack.shape[0]
    return max((_end(piece) for piece in stack), default=0)


def positions(piece: Piece) -> Iterator[tuple[int, h5index.ImageRange]]:
    """Yield position and place of each image of a piece; of those that were never written none."""
    wanted = {piece.skip + i * piece.stride: i for i in range(piece.count)}
    for image in piece.index.images:
        at = wanted.get(image.index)
        if at is not None:
            yield piece.first + at * piece.step, image
