"""The table of a stream that may still grow, shared by everything that looks at all frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pipeline.errors import ClosedError, FrameExpiredError, StreamTimeoutError
from pipeline.naming import StreamId
from pipeline.protocols import Cursor, StreamLog
from pipeline.reading.ordered import CATCH_UP_S, IDLE_S
from pipeline.reading.table import FrameTable
from pipeline.records import Located, Segment, StreamInfo


class LiveTable:
    """Reads a log into a :class:`FrameTable`, each record once.

    Hold ``lock`` while looking at ``table``; the methods take it themselves.
    """

    def __init__(self, log: StreamLog, stream: StreamId) -> None:
        self.lock = threading.RLock()
        self._log = log
        self._stream = stream
        self.table = FrameTable(log.info(refresh=False).start)
        self._cursor: Cursor | None = None
        self._ends: tuple[int, ...] | None = None
        self._generation = 0
        self._closed = False

    def refresh(self) -> StreamInfo:
        """Read up to what is in the log now; return the catalogue's word from just before.

        Raises StreamTimeoutError when the log stalls on the way.
        """
        with self.lock:
            info = self._log.info(refresh=True)
            self.end_at(info.end_offsets)
            target = self._log.bounds()[1]
            deadline = time.monotonic() + CATCH_UP_S
            while not self.reached(target):
                if self.poll(IDLE_S):
                    deadline = time.monotonic() + CATCH_UP_S
                elif time.monotonic() > deadline:
                    raise StreamTimeoutError(self._stream, CATCH_UP_S, "the log is not readable")
            return info

    def poll(self, timeout_s: float) -> bool:
        """Take in what comes next, waiting for it if need be; True if there was something."""
        with self.lock:
            records = self._open().poll(timeout_s)
            ends = self._ends
            if ends is not None:
                records = [r for r in records if r.offset < ends[r.partition]]
            self.table.update(records)
            return bool(records)

    def reached(self, offsets: Sequence[int]) -> bool:
        """Tell whether everything below these offsets was read."""
        with self.lock:
            positions = self._open().positions()
            return all(p >= o for p, o in zip(positions, offsets, strict=True))

    def _open(self) -> Cursor:
        if self._closed:
            raise ClosedError(f"stream {self._stream} was closed")
        self._cursor = self._cursor or self._log.cursor()
        return self._cursor

    def end_at(self, ends: tuple[int, ...] | None) -> None:
        """Note where the stream ends; starts anew if records behind that were taken in before.

        So they were when a superseded writer sent something behind the end, or when a stream that
        had ended was reopened.
        """
        if ends == self._ends:
            return
        with self.lock:
            beyond = ends is not None and any(
                r.offset >= ends[r.partition] for r in self.table.records
            )
            if beyond or self._ends is not None:
                self._drop()
                self.table = FrameTable(self.table.start)
                self._generation += 1
            self._ends = ends

    @property
    def generation(self) -> int:
        """Rises when the table was started anew, and rows have other meanings."""
        return self._generation

    def reload(self, located: Located) -> Segment:
        """Read one record again, with the payloads inside it."""
        low, starts = self._log.bounds()
        starts = [max(a, b) for a, b in zip(low, starts, strict=True)]
        starts[located.partition] = located.offset
        cursor = self._log.cursor(starts)
        deadline = time.monotonic() + CATCH_UP_S
        try:
            cursor.pause(p for p in range(len(starts)) if p != located.partition)
            while time.monotonic() < deadline:
                for found in cursor.poll(IDLE_S):
                    same = (found.partition, found.offset) == (located.partition, located.offset)
                    if same and isinstance(found.value, Segment):
                        return found.value
        finally:
            cursor.close()
        where = f"record {located.offset} of partition {located.partition} is not there any more"
        raise FrameExpiredError(self._stream, where)

    def close(self) -> None:
        """Release the cursor; the table stays."""
        self._closed = True
        with self.lock:
            self._drop()

    def _drop(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None
