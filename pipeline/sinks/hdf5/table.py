"""The HDF5 file while it is written: frames and what is said of each at position = place - base.

Programs may read it meanwhile (SWMR, ``swmr=True``), and it survives the death of the process: a
checkpoint brings frames and rows to the file first, and then the marker that says up to where the
log is in it.  HDF5 cannot insert rows in front, nor raise a limit: when a lower number or too many
frames come, the table is copied chunk by chunk, as bytes, to a new file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import SinkError
from pipeline.protocols import FrameLike
from pipeline.reading.frame import sentinel
from pipeline.sinks.hdf5.chunks import ChunkFormat, ChunkWriter, format_of
from pipeline.sinks.hdf5.nodes import attribute, begin_specific, group
from pipeline.sinks.hdf5.parts import FIRST
from pipeline.sinks.hdf5.rows import Rows
from pipeline.sinks.hdf5.share import Share

#: Chunk cache of a dataset in bytes: two chunks of a column; image chunks bypass it.
_CACHE = 128 * 1024
_PROVENANCE = "entry/provenance"
#: v110: 'latest' of HDF5 2.0 cannot be read by the 1.10 tools.  No lock of HDF5's own: the sink
#: holds one, and theirs fails on some network file systems.
_OPEN: dict[str, Any] = {"libver": ("v110", "v110"), "rdcc_nbytes": _CACHE, "locking": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What all frames of the file have in common; ``images`` is None for frames without pixels."""

    shape: tuple[int, ...]
    dtype: str
    images: ChunkFormat | None


