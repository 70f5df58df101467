"""A frame as readers see it: its facts at once, its pixels when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs import decode
from pipeline.codecs.checksum import crc32c
from pipeline.errors import DecodeError, IncompleteFrameError
from pipeline.frame import AttributeValue, Module
from pipeline.naming import StreamId
from pipeline.reading.fetch import Block
from pipeline.wire.columns import unpack_row


class Frame:
    """One frame, or one module of it.

    The payload is read when it is first asked for (most often it has been read ahead), checked
    against its CRC-32C, and kept as long as the frame.  Frames may be kept after their stream was
    closed, but then they have only what was read before.

    Attributes
    ----------
    number:
        The source's own counter.
    """

    __slots__ = ("_array", "_attributes", "_block", "_payload", "_row", "number")

    def __init__(self, number: int, block: Block, row: int) -> None:
        self.number = number
        self._block = block
        self._row = row
        self._payload: memoryview | None = None
        self._array: npt.NDArray[Any] | None = None
        self._attributes: dict[str, AttributeValue] | None = None

    @property
    def stream(self) -> StreamId:
        """The stream it belongs to."""
        return self._block.origin.stream

    @property
    def timestamp_ns(self) -> int:
        """Start of the exposure by the detector's clock, ns since 1970 (UTC)."""
        return int(self._block.segment.timestamps_ns[self._row])

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels as (rows, columns), slow axis first; ``()`` for a frame without pixels."""
        return self._block.segment.shape

    @property
    def dtype(self) -> str:
        """Numpy name of the pixel type."""
        return self._block.segment.dtype

    @property
    def encoding(self) -> str:
        """How the payload is encoded; ``none`` for a frame without pixels."""
        return self._block.segment.encoding

    @property
    def module(self) -> int:
        """Which module this is; the lowest one of a frame of several."""
        return self._block.segment.module

    @property
    def nbytes(self) -> int:
        """Bytes of the stored payload."""
        return int(self._block.segment.lengths[self._row])

    @property
    def checksum(self) -> int:
        """CRC-32C of the payload as it was published."""
        return int(self._block.segment.checksums[self._row])

    @property
    def digest(self) -> int:
        """CRC-32C of shape, dtype, encoding and source attributes: with the checksum, its print."""
        return int(self._block.segment.digests[self._row])

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """What the detector and the experiment say about this frame."""
        if self._attributes is None:
            block = self._block
            own = unpack_row(block.segment.columns, block.segment.extra, self._row)
            joined = block.joined
            self._attributes = own if joined is None else {**joined.row(self._row), **own}
        return self._attributes

    @property
    def payload(self) -> memoryview:
        """The bytes as they were published; empty for a frame without pixels.

        Raises ChecksumError, BlobNotFoundError or StoreUnavailableError.
        """
        if self._payload is None:
            self._payload = self._block.payload(self._row)
        return self._payload

    @property
    def array(self) -> npt.NDArray[Any]:
        """The pixels, read-only; decoded once.

        Raises DecodeError (also for a frame without pixels) and what ``payload`` raises.
        """
        if self._array is None:
            self._array = self._decode()
        return self._array

    @property
    def modules(self) -> Mapping[int, Frame]:
        """The parts of the frame by module; a detector that is one image has one, itself."""
        return {self.module: self}

    @property
    def place(self) -> tuple[Block, int]:
        """Where its facts are: the block and the row in it; of several modules the lowest one's."""
        return self._block, self._row

    @property
    def gaps(self) -> npt.NDArray[np.bool_]:
        """True where ``array`` has no measured pixel: between modules, or of a missing one.

        Rows and columns as in ``array``, made anew with each call.
        """
        return np.zeros(self.shape, bool)

    @property
    def missing_modules(self) -> tuple[int, ...]:
        """Modules that the detector has and this frame lacks."""
        return tuple(m.index for m in self._block.origin.modules if m.index not in self.modules)

    def _decode(self) -> npt.NDArray[Any]:
        array = decode(self.payload, encoding=self.encoding, shape=self.shape, dtype=self.dtype)
        array.flags.writeable = False
        return array

    def __repr__(self) -> str:
        return (
            f"Frame({self.stream} #{self.number}, {'x'.join(map(str, self.shape)) or 'no pixels'}"
            f" {self.dtype}, {self.encoding}, {self.nbytes} bytes)"
        )


