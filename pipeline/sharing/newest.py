"""The newest frame, each at most once per group: who is first to say so on a topic gets it.

A member that wants frame n appends a claim to the group's ``.newest`` topic (one partition, so
that all claims have one order) and reads up to its own.  The claim that raises the highest number
claimed so far has won; the others look for a newer frame.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Protocol, Self

from pipeline.errors import FrameNotFoundError, StreamTimeoutError, WireError
from pipeline.kafka import groups
from pipeline.kafka.producer import Acknowledged
from pipeline.kafka.topics import TopicReader
from pipeline.naming import record_key
from pipeline.publishing.claims import holder
from pipeline.reading.frame import Frame
from pipeline.records import Pointer
from pipeline.services import Services
from pipeline.stream import Stream
from pipeline.wire import codec

#: So many of a detector's last claims are read by a member that begins.  A stream whose claims all
#: lie before them has long ended; its last frame may then be given to the group a second time.
_TAIL = 10_000


class Turn(Protocol):
    """What a group's members know of each other; used by one thread at a time."""

    @property
    def newest(self) -> int:
        """The highest number that anybody of the group is known to have had, -1 for none."""
        ...

    def take(self, number: int) -> bool:
        """Claim a frame; False if somebody of the group had it, or a newer one, before."""
        ...

    def close(self) -> None:
        """Release what was opened."""
        ...


class KafkaTurn:
    """A :class:`Turn` on the broker; making it blocks until the last claims are read."""

    def __init__(self, services: Services, stream: Stream, group: str) -> None:
        start, admin = stream.start, services.admin
        self._services = services
        self._group = group
        self._key = start.stream_key
        self._topic = services.names.newest(start.beamtime, start.detector, group)
        self.newest = -1
        if not admin.partitions(self._topic):
            admin.create_topic(self._topic, partitions=1, compacted=True)
        first = groups.first_offsets(admin, self._topic, 1)[0]
        end = groups.next_offsets(admin, self._topic, 1)[0]
        self._next = max(first, end - _TAIL)
        self._reader = TopicReader(services.settings.kafka, self._topic)
        self._read_to(end)

    def take(self, number: int) -> bool:
        """See :class:`Turn`; blocks for one append and one read (some ms)."""
        pointer = Pointer(
            stream_key=self._key, number=number, attempt=1, group=self._group, member=holder()
        )
        key = record_key(self._key, number)
        settings = self._services.settings.kafka
        producer = self._services.producer
        ours = producer.append_wait(
            self._topic, 0, key, codec.encode(pointer), settings.timeout_s
        ).offset
        self._read_to(ours)
        before = self.newest
        self._read_to(ours + 1)
        if self.newest == before:
            return False
        if before >= 0:  # compaction may forget what was overtaken
            producer.append(self._topic, 0, record_key(self._key, before), None, _forgotten)
        return True

    def _read_to(self, end: int) -> None:
        deadline = time.monotonic() + self._services.settings.kafka.timeout_s
        while self._next < end:
            for message in self._reader.read(0, self._next, end):
                self._next = message.offset() + 1
                self._apply(message.value())
            if self._next < end and time.monotonic() > deadline:
                where, limit_s = self._topic, self._services.settings.kafka.timeout_s
                raise StreamTimeoutError(where, limit_s, f"offset {end - 1} was not read")

    def _apply(self, value: bytes | None) -> None:
        try:
            pointer = codec.decode(value, where=self._topic) if value else None
        except WireError:
            return
        if isinstance(pointer, Pointer) and pointer.stream_key == self._key:
            self.newest = max(self.newest, pointer.number)

    def close(self) -> None:
        """Release the consumer."""
        self._reader.close()


def _forgotten(_: Acknowledged | Exception) -> None:
    """Pass over what became of it: a superseded claim that stays costs some bytes."""


class NewestFrames(Iterator[Frame]):
    """The newest frames that fall to this member; ends with the stream.

    After StreamTimeoutError it can be iterated further.  Thread-safe.
    """

    def __init__(self, stream: Stream, turn: Turn, timeout_s: float | None) -> None:
        self._stream = stream
        self._turn = turn
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._closed = False

    def __next__(self) -> Frame:
        with self._lock:
            while not self._closed:
                try:
                    frame = self._stream.latest(after=self._turn.newest, timeout_s=self.timeout_s)
                except FrameNotFoundError:
                    self._close()
                    break
                if self._turn.take(frame.number):
                    return frame
        raise StopIteration

    def close(self) -> None:
        """Stop; may be called twice. Waits for a call of ``next`` in another thread."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._turn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
