"""The writing end of a stream of values: frames of attributes alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pipeline.errors import InvalidArgumentError
from pipeline.frame import AttributeValue
from pipeline.publisher import Position, Publisher
from pipeline.publishing.clock import Clock
from pipeline.records import State


class ValuePublisher:
    """Publishes named values over time; thread-safe.

    Use it as a context manager: leaving the block flushes and ends the stream (``complete``, or
    ``aborted`` after an exception).  ``close`` instead leaves it open, to be continued.

    Parameters
    ----------
    out:
        Where the values go.
    tick_s:
        After so much silence say that nothing has changed; None: never.
    settle_s:
        ... up to so long ago: values may come so much later than their time.
    """

    def __init__(
        self, out: Publisher, *, tick_s: float | None = None, settle_s: float = 0.2
    ) -> None:
        if tick_s is not None and not 0.01 <= tick_s < 1e6:
            raise InvalidArgumentError("tick_s", f"{tick_s} is not 0.01 s or more")
        self.out = out
        self._lock = threading.Lock()
        self._newest_ns = 0
        self._put_at = time.monotonic()
        self._tick_s, self._settle_ns = tick_s or 0.0, round(settle_s * 1e9)
        self._clock = Clock(self._tick, name=f"values {out.stream.stream}")
        if tick_s is not None:
            self._clock.start()

    def put(self, timestamp_ns: int | None = None, **values: AttributeValue) -> None:
        """Queue values that hold from ``timestamp_ns`` on (ns since 1970, UTC; default: now).

        Without values it says that nothing has changed up to then, which those who join by time
        need to know where values are rare (``tick_s`` has it done).

        Times should not fall: a value older than its predecessors comes too late for frames that
        were delivered meanwhile.  Blocks and raises as :meth:`pipeline.Publisher.write`.
        """
        self.put_all(values, timestamp_ns)

    def put_all(
        self, values: Mapping[str, AttributeValue], timestamp_ns: int | None = None
    ) -> None:
        """Queue values whose names may be any text; else as :meth:`put`."""
        with self._lock:
            stamp = time.time_ns() if timestamp_ns is None else timestamp_ns
            self.out.write(None, timestamp_ns=stamp, attributes=values)
            self._newest_ns = max(self._newest_ns, stamp)
            self._put_at = time.monotonic()

    def _tick(self) -> float:
        """Say that nothing has changed, if that is due; return the seconds until it may be."""
        with self._lock:
            left_s = self._put_at + self._tick_s - time.monotonic()
            if left_s > 0 or self.out.is_closed:
                return max(left_s, 0.01)
            stamp = time.time_ns() - self._settle_ns
            if stamp > self._newest_ns:
                self.out.write(None, timestamp_ns=stamp)
                self._newest_ns = stamp
            self._put_at = time.monotonic()
        return self._tick_s

    @property
    def newest_ns(self) -> int:
        """The highest time that was put; 0 before."""
        return self._newest_ns

    @property
    def position(self) -> Position:
        """How many values are queued, spooled, acknowledged."""
        return self.out.position

    def flush(self, timeout_s: float | None = 30.0) -> None:
        """Wait until all is published; raises FlushTimeoutError, or what stopped the publisher."""
        self.out.flush(timeout_s)

    def update_metadata(self, metadata: Mapping[str, AttributeValue]) -> None:
        """Add to the stream's metadata; later values win. Blocks until it is in the catalogue."""
        self.out.update_metadata(metadata)

    def end(self, state: State = "complete", **options: Any) -> None:
        """Flush, end the stream and seal it; as :meth:`pipeline.Publisher.end`."""
        self._clock.close()
        self.out.end(state, **options)

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Flush and stop writing; the stream stays open. May be called twice."""
        self._clock.close()
        self.out.close(timeout_s)

    def __enter__(self) -> Self:
        self.out.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clock.close()
        self.out.__exit__(kind, error, trace)
