"""How far a group is in a stream, by what it has committed; and setting that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from confluent_kafka import TopicPartition

from pipeline.errors import (
    FrameNotFoundError,
    GroupActiveError,
    InvalidArgumentError,
    PipelineError,
    StreamTimeoutError,
    WireError,
)
from pipeline.kafka import groups
from pipeline.kafka.topics import TopicReader
from pipeline.naming import StreamId
from pipeline.publishing import claims
from pipeline.reading.limits import check_number
from pipeline.records import Located, Pointer, Segment
from pipeline.services import Services
from pipeline.sharing import runs
from pipeline.sharing.backlog import check_reached
from pipeline.sharing.progress import decode_done, encode_done
from pipeline.stream import Stream
from pipeline.wire import codec

#: Where a reset sets a group: frame number, time of a frame, ``start`` or ``end``.
Target = int | str | datetime
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """What a group has not done yet in a stream, of what is there now.

    Parameters
    ----------
    frames:
        Frames that are not done: never delivered, in hand, or to be tried again.
    retries:
        Those of them that wait to be tried again.
    records:
        Records behind the committed offsets, as Kafka's tools count: a record has many frames.
    seconds:
        From the oldest frame that is not done to the newest of the stream, by the frames' times.
    first:
        The lowest number that is not done, None if there is none.
    """

    frames: int
    retries: int
    records: int
    seconds: float
    first: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One group of one stream: its name, its state (``empty``, ``stable``, ...), its members."""

    stream: StreamId
    group: str
    state: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """What a reset did: frames to do now, and the new runs of the group's derived streams."""

    frames: int
    runs: tuple[StreamId, ...] = ()


def standings(services: Services, beamtime: str) -> list[Standing]:
    """Return the groups of a beamtime's streams that the broker knows, deleted streams left out.

    Raises BrokerUnavailableError, TopicMissingError.
    """
    admin, names = services.admin, services.names
    known = services.catalogue(beamtime).look()
    found: dict[str, tuple[StreamId, str]] = {}
    for listing in admin.result(admin.client.list_consumer_groups()).valid:
        parsed = names.parse_group(listing.group_id)
        info = known.by_key(parsed[2]) if parsed is not None and parsed[0] == beamtime else None
        if parsed is not None and info is not None and not info.deleted:
            found[listing.group_id] = (claims.name_of(info.start), parsed[1])
    described = (
        admin.ask_all(lambda client: client.describe_consumer_groups(list(found))) if found else {}
    )
    result = []
    for group_id, (stream, group) in found.items():
        state, members = _described(described[group_id])
        result.append(Standing(stream=stream, group=group, state=state, members=members))
    return sorted(result, key=lambda s: (s.stream, s.group))


def _described(group: object) -> tuple[str, tuple[str, ...]]:
    members = tuple(
        sorted(f"{m.client_id} {m.host.lstrip('/')}" for m in group.members)  # type: ignore[attr-defined]  # the client is untyped
    )
    return group.state.name.lower(), members  # type: ignore[attr-defined]


