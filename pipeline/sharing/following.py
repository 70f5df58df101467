"""``session.follow_ordered``: all streams of a pattern, each in order, each by one member."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

from confluent_kafka import TopicPartition

from pipeline.errors import PipelineError, StreamNotFoundError, StreamTimeoutError
from pipeline.naming import StreamId
from pipeline.reading.frame import Frame
from pipeline.reading.ordered import OrderedFrames
from pipeline.records import StreamInfo
from pipeline.services import Services
from pipeline.sharing.turns import Turn, Turns
from pipeline.stream import Stream

log = logging.getLogger(__name__)
#: How often the catalogue is asked for new streams.
_LOOK_EVERY_S = 0.25
#: How often a stream with nothing new is asked again.
_IDLE_S = 0.05
#: Joining takes up to 10 s on brokers with the default heartbeat: no silence of the streams.
_JOIN_S = 12.0
#: Metadata of the group's offsets for a stream that it has finished.
_FINISHED = "ordered"


class Listed(Protocol):
    """A stream that the pattern matches."""

    @property
    def name(self) -> StreamId: ...  # noqa: D102 -- beamtime/detector/stream
    @property
    def info(self) -> StreamInfo: ...  # noqa: D102 -- what the catalogue says


class OrderedDelivery:
    """A frame whose turn it is in its stream.

    Attributes
    ----------
    frame:
        The frame.
    """

    __slots__ = ("_reading", "_settled", "frame")

    def __init__(self, frame: Frame, reading: _Reading) -> None:
        self.frame = frame
        self._reading = reading
        self._settled = False

    def ack(self) -> None:
        """Say that this frame and all before it in its stream are done.

        When this returns, the group's progress is on the broker (some milliseconds), and whoever
        reads the stream next begins behind this frame.  Without effect when the stream has gone
        to another member meanwhile, which then gets the frame, too.  May be called twice.
        """
        if not self._settled:
            self._settled = True
            self._reading.acknowledge(self.frame.number)

    def skip(self) -> None:
        """Say that a later frame's ``ack`` is this one's, too; returns at once."""
        if not self._settled:
            self._settled = True
            self._reading.skipped()

    @property
    def valid(self) -> bool:
        """Whether the stream is still this member's, so that ``ack`` has an effect."""
        return not self._reading.turn.void

    def __repr__(self) -> str:
        return f"OrderedDelivery({self.frame!r})"


class _Reading:
    """One stream that is ours."""

    def __init__(self, turns: Turns, turn: Turn, stream: Stream, after_end: int | None) -> None:
        self.stream = stream
        self._after_end = after_end
        self.turn = turn
        self._turns = turns
        self._key = stream.start.stream_key.hex()
        self.frames: OrderedFrames = stream.ordered(
            turn.next.get(self._key, after_end), timeout_s=0
        )
        #: Highest number handed out, and highest acknowledged.
        self.given = self.acked = -1
        self.over = False
        self.next_s = 0.0

    def poll(self) -> OrderedDelivery | None:
        """Return the next frame, None if there is none now."""
        if self.over or time.monotonic() < self.next_s:
            return None
        try:
            frame = next(self.frames)
        except StreamTimeoutError:
            self.next_s = time.monotonic() + _IDLE_S
            return None
        except StopIteration:
            self.over = True
            return None
        with self._turns.changed:
            if self.turn.closing:
                return None
            self.given = frame.number
            self.turn.in_hand += 1
        return OrderedDelivery(frame, self)

    def acknowledge(self, number: int) -> None:
        """See :meth:`OrderedDelivery.ack`."""
        turn = self.turn
        self.skipped()
        with self._turns.changed:
            if turn.void or number < self.acked:
                return
            self.acked = number
            turn.next[self._key] = number + 1
        self._turns.commit(turn)

    def skipped(self) -> None:
        """See :meth:`OrderedDelivery.skip`."""
        with self._turns.changed:
            self.turn.in_hand -= 1
            self._turns.changed.notify_all()

    @property
    def next(self) -> int | None:
        """The number behind the last acknowledged frame, of whichever member."""
        return self.turn.next.get(self._key, self._after_end)

    @property
    def is_done(self) -> bool:
        """Whether all was handed out and acknowledged."""
        return self.over and self.acked == self.given

    def forget(self) -> None:
        """Take a finished stream out of the turn's progress."""
        with self._turns.changed:
            if self.turn.next.pop(self._key, None) is None or self.turn.void:
                return
        self._turns.commit(self.turn)

    def close(self) -> None:
        self.stream.close()


