"""A stream whose frames have values of other streams among their attributes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeVar

from pipeline.joining.join import Join, Joiner
from pipeline.naming import StreamId
from pipeline.reading.chunked import FrameChunks
from pipeline.reading.frame import Frame
from pipeline.reading.limits import check_number

T = TypeVar("T")


class Readable(Protocol):
    """What is asked of the stream that others are joined to."""

    name: StreamId

    def ordered(self, start: int | None = None, *, timeout_s: float | None = 30.0) -> Any: ...  # noqa: D102
    def frame(self, number: int, **options: Any) -> Frame: ...  # noqa: D102
    def latest(self, after: int | None = None, **options: Any) -> Frame: ...  # noqa: D102
    def shared(self, group: str, **options: Any) -> Iterator[Any]: ...  # noqa: D102
    def _join(self, values: Any, **options: Any) -> Join: ...


class JoinedIterator(Iterator[T]):
    """An iterator of a stream whose frames get their values as they are handed out.

    ``missing`` and ``late`` are those of the iterator inside; it can be resumed after
    StreamTimeoutError as that can.
    """

    def __init__(self, inner: Any, joins: Sequence[Join], frame_of: Callable[[T], Frame]) -> None:
        self.inner = inner
        self._joiner = Joiner(joins)
        self._frame_of = frame_of

    @property
    def missing(self) -> list[list[int]]:
        """Numbers passed over because they will not come, as inclusive ranges."""
        found: list[list[int]] = self.inner.missing
        return found

    @property
    def late(self) -> list[list[int]]:
        """Numbers that came after they had been passed over, as inclusive ranges."""
        found: list[list[int]] = self.inner.late
        return found

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        item: T = next(self.inner)
        self._joiner.add(self._frame_of(item))
        return item

    def close(self) -> None:
        """Release the logs; may be called twice."""
        self._joiner.close()
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JoinedStream:
    """What :meth:`pipeline.Stream.join` returns: the stream's ways of reading, with values.

    A value that is not known is no attribute of the frame.  An attribute that the frame has itself
    is never replaced; of several joins the earlier one wins.
    """

    def __init__(self, stream: Readable, joins: Sequence[Join]) -> None:
        self.stream = stream
        self.joins = tuple(joins)
        self._single: Joiner | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> StreamId:
        """The stream's name."""
        return self.stream.name

    @property
    def late(self) -> dict[str, int]:
        """Per joined stream: frames delivered before all their values were certain."""
        return {str(join.stream): join.late for join in self.joins}

    @property
    def missing(self) -> dict[str, int]:
        """Per joined stream: frames delivered without one or more of its values."""
        return {str(join.stream): join.missing for join in self.joins}

    def join(self, values: Any, **options: Any) -> JoinedStream:
        """Join one more stream; as :meth:`pipeline.Stream.join`."""
        return JoinedStream(self.stream, [*self.joins, self.stream._join(values, **options)])

    def ordered(
        self, start: int | None = None, *, timeout_s: float | None = 30.0
    ) -> JoinedIterator[Frame]:
        """As :meth:`pipeline.Stream.ordered`."""
        return self._over(self.stream.ordered(start, timeout_s=timeout_s), _itself)

    def chunks(
        self, n: int, *, start: int | None = None, timeout_s: float | None = 30.0
    ) -> FrameChunks:
        """As :meth:`pipeline.Stream.chunks`."""
        count = check_number("n", n, least=1)
        return FrameChunks(self.ordered(start, timeout_s=timeout_s), count)

    def shared(self, group: str, **options: Any) -> JoinedIterator[Any]:
        """As :meth:`pipeline.Stream.shared`; a delivery is made when its values are there."""
        return self._over(self.stream.shared(group, **options), lambda d: d.frame)

    def frame(self, number: int, **options: Any) -> Frame:
        """As :meth:`pipeline.Stream.frame`; for a frame of long ago values are read again."""
        return self._one(self.stream.frame(number, **options))

    def latest(self, after: int | None = None, **options: Any) -> Frame:
        """As :meth:`pipeline.Stream.latest`; the first call reads the values from their start."""
        return self._one(self.stream.latest(after, **options))

    def _one(self, frame: Frame) -> Frame:
        with self._lock:
            self._single = self._single or Joiner(self.joins)
            self._single.add(frame)
        return frame

    def _over(self, inner: Any, frame_of: Callable[[T], Frame]) -> JoinedIterator[T]:
        return JoinedIterator(inner, self.joins, frame_of)

    def close(self) -> None:
        """Release what ``frame`` and ``latest`` hold; the stream stays open."""
        with self._lock:
            if self._single is not None:
                self._single.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"JoinedStream({self.name} with {', '.join(str(j.stream) for j in self.joins)})"


def _itself(frame: Frame) -> Frame:
    return frame
