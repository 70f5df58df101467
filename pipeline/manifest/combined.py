"""A stream on a broker whose topic no longer holds everything: the manifest has the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from pipeline.errors import FrameExpiredError
from pipeline.manifest.cursor import StoredCursor
from pipeline.manifest.partset import PartSet
from pipeline.manifest.writer import known_parts
from pipeline.protocols import BlobStore, Cursor, Lookup, StreamLog
from pipeline.records import Located, StreamInfo
from pipeline.wire.catalogue import stream_id

#: Lookups that find their frame ask the broker for its first offsets no oftener.
_TRIMMED_AGE_S = 10.0
#: A topic is not trimmed again and again within milliseconds.
_TRIES = 2
T = TypeVar("T")


class TrimmedLog(StreamLog, Protocol):
    """A log whose first records may be gone."""

    def available_from(self) -> list[int]:
        """Return per partition the first offset that the log still holds."""
        ...


class CombinedLog:
    """A :class:`pipeline.protocols.StreamLog`: parts first, then the topic, nothing twice.

    As long as the topic holds the whole stream the store is not touched.  May be used by several
    threads.

    Parameters
    ----------
    live, store:
        The topic and where the manifest lies.  Closing this closes ``live``.
    """

    def __init__(self, live: TrimmedLog, store: BlobStore) -> None:
        self._live = live
        self._store = store
        self._parts: PartSet | None = None
        self._seen: tuple[str, ...] = ()
        #: When and what the topic held: (monotonic seconds, first offset per partition).
        self._known: tuple[float, list[int]] | None = None
        self._lock = threading.Lock()

    def info(self, *, refresh: bool) -> StreamInfo:
        """Return what the catalogue says."""
        return self._live.info(refresh=refresh)

    def bounds(self) -> tuple[list[int], list[int]]:
        """Return per partition the first offset that can be read, and the next one."""
        _, ends = self._live.bounds()
        return [
            held if self._hole(partition, held) else start
            for partition, (start, held) in enumerate(self._held(fresh=True))
        ], ends

    def cursor(self, start: Sequence[int] | None = None) -> CombinedCursor:
        """Return a cursor at ``start``, by default at the stream's first record.

        Raises
        ------
        FrameExpiredError
            Records from there on are neither on the topic nor in the manifest.
        """
        first = list(self.info(refresh=False).start.offsets)
        if start is not None:
            first = [max(*pair) for pair in zip(start, first, strict=True)]
        return CombinedCursor(self, first)

    def find(self, number: int, *, timeout_s: float) -> Lookup:
        """Find the records of one frame in its partition, wherever they are."""
        info = self.info(refresh=False)
        partition = info.start.partition_of(number)
        found = _asked(lambda: self._live.find(number, timeout_s=timeout_s))
        # Asking the broker each time would double the cost of a lookup; a miss is worth it.
        start, held = self._held(fresh=not found.records)[partition]
        if held <= start:
            return found
        stored = self.parts(up_to=held, partition=partition).find(partition, number)
        both = {record.offset: record for record in (*stored, *found.records)}
        if not both and self._hole(partition, held):
            raise self.expired([partition])
        records = tuple(both[offset] for offset in sorted(both))
        return Lookup(records=records, passed=found.passed or info.end_offsets is not None)

    def seek(self, number: int) -> list[int]:
        """Return start offsets such that no record of a frame >= ``number`` lies before them.

        Raises
        ------
        FrameExpiredError
            Such records may be among those that are gone.
        """
        offsets = _asked(lambda: self._live.seek(number))
        for partition, (start, held) in enumerate(self._held(fresh=True)):
            if held <= start:
                continue
            parts = self.parts(up_to=held, partition=partition)
            stored = parts.seek(partition, number)
            if stored < parts.covered[partition]:
                offsets[partition] = min(stored, offsets[partition])
            elif self._hole(partition, held) and offsets[partition] <= held:
                # The first record there is reaches ``number`` already: others may have before.
                raise self.expired([partition])
        return offsets

    def tail(self, *, timeout_s: float) -> list[Located]:
        """Return per partition its last segment."""
        last = _asked(lambda: self._live.tail(timeout_s=timeout_s))
        found = {record.partition: record for record in last}
        for partition, (start, held) in enumerate(self._held(fresh=True)):
            if held > start and partition not in found:
                stored = self.parts(up_to=held, partition=partition).last_segment(partition)
                if stored is not None:
                    found[partition] = stored
        return [found[partition] for partition in sorted(found)]

    def close(self) -> None:
        """Close the live log; may be called twice."""
        self._live.close()

    def stored_cursor(self, positions: Sequence[int]) -> tuple[StoredCursor, list[int]] | None:
        """Return a cursor over what the topic does not hold any more, and where it ends.

        None if the topic holds everything from ``positions`` on; raises FrameExpiredError if the
        parts do not reach up to the topic.
        """
        held = [offset for _, offset in self._held(fresh=True)]
        behind = [p for p, at in enumerate(positions) if at < held[p]]
        if not behind:
            return None
        holes = [p for p in behind if self._hole(p, held[p])]
        if holes:
            raise self.expired(holes)
        parts = self.parts(up_to=held[behind[0]], partition=behind[0])
        # All that the parts hold, not only what is gone: the topic may be trimmed meanwhile.
        ends = [parts.covered[p] if p in behind else at for p, at in enumerate(positions)]
        return StoredCursor(parts, positions, ends), ends

    def live_cursor(self, positions: Sequence[int]) -> Cursor | None:
        """Return a cursor over the topic, None if it begins behind ``positions``."""
        held = self._held(fresh=True)
        if any(at < offset for at, (_, offset) in zip(positions, held, strict=True)):
            return None
        # Behind the stream's end the topic may be trimmed too, which costs us nothing.
        low = self._live.available_from()
        return self._live.cursor([max(*pair) for pair in zip(positions, low, strict=True)])

    def parts(self, *, up_to: int, partition: int) -> PartSet:
        """Return what the manifest holds; look again if it does not reach ``up_to``."""
        with self._lock:
            if self._parts is None or self._parts.covered[partition] < up_to:
                info = self._live.info(refresh=self._parts is not None)
                seen = tuple(ref.key for ref in (info.seal, *info.parts) if ref is not None)
                if self._parts is None or seen != self._seen:
                    self._parts, self._seen = known_parts(info, self._store), seen
            return self._parts

    def lost(self) -> list[tuple[int, int, int]]:
        """Return (partition, first, stop) of the offsets that neither topic nor manifest holds."""
        found = []
        for partition, (_, held) in enumerate(self._held(fresh=True)):
            if self._hole(partition, held):
                covered = self.parts(up_to=held, partition=partition).covered[partition]
                found.append((partition, covered, held))
        return found

    def expired(self, partitions: Iterable[int]) -> FrameExpiredError:
        """Return the error that says what neither topic nor manifest holds."""
        held = self._held(fresh=True)
        gone = []
        for p in partitions:
            covered = self.parts(up_to=held[p][1], partition=p).covered[p]
            gone.append(f"partition {p} offsets {covered} to {held[p][1] - 1}")
        return FrameExpiredError(
            stream_id(self.info(refresh=False)),
            f"{', '.join(gone)} are neither on the topic nor in the manifest",
        )

    def _held(self, *, fresh: bool) -> list[tuple[int, int]]:
        """Return per partition the stream's first offset and the first one still on the topic."""
        now = time.monotonic()
        if fresh or self._known is None or now - self._known[0] > _TRIMMED_AGE_S:
            self._known = (now, self._live.available_from())
        info = self.info(refresh=False)
        starts, available = info.start.offsets, self._known[1]
        ends = info.end_offsets or tuple(available)
        return [
            (start, max(start, min(low, end)))
            for start, low, end in zip(starts, available, ends, strict=True)
        ]

    def _hole(self, partition: int, held: int) -> bool:
        start = self.info(refresh=False).start.offsets[partition]
        if held <= start:
            return False
        return self.parts(up_to=held, partition=partition).covered[partition] < held


