"""Images of HDF5 data sets that are no ranges of bytes: several in a chunk, tiles, big-endian."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline import codecs
from pipeline.detectors.h5index import encoding_of
from pipeline.errors import InvalidFrameError

if TYPE_CHECKING:
    import h5py

#: Pixels of the images that share a row of chunks, in memory at once.
MAX_NBYTES = 2 << 30


def decoded_images(dataset: h5py.Dataset) -> Iterator[npt.NDArray[Any]]:
    """Yield the images along the first axis.

    Filters that we know are undone by our decoders, which take any bytes.  HDF5's plugins, some of
    which crash on damaged bytes, are for the rest: other filters, and virtual data sets.
    """
    encoding = None if dataset.is_virtual else encoding_of(dataset)
    if encoding and dataset.chunks:
        yield from _by_chunks(dataset, encoding)
        return
    if encoding is None:
        import hdf5plugin  # noqa: F401 -- HDF5 finds its filters
    for position in range(dataset.shape[0]):
        yield dataset[position]


def _by_chunks(dataset: h5py.Dataset, encoding: str) -> Iterator[npt.NDArray[Any]]:
    depth, *tile = dataset.chunks
    count, *extent = dataset.shape
    if depth * int(np.prod(extent)) * dataset.dtype.itemsize > MAX_NBYTES:
        raise InvalidFrameError("shape", f"{dataset.name}: chunks of {depth} images are too many")
    for first in range(0, count, depth):
        stack = np.full((depth, *extent), dataset.fillvalue, dataset.dtype)
        corners = itertools.product(*(range(0, n, t) for n, t in zip(extent, tile, strict=True)))
        for corner in corners:
            chunk = _chunk(dataset, (first, *corner), encoding)
            if chunk is not None:
                place = tuple(slice(c, c + t) for c, t in zip(corner, tile, strict=True))
                target = stack[(slice(None), *place)]
                target[...] = chunk[tuple(slice(n) for n in target.shape)]
        yield from stack[: count - first]


def _chunk(
    dataset: h5py.Dataset, corner: tuple[int, ...], encoding: str
) -> npt.NDArray[Any] | None:
    """Return the pixels of a chunk; None for one that was never written."""
    if dataset.id.get_chunk_info_by_coord(corner).byte_offset is None:
        return None
    mask, payload = dataset.id.read_direct_chunk(corner)
    pixels = codecs.decode(
        memoryview(payload),
        encoding="raw" if mask & 1 else encoding,
        shape=tuple(dataset.chunks),
        dtype=dataset.dtype.newbyteorder("<").name,
    )
    # big-endian numbers went through as bytes
    found: npt.NDArray[Any] = pixels.view(dataset.dtype)
    return found