class ModularFrame(Frame):
    """A frame of a detector with modules: its image is assembled from the parts.

    Pixels that no module covers, and those of missing modules where fewer are enough
    (``min_modules``), hold :func:`sentinel`; :attr:`gaps` tells which these are.
    Shape, dtype, encoding (``raw``), payload and checksum are those of the assembled image;
    ``nbytes`` is what the parts take in the store; time and attributes are the lowest module's.
    """

    __slots__ = ("_parts",)

    def __init__(self, number: int, parts: Mapping[int, Frame]) -> None:
        self._parts = dict(sorted(parts.items()))
        first = next(iter(self._parts.values()))
        super().__init__(number, first._block, first._row)

    @property
    def modules(self) -> Mapping[int, Frame]:
        """The parts of the frame by module."""
        return self._parts

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns of the assembled image."""
        if all(part.shape == () for part in self._parts.values()):
            return ()
        return canvas(self._block.origin.modules)[0]

    @property
    def dtype(self) -> str:
        """The pixel type that holds the pixels of all parts."""
        return str(np.result_type(*(part.dtype for part in self._parts.values())))

    @property
    def encoding(self) -> str:
        """``raw``, or ``none`` when no part has pixels."""
        return "raw" if self.shape else "none"

    @property
    def nbytes(self) -> int:
        """Bytes of the parts in the store."""
        return sum(part.nbytes for part in self._parts.values())

    @property
    def checksum(self) -> int:
        """CRC-32C of the assembled image."""
        return crc32c(self.payload)

    @property
    def payload(self) -> memoryview:
        """The assembled image's bytes; raises IncompleteFrameError when too many are missing."""
        if self._payload is None:
            raw = self.array.tobytes() if self.shape else b""
            self._payload = memoryview(raw)
        return self._payload

    def _decode(self) -> npt.NDArray[Any]:
        origin = self._block.origin
        least = len(origin.modules) if origin.least is None else origin.least
        if len(self._parts) < least:
            raise IncompleteFrameError(self.stream, self.number, self.missing_modules)
        if not self.shape:
            raise DecodeError("no pixels: the frame has encoding 'none', only attributes")
        image = np.full(self.shape, sentinel(self.dtype), dtype=self.dtype)
        for index, (rows, columns, turns) in places(origin.modules).items():
            part = self._parts.get(index)
            if part is not None and part.shape:
                image[rows, columns] = np.rot90(part.array, turns)
        image.flags.writeable = False
        return image

    @property
    def gaps(self) -> npt.NDArray[np.bool_]:
        """See :attr:`Frame.gaps`."""
        found = np.ones(self.shape, bool)
        if self.shape:
            for index, (rows, columns, _) in places(self._block.origin.modules).items():
                found[rows, columns] &= index not in self._parts or not self._parts[index].shape
        return found


def sentinel(dtype: str | np.dtype[Any]) -> Any:
    """Return the pixel value that says "not measured": all ones, -1, or not a number."""
    kind = np.dtype(dtype)
    if kind.kind == "u":
        return np.iinfo(kind).max
    if kind.kind == "i":
        return -1
    return False if kind.kind == "b" else np.nan


def _quarter_turns(module: Module) -> int:
    turns, rest = divmod(module.rotation_deg, 90)
    if rest:
        raise DecodeError(
            f"module {module.index} is turned by {module.rotation_deg:g} degrees: only multiples"
            " of 90 are assembled, use frame.modules"
        )
    return int(turns) % 4


def canvas(modules: tuple[Module, ...]) -> tuple[tuple[int, int], dict[int, tuple[int, int]]]:
    """Return the assembled shape, and where the upper left corner of each module comes to lie.

    A module's position is that of its own first pixel, which a turn moves to another corner.
    """
    corners, ends = {}, []
    for module in modules:
        rows, columns = module.shape
        row, column = module.position
        turns = _quarter_turns(module)
        if turns in (1, 2):  # the first pixel comes to lie in the last row
            row -= (columns if turns == 1 else rows) - 1
        if turns in (2, 3):  # ... in the last column
            column -= (columns if turns == 2 else rows) - 1
        if turns % 2:
            rows, columns = columns, rows
        corners[module.index] = (row, column)
        ends.append((row + rows, column + columns))
    top = min(0, *(r for r, _ in corners.values())) if corners else 0
    left = min(0, *(c for _, c in corners.values())) if corners else 0
    shape = max(r for r, _ in ends) - top, max(c for _, c in ends) - left
    return shape, {index: (r - top, c - left) for index, (r, c) in corners.items()}


def places(modules: tuple[Module, ...]) -> dict[int, tuple[slice, slice, int]]:
    """Return rows and columns of the assembled image that each module covers, and its turns.

    The turns are quarters, counter-clockwise, to be made with the module's pixels
    (:func:`numpy.rot90`) before they are put there.
    """
    corners = canvas(modules)[1]
    found = {}
    for module in modules:
        turns = _quarter_turns(module)
        rows, columns = module.shape[::-1] if turns % 2 else module.shape
        row, column = corners[module.index]
        found[module.index] = slice(row, row + rows), slice(column, column + columns), turns
    return found