def _asked(ask: Callable[[], T]) -> T:
    """Ask the topic, and again if it was trimmed while it was searched."""
    for _ in range(_TRIES):
        try:
            return ask()
        except FrameExpiredError:
            continue
    return ask()


class CombinedCursor:
    """A cursor that reads the parts as far as they go and the topic behind them.

    When retention trims the topic under a slow reader, it goes on in the parts written meanwhile.
    """

    def __init__(self, log: CombinedLog, start: Sequence[int]) -> None:
        self._log = log
        #: Per partition the offset below which everything was returned.
        self._positions = list(start)
        self._paused: set[int] = set()
        self._stored: StoredCursor | None = None
        #: Where the topic takes over from the parts.
        self._ends: list[int] = []
        self._live: Cursor | None = None
        self._place()

    def poll(self, timeout_s: float) -> list[Located]:
        """Return the next records; first those that the topic does not hold any more."""
        deadline = time.monotonic() + timeout_s
        while True:
            records = self._poll_stored() or self._poll_live(max(0.0, deadline - time.monotonic()))
            if records or time.monotonic() >= deadline:
                return records

    def positions(self) -> list[int]:
        """Return per partition the offset below which everything has been returned or skipped."""
        return list(self._positions)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop returning records of these partitions."""
        self._paused.update(partitions)
        for cursor in self._cursors():
            cursor.pause(self._paused)

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with paused partitions."""
        back = set(partitions)
        self._paused -= back
        for cursor in self._cursors():
            cursor.resume(back)

    def close(self) -> None:
        """Release both sides; may be called twice."""
        for cursor in self._cursors():
            cursor.close()
        self._stored = self._live = None

    def _cursors(self) -> list[Cursor]:
        return [cursor for cursor in (self._stored, self._live) if cursor is not None]

    def _place(self) -> None:
        """Begin anew at the present positions."""
        self.close()
        self._ends = list(self._positions)
        found = self._log.stored_cursor(self._positions)
        if found is not None:
            self._stored, self._ends = found
            self._stored.pause(self._paused)

    def _poll_stored(self) -> list[Located]:
        if self._stored is None:
            return []
        records = self._stored.poll(0)
        self._advance()
        if not records and self._stored.exhausted():
            self._stored.close()
            self._stored = None
        return records

    def _poll_live(self, timeout_s: float) -> list[Located]:
        """Poll the topic; every partition that is not paused was read to where it takes over."""
        if self._live is None:
            starts = [max(*pair) for pair in zip(self._positions, self._ends, strict=True)]
            self._live = self._log.live_cursor(starts)
            if self._live is None:  # trimmed while the parts were read
                self._place()
                return []
            self._live.pause(self._paused)
        try:
            records = self._live.poll(timeout_s)
        except FrameExpiredError:
            # What the failed call may have taken is not in our positions yet: it is read again.
            self._place()
            if self._stored is None:
                raise
            return []
        self._advance()
        return records

    def _advance(self) -> None:
        """Note how far both sides are; the topic's word counts behind the end of the parts."""
        if self._stored is not None:
            self._positions = self._stored.positions()
        if self._live is not None:
            live = self._live.positions()
            self._positions = [
                at if at < end else max(at, new)
                for at, end, new in zip(self._positions, self._ends, live, strict=True)
            ]
