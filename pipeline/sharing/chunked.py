"""A group that gets a stream in chunks, in order: one member reads it, others stand by.

Chunks are handed out before the ones ahead of them are done, so several processes can work at
once; progress is written down chunk by chunk, in order, and who takes over begins behind the last
chunk before which everything is done.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from pipeline.errors import PipelineError, StreamTimeoutError, of_ours
from pipeline.kafka.producer import Acknowledged
from pipeline.naming import record_key
from pipeline.publishing.claims import holder
from pipeline.records import NO_FLOOR, Pointer
from pipeline.services import Services
from pipeline.sharing.buffer import Counts
from pipeline.sharing.delivery import Delivery
from pipeline.sharing.following import FollowedFrames, OrderedDelivery
from pipeline.sharing.measured import Measured
from pipeline.stream import Stream
from pipeline.wire import codec

log = logging.getLogger(__name__)
_POLL_S = 0.05
#: Chunks read ahead of the first that is not done.
_AHEAD = 256


class _Chunk:
    """Frames that are handed out together, and what became of them."""

    def __init__(self, turns: list[OrderedDelivery]) -> None:
        self.turns = turns
        self.attempt = 1
        self.left = 0
        #: When to hand it out again; None: it is not to be.
        self.due_s: float | None = None
        self.done = False
        self.void = False


class ChunkedShare:
    """The engine behind ``lichtstrom worker --chunk``; see :class:`pipeline.shared.Share`.

    Parameters
    ----------
    frames:
        The group's turns at this stream.
    count:
        Frames in a chunk; the last one of the stream may have fewer.
    wake:
        Called, from a thread of our own, when there may be something to take.
    """

    def __init__(
        self,
        services: Services,
        stream: Stream,
        frames: FollowedFrames,
        *,
        group: str,
        count: int,
        wake: Callable[[], None],
    ) -> None:
        names, begun = services.names, stream.start
        self._producer = services.producer
        self._admin = services.admin
        self._dead = names.dead_letters(begun.beamtime, begun.detector, group)
        self._stream = stream
        self._frames = frames
        self._group = group
        self._count = count
        self._wake = wake
        self.counts = Counts()
        self._measured: Measured | None = None
        self._lock = threading.Lock()
        self._part: list[OrderedDelivery] = []
        self._ready: deque[_Chunk] = deque()
        #: Chunks that are not done, and those before which one is not, in order.
        self._open: deque[_Chunk] = deque()
        self._later: list[tuple[float, int, _Chunk]] = []
        self._order = itertools.count()
        self._failure: Exception | None = None
        self.finished = False
        #: All frames below this number are done; NO_FLOOR: nobody knows yet.
        self.floor = NO_FLOOR
        self._active_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"chunks {group}", daemon=True)

    def open(self) -> None:
        """Make the topic of dead letters, and begin to read."""
        if not self._admin.partitions(self._dead):
            self._admin.create_topic(self._dead, partitions=1)
        self._measured = Measured(
            self._stream.name, self._group, self.counts, self._sizes, self._lock
        )
        self._thread.start()

    def _sizes(self) -> tuple[int, int]:
        with self._lock:
            return sum(len(c.turns) for c in self._ready), sum(c.left for c in self._open)

    @property
    def silent_s(self) -> float:
        """See :class:`pipeline.shared.Share`."""
        return time.monotonic() - self._active_s

    def ready(self, limit: int) -> list[list[Delivery]]:
        """Return at most ``limit`` chunks that can be delivered now; does not wait."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            found: list[list[Delivery]] = []
            while self._ready and len(found) < limit:
                chunk = self._ready.popleft()
                if chunk.void:
                    continue
                chunk.left = len(chunk.turns)
                self.counts.delivered += chunk.left
                found.append([Delivery(t.frame, chunk.attempt, self, chunk) for t in chunk.turns])
            return found

    def close(self) -> None:
        """Leave the group; may be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(30.0)
        if self._measured is not None:
            self._measured.close()
        self._frames.close()

    # -- settling ---------------------------------------------------------------------------------

    def acknowledged(self, delivery: Delivery) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        self.counts.acknowledged += 1
        self._settled(delivery, None)

    def retried(self, delivery: Delivery, delay_s: float) -> None:
        """Have the whole chunk delivered again."""
        self.counts.retried += 1
        self._settled(delivery, time.monotonic() + delay_s)

    def rejected(self, delivery: Delivery, reason: str, trace: str) -> None:
        """Write a dead letter; the frame is done when the broker has it."""
        self.counts.rejected += 1
        number, key = delivery.frame.number, self._stream.start.stream_key
        pointer = Pointer(
            stream_key=key,
            number=number,
            attempt=delivery.attempt,
            group=self._group,
            member=holder(),
            reason=reason[:10_000],
            trace=trace[-100_000:],
        )

        def done(outcome: Acknowledged | PipelineError) -> None:
            if isinstance(outcome, PipelineError):
                self._failure = self._failure or outcome
            else:
                self._settled(delivery, None)

        self._producer.append(self._dead, 0, record_key(key, number), codec.encode(pointer), done)

    def _settled(self, delivery: Delivery, due_s: float | None) -> None:
        chunk = delivery.ticket
        assert isinstance(chunk, _Chunk)
        with self._lock:
            self._active_s = time.monotonic()
            chunk.left -= 1
            if due_s is not None:
                chunk.due_s = max(due_s, chunk.due_s or 0.0)
            if chunk.left or chunk.void:
                self.counts.void += chunk.void
                return
            if chunk.due_s is None:
                chunk.done = True
            else:
                heapq.heappush(self._later, (chunk.due_s, next(self._order), chunk))
                chunk.attempt, chunk.due_s = chunk.attempt + 1, None

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        self._frames.timeout_s = _POLL_S
        try:
            while not (self._stop.is_set() or self.finished):
                self._acknowledge()
                self._take_due()
                if len(self._open) < _AHEAD:
                    self._take()
                else:
                    self._stop.wait(_POLL_S)
            self._acknowledge()
        except Exception as error:  # noqa: BLE001 -- re-raised to the owner by ``ready``
            self._failure = of_ours(error)
        finally:
            self._wake()

    def _take(self) -> None:
        """Read on; hand over what is a chunk by now."""
        try:
            turn = next(self._frames)
        except StreamTimeoutError:
            self._drop_lost()
            if self._frames.has_finished(self._stream.start.stream_key):
                self.finished = True
            elif self._part and self._frames.is_read(self._stream.start.stream_key):
                self._hand_over()
            else:
                self._stop.wait(_POLL_S / 2)
            return
        except StopIteration:
            return
        self._active_s = time.monotonic()
        if not turn.valid:
            return
        if self._part and not self._part[-1].valid:  # it came back to us: from where it stands
            self._drop_lost()
        self._part.append(turn)
        if len(self._part) == self._count:
            self._hand_over()

    def _hand_over(self) -> None:
        chunk, self._part = _Chunk(self._part), []
        with self._lock:
            self._open.append(chunk)
            self._ready.append(chunk)
        self._wake()

    def _drop_lost(self) -> None:
        """Forget what has gone to another member."""
        if self._part and not self._part[-1].valid:
            self._part = []
        with self._lock:
            for chunk in self._open:
                chunk.void = chunk.void or not chunk.turns[-1].valid
            self._open = deque(chunk for chunk in self._open if not chunk.void)

    def _take_due(self) -> None:
        with self._lock:
            while self._later and self._later[0][0] <= time.monotonic():
                self._ready.append(heapq.heappop(self._later)[2])
                self._wake()

    def _acknowledge(self) -> None:
        """Write down how far everything is done."""
        last: _Chunk | None = None
        with self._lock:
            while self._open and self._open[0].done:
                for turn in last.turns if last is not None else ():
                    turn.skip()
                last = self._open.popleft()
        if last is not None:
            for turn in last.turns[:-1]:
                turn.skip()
            last.turns[-1].ack()
            self.floor = last.turns[-1].frame.number + 1
