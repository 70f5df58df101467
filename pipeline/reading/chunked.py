"""Frames in groups of n, and whole streams as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError, PipelineError
from pipeline.reading.feed import FrameFeed
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame, sentinel
from pipeline.reading.live import LiveTable

#: Pixels that one task of a lazy array reads, in bytes.
_TASK_NBYTES = 32 * 1024 * 1024


class OrderedLike(Protocol):
    """Frames in order, and what is known of those that are not among them."""

    @property
    def missing(self) -> list[list[int]]: ...  # noqa: D102 -- as OrderedFrames
    @property
    def late(self) -> list[list[int]]: ...  # noqa: D102 -- as OrderedFrames
    def __iter__(self) -> Iterator[Frame]: ...
    def __next__(self) -> Frame: ...
    def close(self) -> None: ...  # noqa: D102 -- as OrderedFrames


class FrameChunks(Iterator[list[Frame]]):
    """Lists of ``count`` frames in order; the last one may be shorter.

    Can be resumed after StreamTimeoutError: what had come by then is in the next chunk.
    """

    def __init__(self, frames: OrderedLike, count: int) -> None:
        self.frames = frames
        self._count = count
        self._chunk: list[Frame] = []

    @property
    def missing(self) -> list[list[int]]:
        """As :attr:`.ordered.OrderedFrames.missing`."""
        return self.frames.missing

    @property
    def late(self) -> list[list[int]]:
        """As :attr:`.ordered.OrderedFrames.late`."""
        return self.frames.late

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Frame]:
        while len(self._chunk) < self._count:
            frame = next(self.frames, None)
            if frame is None:
                break
            self._chunk.append(frame)
        if not self._chunk:
            raise StopIteration
        chunk, self._chunk = self._chunk, []
        return chunk

    def close(self) -> None:
        """Release the log."""
        self.frames.close()


class StackedFrames:
    """All frames of an ended stream as one array-like; index 0 is frame ``first``.

    Frames that are missing hold the sentinel: all ones, -1, or not a number.
    """

    def __init__(self, live: LiveTable, fetcher: Fetcher, origin: Origin) -> None:
        self._live = live
        self._fetcher = fetcher
        self._origin = origin
        table = live.table
        self._rows = table.merged().rows
        self._numbers = table.numbers[self._rows]
        if not len(self._rows):
            raise DecodeError(f"{origin.stream} has no frames")
        feed = FrameFeed(live, self._rows, fetcher, origin, ahead=False)
        sample = next((frame for frame in feed if frame.shape), None)
        if sample is None:
            raise DecodeError(f"{origin.stream} has no pixels, only attributes")
        self.first = int(self._numbers[0])
        self._frame_shape = sample.shape
        self.shape = (int(self._numbers[-1]) - self.first + 1, *sample.shape)
        self.dtype = np.dtype(sample.dtype)
        self.ndim = len(self.shape)

    @property
    def task_frames(self) -> int:
        """How many frames one task reads."""
        nbytes = self.dtype.itemsize * int(np.prod(self._frame_shape))
        return max(1, min(self.shape[0], _TASK_NBYTES // max(1, nbytes)))

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        index = index if isinstance(index, tuple) else (index,)
        begin, stop, step = index[0].indices(self.shape[0])
        wanted = range(begin, stop, step)
        stack = np.full((len(wanted), *self._frame_shape), sentinel(self.dtype), self.dtype)
        low, high = np.searchsorted(self._numbers, [self.first + begin, self.first + stop])
        rows = self._rows[low:high]
        for frame in FrameFeed(self._live, rows, self._fetcher, self._origin, ahead=True):
            at = frame.number - self.first
            if at in wanted and frame.shape and not frame.missing_modules:
                if (frame.shape, frame.dtype) != (self._frame_shape, self.dtype.name):
                    raise DecodeError(
                        f"frame {frame.number} of {frame.stream} is {frame.shape} {frame.dtype},"
                        f" others are {self._frame_shape} {self.dtype}"
                    )
                stack[wanted.index(at)] = frame.array
        rest: npt.NDArray[Any] = stack[(slice(None), *index[1:])]
        return rest


def lazy_array(frames: StackedFrames) -> Any:
    """Return a dask array over the frames.

    Raises PipelineError, naming the extra to install, when dask is not there.
    """
    try:
        import dask.array as da
    except ImportError as error:
        raise PipelineError("Stream.array() needs dask: pip install 'lichtstrom[array]'") from error
    chunks = (frames.task_frames, *frames.shape[1:])
    meta = np.empty((0,) * frames.ndim, frames.dtype)
    from_array: Any = da.from_array  # untyped where dask is installed, unknown where it is not
    return from_array(frames, chunks=chunks, name=False, asarray=False, fancy=False, meta=meta)
