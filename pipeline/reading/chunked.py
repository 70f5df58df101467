"""Frames in groups of n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pipeline.reading.frame import Frame
from pipeline.reading.ordered import OrderedFrames


class FrameChunks(Iterator[list[Frame]]):
    """Lists of ``count`` frames in order; the last one may be shorter.

    Can be resumed after StreamTimeoutError: what had come by then is in the next chunk.
    """

    def __init__(self, frames: OrderedFrames, count: int) -> None:
        self.frames = frames
        self._count = count
        self._chunk: list[Frame] = []

    @property
    def missing(self) -> list[list[int]]:
        """As :attr:`OrderedFrames.missing`."""
        return self.frames.missing

    @property
    def late(self) -> list[list[int]]:
        """As :attr:`OrderedFrames.late`."""
        return self.frames.late

    @property
    def incomplete(self) -> list[list[int]]:
        """As :attr:`OrderedFrames.incomplete`."""
        return self.frames.incomplete

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