class FrameTable:
    """One open HDF5 file with the frames of a share from place ``base`` on; see :meth:`create`.

    ``marker`` holds the next offset of each partition of the stream's topic that is not in the
    file yet, as of the last checkpoint, and last how many frames came from elsewhere.
    """

    def __init__(self, file: Any, *, base: int, layout: Layout, share: Share) -> None:
        self.file = file
        self.layout = layout
        self.base = base
        self.stream_key: str = file[_PROVENANCE].attrs["stream_key"].decode()
        self.share = share
        self.rows = Rows(file, base=base, share=share)
        self.capacity = int(file[f"{_PROVENANCE}/partition"].maxshape[0])
        self._next_offset = file[f"{_PROVENANCE}/next_offset"]
        self.marker: list[int] = self._next_offset[...].tolist()
        self.images = (
            ChunkWriter(file["entry/data/data"], layout.images)
            if layout.images is not None
            else None
        )

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        stream_key: bytes,
        base: int,
        capacity: int,
        layout: Layout,
        marker: Sequence[int],
        share: Share,
    ) -> Self:
        """Make the file, all it will hold while it is read by others, and open it for them."""
        file = h5py.File(path, "w", **_OPEN)
        with _closed_on_error(file):
            for node, kind in (
                ("entry", "NXentry"),
                ("entry/data", "NXdata"),
                ("entry/instrument", "NXinstrument"),
                ("entry/instrument/detector", "NXdetector"),
                (_PROVENANCE, "NXcollection"),
            ):
                group(file, node, kind)
            if len(layout.shape) == 2:
                begin_specific(file)
            attribute(file, default="entry")
            attribute(file["entry"], default="data")
            attribute(file["entry/data"], signal="data" if layout.images else "frame_number")
            Rows.create(file, base=base, capacity=capacity, share=share)
            attribute(
                file[_PROVENANCE],
                stream_key=stream_key.hex(),
                encoding=layout.images.encoding if layout.images else "none",
                first_place=base,
                frame_shape=np.array(layout.shape, np.int64),
                frame_dtype=layout.dtype,
            )
            if share.is_range:
                attribute(file[_PROVENANCE], **{FIRST: share.first})
            file.create_dataset(
                f"{_PROVENANCE}/next_offset",
                data=np.array(marker, np.int64),
                maxshape=(len(marker),),
                chunks=(len(marker),),
            )
            if layout.images is not None:
                ChunkWriter.create(
                    file["entry/data"],
                    shape=layout.shape,
                    dtype=layout.dtype,
                    capacity=capacity,
                    chunk_format=layout.images,
                )
            file.flush()
            file.swmr_mode = True
            return cls(file, base=base, layout=layout, share=share)

    @classmethod
    def resume(cls, path: Path, *, stream_key: bytes, share: Share) -> Self:
        """Open a file whose writer has died, with what its last checkpoint vouches for.

        Raises OSError, KeyError or ValueError for a file that is not one of a sink.
        """
        file = h5py.File(path, "r+", **_OPEN)
        with _closed_on_error(file):
            said = file[_PROVENANCE].attrs
            if said["stream_key"].decode() != stream_key.hex():
                raise ValueError("it is of another stream")
            if share.is_range and int(said[FIRST]) != share.first:
                raise ValueError("it is of another range of numbers")
            encoding = said["encoding"].decode()
            layout = Layout(
                shape=tuple(said["frame_shape"].tolist()),
                dtype=said["frame_dtype"].decode(),
                images=None if encoding == "none" else format_of(encoding),
            )
            file.swmr_mode = True
            table = cls(file, base=int(said["first_place"]), layout=layout, share=share)
            table._forget_unsure()
        return table

    def _forget_unsure(self) -> None:
        """Empty the rows that were written after the last checkpoint, or while it was made."""
        rows, marker = self.rows, np.array(self.marker)
        known = (rows.partition >= 0) & (rows.partition < len(marker))
        sure = known & (rows.offset < marker[np.where(known, rows.partition, 0)])
        rows.drop(np.flatnonzero(~sure & ((rows.valid != 0) | (rows.status != 0) | known)))

    def put(
        self,
        frame: FrameLike,
        chunk: memoryview | None,
        pixels: npt.NDArray[Any] | None,
        problem: int,
        source: tuple[int, int],
    ) -> None:
        """Write one frame, or with ``problem`` only what its header says and the status bit.

        ``chunk``: the image as the dataset has it; else ``pixels`` go through its filter.
        ``source``: partition and offset of its record.
        """
        position = self.share.place(frame.number) - self.base
        self.rows.reach(position + 1)
        if self.images is not None and not problem:
            if chunk is not None:
                self.images.write_chunk(position, chunk)
            elif pixels is not None:
                self.images.write_pixels(position, pixels)
        self.rows.set(
            position,
            timestamp_ns=frame.timestamp_ns,
            problem=problem,
            source=source,
            nbytes=frame.payload.nbytes if not problem else 0,
        )

    def checkpoint(self, marker: Sequence[int]) -> None:
        """Bring everything to the file, then the marker: what is below it is there for good."""
        self.rows.flush()
        self.file.flush()
        # apart from the rest: one flush is not atomic across datasets
        self.marker = list(marker)
        self._next_offset[...] = self.marker
        self._next_offset.flush()

    def moved(self, path: Path, *, base: int, capacity: int) -> FrameTable:
        """Return a copy of this table in a new file; this one is closed."""
        other = FrameTable.create(
            path,
            stream_key=bytes.fromhex(self.stream_key),
            base=base,
            capacity=capacity,
            layout=self.layout,
            marker=self.marker,
            share=self.share,
        )
        with _closed_on_error(other.file):
            shift = self.base - base
            if self.images is not None and other.images is not None:
                for position in np.flatnonzero(self.rows.valid).tolist():
                    other.images.write_chunk(position + shift, self.images.read_chunk(position))
            self.rows.copy_to(other.rows, shift)
            other.checkpoint(self.marker)
            self.close()
        return other

    def fill(self) -> None:
        """Give every missing frame a chunk of its own, and all datasets their final length.

        Chunks that are not allocated abort some readers.
        """
        if self.images is not None:
            self._fill_images(self.images)
        self.rows.trim()

    def _fill_images(self, images: ChunkWriter) -> None:
        chunk = None
        for position in np.flatnonzero(self.rows.valid == 0).tolist():
            if chunk is None:  # compressed once
                layout = self.layout
                blank = np.full(layout.shape, sentinel(layout.dtype), layout.dtype)
                images.write_pixels(position, blank)
                self.file.flush()  # so that it can be read back
                chunk = images.read_chunk(position)
            else:
                images.write_chunk(position, chunk)
        images.resize(len(self.rows))

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self.file:
            self.file.close()


def new_file(path: Path) -> Any:
    """Make an HDF5 file that nobody reads before it is closed."""
    return h5py.File(path, "w", **_OPEN)


def reopened(path: Path) -> Any:
    """Open a complete table for what is added at the end; nobody may read it meanwhile."""
    return h5py.File(path, "r+", **_OPEN)


@contextmanager
def _closed_on_error(file: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


def check_positions(base: int, end: int, most: int) -> None:
    """Raise SinkError when numbers from ``base`` to before ``end`` are too many for one file."""
    if end - base > most:
        raise SinkError(
            f"frame numbers {base} to {end - 1} do not fit into one file, which takes {most}"
            " positions, missing frames included: are they counters?"
        )
