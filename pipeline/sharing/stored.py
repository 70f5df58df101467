"""A group on one machine over a stored stream, without a broker; same deliveries, same meaning."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import FrameNotFoundError, StreamTimeoutError
from pipeline.protocols import Cursor
from pipeline.reading.frame import Frame
from pipeline.reading.matching import RecordFilter
from pipeline.records import Segment
from pipeline.sharing.assemble import Assembler, Unit
from pipeline.sharing.buffer import Counts
from pipeline.sharing.delivery import Delivery
from pipeline.sharing.filtered import MAX_WAITING, Filtered
from pipeline.sharing.ledger import Ledger
from pipeline.sharing.progress import Taken
from pipeline.stream import Stream

log = logging.getLogger(__name__)
#: Frames leased at once when they are little work; one at a time when each takes longer.
_BATCH = 32
_LONG_S = 0.02
_WAIT_S = 0.05
#: How often dead owners are looked for.
_TAKE_OVER_EVERY_S = 0.5


class StoredShare:
    """The engine behind ``stream.shared(state=FILE)``; see :class:`pipeline.shared.Share`."""

    def __init__(
        self,
        stream: Stream,
        *,
        group: str,
        state: Path,
        where: RecordFilter | None = None,
        keep_filtered: bool = False,
        min_modules: int | None = None,
        ahead: bool = True,
    ) -> None:
        self._stream = stream
        self._ahead = ahead
        self.finished = False
        self._where = where
        self._origin = stream.origin_of(min_modules)
        self._keep = keep_filtered
        #: Filtered out and not fetched; fetched and not settled.
        self._waiting: list[int] = []
        self._unsettled = 0
        self._state = state
        self._key = f"{group}/{stream.start.stream_key.hex()}"
        self.counts = Counts()
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None
        self._units: Iterator[Unit] = iter(())
        self._found: deque[Unit] = deque()
        self._ready: deque[Unit] = deque()
        self._exhausted = False
        self._given_s = self._active_s = time.monotonic()
        self._looked_s = 0.0
        self._stop = threading.Event()

    def open(self) -> None:
        """Open the file and join."""
        self._ledger = Ledger(self._state, self._key)
        self._units = self._read()

    def _read(self) -> Iterator[Unit]:
        """Yield the frames of the stored stream, partition by partition as they come."""
        start = self._stream.start
        assemblers = [
            Assembler(start, self._stream.fetcher, self._origin, self._where)
            for _ in range(start.partitions)
        ]
        ends = self._stream.log.bounds()[1]
        cursor: Cursor = self._stream.log.cursor()
        try:
            while any(at < end for at, end in zip(cursor.positions(), ends, strict=True)):
                for located in cursor.poll(1.0):
                    rows = len(located.value) if isinstance(located.value, Segment) else 0
                    taken = Taken(located.offset, bytearray(rows), rows) if rows else None
                    yield from assemblers[located.partition].add(located, taken)
        finally:
            cursor.close()
        for assembler in assemblers:
            yield from assembler.flush()

    @property
    def silent_s(self) -> float:
        """See :class:`pipeline.shared.Share`."""
        return time.monotonic() - self._active_s

    def take(self, timeout_s: float | None) -> Delivery | None:
        """Return the next delivery, None at the end; StreamTimeoutError after silence."""
        begun_s = time.monotonic()
        while True:
            with self._lock:
                if self._stop.is_set():
                    return None
                delivery = self._again() or self._fresh()
                if delivery is not None:
                    self._active_s = time.monotonic()
                    return delivery
                count = self._book.unfinished()[0] + len(self._waiting) + self._unsettled
                if not count:
                    return None
            left_s = _WAIT_S
            if timeout_s is not None:
                left_s = max(begun_s, self._active_s) + timeout_s - time.monotonic()
            if left_s <= 0:
                detail = f"{count} frames are in hand or wait to be tried again"
                raise StreamTimeoutError(self._stream.name, timeout_s or 0.0, detail)
            self._stop.wait(min(left_s, _WAIT_S))

    def ready(self, limit: int) -> list[Delivery]:
        """See :class:`pipeline.shared.Share`."""
        found: list[Delivery] = []
        with self._lock:
            if self._stop.is_set():
                return found
            while len(found) < limit:
                delivery = self._again() or self._fresh()
                if delivery is None:
                    break
                found.append(delivery)
            if found:
                self._active_s = time.monotonic()
            else:
                left = self._book.unfinished()[0] + len(self._waiting) + self._unsettled
                self.finished = not left
        return found

    @property
    def _book(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    def _again(self) -> Delivery | None:
        """Return a frame that is due to be tried again, or whose owner has died."""
        now = time.monotonic()
        if self._ready and now - self._looked_s < _TAKE_OVER_EVERY_S:
            return None
        found = self._book.take_due(time.time())
        if found is None and now - self._looked_s >= _TAKE_OVER_EVERY_S:
            found = self._book.take_over()
            if found is None:  # else there may be more of the same owner
                self._looked_s = now
        if found is None:
            return None
        number, attempt = found
        try:
            frame = self._stream.frame(number, timeout_s=0.0, min_modules=self._origin.least)
        except FrameNotFoundError as error:
            log.error("a frame to be tried again is gone: %s", error)
            self._book.done(number)
            return None
        return self._deliver(frame, attempt)

    def _deliver(self, frame: Frame, attempt: int) -> Delivery:
        self.counts.delivered += 1
        self.counts.incomplete += bool(self._origin.modules and frame.missing_modules)
        return Delivery(frame, attempt, self, None)

    def _fresh(self) -> Delivery | None:
        """Return a frame that nobody has had."""
        while not self._ready:
            self._refill()
            if not self._found:
                return None
            slow = time.monotonic() - self._given_s > _LONG_S
            batch = [self._found.popleft() for _ in range(min(1 if slow else _BATCH, self._left))]
            ours = set(self._book.lease([unit.number for unit in batch]))
            self._ready.extend(unit for unit in batch if unit.number in ours)
            for unit in self._ready if self._ahead else ():
                for part in unit.parts.values():
                    part.block.prefetch()
        unit = self._ready.popleft()
        self._given_s = time.monotonic()
        return self._deliver(unit.frame(self._origin), 1)

    @property
    def _left(self) -> int:
        return len(self._found)

    def take_filtered(self) -> Filtered | None:
        """See :class:`pipeline.shared.Share`."""
        with self._lock:
            if not self._waiting:
                return None
            numbers, self._waiting = sorted(self._waiting), []
            self._unsettled += len(numbers)
        return Filtered(np.array(numbers, np.int64), lambda: self._finish_filtered(numbers))

    def _finish_filtered(self, numbers: list[int]) -> None:
        with self._lock:
            self._unsettled -= len(numbers)
            self._active_s = time.monotonic()
            if self._ledger is not None:
                self._ledger.pass_over(numbers)

    def _sort_out(self, batch: list[Unit]) -> list[Unit]:
        """Return the frames that are to be delivered; the others are done."""
        left_out = [unit.number for unit in batch if not unit.selected]
        if not left_out:
            return batch
        self.counts.filtered += len(left_out)
        if self._keep:
            self._waiting += left_out
        else:
            self._book.pass_over(left_out)
        return [unit for unit in batch if unit.selected]

    def _refill(self) -> None:
        """Read on until there are frames that nobody has, as far as can be told."""
        while not self._found and not self._exhausted and len(self._waiting) < MAX_WAITING:
            batch = list(itertools.islice(self._units, 256))
            if not batch:
                self._exhausted = True
                return
            known = self._book.known([unit.number for unit in batch])
            self._found.extend(self._sort_out([unit for unit in batch if unit.number not in known]))

    def close(self) -> None:
        """Give back what is not settled; may be called twice."""
        self._stop.set()
        with self._lock:
            if self._ledger is not None:
                self._ledger.release([unit.number for unit in self._ready])
                self._ready.clear()
                self._ledger.close()
                self._ledger = None
            if hasattr(self._units, "close"):
                self._units.close()

    # -- settling ---------------------------------------------------------------------------------

    def acknowledged(self, delivery: Delivery) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        self.counts.acknowledged += 1
        self._note(self._ledger is not None and self._book.done(delivery.frame.number))

    def retried(self, delivery: Delivery, delay_s: float) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        self.counts.retried += 1
        due = time.time() + delay_s
        self._note(self._ledger is not None and self._book.retry(delivery.frame.number, due))

    def rejected(self, delivery: Delivery, reason: str, trace: str) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        self.counts.rejected += 1
        number, attempt = delivery.frame.number, delivery.attempt
        self._note(self._ledger is not None and self._book.reject(number, attempt, reason, trace))

    def _note(self, ours: bool) -> None:
        if not ours:
            self.counts.void += 1
        self._active_s = time.monotonic()
