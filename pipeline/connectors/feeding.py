"""Records that somebody else reads from the topic, as the writer of files wants to get them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pipeline.connectors.messages import RawRecord, Trouble
from pipeline.errors import PipelineError, UnknownSchemaError, WireError
from pipeline.naming import parse_record_key
from pipeline.records import Located, StreamInfo
from pipeline.wire import codec
from pipeline.wire.located import decode_record

log = logging.getLogger(__name__)
#: How often is looked what retention has removed, while nothing comes.
_LOOK_S = 2.0
#: Records that wait for the writer: beyond, no more are taken.
_ROOM_NBYTES = 16 * 1024 * 1024


class FedRecords:
    """One stream's records in some partitions: fed by one thread, read by another.

    Both a :class:`pipeline.protocols.Cursor` and a :class:`pipeline.sinks.hdf5.records.Feed`.
    What cannot be decoded, or holds frames that cannot be written, is a trouble: until it was
    :meth:`reported`, no restart begins behind it.

    Parameters
    ----------
    first_held:
        Tells per partition the first offset that the topic still holds.  What retention has removed
        nobody feeds, and is not waited for: in the end the files are compared with the stream.
    """

    def __init__(
        self,
        topic: str,
        info: StreamInfo,
        resolve: codec.Resolver | None,
        *,
        first_held: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self._topic = topic
        self._first_held = first_held
        self._looked_s = 0.0
        self._info = info
        self._resolve = resolve
        self._changed = threading.Condition()
        self._waiting: deque[tuple[RawRecord, Located | None]] = deque()
        #: Whether nobody wants records any more.
        self._is_over = False
        self._nbytes = 0
        #: Per partition what is expected next, and what was handed to the writer.
        self._next: list[int] = []
        self._positions: list[int] = []
        self._fresh: list[Trouble] = []
        self._unreported: dict[tuple[int, int], int] = {}

    # -- the writer's side ----------------------------------------------------------------------

    def begin(self, marker: Sequence[int]) -> FedRecords:
        """Expect the records from ``marker`` on; once told, it stays so."""
        with self._changed:
            if not self._next:
                self._next, self._positions = list(marker), list(marker)
        return self

    def pass_over(self) -> None:
        """Want none of the records to come: the stream has ended, its topic may go on."""
        with self._changed:
            self._is_over = True
            for raw, _ in self._waiting:
                self._positions[raw.partition] = raw.offset + 1
            self._waiting.clear()
            self._nbytes = 0

    def poll(self, timeout_s: float) -> list[Located]:
        """Return the next records, an empty list after ``timeout_s``.

        Raises what ``first_held`` raises, but for what may pass.
        """
        with self._changed:
            came = self._changed.wait_for(lambda: bool(self._waiting), timeout_s)
        if not came:
            self._pass_removed()
        with self._changed:
            taken = list(self._waiting)
            self._waiting.clear()
            self._nbytes = 0
            for raw, _ in taken:
                self._positions[raw.partition] = raw.offset + 1
            self._changed.notify_all()
        return [located for _, located in taken if located is not None]

    def _pass_removed(self) -> None:
        """Go on behind what the topic does not hold any more."""
        now = time.monotonic()
        if self._first_held is None or now - self._looked_s < _LOOK_S:
            return
        self._looked_s = now
        try:
            first = self._first_held()
        except PipelineError as error:
            if not error.retriable:
                raise
            return
        with self._changed:
            if self._waiting:
                return
            for partition, offset in enumerate(first[: len(self._next)]):
                if offset > self._next[partition]:
                    log.warning(
                        "records are no longer on the topic topic=%s partition=%d offsets=%d-%d",
                        self._topic,
                        partition,
                        self._next[partition],
                        offset - 1,
                    )
                    self._next[partition] = self._positions[partition] = offset

    def positions(self) -> list[int]:
        """Return per partition the offset below which everything was returned or passed over."""
        with self._changed:
            return list(self._positions)

    def pause(self, partitions: Iterable[int]) -> None:
        """Do nothing: other partitions are not fed."""

    def resume(self, partitions: Iterable[int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def damaged(self, located: Located, number: int, reason: str) -> None:
        """Hear of a frame that cannot be written."""
        self._complain(located.partition, located.offset, f"frame {number}: {reason}")

    def safe(self, marker: Sequence[int]) -> list[int]:
        """Return ``marker``, of partitions with troubles not reported yet the first of these."""
        limits = list(marker)
        with self._changed:
            for partition, offset in self._unreported:
                limits[partition] = min(limits[partition], offset)
        return limits

    def settled(self, timeout_s: float) -> bool:
        """Wait until every trouble was reported; tells whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unreported, timeout_s)

    # -- the feeder's side ----------------------------------------------------------------------

    def feed(self, record: RawRecord, timeout_s: float) -> bool:
        """Take the next record of its partition; False if there was no room for ``timeout_s``.

        One that was fed before is passed over.  Raises UnknownSchemaError.
        """
        with self._changed:
            if record.offset < self._next[record.partition]:
                return True
            if self._is_over:
                self._next[record.partition] = self._positions[record.partition] = record.offset + 1
                return True
            if not self._changed.wait_for(lambda: self._nbytes < _ROOM_NBYTES, timeout_s):
                return False
        located = self._decoded(record)
        with self._changed:
            self._next[record.partition] = record.offset + 1
            self._waiting.append((record, located))
            self._nbytes += record.nbytes
            self._changed.notify_all()
        return True

    def take_troubles(self) -> list[Trouble]:
        """Return what has gone wrong since the last call."""
        with self._changed:
            fresh, self._fresh = self._fresh, []
        return fresh

    def reported(self, partition: int, offset: int) -> None:
        """Hear that one trouble of a record has been told to those who can do something."""
        with self._changed:
            left = self._unreported.get((partition, offset), 0) - 1
            if left > 0:
                self._unreported[(partition, offset)] = left
            else:
                self._unreported.pop((partition, offset), None)
            self._changed.notify_all()

    def _decoded(self, record: RawRecord) -> Located | None:
        if parse_record_key(record.key) is None:
            self._complain(record.partition, record.offset, "its key is none of lichtstrom's")
            return None
        try:
            return decode_record(
                record.key,
                record.value or b"",
                topic=self._topic,
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp_ms,
                stream_key=self._info.start.stream_key,
                resolve=self._resolve,
            )
        except UnknownSchemaError:
            raise  # frames may be in it
        except WireError as error:
            self._complain(record.partition, record.offset, str(error))
            return None

    def _complain(self, partition: int, offset: int, reason: str) -> None:
        with self._changed:
            self._fresh.append(Trouble(partition, offset, reason))
            place = (partition, offset)
            self._unreported[place] = self._unreported.get(place, 0) + 1