class Progress:
    """What one group has done in one stream; not thread-safe."""

    def __init__(self, services: Services, stream: Stream, group: str) -> None:
        self._services = services
        self._stream = stream
        self._group = group
        start, names = stream.start, services.names
        self._topic = names.topic(start.beamtime, start.detector)
        self._work = names.work(start.beamtime, start.detector, group)
        self.group_id = names.group(start.beamtime, group, start.stream_key)

    def members(self) -> tuple[str, ...]:
        """Return who is in the group now, as ``lichtstrom@host:pid address``."""
        admin = self._services.admin
        found = admin.ask_all(lambda client: client.describe_consumer_groups([self.group_id]))
        return _described(found[self.group_id])[1]

    # -- what is not done -------------------------------------------------------------------------

    def unfinished(self) -> dict[int, int]:
        """Return number to timestamp (ns) of the frames behind the committed offsets not done."""
        open_: dict[int, int] = {}
        at, flags = self._committed()
        for located in read_records(self._stream, at, self._services.settings.kafka.timeout_s):
            segment = located.value
            if not isinstance(segment, Segment):
                continue
            known = flags[located.partition]
            done, known[:] = known[: len(segment)], known[len(segment) :]
            rows = zip(segment.numbers.tolist(), segment.timestamps_ns.tolist(), strict=True)
            for row, (number, time_ns) in enumerate(rows):
                if row >= len(done) or not done[row]:
                    open_[number] = time_ns
        return open_

    def _committed(self) -> tuple[list[int], list[bytearray]]:
        start = self._stream.start
        found = self._services.admin.committed(self.group_id, self._topic, start.partitions)
        at = [max(e.offset, low) for e, low in zip(found, start.offsets, strict=True)]
        return at, [decode_done(e.metadata if e.offset >= 0 else None) for e in found]

    def retries(self) -> set[int]:
        """Return the frames that wait on the work topic to be tried again."""
        admin = self._services.admin
        partitions = admin.partitions(self._work)
        if not partitions:
            return set()
        found = admin.committed(self.group_id, self._work, partitions)
        if all(entry.offset < 0 for entry in found):
            return set()  # the group has never begun
        flags = [decode_done(entry.metadata) for entry in found]
        low = groups.first_offsets(admin, self._work, partitions)
        begin = [max(entry.offset, first) for entry, first in zip(found, low, strict=True)]
        waiting = set()
        with TopicReader(self._services.settings.kafka, self._work) as reader:
            for message in reader.read_all(
                begin, groups.next_offsets(admin, self._work, partitions)
            ):
                try:
                    pointer = codec.decode(message.value() or b"", where=self._work)
                except WireError:
                    continue
                key = self._stream.start.stream_key
                if not isinstance(pointer, Pointer) or pointer.stream_key != key:
                    continue
                known = flags[message.partition()]
                done, known[:] = known[:1], known[1:]
                if not (done and done[0]):
                    waiting.add(pointer.number)
        return waiting

    def lag(self) -> Lag:
        """Return how far the group is behind; reads the records that it has not committed."""
        retries, open_ = self.retries(), self.unfinished()
        at, ends = self._committed()[0], self._stream.log.bounds()[1]
        every = open_.keys() | retries
        oldest = [*open_.values()]
        for number in sorted(retries - open_.keys())[:1]:
            with contextlib.suppress(FrameNotFoundError):
                oldest.append(self._stream.frame(number, min_modules=1).timestamp_ns)
        return Lag(
            frames=len(every),
            retries=len(retries),
            records=sum(max(0, end - p) for p, end in zip(at, ends, strict=True)),
            seconds=seconds_behind(self._stream, oldest),
            first=min(every, default=None),
        )

    # -- setting it -------------------------------------------------------------------------------

    def reset(self, to: Target) -> Reset:
        """Set where the group goes on; see :meth:`pipeline.stream.Stream.reset`."""
        self._refuse_if_active()
        number = find_target(self._stream, to)
        offsets = self._offsets(number)
        self._check_held(offsets)
        info = runs.outputs(self._services, self._stream.start, self._group)
        new = tuple(runs.begin_next(self._services, run) for run in info)
        admin = self._services.admin
        partitions = admin.partitions(self._work)
        if partitions:
            # Frames to be tried again are either among the new ones or passed over.
            ends = groups.next_offsets(admin, self._work, partitions)
            offsets += [TopicPartition(self._work, p, end, "") for p, end in enumerate(ends)]
        try:
            admin.commit(self.group_id, offsets)
        except PipelineError:
            self._refuse_if_active()  # somebody joined meanwhile, and the broker refused
            raise
        return Reset(frames=len(self.unfinished()), runs=new)

    def _refuse_if_active(self) -> None:
        members = self.members()
        if members:
            raise GroupActiveError(self._group, self._stream.name, members=members)

    def _offsets(self, number: int | None) -> list[TopicPartition]:
        """Return the offsets from which frames >= ``number`` come (None: none that is there)."""
        if number is None:
            ends = self._stream.log.bounds()[1]
            return [TopicPartition(self._topic, p, end, "") for p, end in enumerate(ends)]
        at = list(self._stream.start.offsets) if number <= 0 else self._stream.log.seek(number)
        flags = [bytearray() for _ in at]
        timeout_s = self._services.settings.kafka.timeout_s
        for located in read_records(self._stream, at, timeout_s) if number > 0 else ():
            if isinstance(located.value, Segment):
                flags[located.partition] += (
                    (located.value.numbers < number).astype(np.uint8).tobytes()
                )
        return [
            TopicPartition(self._topic, p, offset, encode_done(flags[p]))
            for p, offset in enumerate(at)
        ]

    def _check_held(self, offsets: Sequence[TopicPartition]) -> None:
        """Raise FrameExpiredError for what neither topic nor manifest holds any more."""
        low = groups.first_offsets(self._services.admin, self._topic, len(offsets))
        ends = self._stream.log.bounds()[1]
        at = {e.partition: e.offset for e in offsets if e.offset < ends[e.partition]}
        check_reached(self._stream, self._group, at, dict(enumerate(low)))


def read_records(stream: Stream, begin: Sequence[int], timeout_s: float) -> Iterator[Located]:
    """Yield the stream's records from offsets up to where it ends now, each partition in order.

    Raises StreamTimeoutError when the log is silent for ``timeout_s``.
    """
    ends = stream.log.bounds()[1]
    cursor = stream.log.cursor(begin)
    heard_s = time.monotonic()
    try:
        while True:
            over = [p for p, at in enumerate(cursor.positions()) if at >= ends[p]]
            if len(over) == len(ends):
                return
            cursor.pause(over)
            before = cursor.positions()
            for located in cursor.poll(0.5):
                if located.offset < ends[located.partition]:
                    yield located
            if cursor.positions() != before:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > timeout_s:
                raise StreamTimeoutError(stream.name, timeout_s, "its log could not be read")
    finally:
        cursor.close()


def seconds_behind(stream: Stream, oldest_ns: Sequence[int]) -> float:
    """Return the frame time from the oldest of these to the stream's newest frame."""
    tails = [r.value for r in stream.log.tail(timeout_s=10.0) if isinstance(r.value, Segment)]
    newest = max((int(s.timestamps_ns.max()) for s in tails if len(s)), default=None)
    if newest is None or not oldest_ns:
        return 0.0
    return max(0, newest - min(oldest_ns)) / 1e9


def find_target(stream: Stream, to: Target) -> int | None:
    """Return the first frame number that a reset leaves to do, None for the end.

    Raises InvalidArgumentError.
    """
    if isinstance(to, str):
        if to in ("start", "end"):
            return 0 if to == "start" else None
        try:
            to = int(to) if to.isdecimal() else datetime.fromisoformat(to)
        except ValueError as error:
            raise InvalidArgumentError(
                "to", f"{to!r} is neither 'start', 'end', a frame number nor an ISO 8601 time"
            ) from error
    if not isinstance(to, datetime):
        return check_number("to", to)
    moment = to if to.tzinfo is not None else to.replace(tzinfo=UTC)
    time_ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    table = stream.table()
    later = table.numbers[table.timestamps_ns >= time_ns]
    return int(later.min()) if len(later) else None


def needs_broker(stream: Stream) -> PipelineError:
    """Return the error for who asks a session without a broker about groups."""
    return PipelineError(
        f"{stream.name}: without a broker a group's progress is kept in a file on this machine:"
        " name it with state='...'"
    )
