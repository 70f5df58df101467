"""Frames as chunks of an HDF5 dataset: which filter, and how pixels get through it.

A frame whose payload already is such a chunk is written as it came.  All others go through the
filter pipeline: on CPython 3.11 the ``bitshuffle`` package saves 0.1 ms of 0.5 ms for a frame of
1.2 MB, but has no wheels from 3.13 on (November 2026), see ``docs/sinks/hdf5.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt

from pipeline.codecs import bitshuffle, byte_view
from pipeline.reading.frame import sentinel

# By itself hdf5plugin leaves the filters to HDF5_PLUGIN_PATH where that is set, as it is for other
# programs on many machines: the libraries there may be made for another HDF5.
hdf5plugin.register(("bshuf", "lz4", "zstd"), force=True)
Compression = Literal["as-is", "bslz4", "none"]
#: Extents grow in blocks: a resize costs about 20 us.
_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkFormat:
    """The encoding of all chunks of a dataset and the HDF5 filter that decodes it.

    Filters and options as registered with The HDF Group; None for no filter.
    """

    encoding: str
    filter_id: int | None
    options: tuple[int, ...] = ()

    def encoded(self, pixels: npt.NDArray[Any]) -> memoryview | None:
        """Return the chunk that holds these pixels; None where it takes HDF5 to make it."""
        if self.filter_id is None:
            return byte_view(np.ascontiguousarray(pixels))
        if self.encoding == "bslz4":
            return bitshuffle.compress(pixels)
        return None


_FORMATS = {
    "raw": ChunkFormat(encoding="raw", filter_id=None),
    "bslz4": ChunkFormat(encoding="bslz4", filter_id=32008, options=(0, 2)),
    "bszstd": ChunkFormat(encoding="bszstd", filter_id=32008, options=(0, 3, 3)),
    "lz4": ChunkFormat(encoding="lz4", filter_id=32004),
    "gzip": ChunkFormat(encoding="gzip", filter_id=1, options=(4,)),
    "zstd": ChunkFormat(encoding="zstd", filter_id=32015, options=(3,)),
}

_BY_FILTER = {32008: "bslz4", 32004: "lz4", 32015: "zstd", 1: "gzip"}


def encoding_of(data: Any) -> str | None:
    """Return the encoding of the chunks as the codecs here know it; None for any other."""
    creation = data.id.get_create_plist()
    if not creation.get_nfilters():
        return "raw" if data.dtype.byteorder != ">" else None
    number, _, options, _ = creation.get_filter(0)
    if number == 32008:  # bitshuffle: block, 2 for LZ4, 3 for zstd, as last of what the user gave
        kind = options[4] if len(options) > 4 else 0
        return {2: "bslz4", 3: "bszstd"}.get(int(kind))
    if creation.get_nfilters() > 1 or np.dtype(data.dtype).byteorder == ">":
        return None
    return _BY_FILTER.get(number)


def format_of(encoding: str) -> ChunkFormat:
    """Return the format of a dataset whose chunks have this encoding."""
    return _FORMATS[encoding]


def choose_format(compression: Compression, encoding: str) -> ChunkFormat:
    """Return the format of a dataset whose first frame arrives in ``encoding``.

    ``as-is`` keeps an encoding that HDF5 knows; image files (CBF, TIFF) become bslz4.
    """
    if compression == "none":
        return _FORMATS["raw"]
    if compression == "as-is":
        return _FORMATS.get(encoding, _FORMATS["bslz4"])
    return _FORMATS["bslz4"]


class ChunkWriter:
    """The image dataset: one chunk a frame, written whole."""

    def __init__(self, dataset: Any, chunk_format: ChunkFormat) -> None:
        self.dataset = dataset
        self.chunk_format = chunk_format
        self.shape: tuple[int, ...] = dataset.shape[1:]
        self.dtype = dataset.dtype
        self._reached: int = dataset.shape[0]
        self._capacity: int = dataset.maxshape[0]
        self._origin = (0,) * len(self.shape)
        self._frame_space = h5py.h5s.create_simple((1, *self.shape))

    @classmethod
    def create(
        cls,
        group: Any,
        *,
        shape: tuple[int, ...],
        dtype: str,
        capacity: int,
        chunk_format: ChunkFormat,
    ) -> ChunkWriter:
        """Make the dataset ``data``, empty, for up to ``capacity`` frames."""
        options: dict[str, Any] = {}
        if chunk_format.filter_id is not None:
            options["compression"] = chunk_format.filter_id
            options["compression_opts"] = chunk_format.options
            if chunk_format.filter_id == 1:
                options |= {"compression": "gzip", "compression_opts": chunk_format.options[0]}
        dataset = group.create_dataset(
            "data",
            shape=(0, *shape),
            maxshape=(capacity, *shape),
            chunks=(1, *shape),
            dtype=np.dtype(dtype),
            fillvalue=sentinel(dtype),
            **options,
        )
        return cls(dataset, chunk_format)

    def write_chunk(self, position: int, chunk: bytes | memoryview) -> None:
        """Write a chunk in the dataset's encoding; the library does not look into it.

        ``chunk`` must be contiguous: h5py 3.16 stores strided memory wrongly.
        """
        self._reach(position)
        self.dataset.id.write_direct_chunk((position, *self._origin), chunk)

    def write_pixels(self, position: int, pixels: npt.NDArray[Any]) -> None:
        """Write pixels through the dataset's filter."""
        self._reach(position)
        # the low-level call: selecting by index costs 60 us more
        space = self.dataset.id.get_space()
        space.select_hyperslab((position, *self._origin), (1, *self.shape))
        self.dataset.id.write(self._frame_space, space, np.ascontiguousarray(pixels, self.dtype))

    def read_chunk(self, position: int) -> bytes:
        """Return the bytes of a chunk that was written."""
        chunk: bytes = self.dataset.id.read_direct_chunk((position, *self._origin))[1]
        return chunk

    def places(self, count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return per position where in the file its chunk begins, and its size; 0 for none."""
        addresses, sizes = np.zeros(count, np.uint64), np.zeros(count, np.uint64)

        def note(chunk: Any) -> None:
            position = chunk.chunk_offset[0]
            addresses[position], sizes[position] = chunk.byte_offset, chunk.size

        self.dataset.id.chunk_iter(note)
        return addresses, sizes

    def resize(self, count: int) -> None:
        """Set the number of frames."""
        self.dataset.resize(count, axis=0)
        self._reached = count

    def _reach(self, position: int) -> None:
        if position >= self._reached:
            self.resize(min(self._capacity, -(-(position + 1) // _BLOCK) * _BLOCK))
