"""What an HDF5 file holds otherwise than the stream it was made from.

This is the side of the file, in the process that reads it; of the stream it knows what the records
say.  Pixels that were encoded anew are compared on the side of the stream, by their CRC-32C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from pipeline import codecs
from pipeline.codecs.checksum import crc32c
from pipeline.errors import DecodeError, SinkError
from pipeline.frame import Module
from pipeline.reading.frame import sentinel
from pipeline.reading.table import Form
from pipeline.sinks.hdf5.attributes import text_of
from pipeline.sinks.hdf5.chunks import encoding_of
from pipeline.sinks.hdf5.findings import Finding
from pipeline.sinks.hdf5.leaves import Leaf, leaves_of
from pipeline.sinks.hdf5.sayings import AllSaid, Said, said_of

Progress = Callable[[int, int], object]
_VALID = "entry/instrument/detector/frame_valid"
_TIMESTAMP = "entry/instrument/detector/timestamp"
_SEQUENCE = "entry/instrument/detector/sequence_number"
_NUMBER = "entry/data/frame_number"
_AGAIN = "take it from the stream again"
_STEP = 16
#: What a damaged file raises.
_DAMAGE = (DecodeError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the records say of a stream's frames, merged: by number and module, an element each.

    Parameters
    ----------
    span:
        The lowest and the highest number known to exist; None if there is none.
    modules:
        Those of the detector; ``module_of`` is 0 where it has none.
    checksums:
        CRC-32C of the payloads.
    forms, form_of:
        Encoding, shape and dtype that frames have, and which of them each has.
    """

    stream: str
    stream_key: str
    span: tuple[int, int] | None
    modules: tuple[Module, ...]
    numbers: npt.NDArray[np.int64]
    module_of: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]
    forms: Sequence[Form]
    form_of: npt.NDArray[np.int64]

    def name_of(self, row: int) -> str:
        """Return what to call a frame."""
        name = f"frame {self.numbers[row]}"
        return f"module {self.module_of[row]} of {name}" if self.modules else name


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the stream has to prove of frame ``row`` (of :class:`Wanted`).

    ``checksum``: CRC-32C of its pixels in the file, little-endian; None where the file says that
    the frame could not be written.
    """

    file: str
    dataset: str
    position: int
    row: int
    checksum: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The rows of one file."""

    numbers: npt.NDArray[np.int64]
    valid: npt.NDArray[np.uint8]
    timestamps_ns: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, file: Any) -> Self:
        """Read them; raises KeyError where they are not."""
        return cls(
            numbers=file[_NUMBER][...], valid=file[_VALID][...], timestamps_ns=file[_TIMESTAMP][...]
        )


def check_owner(path: Path, wanted: Wanted) -> None:
    """Raise SinkError unless it is a finished file of this stream, the one that users open."""
    with h5py.File(path, locking=False) as file:
        said = file.get("entry/provenance")
        key = None if said is None else said.attrs.get("stream_key")
        if said is None or key is None:
            raise SinkError(f"{path} does not say of which stream it is: it cannot be compared")
        if text_of(key) != wanted.stream_key:
            name = text_of(said.attrs.get("stream", "another stream"))
            which = "an earlier stream of this name" if name == wanted.stream else name
            raise SinkError(f"{path} is of {which}, not of {wanted.stream}: name its own stream")
        if "account" not in said:
            raise SinkError(
                f"{path} is not finished, or one of several files: name the file that users open"
            )


def differences(
    path: Path, wanted: Wanted, progress: Progress
) -> Iterator[Finding | Pixels | Said | AllSaid]:
    """Yield in what the file and those it refers to differ, and what is left to the stream."""
    with h5py.File(path, locking=False) as file:
        top = Held.of(file)
        invalid = set(file["entry/provenance/frames_invalid"][...].tolist())
        leaves = list(leaves_of(path, file, wanted.modules))
        misplaced = list(_places(path, top, wanted))
        yield from misplaced
        view = _View(top, [module.index for module in wanted.modules] or [0])
        seen = np.zeros(len(wanted.numbers), np.bool_)
        for leaf in leaves:
            if isinstance(leaf, Finding):
                yield leaf
            elif leaf.path.is_file():  # else that is told by who looks at the sources
                yield from _Comparison(leaf, wanted, invalid, seen, view).differences(progress)
        for row in np.flatnonzero(~seen).tolist():
            yield Finding(path.name, _NUMBER, f"{wanted.name_of(row)} is not in the file", _AGAIN)
        yield from view.differences(path, file)
        if not misplaced:
            yield from said_of(file, all_written=not invalid)


