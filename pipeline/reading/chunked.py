"""Frames in groups of n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

from pipeline.reading.frame import Frame


class OrderedLike(Protocol):
    """Frames in order, and what is known of those that are not among them."""

    @property
    def missing(self) -> list[list[int]]: ...  # noqa: D102 -- as OrderedFrames
    @property
    def late(self) -> list[list[int]]: ...  # noqa: D102 -- as OrderedFrames
    @property
    def incomplete(self) -> list[list[int]]: ...  # noqa: D102 -- as OrderedFrames
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