class FollowedFrames(Iterator[OrderedDelivery]):
    """What :meth:`pipeline.Session.follow_ordered` returns; for one thread.

    Never ends: StreamTimeoutError after silence, and the same iterator then goes on.  ``close``
    (or leaving the block) leaves the group.
    """

    def __init__(
        self,
        services: Services,
        *,
        group: str,
        listing: Callable[[], Sequence[Listed]],
        opening: Callable[[StreamId], Stream],
        timeout_s: float | None,
        on_end: Callable[[StreamId], object] | None,
    ) -> None:
        self._services = services
        self._group = group
        self._listing = listing
        self._opening = opening
        self.timeout_s = timeout_s
        self._on_end = on_end
        self._turns: dict[str, Turns] = {}
        self._readings: dict[bytes, _Reading] = {}
        #: Streams that the group has finished, and where they ended.
        self._finished: dict[bytes, tuple[int, ...] | None] = {}
        self._looked_s = 0.0
        self._close = weakref.finalize(self, _close_all, self._turns, self._readings)
        self._pause = threading.Event()

    def __next__(self) -> OrderedDelivery:
        begun_s = time.monotonic()
        while self._close.alive:
            self._look()
            for key, reading in list(self._readings.items()):
                try:
                    delivery = reading.poll()
                    if delivery is None and reading.is_done:
                        self._finish(key, reading)
                except StreamNotFoundError as error:  # deleted, or expired, while it was read
                    log.warning("the others are read on: %s", error)
                    self._drop(key, reading)
                    continue
                if delivery is not None:
                    # the others first the next time
                    self._readings[key] = self._readings.pop(key)
                    return delivery
            limit_s = self.timeout_s
            if limit_s is not None and time.monotonic() - begun_s >= limit_s + self._joining_s():
                raise StreamTimeoutError(f"group {self._group}", limit_s, "no frame of any stream")
            self._pause.wait(_IDLE_S / 5)
        raise StopIteration

    def _joining_s(self) -> float:
        return 0.0 if all(turns.joined for turns in self._turns.values()) else _JOIN_S

    @property
    def streams(self) -> list[StreamId]:
        """The streams that this member reads now."""
        return [reading.stream.name for reading in self._readings.values()]

    def has_finished(self, stream_key: bytes) -> bool:
        """Whether the group has finished a stream, as far as this member knows."""
        return stream_key in self._finished

    def is_read(self, stream_key: bytes) -> bool:
        """Whether this member reads a stream and has handed out all its frames."""
        reading = self._readings.get(stream_key)
        return reading is not None and reading.over

    @property
    def missing(self) -> dict[StreamId, list[list[int]]]:
        """Numbers passed over because they will not come, per stream that is read now."""
        return {r.stream.name: r.frames.missing for r in self._readings.values()}

    @property
    def late(self) -> dict[StreamId, list[list[int]]]:
        """Numbers that came after they had been passed over, per stream that is read now."""
        return {r.stream.name: r.frames.late for r in self._readings.values()}

    def close(self) -> None:
        """Leave the group; what is not acknowledged goes to others. May be called twice."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- which streams are ours -------------------------------------------------------------------

    def _look(self) -> None:
        """Drop what has gone, and open what has come."""
        for turns in self._turns.values():
            if turns.failure is not None:
                raise turns.failure
        for key, reading in list(self._readings.items()):
            if reading.turn.closing:
                del self._readings[key]
                reading.close()
        if time.monotonic() - self._looked_s < _LOOK_EVERY_S:
            return
        for listed in self._listing():
            self._consider(listed)
        self._looked_s = time.monotonic()

    def _consider(self, listed: Listed) -> None:
        key = listed.info.start.stream_key
        ends = listed.info.end_offsets
        if key in self._readings or (key in self._finished and self._finished[key] == ends):
            return
        turns = self._turns.get(listed.name.beamtime)
        if turns is None:
            turns = self._turns[listed.name.beamtime] = Turns(
                self._services, listed.name.beamtime, self._group
            )
            turns.open()
        with turns.changed:
            turn = turns.turn_of(key)
        if turn is None:
            return
        is_over, after_end = self._finished_at(listed.info)
        if is_over:
            self._finished[key] = ends
            return
        try:
            self._readings[key] = _Reading(turns, turn, self._opening(listed.name), after_end)
        except StreamNotFoundError as error:  # deleted meanwhile
            log.info("%s", error)

    # -- what is finished -------------------------------------------------------------------------

    def _group_id(self, info: StreamInfo) -> str:
        names = self._services.names
        return names.group(info.start.beamtime, self._group, info.start.stream_key)

    def _finished_at(self, info: StreamInfo) -> tuple[bool, int | None]:
        """Return whether the group has finished it, and behind which frame it did before."""
        topic = self._services.names.topic(info.start.beamtime, info.start.detector)
        found = self._services.admin.committed(self._group_id(info), topic, info.start.partitions)
        mark, _, number = (found[0].metadata or "").partition(" ")
        if mark != _FINISHED:
            return False, None
        ends = info.end_offsets
        over = ends is not None and all(e.offset >= at for e, at in zip(found, ends, strict=True))
        return over, int(number) if number.isdecimal() else None

    def _finish(self, key: bytes, reading: _Reading) -> None:
        """Write down that the whole stream is done: any Kafka tool then shows no lag."""
        info = reading.stream.info
        if info.end_offsets is not None:
            topic = self._services.names.topic(info.start.beamtime, info.start.detector)
            mark = _FINISHED if reading.next is None else f"{_FINISHED} {reading.next}"
            offsets = [
                TopicPartition(topic, partition, end, mark)
                for partition, end in enumerate(info.end_offsets)
            ]
            self._services.admin.commit(self._group_id(info), offsets)
        if self._on_end is not None:
            self._on_end(reading.stream.name)
        self._finished[key] = info.end_offsets
        self._drop(key, reading)

    def _drop(self, key: bytes, reading: _Reading) -> None:
        """Read a stream no more, and keep no progress of it."""
        reading.forget()
        del self._readings[key]
        reading.close()


def follow_ordered(
    services: Services,
    *,
    group: str,
    listing: Callable[[], Sequence[Listed]],
    opening: Callable[[StreamId], Stream],
    timeout_s: float | None,
    on_end: Callable[[StreamId], object] | None,
) -> FollowedFrames:
    """Join a group that reads streams in order, split by stream.

    Each stream that there is or that begins is read by exactly one member, every frame in number
    order; a member reads all its streams at once, in turns.  When a member leaves or dies, others
    take its streams and go on behind the last frame it acknowledged.  That takes as long as the
    broker waits for a silent member: 10 s where `lichtstrom up` runs it, 45 s by Kafka's default.

    Parameters
    ----------
    services:
        Connections to the broker that splits the streams.
    group:
        All members of a group give the same pattern.
    listing, opening:
        Which streams match now, and how to open one.
    timeout_s:
        Silence of all streams after which StreamTimeoutError is raised; None waits for ever.
    on_end:
        Called with the name of a stream that has ended, all its frames being acknowledged; in the
        iterating thread, and again if this process dies over it.
    """
    if not services.has_broker:
        raise PipelineError(
            "streams are split among the members of a group by the broker, and there is none here:"
            " read them one after the other with ordered()"
        )
    return FollowedFrames(
        services,
        group=group,
        listing=listing,
        opening=opening,
        timeout_s=timeout_s,
        on_end=on_end,
    )


def _close_all(turns: dict[str, Turns], readings: dict[bytes, _Reading]) -> None:
    for membership in turns.values():
        membership.close()
    for reading in readings.values():
        reading.close()
    readings.clear()