def _places(path: Path, top: Held, wanted: Wanted) -> Iterator[Finding]:
    """Yield it if position i is not frame (first + i) of the stream."""
    first, last = wanted.span or (0, -1)
    if wanted.span is not None and not np.array_equal(top.numbers, np.arange(first, last + 1)):
        ends = f"{top.numbers[0]} to {top.numbers[-1]}" if len(top.numbers) else "none"
        what = f"its {len(top.numbers)} numbers ({ends}) are not {first} to {last} in order"
        yield Finding(path.name, _NUMBER, what, _AGAIN)


class _View:
    """What the rows of the file that users open must say, by those of the files behind it."""

    def __init__(self, top: Held, modules: list[int]) -> None:
        self.top = top
        self._modules = modules
        self._there = np.zeros((len(top.numbers), len(modules)), np.uint8)
        self._times = np.zeros(len(top.numbers), np.uint64)
        self._lowest = np.full(len(top.numbers), len(modules), np.int64)

    def note(self, leaf: Leaf, held: Held) -> None:
        """Take the rows of one file."""
        index = self._modules.index(leaf.module)
        valid = held.valid[leaf.inside] == 1
        outside, inside = leaf.outside[valid], leaf.inside[valid]
        self._there[outside, index] = 1
        better = self._lowest[outside] > index
        self._lowest[outside[better]] = index
        self._times[outside[better]] = held.timestamps_ns[inside[better]]

    def differences(self, path: Path, file: Any) -> Iterator[Finding]:
        """Yield where the rows of the file that users open say something else."""
        top, whole, some = self.top, self._there.all(axis=1), self._there.any(axis=1)
        sequence = np.where(some, top.numbers % 2**32, 2**32 - 1)
        pairs = [
            (_VALID, (top.valid == 1) == whole),
            (_TIMESTAMP, top.timestamps_ns == self._times),
            (_SEQUENCE, file[_SEQUENCE][...] == sequence),
        ]
        said = file.get("entry/instrument/detector/module_valid")
        if said is not None:
            same = said.shape == self._there.shape and (said[...] == self._there).all(axis=1)
            pairs.append((said.name, np.broadcast_to(same, len(top.numbers))))
        for name, same in pairs:
            for position in np.flatnonzero(~same).tolist():
                what = "says something else than the file with the pixels"
                yield Finding(path.name, f"{name}[{position}]", what, _AGAIN)


