"""``session.sequential``: one process that makes a derived stream in order, across restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError, PipelineError, StreamExistsError
from pipeline.frame import AttributeValue, Buffer
from pipeline.naming import StreamId
from pipeline.publisher import Publisher
from pipeline.reading.frame import Frame
from pipeline.reading.ordered import OrderedFrames
from pipeline.records import Int64s
from pipeline.stream import Stream

_FRAMES_PER_CHUNK = 16
#: Frames without an output are said in one record for as many as come in this time.
_SKIP_EVERY_S = 0.2
_MANY = 256
_FLUSH_S = 30.0


class SequentialStage(Iterator[Frame]):
    """Frames of a source in number order, from the first one without an output on.

    Use it as a context manager and :meth:`write` at most one output for each frame before the
    next; a frame without one is said to be skipped.  Leaving the block after the source's end ends
    the derived stream as the source ended; leaving it earlier, or by an exception, leaves it open,
    and the next stage on it goes on behind the last output that was published.

    Attributes
    ----------
    name:
        The derived stream.
    last:
        The newest output there was when the stage began, from which it may take up its state;
        None at the beginning of a stream.
    resumed_at:
        The number it goes on at; None at the beginning of a stream.
    """

    def __init__(
        self,
        source: Stream,
        name: StreamId,
        *,
        publish: Callable[..., Publisher],
        opening: Callable[[StreamId], Stream],
        timeout_s: float | None,
        options: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.last: Frame | None = None
        self.resumed_at: int | None = None
        self._source = source
        self._publish = publish
        self._opening = opening
        self._timeout_s = timeout_s
        self._options = options
        self._out: Publisher | None = None
        self._made: Stream | None = None
        self._frames: OrderedFrames | None = None
        self._done: set[int] = set()
        self._current: int | None = None
        self._skipped: list[int] = []
        self._skipping_s = 0.0
        self._over = False

    def open(self) -> None:
        """Claim the derived stream, or start it, and find where to go on."""
        key = self._source.start.stream_key.hex()
        lineage = {"source": str(self._source.name), "source_id": key, "sequential": True}
        try:
            self._out = self._publish(
                self.name.beamtime,
                self.name.detector,
                self.name.stream,
                frames_per_chunk=_FRAMES_PER_CHUNK,
                instance=f"sequential:{key}",
                lineage=lineage,
                **self._options,
            )
        except StreamExistsError:
            self._over = True  # it was finished before; there is nothing left to do
        self._made = self._opening(self.name)
        if self._made.settings["lineage"].get("source_id") != key:
            raise PipelineError(
                f"{self.name} exists and was not made from {self._source.name}: choose another name"
            )
        # After the claim, so that an earlier process can add nothing any more.
        self._resume(self._made)

    def _resume(self, made: Stream) -> None:
        table = made.table()
        done = np.concatenate((table.numbers, table.skipped, table.rejected))
        if len(table.numbers):
            self.last = made.frame(int(table.numbers.max()))
        if len(done):
            self.resumed_at = self._first_without(done)
            # Behind the first one without an output some may have one: what was under way when a
            # process died.
            self._done = set(done[done >= self.resumed_at].tolist())
        if not self._over:
            self._frames = self._source.ordered(self.resumed_at, timeout_s=self._timeout_s)

    def _first_without(self, done: Int64s) -> int:
        numbers = self._source.table().numbers
        left = numbers[~np.isin(numbers, done)]
        return int(left.min()) if len(left) else int(done.max()) + 1

    # -- frame by frame ---------------------------------------------------------------------------

    def __next__(self) -> Frame:
        """Return the next frame; StreamTimeoutError after silence, and iteration can go on."""
        self._pass_over()
        if self._over or self._frames is None:
            raise StopIteration
        for frame in self._frames:
            if frame.number not in self._done:
                self._current = frame.number
                return frame
            self._done.discard(frame.number)
        self._over = True
        raise StopIteration

    @property
    def missing(self) -> list[list[int]]:
        """Numbers of the source passed over because they will not come, as inclusive ranges."""
        return self._frames.missing if self._frames is not None else []

    @property
    def late(self) -> list[list[int]]:
        """Numbers of the source that came after they had been passed over: they have no output."""
        return self._frames.late if self._frames is not None else []

    def write(
        self,
        frame: Frame,
        data: npt.NDArray[Any] | Buffer | None,
        *,
        attributes: Mapping[str, AttributeValue] | None = None,
        **fields: Any,
    ) -> None:
        """Publish the output of the frame in hand, under its number and time.

        The other parameters are those of :meth:`pipeline.Publisher.write`.

        Raises
        ------
        InvalidArgumentError
            It is not the frame that the iteration gave last, or has an output already.
        """
        if frame.number != self._current or self._out is None:
            raise InvalidArgumentError("frame", f"{frame.number} is not the frame in hand")
        self._send_skipped()  # before: what is published is a sign that all before it is done
        self._out.write(
            data,
            number=frame.number,
            timestamp_ns=frame.timestamp_ns,
            attributes=attributes,
            **fields,
        )
        self._current = None

    def flush(self, timeout_s: float | None = _FLUSH_S) -> None:
        """Wait until all outputs so far are published."""
        self._send_skipped()
        if self._out is not None:
            self._out.flush(timeout_s)

    def _pass_over(self) -> None:
        """Note that the frame in hand got no output; say so at times, with others."""
        now = time.monotonic()
        if self._current is not None:
            self._skipping_s = self._skipping_s if self._skipped else now
            self._skipped.append(self._current)
            self._current = None
        if len(self._skipped) >= _MANY or now - self._skipping_s >= _SKIP_EVERY_S:
            self._send_skipped()

    def _send_skipped(self) -> None:
        skipped, self._skipped = self._skipped, []
        if skipped and self._out is not None:
            self._out.skip(skipped)

    # -- ending -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Publish what was written, and end the derived stream if the source was read to its end.

        May be called twice.
        """
        out, self._out = self._out, None
        try:
            if out is not None:
                if self._skipped:
                    out.skip(self._skipped)
                if self._over:
                    out.end(self._source.state)
                else:
                    out.close(_FLUSH_S)
        finally:
            if self._frames is not None:
                self._frames.close()
            if self._made is not None:
                self._made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An exception says nothing of the frame in hand: it has no output and comes again.
        self._over = self._over and kind is None
        self.close()
