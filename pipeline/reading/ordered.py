"""Iterating a stream in frame order, live or stored."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from typing import Self

from pipeline.errors import ClosedError, StreamTimeoutError
from pipeline.protocols import Cursor, StreamLog
from pipeline.reading.fetch import Fetcher, Origin, Window
from pipeline.reading.frame import Frame
from pipeline.reading.order import Ordering
from pipeline.reading.sample import sample_of
from pipeline.records import Located, Segment

#: Longest wait in one poll, and how old the catalogue's word may be while nothing comes.
IDLE_S = 0.1
#: After this silence behind a hole the log is asked how far it reaches, instead of waiting for the
#: next mark of the partition; behind a closing mark the catalogue is asked for the end.
_SOON_S = 0.02
#: Segments waiting in one partition before it is paused ...
_LANE_SEGMENTS = 1024
#: ... and in all of them, or bytes inside records, before no more are taken in ahead of need.
_AHEAD_SEGMENTS = 64
#: How long reading up to what was in the log may take once the time for waiting is over.
CATCH_UP_S = 10.0


class OrderedFrames(Iterator[Frame]):
    """The frames of a stream in number order; ends with the stream.

    ``next`` waits at most ``timeout_s`` for the log to grow and then raises StreamTimeoutError,
    after which iteration can go on.  Not for use by two threads at once.
    """

    def __init__(
        self,
        log: StreamLog,
        fetcher: Fetcher,
        origin: Origin,
        *,
        first: int | None,
        timeout_s: float | None,
        deadline_s: float | None = None,
    ) -> None:
        self._deadline_s = deadline_s if origin.modules else None
        self._log = log
        self._fetcher = fetcher
        self._origin = origin
        self._timeout_s = timeout_s
        info = log.info(refresh=False)
        self._ends = info.end_offsets
        self._ordering = Ordering(info.start, first)
        self._sample = sample_of(info.start)
        self._window = Window(fetcher.prefetch_nbytes)
        self._cursor: Cursor = log.cursor(log.seek(first) if first else None)
        self._release_cursor = weakref.finalize(self, self._cursor.close)
        self._ready: Iterator[Frame] = iter(())
        self._looked = time.monotonic()
        self._paused: set[int] = set()
        self._inline_nbytes = 0
        self._segments = 0
        self._barrier: tuple[int, list[int]] | None = None
        self._closing = False
        self._ended = False
        self._closed = False
        self._polling = threading.Lock()

    @property
    def missing(self) -> list[list[int]]:
        """Numbers passed over because they will not come, as inclusive ranges.

        Of a sample only those that were chosen and did not come.
        """
        found = self._ordering.missing
        return (found if self._sample is None else found.common(self._sample.missing)).lists()

    @property
    def late(self) -> list[list[int]]:
        """Numbers that came after they had been passed over, as inclusive ranges."""
        return self._ordering.late.lists()

    @property
    def incomplete(self) -> list[list[int]]:
        """Numbers given without all their modules, as inclusive ranges.

        They are also in :attr:`late` when more of their modules came afterwards.
        """
        return self._ordering.incomplete.lists()

    def close(self) -> None:
        """Release the log; frames handed out stay usable, going on raises ClosedError."""
        self._closed = True
        with self._polling:  # a poll of another thread lasts IDLE_S at most
            self._release_cursor()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        for frame in self._ready:
            return frame
        if self._closed and not self._ended:
            raise ClosedError(f"stream {self._origin.stream} was closed while it was read")
        self._ready = iter(self._advance())
        return next(self._ready)

    def _advance(self) -> list[Frame]:
        """Return the next run of frames; empty at the end."""
        self._release()
        if not self._ended and self._segments < _AHEAD_SEGMENTS and not self._full():
            self._take_in(self._poll(0))  # keeps the reading ahead busy
        frames = self._ordering.take()
        if not frames:
            frames = self._wait()
        self._window.pump()
        return frames

    def _poll(self, timeout_s: float) -> list[Located]:
        with self._polling:
            if self._closed:
                raise ClosedError(f"stream {self._origin.stream} was closed while it was read")
            return self._cursor.poll(timeout_s)

    def _take_in(self, records: list[Located]) -> None:
        ends = self._ends
        self._ordering.now_s = time.monotonic()
        for located in records:
            value = located.value
            if ends is not None and located.offset >= ends[located.partition]:
                continue
            if isinstance(value, Segment):
                block = self._fetcher.open(value, self._origin)
                block.appended_ms = located.timestamp_ms
                if self._ordering.add(located, block):
                    self._window.add(int(value.numbers[0]), block)
                    self._inline_nbytes += len(value.inline)
                    self._segments += 1
            else:
                self._ordering.add(located, None)
                self._closing = self._closing or value.kind == "closing"
        if records:
            self._pause()
            self._window.pump()

    def _full(self) -> bool:
        return self._inline_nbytes >= self._fetcher.prefetch_nbytes

    def _release(self) -> None:
        for block in self._ordering.released:
            self._window.release(block)
            self._inline_nbytes -= len(block.segment.inline)
            self._segments -= 1
        self._ordering.released.clear()

    def _pause(self) -> None:
        """Stop partitions that run ahead; go on with those that have been used up."""
        buffered = self._ordering.buffered
        partitions = range(self._ordering.floors.partitions)
        ahead = {p for p in partitions if buffered(p) >= _LANE_SEGMENTS} - self._paused
        if ahead:
            self._cursor.pause(sorted(ahead))
            self._paused |= ahead
        if self._paused:
            self._resume({p for p in self._paused if buffered(p) < _LANE_SEGMENTS // 2})

    def _resume(self, partitions: set[int]) -> None:
        if partitions:
            self._cursor.resume(sorted(partitions))
            self._paused -= partitions

    # -- waiting ----------------------------------------------------------------------------------

    def _wait(self) -> list[Frame]:
        begun = time.monotonic()
        target: list[int] | None = None
        while not self._at_end():
            if self._paused:
                self._resume(self._paused.intersection(self._ordering.needed()))
            left = self._left(begun, target is not None)
            records = self._poll(min(self._slice(), max(left, 0.0)))
            self._take_in(records)
            if not records:
                self._look()
            self._cross_barrier()
            self._expire()
            frames = self._ordering.take()
            if frames:
                return frames
            self._release()
            if left <= 0 or target is not None:
                # Silence counts from what is in the log now, not from how far we have come.
                target = target or self._log.bounds()[1]
                if self._read_up_to(target) or self._left(begun, True) <= 0:
                    self._ask_for_end()
                    if self._ends is None or self._left(begun, True) <= 0:
                        self._time_out()
        return self._ordering.take()

    def _at_end(self) -> bool:
        if not self._ended and self._ends is not None and self._reached(self._ends):
            self._ended = True
            self._ordering.finish(self._ends)
            self._release_cursor()
        return self._ended

    def _left(self, begun: float, catching_up: bool) -> float:
        if self._timeout_s is None:
            return IDLE_S
        extra = CATCH_UP_S if catching_up else 0.0
        return begun + self._timeout_s + extra - time.monotonic()

    def _slice(self) -> float:
        soon = self._closing or (self._barrier is None and self._goal() is not None)
        slice_s = _SOON_S if soon else IDLE_S
        since_s = self._ordering.waits_since() if self._deadline_s is not None else None
        if since_s is not None and self._barrier is None:
            due_s = since_s + (self._deadline_s or 0.0) - time.monotonic()
            slice_s = min(slice_s, max(due_s, 0.0))
        return slice_s

    def _look(self) -> None:
        """Find out after a silence whether the stream has ended, or a hole can be passed."""
        now = time.monotonic()
        if self._ends is None and (self._closing or now - self._looked >= IDLE_S):
            self._ask_for_end()
            if self._at_end():
                return
        goal = self._goal()
        if goal is not None and (self._barrier is None or self._barrier[0] < goal):
            # All below the goal is acknowledged, so it lies below the log's end as of now.
            self._barrier = goal, self._log.bounds()[1]

    def _expire(self) -> None:
        """Give up waiting for modules: what is in the log by now is still read first."""
        if self._deadline_s is None or self._barrier is not None or self._ended:
            return
        goal = self._ordering.overdue(time.monotonic() - self._deadline_s)
        if goal is not None:
            self._barrier = goal, self._log.bounds()[1]
            self._cross_barrier()

    def _ask_for_end(self) -> None:
        self._ends = self._log.info(refresh=True).end_offsets
        self._looked = time.monotonic()

    def _goal(self) -> int | None:
        goal = self._ordering.blocked_at()
        return goal if goal is not None and goal <= self._ordering.floors.reach else None

    def _cross_barrier(self) -> None:
        if self._barrier is None or self._ended:
            return
        goal, offsets = self._barrier
        positions = self._cursor.positions()
        # Past a deadline go several frames at once, which may be in any partition.
        many = self._deadline_s is not None
        needed = range(len(offsets)) if many else self._ordering.needed()
        if all(positions[p] >= offsets[p] for p in needed):
            self._ordering.promise(goal)
            self._barrier = None

    def _reached(self, offsets: list[int] | tuple[int, ...]) -> bool:
        positions = self._cursor.positions()
        return all(p >= o for p, o in zip(positions, offsets, strict=True))

    def _read_up_to(self, offsets: list[int]) -> bool:
        """Tell whether all was read but for partitions that were paused, whose turn is not yet."""
        positions = self._cursor.positions()
        return all(p in self._paused or positions[p] >= o for p, o in enumerate(offsets))

    def _time_out(self) -> None:
        goal = self._ordering.blocked_at()
        detail = f"waiting for a frame below {goal}" if goal is not None else ""
        raise StreamTimeoutError(self._origin.stream, self._timeout_s or 0.0, detail)