class _Comparison:
    """One file with pixels beside the stream."""

    def __init__(
        self,
        leaf: Leaf,
        wanted: Wanted,
        invalid: set[int],
        seen: npt.NDArray[np.bool_],
        view: _View,
    ) -> None:
        self._leaf = leaf
        self._wanted = wanted
        self._invalid = invalid
        self._seen = seen
        self._view = view
        #: Rows of this module, and their numbers, which rise.
        self._rows = np.flatnonzero(wanted.module_of == leaf.module)
        self._numbers = wanted.numbers[self._rows]

    def differences(self, progress: Progress) -> Iterator[Finding | Pixels]:
        leaf, top = self._leaf, self._view.top
        with h5py.File(leaf.path, locking=False) as file:
            held = Held.of(file)
            stored = Stored(file[leaf.dataset]) if leaf.dataset in file else None
            if len(leaf.inside) and (
                int(leaf.inside.max()) >= len(held.numbers)
                or int(leaf.outside.max()) >= len(top.numbers)
            ):
                what = f"{len(held.numbers)} rows, {int(leaf.inside.max()) + 1} are needed"
                yield Finding(leaf.path.name, _NUMBER, what, _AGAIN)
                return
            self._view.note(leaf, held)
            pairs = zip(leaf.inside.tolist(), leaf.outside.tolist(), strict=True)
            for done, (position, outside) in enumerate(pairs):
                if done % _STEP == 0:
                    progress(done, len(leaf.inside))
                number = int(held.numbers[position])
                if number != int(top.numbers[outside]):
                    what = f"is shown as frame {top.numbers[outside]}, and is frame {number}"
                    yield self._found(position, what)
                yield from self._frame(held, stored, position, number)

    def _frame(
        self, held: Held, stored: Stored | None, position: int, number: int
    ) -> Iterator[Finding | Pixels]:
        at = int(np.searchsorted(self._numbers, number))
        is_wanted = at < len(self._numbers) and int(self._numbers[at]) == number
        row = int(self._rows[at]) if is_wanted else -1
        if is_wanted:
            self._seen[row] = True
        if held.valid[position] != 1:
            yield from self._absent(held, stored, position, row)
        elif not is_wanted:
            yield self._found(position, f"holds frame {number}, which the stream does not have")
        else:
            if int(held.timestamps_ns[position]) != max(0, int(self._wanted.timestamps_ns[row])):
                yield self._found(position, f"the time of {self._wanted.name_of(row)} is another")
            if stored is not None:
                yield from self._pixels(stored, position, row)
            elif self._form(row)[1]:
                yield self._found(position, f"{self._wanted.name_of(row)} has no pixels")

    def _absent(
        self, held: Held, stored: Stored | None, position: int, row: int
    ) -> Iterator[Finding | Pixels]:
        """Look at a frame that is marked missing."""
        if held.timestamps_ns[position]:
            yield self._found(position, "is marked missing, but has a time")
        if stored is not None and not stored.is_blank(position):
            yield self._found(position, "is marked missing, but has pixels")
        if row < 0:
            return
        if int(self._wanted.numbers[row]) not in self._invalid:
            yield self._found(position, f"{self._wanted.name_of(row)} is marked missing")
        elif self._form(row)[1:] == (stored.form[1:] if stored else ((), self._form(row)[2])):
            yield self._left(position, row, None)

    def _pixels(self, stored: Stored, position: int, row: int) -> Iterator[Finding | Pixels]:
        encoding, shape, dtype = form = self._form(row)
        if form[1:] != stored.form[1:]:
            yield self._found(position, f"{self._wanted.name_of(row)} is of {shape} {dtype}")
        elif encoding == stored.form[0]:
            found = stored.chunk_checksum(position)
            if found is not None and found != int(self._wanted.checksums[row]):
                yield self._found(position, f"the bytes of {self._wanted.name_of(row)} are others")
        else:
            found = stored.pixel_checksum(position)
            if found is not None:
                yield self._left(position, row, found)

    def _form(self, row: int) -> Form:
        return self._wanted.forms[int(self._wanted.form_of[row])]

    def _left(self, position: int, row: int, checksum: int | None) -> Pixels:
        return Pixels(self._leaf.path.name, self._leaf.dataset, position, row, checksum)

    def _found(self, position: int, what: str) -> Finding:
        where = f"/{self._leaf.dataset}[{position}]"
        return Finding(self._leaf.path.name, where, what, _AGAIN)


class Stored:
    """The chunks of an image dataset; None for what cannot be read, which was told before."""

    def __init__(self, data: Any) -> None:
        shape = tuple(data.shape[1:])
        by_frame = data.chunks == (1, *shape)
        self.form: Form = ((encoding_of(data) or "") if by_frame else "", shape, data.dtype.name)
        self._data = data
        self._origin = (0,) * len(shape)
        self._little = data.dtype.newbyteorder("<")
        blank = np.full(shape, sentinel(data.dtype), self._little)
        self._blank_checksum = crc32c(blank)

    def chunk_checksum(self, position: int) -> int | None:
        """Return the CRC-32C of a chunk as it lies in the file."""
        try:
            return crc32c(self._data.id.read_direct_chunk((position, *self._origin))[1])
        except _DAMAGE:
            return None

    def pixel_checksum(self, position: int) -> int | None:
        """Return the CRC-32C of a frame's pixels, little-endian."""
        try:
            return crc32c(np.ascontiguousarray(self._decoded(position), self._little))
        except _DAMAGE:
            return None

    def is_blank(self, position: int) -> bool:
        """Whether all pixels are the value for those not measured, or cannot be read."""
        return self.pixel_checksum(position) in (None, self._blank_checksum)

    def _decoded(self, position: int) -> npt.NDArray[Any]:
        encoding, shape, dtype = self.form
        if encoding:
            mask, payload = self._data.id.read_direct_chunk((position, *self._origin))
            if not mask:
                return codecs.decode(payload, encoding=encoding, shape=shape, dtype=dtype)
        pixels: npt.NDArray[Any] = self._data[position]
        return pixels
