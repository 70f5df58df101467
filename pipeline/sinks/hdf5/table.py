"""The HDF5 file while it is written: frames and their columns at position = number - base.

HDF5 cannot insert rows in front, nor raise a limit.  When a lower number or too many frames come,
the table is copied chunk by chunk, as bytes, to a new file with another base or capacity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.protocols import FrameLike
from pipeline.sinks.hdf5.chunks import ChunkFormat, ChunkWriter, sentinel
from pipeline.sinks.hdf5.columns import Columns

#: Bits of ``frame_status``.
LATE_DUPLICATE, INVALID_PAYLOAD, NO_BLOB, INCOMPLETE = 1, 2, 4, 8
#: Chunk cache of a dataset in bytes: two chunks of a column; image chunks bypass it.
_CACHE = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What all frames of the file have in common; ``images`` is None for frames without pixels."""

    shape: tuple[int, ...]
    dtype: str
    images: ChunkFormat | None


class FrameTable:
    """One open HDF5 file with the frames from number ``base`` on."""

    def __init__(self, path: Path, *, base: int, capacity: int, layout: Layout) -> None:
        self.base = base
        self.capacity = capacity
        self.layout = layout
        #: Per position: is there a frame, and the bits of its status.
        self.valid = bytearray()
        self.status = bytearray()
        # v110: 'latest' of HDF5 2.0 cannot be read by the 1.10 tools.  No lock of HDF5's own: the
        # sink holds one, and theirs fails on some network file systems.
        self.file = h5py.File(path, "w", libver=("v110", "v110"), rdcc_nbytes=_CACHE, locking=False)
        with self._closed_on_error():
            detector = self.file.create_group("entry/instrument/detector")
            self.columns = Columns(detector, capacity=capacity)
            data = self.file.create_group("entry/data")
            self.images = _images(data, layout, capacity)

    def put(
        self,
        frame: FrameLike,
        pixels: npt.NDArray[Any] | None,
        problem: int = 0,
    ) -> None:
        """Write one frame, or with ``problem`` only what its header says and the status bit."""
        position = frame.number - self.base
        self.reach(position + 1)
        if self.images is not None and pixels is not None and not problem:
            self.images.write(position, frame, pixels)
        attributes = frame.attributes
        if self.images is None and pixels is not None:  # a value rather than an image
            attributes = {"value": pixels.item(), **attributes}
        self.columns.add(position, 0 if problem else frame.timestamp_ns, attributes)
        self.valid[position] = not problem
        self.status[position] = problem

    def reach(self, count: int) -> None:
        """Have at least ``count`` positions."""
        missing = count - len(self.valid)
        if missing > 0:
            self.valid.extend(bytes(missing))
            self.status.extend(bytes(missing))

    def moved(self, path: Path, *, base: int, capacity: int) -> FrameTable:
        """Return a copy of this table in a new file; this one is closed."""
        other = FrameTable(path, base=base, capacity=capacity, layout=self.layout)
        with other._closed_on_error():
            self._copy_to(other, self.base - base)
            self.close()
        return other

    def fill(self, count: int) -> None:
        """Give the table exactly ``count`` positions, each missing frame a chunk of its own.

        Chunks that are not allocated abort some readers.
        """
        self.reach(count)
        self.columns.resize(count)
        if self.images is None:
            return
        chunk = None
        for position in range(count):
            if self.valid[position]:
                continue
            if chunk is None:  # compressed once
                layout = self.layout
                blank = np.full(layout.shape, sentinel(layout.dtype), layout.dtype)
                self.images.write_pixels(position, blank)
                chunk = self.images.read_chunk(position)
            else:
                self.images.write_chunk(position, chunk)
        self.images.resize(count)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self.file:
            self.file.close()

    def _copy_to(self, other: FrameTable, shift: int) -> None:
        first = max(0, -shift)
        other.reach(len(self.valid) + shift)
        for position in range(first, len(self.valid)):
            other.valid[position + shift] = self.valid[position]
            other.status[position + shift] = self.status[position]
            if self.valid[position] and self.images is not None and other.images is not None:
                other.images.write_chunk(position + shift, self.images.read_chunk(position))
        self.columns.copy_to(other.columns, count=len(self.valid), shift=shift)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _images(group: Any, layout: Layout, capacity: int) -> ChunkWriter | None:
    if layout.images is None:
        return None
    return ChunkWriter(
        group,
        shape=layout.shape,
        dtype=layout.dtype,
        capacity=capacity,
        chunk_format=layout.images,
    )
