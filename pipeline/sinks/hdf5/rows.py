"""What the file holds per frame beside the pixels: row i for the frame at position i.

The columns are kept in memory (32 bytes a frame) and written in blocks, so that a checkpoint costs
a few writes however the numbers came.  None is made after the file has been opened for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.sinks.hdf5.nodes import attribute
from pipeline.sinks.hdf5.share import Share

#: Rows of a chunk, and of what is written at once.
_BLOCK = 4096
_NO_NUMBER = 2**32 - 1
_DETECTOR, _PROVENANCE = "entry/instrument/detector", "entry/provenance"
#: Name: path, dtype, value of a row that no frame has filled.
_COLUMNS: Mapping[str, tuple[str, str, int]] = {
    "number": ("entry/data/frame_number", "i8", 0),
    "timestamp": (f"{_DETECTOR}/timestamp", "u8", 0),
    "sequence": (f"{_DETECTOR}/sequence_number", "u4", _NO_NUMBER),
    "valid": (f"{_DETECTOR}/frame_valid", "u1", 0),
    "status": (f"{_DETECTOR}/frame_status", "u4", 0),
    "partition": (f"{_PROVENANCE}/partition", "i4", -1),
    "offset": (f"{_PROVENANCE}/offset", "i8", -1),
    "nbytes": (f"{_PROVENANCE}/payload_size", "u4", 0),
}

Array = npt.NDArray[Any]


class Rows:
    """The columns of one file; the file is open for writing.

    Row i is that of place ``base`` + i of the ``share``.
    Attributes hold arrays of as many elements as there are rows: ``valid`` and ``status`` as NXmx's
    ``frame_valid`` and ``frame_status``; where the frame's record lies (``partition``, ``offset``);
    ``nbytes`` of its payload.
    """

    def __init__(self, file: Any, *, base: int, share: Share) -> None:
        self.base = base
        self._share = share
        self._datasets = {name: file[path] for name, (path, _, _) in _COLUMNS.items()}
        self._count = int(self._datasets["valid"].shape[0])
        self._capacity = int(self._datasets["valid"].maxshape[0])
        self._arrays: dict[str, Array] = {
            name: dataset[...] for name, dataset in self._datasets.items()
        }
        self._dirty: set[int] = set()

    @classmethod
    def create(cls, file: Any, *, base: int, capacity: int, share: Share) -> Rows:
        """Make the datasets, empty, for up to ``capacity`` rows."""
        for path, dtype, fill in _COLUMNS.values():
            file.create_dataset(
                path,
                shape=(0,),
                maxshape=(capacity,),
                chunks=(min(_BLOCK, capacity),),
                dtype=dtype,
                fillvalue=fill,
            )
        attribute(file[_COLUMNS["timestamp"][0]], units="ns", start="1970-01-01T00:00:00Z")
        return cls(file, base=base, share=share)

    def __len__(self) -> int:
        return self._count

    @property
    def numbers(self) -> Array:
        """int64: the frames' numbers."""
        return self._arrays["number"][: self._count]

    @property
    def valid(self) -> Array:
        """uint8: 1 where the pixels came from a frame."""
        return self._arrays["valid"][: self._count]

    @property
    def status(self) -> Array:
        """uint32: the bits of ``frame_status``."""
        return self._arrays["status"][: self._count]

    @property
    def timestamps_ns(self) -> Array:
        """uint64, 0 where no frame is."""
        return self._arrays["timestamp"][: self._count]

    @property
    def partition(self) -> Array:
        """int32, -1 where no record is known."""
        return self._arrays["partition"][: self._count]

    @property
    def offset(self) -> Array:
        """int64, -1 where no record is known."""
        return self._arrays["offset"][: self._count]

    def holds(self, numbers: Array, partitions: Array, offsets: Array) -> npt.NDArray[np.bool_]:
        """Tell for each frame whether its row is valid and comes from this very record."""
        positions = self._share.places(numbers) - self.base
        inside = (positions >= 0) & (positions < self._count)
        positions = np.where(inside, positions, 0)
        if not self._count:
            return inside
        same = (self.partition[positions] == partitions) & (self.offset[positions] == offsets)
        found: npt.NDArray[np.bool_] = inside & same & (self.valid[positions] == 1)
        return found

    def reach(self, count: int) -> None:
        """Have at least ``count`` rows."""
        before = self._count
        if count <= before:
            return
        self._count = count
        for name, (_, dtype, fill) in _COLUMNS.items():
            array = self._arrays[name]
            if count > len(array):
                grown = np.full(max(count, 2 * len(array), _BLOCK), fill, dtype)
                grown[: len(array)] = array
                array = self._arrays[name] = grown
            array[before:count] = fill
        places = np.arange(self.base + before, self.base + count)
        self._arrays["number"][before:count] = self._share.numbers(places)
        self._dirty.update(range(before // _BLOCK, (count - 1) // _BLOCK + 1))

    def set(
        self,
        position: int,
        *,
        timestamp_ns: int,
        problem: int,
        source: tuple[int, int],
        nbytes: int,
    ) -> None:
        """Fill one row; with a ``problem`` it is that of a frame whose pixels are not there."""
        arrays = self._arrays
        arrays["timestamp"][position] = 0 if problem else max(timestamp_ns, 0)
        number = arrays["number"][position] % 2**32
        arrays["sequence"][position] = _NO_NUMBER if problem else number
        arrays["valid"][position] = not problem
        arrays["status"][position] = problem
        arrays["partition"][position], arrays["offset"][position] = source
        arrays["nbytes"][position] = nbytes
        self._dirty.add(position // _BLOCK)

    def mark(self, first: int, last: int, bit: int) -> None:
        """Set a bit of the status of rows ``first`` to ``last``, both included."""
        self.status[first : last + 1] |= np.uint32(bit)
        self._dirty.update(range(first // _BLOCK, last // _BLOCK + 1))

    def drop(self, positions: Array) -> None:
        """Empty rows whose frames cannot be relied on, and those behind the last that is left."""
        for name, (_, _, fill) in _COLUMNS.items():
            if name != "number":
                self._arrays[name][positions] = fill
        self._dirty.update((positions // _BLOCK).tolist())
        left = np.flatnonzero((self.valid != 0) | (self.status != 0))
        self._count = int(left[-1]) + 1 if len(left) else 0

    def flush(self) -> None:
        """Write what has changed."""
        for block in sorted(self._dirty):
            # rows behind the last one, too: a restart may have emptied some
            begin = block * _BLOCK
            end = min(begin + _BLOCK, len(self._arrays["valid"]), self._capacity)
            for name, dataset in self._datasets.items():
                if dataset.shape[0] < end:
                    dataset.resize(min(dataset.maxshape[0], begin + _BLOCK), axis=0)
                dataset[begin:end] = self._arrays[name][begin:end]
        self._dirty.clear()

    def trim(self) -> None:
        """Write what has changed, and let the datasets have exactly as many rows as there are."""
        self.flush()
        for dataset in self._datasets.values():
            if dataset.shape[0] != self._count:
                dataset.resize(self._count, axis=0)

    def copy_to(self, other: Rows, shift: int) -> None:
        """Copy all rows, row i to row i + ``shift``; those before row 0 must be empty."""
        skip = max(0, -shift)
        other.reach(self._count + shift)
        for name in _COLUMNS:
            if name != "number":
                begin = skip + shift
                other._arrays[name][begin : self._count + shift] = self._arrays[name][
                    skip : self._count
                ]
        other._dirty.update(range((other._count - 1) // _BLOCK + 1))

    def saved(self) -> dict[str, Array]:
        """Return the columns by name, for :meth:`restore`."""
        return {name: array[: self._count] for name, array in self._arrays.items()}

    def restore(self, columns: Mapping[str, Array]) -> None:
        """Take the columns of a file that held the same rows."""
        self.reach(len(columns["valid"]))
        for name in _COLUMNS:
            self._arrays[name][: self._count] = columns[name]
        self._dirty.update(range((self._count - 1) // _BLOCK + 1))
