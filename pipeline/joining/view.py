"""A stream whose frames have values of other streams among their attributes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeVar, Unpack

from pipeline.joining.join import Join, Joiner, JoinOptions
from pipeline.naming import StreamId
from pipeline.reading.chunked import FrameChunks
from pipeline.reading.expressions import Expression
from pipeline.reading.frame import Frame
from pipeline.reading.limits import check_number
from pipeline.reading.selecting import Beside, SelectedFrames

T = TypeVar("T")


class Readable(Protocol):
    """What is asked of the stream that others are joined to."""

    name: StreamId

    def ordered(self, start: int | None = None, *, timeout_s: float | None = 30.0) -> Any: ...  # noqa: D102
    def frame(  # noqa: D102
        self, number: int, *, timeout_s: float | None = 0.0, min_modules: int | None = None
    ) -> Frame: ...
    def latest(  # noqa: D102
        self,
        after: int | None = None,
        *,
        timeout_s: float | None = 30.0,
        min_modules: int | None = None,
    ) -> Frame: ...
    def select(  # noqa: D102
        self,
        expression: str | Expression,
        *,
        follow: bool = True,
        timeout_s: float | None = 30.0,
        beside: Beside | None = None,
    ) -> SelectedFrames: ...
    def shared(  # noqa: D102
        self, group: str, *, timeout_s: float | None = 30.0, **options: Any
    ) -> Iterator[Any]: ...
    def _join(self, values: Any, **options: Unpack[JoinOptions]) -> Join: ...


class JoinedIterator(Iterator[T]):
    """An iterator of a stream whose frames get their values as they are handed out.

    ``missing`` and ``late`` are those of the iterator inside; it can be resumed after
    StreamTimeoutError as that can.
    """

    def __init__(
        self,
        inner: Any,
        joins: Sequence[Join],
        frame_of: Callable[[T], Frame],
        beside: Joiner | None = None,
    ) -> None:
        self.inner = inner
        self._beside = beside
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

    @property
    def incomplete(self) -> list[list[int]]:
        """Numbers given without all their modules, as inclusive ranges."""
        found: list[list[int]] = self.inner.incomplete
        return found

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            item: T = next(self.inner)
        except StopIteration:
            self._joiner.close()
            raise
        self._joiner.add(self._frame_of(item))
        return item

    def close(self) -> None:
        """Release the logs; may be called twice."""
        self._joiner.close()
        if self._beside is not None:
            self._beside.close()
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

    def join(self, values: Any, **options: Unpack[JoinOptions]) -> JoinedStream:
        """Join one more stream; as :meth:`pipeline.Stream.join`."""
        return JoinedStream(self.stream, [*self.joins, self.stream._join(values, **options)])

    def ordered(
        self, start: int | None = None, *, timeout_s: float | None = 30.0, **options: Any
    ) -> JoinedIterator[Frame]:
        """As :meth:`pipeline.Stream.ordered`."""
        frames = self.stream.ordered(start, timeout_s=timeout_s, **options)
        return JoinedIterator(frames, self.joins, _itself)

    def chunks(
        self,
        n: int,
        *,
        start: int | None = None,
        timeout_s: float | None = 30.0,
        **options: Any,
    ) -> FrameChunks:
        """As :meth:`pipeline.Stream.chunks`."""
        count = check_number("n", n, least=1)
        return FrameChunks(self.ordered(start, timeout_s=timeout_s, **options), count)

    def select(
        self,
        expression: str | Expression,
        *,
        follow: bool = True,
        timeout_s: float | None = 30.0,
        **options: Any,
    ) -> JoinedIterator[Frame]:
        """As :meth:`pipeline.Stream.select`, over joined attributes too.

        What is there at the beginning waits together, and so do frames that come at once.
        """
        beside = Joiner(self.joins)
        found = self.stream.select(
            expression, follow=follow, timeout_s=timeout_s, beside=beside, **options
        )
        return JoinedIterator(found, self.joins, _itself, beside)

    def shared(
        self, group: str, *, timeout_s: float | None = 30.0, **options: Any
    ) -> JoinedIterator[Any]:
        """As :meth:`pipeline.Stream.shared`; a delivery is made when its values are there."""
        deliveries = self.stream.shared(group, timeout_s=timeout_s, **options)
        return JoinedIterator(deliveries, self.joins, lambda delivery: delivery.frame)

    def frame(
        self, number: int, *, timeout_s: float | None = 0.0, min_modules: int | None = None
    ) -> Frame:
        """As :meth:`pipeline.Stream.frame`; for a frame of long ago values are read again."""
        found = self.stream.frame(number, timeout_s=timeout_s, min_modules=min_modules)
        return self._one(found)

    def latest(
        self,
        after: int | None = None,
        *,
        timeout_s: float | None = 30.0,
        min_modules: int | None = None,
    ) -> Frame:
        """As :meth:`pipeline.Stream.latest`; the first call reads the values from their start."""
        found = self.stream.latest(after, timeout_s=timeout_s, min_modules=min_modules)
        return self._one(found)

    def _one(self, frame: Frame) -> Frame:
        with self._lock:
            self._single = self._single or Joiner(self.joins)
            self._single.add(frame)
        return frame

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
