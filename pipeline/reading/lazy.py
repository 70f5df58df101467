"""Whole streams as dask sees them: lazy arrays, and work on blocks of frames.

A block is read by one task.  Blocks begin where chunks of the stream's partitions do, so that no
object of the store is read by two of them.  A task is a :class:`FrozenFrames`: it needs the store
and no broker, and runs on any worker that has lichtstrom installed and reaches the store.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError, PipelineError
from pipeline.reading.feed import FrameFeed
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame, sentinel
from pipeline.reading.frozen import FrozenFrames, freeze
from pipeline.reading.limits import check_number
from pipeline.reading.live import LiveTable
from pipeline.reading.sample import sample_of
from pipeline.reading.table import Rows
from pipeline.records import Int64s

#: Pixels of one block, in bytes, unless the caller says how many frames it has.
_BLOCK_NBYTES = 32 * 1024 * 1024
#: What a frame takes in a worker, however small its payload.
_FRAME_NBYTES = 1024
#: More positions than this are no frames: a counter that jumped would make a graph for years.
MAX_POSITIONS = 1 << 27


class FramePositions:
    """The frames of a table in blocks: position i of an array is frame ``numbers[i]``.

    Every number from the first to the last frame has a position, whether it came or not; of a
    sample only the frames that were taken have one.  Hold the table's lock.
    """

    def __init__(self, live: LiveTable, fetcher: Fetcher, origin: Origin) -> None:
        self.live = live
        self.fetcher = fetcher
        self.origin = origin
        self.rows: Rows = live.table.merged().rows
        if not len(self.rows):
            raise DecodeError(f"{origin.stream} has no frames")
        came: Int64s = live.table.numbers[self.rows]
        self.came = came
        self.first, self.last = int(came[0]), int(came[-1])
        if self.last - self.first >= MAX_POSITIONS:
            raise DecodeError(
                f"{origin.stream}: frames {self.first} to {self.last} make more than"
                f" {MAX_POSITIONS} positions: are they counters? read it with select()"
            )

    @functools.cached_property
    def numbers(self) -> Int64s:
        """The frame number of each position, rising."""
        if sample_of(self.live.table.start) is not None:
            return np.unique(self.came)
        return np.arange(self.first, self.last + 1, dtype=np.int64)

    def layout(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of the first frame that has pixels; raises DecodeError."""
        feed = FrameFeed(self.live, self.rows, self.fetcher, self.origin, ahead=False)
        sample = next((frame for frame in feed if frame.shape), None)
        if sample is None:
            raise DecodeError(f"{self.origin.stream} has no pixels, only attributes")
        return sample.shape, np.dtype(sample.dtype)

    def block_frames(self, frame_nbytes: int) -> int:
        """Return how many numbers a block spans: whole chunks, or an even part of one."""
        chunk = max(1, self.live.table.start.frames_per_chunk)
        most = max(1, _BLOCK_NBYTES // max(1, frame_nbytes))
        if most >= chunk:
            return most // chunk * chunk
        sizes = (chunk // parts for parts in range(2, chunk + 1) if chunk % parts == 0)
        return next(size for size in sizes if size <= most)

    def blocks(self, block_frames: int) -> list[tuple[Int64s, Rows]]:
        """Return of each block its positions' numbers and its rows."""
        is_sample = sample_of(self.live.table.start) is not None
        # a sample's frames lie far apart: counted they fill blocks, by number they would not
        place = (np.arange(len(self.numbers)) if is_sample else self.numbers) // block_frames
        cuts = np.flatnonzero(np.diff(place)) + 1
        parts = np.split(self.numbers, cuts)
        edges = np.searchsorted(self.came, [int(part[0]) for part in parts] + [self.last + 1])
        return [
            (part, self.rows[low:high])
            for part, low, high in zip(parts, edges[:-1], edges[1:], strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockPixels:
    """The pixels of one block, an array for who slices it; it can be pickled.

    Parameters
    ----------
    numbers:
        Of each position; where no frame of that number came, pixels hold the sentinel (all ones,
        -1, not a number) or are masked.
    """

    frames: FrozenFrames
    numbers: Int64s
    frame_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    masked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Positions, then the frame's axes."""
        return (len(self.numbers), *self.frame_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        first, *others = index if isinstance(index, tuple) else (index,)
        rest = tuple(others)
        wanted = np.atleast_1d(self.numbers[first])
        inner = np.broadcast_to(np.empty((), self.dtype), self.frame_shape)[rest].shape
        stack = np.full((len(wanted), *inner), sentinel(self.dtype), self.dtype)
        there = np.zeros(len(wanted), bool)
        places: dict[int, list[int]] = {}  # a list of indices may name a frame twice
        for place, number in enumerate(wanted.tolist()):
            places.setdefault(number, []).append(place)
        for frame in self._frames_of(wanted):
            at = places[frame.number]
            stack[at], there[at] = frame.array[rest], True
        if self.masked:
            mask = np.broadcast_to(~there.reshape(-1, *(1,) * len(inner)), stack.shape)
            stack = np.ma.masked_array(stack, mask.copy())
        return stack[0] if np.ndim(self.numbers[first]) == 0 else stack

    def _frames_of(self, wanted: Int64s) -> Iterator[Frame]:
        """Yield those of the frames that came whole and are images; only they are read."""
        form = self.frame_shape, self.dtype.name
        for frame in self.frames.read(wanted):
            if not frame.shape or frame.missing_modules:
                continue
            if (frame.shape, frame.dtype) != form:
                raise DecodeError(
                    f"frame {frame.number} of {frame.stream} is {frame.shape} {frame.dtype},"
                    f" others are {self.frame_shape} {self.dtype}"
                )
            yield frame


def lazy_array(
    positions: FramePositions, *, masked: bool = False, frames_per_block: int | None = None
) -> Any:
    """Return a dask array over the frames.

    Raises
    ------
    PipelineError
        dask is not there; names the extra to install.
    DecodeError
        There are no frames, or none with pixels.
    """
    da = _dask("array")
    shape, dtype = positions.layout()
    size = _block_size(frames_per_block)
    size = size or positions.block_frames(dtype.itemsize * int(np.prod(shape)))
    name = _name(positions, "array", masked, size)
    blocks = positions.blocks(size)
    frozen = freeze(
        positions.live,
        positions.fetcher,
        positions.origin,
        [rows for _, rows in blocks],
        attributes=False,
    )
    rest = (slice(None),) * len(shape)
    graph: dict[Any, Any] = {}
    for at, ((numbers, _), frames) in enumerate(zip(blocks, frozen, strict=True)):
        pixels = BlockPixels(
            frames=frames, numbers=numbers, frame_shape=shape, dtype=dtype, masked=masked
        )
        # dask's own getter: slices that follow are moved into it, and only the frames that somebody
        # asked for are read
        whole = (slice(0, len(numbers)), *rest)
        block, key = f"{name}-block-{at}", (name, at, *(0,) * len(shape))
        graph |= {block: pixels, key: (da.core.getter, block, whole, False, False)}
    meta = np.empty((0,) * (1 + len(shape)), dtype)
    return da.Array(
        graph,
        name,
        chunks=(tuple(len(numbers) for numbers, _ in blocks), *((n,) for n in shape)),
        meta=np.ma.masked_array(meta) if masked else meta,
    )


def lazy_blocks(
    positions: FramePositions,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    named: dict[str, Any],
    *,
    frames_per_block: int | None = None,
) -> list[Any]:
    """Return a dask ``Delayed`` per block that has frames: ``function(frames, ...)``.

    Raises PipelineError where dask is not there, DecodeError where there are no frames.
    """
    delayed = _dask("delayed").delayed
    widest = max(_FRAME_NBYTES, int(positions.live.table.nbytes[positions.rows].max()))
    size = _block_size(frames_per_block) or positions.block_frames(widest)
    name = _name(positions, "blocks", function, arguments, named, size)
    chosen = [rows for _, rows in positions.blocks(size) if len(rows)]
    frozen = freeze(positions.live, positions.fetcher, positions.origin, chosen, attributes=True)
    call = delayed(_call, pure=False, traverse=False)
    return [
        call(function, frames, tuple(arguments), named, dask_key_name=f"{name}-{at}")
        for at, frames in enumerate(frozen)
    ]


def _block_size(frames: int | None) -> int | None:
    return None if frames is None else check_number("frames_per_block", frames, least=1)


def _call(
    function: Callable[..., Any],
    frozen: FrozenFrames,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    """Run in a worker: the function with the frames of a block."""
    numbers = np.unique(frozen.numbers)
    # not to its end, which would close what the payloads are read with
    with closing(frozen.read(numbers)) as reading:
        frames = list(itertools.islice(reading, len(numbers)))
        return function(frames, *arguments, **named)


def _name(positions: FramePositions, *more: Any) -> str:
    """Return the name of a graph: the same for the same frames, so that a cluster knows them."""
    table = positions.live.table
    tokenize = _dask("base").tokenize
    facts = (table.start.stream_key, positions.came, table.checksums[positions.rows])
    return f"lichtstrom-{more[0]}-{tokenize(*facts, *more)}"


def _dask(module: str) -> Any:
    import importlib

    try:
        importlib.import_module("dask.array")
        return importlib.import_module(f"dask.{module}")
    except ImportError as error:
        raise PipelineError(
            "arrays and blocks of frames need dask: pip install 'lichtstrom[array]'"
        ) from error
