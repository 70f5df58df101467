"""A member of a group on the broker: one Kafka consumer group per (group, stream).

A thread of its own polls, commits and answers to changes of the group, so that work which takes
long delays nobody else.  Progress is Kafka's: the committed offset and, in the commit's metadata,
what is done behind it (:mod:`pipeline.sharing.progress`).
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Message

from pipeline.errors import (
    FrameNotFoundError,
    PipelineError,
    StreamTimeoutError,
    WireError,
)
from pipeline.kafka import groups
from pipeline.kafka.cursor import decode_message
from pipeline.kafka.groups import GroupMember, Place
from pipeline.kafka.producer import Acknowledged
from pipeline.naming import record_key
from pipeline.publishing.claims import holder
from pipeline.reading.matching import RecordFilter
from pipeline.records import Located, Pointer, Segment
from pipeline.services import Services
from pipeline.sharing.assemble import Assembler, Unit
from pipeline.sharing.backlog import Backlog, check_reached
from pipeline.sharing.buffer import Buffer, Counts, Held, Item
from pipeline.sharing.delivery import Delivery
from pipeline.sharing.filtered import Filtered, Row, Waiting
from pipeline.sharing.measured import Measured
from pipeline.sharing.progress import PartitionProgress, Taken
from pipeline.stream import Stream
from pipeline.wire import codec

log = logging.getLogger(__name__)
#: Longest sleep of the member's thread.
_POLL_S = 0.05
#: Progress is committed this often, and at once when nothing is left to do.
_COMMIT_EVERY_S = 0.2
#: How soon and how seldom a member with nothing to do asks whether stream and group are at their
#: end: the longer nothing happens, the seldomer.
_LOOK_EVERY_S = 0.1
_LOOK_SELDOM_S = 2.0
#: ... and a look that took long is followed by a pause so many times as long: the looks of a
#: hundred members of one process at hundreds of partitions leave it time for its work.
_LOOK_SHARE = 20
_LOOK_LIMIT_S = 5.0
#: How long a partition that goes to another member waits for the frames in hand.  Longer work
#: than this is done twice when the group grows.
_REVOKE_WAIT_S = 5.0
#: Joining takes up to 10 s on brokers with the default heartbeat: no silence of the stream.
_JOIN_S = 12.0


class KafkaShare:
    """The engine behind ``stream.shared`` on a broker; see :class:`pipeline.shared.Share`."""

    def __init__(
        self,
        services: Services,
        stream: Stream,
        *,
        group: str,
        start: str,
        where: RecordFilter | None = None,
        keep_filtered: bool = False,
        min_modules: int | None = None,
        deadline_s: float | None = None,
        ahead: bool = True,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._services = services
        self._wake = wake
        self._where = where
        self._origin = stream.origin_of(min_modules)
        self._deadline_s = deadline_s
        self._waiting = Waiting() if keep_filtered else None
        self._stream = stream
        self._group = group
        self._begin = start
        names, begun = services.names, stream.start
        self._key = begun.stream_key
        self._topic = names.topic(begun.beamtime, begun.detector)
        self._work = names.work(begun.beamtime, begun.detector, group)
        self._dead = names.dead_letters(begun.beamtime, begun.detector, group)
        self.group_id = names.group(begun.beamtime, group, begun.stream_key)
        self.counts = Counts()
        self._measured: Measured | None = None
        self._changed = threading.Condition()
        self._buffer = Buffer(stream.fetcher, ahead=ahead)
        self._held: dict[Place, Held] = {}
        #: What has left the topic before the group had it.
        self._backlog = Backlog(stream, group)
        self._assemblers: dict[Place, Assembler] = {}
        self._later: list[tuple[float, int, Pointer, Taken, Held]] = []
        self._order = itertools.count()
        self._ends: tuple[int, ...] | None = None
        self._work_partitions = 0
        self._paused = False
        self._finished = False
        self._failure: Exception | None = None
        self._active_s = self._looked_s = self._committed_s = time.monotonic()
        self._look_took_s = 0.0
        self._seen: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"group {group}", daemon=True)
        self._member: GroupMember | None = None

    # -- the user's side --------------------------------------------------------------------------

    def open(self) -> None:
        """Make the group's topics, set where it begins, and join."""
        admin, begun = self._services.admin, self._stream.start
        self._work_partitions = admin.partitions(self._work)
        if not self._work_partitions:
            admin.create_topic(self._work, partitions=begun.partitions)
            admin.create_topic(self._dead, partitions=1)
            self._work_partitions = begun.partitions
        at = list(begun.offsets) if self._begin == "start" else self._stream.log.bounds()[1]
        work = groups.first_offsets(admin, self._work, self._work_partitions)
        groups.begin(admin, self.group_id, {self._topic: at, self._work: work})
        self._check_held()
        self._measured = Measured(
            self._stream.name, self._group, self.counts, self._sizes, self._changed
        )
        self._member = GroupMember(
            self._services.settings.kafka,
            self.group_id,
            [self._topic, self._work],
            gained=self._gained,
            losing=self._losing,
            lost=self._went,
            expired=self._fall_behind,
        )
        self._thread.start()

    def take(self, timeout_s: float | None) -> Delivery | None:
        """Return the next delivery, None at the end; StreamTimeoutError after silence."""
        begun_s = time.monotonic()
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                item = self._buffer.take()
                if item is not None:
                    return self._deliver(item)
                if self._finished or self._stop.is_set():
                    return None
                left_s = self._left(begun_s, timeout_s)
                if left_s <= 0:
                    in_hand = sum(held.in_hand for held in self._held.values())
                    detail = f"{in_hand} deliveries of this member are not settled"
                    raise StreamTimeoutError(
                        self._stream.name, timeout_s or 0.0, detail if in_hand else ""
                    )
                self._changed.wait(min(left_s, 1.0))

    def ready(self, limit: int) -> list[Delivery]:
        """See :class:`pipeline.shared.Share`."""
        with self._changed:
            if self._failure is not None:
                raise self._failure
            found: list[Delivery] = []
            while len(found) < limit and (item := self._buffer.take()) is not None:
                found.append(self._deliver(item))
            return found

    @property
    def finished(self) -> bool:
        """See :class:`pipeline.shared.Share`."""
        return self._finished

    def take_filtered(self) -> Filtered | None:
        """See :class:`pipeline.shared.Share`."""
        with self._changed:
            if not self._waiting:
                return None
            numbers, rows = self._waiting.take()
        return Filtered(numbers, functools.partial(self._finish_filtered, rows)) if rows else None

    def _finish_filtered(self, rows: Sequence[Row]) -> None:
        with self._changed:
            for row in rows:
                row.finish()
            self._active_s = time.monotonic()
            self._changed.notify_all()

    @property
    def silent_s(self) -> float:
        """See :class:`pipeline.shared.Share`."""
        return time.monotonic() - self._active_s

    def _left(self, begun_s: float, timeout_s: float | None) -> float:
        if timeout_s is None:
            return 1.0
        now = time.monotonic()
        if self._member is not None and not self._member.joined and now < begun_s + _JOIN_S:
            return _POLL_S
        return max(begun_s, self._active_s) + timeout_s - now

    def _deliver(self, item: Item) -> Delivery:
        item.held.in_hand += 1
        self.counts.delivered += 1
        self._buffer.pump()
        if self._measured is not None:
            self._measured.delivered(item)
        frame = item.frame
        if frame is None:
            assert item.unit is not None
            frame = item.unit.frame(self._origin)
        self.counts.incomplete += bool(self._origin.modules and frame.missing_modules)
        return Delivery(frame, item.attempt, self, item)

    def close(self) -> None:
        """Commit, leave the group and join the thread; may be called twice."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(self._services.settings.kafka.timeout_s + 5)
        if self._measured is not None:
            self._measured.close()

    def _sizes(self) -> tuple[int, int]:
        return len(self._buffer), sum(held.in_hand for held in list(self._held.values()))

    # -- settling ---------------------------------------------------------------------------------

    def acknowledged(self, delivery: Delivery) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        with self._changed:
            self.counts.acknowledged += 1
            self._settled(delivery)

    def retried(self, delivery: Delivery, delay_s: float) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        self.counts.retried += 1
        due_ms = int((time.time() + delay_s) * 1000) if delay_s else 0
        number = delivery.frame.number
        self._point(delivery, self._work, number % self._work_partitions, due_ms=due_ms)

    def rejected(self, delivery: Delivery, reason: str, trace: str) -> None:
        """See :class:`pipeline.sharing.delivery.Settler`."""
        self.counts.rejected += 1
        self._point(delivery, self._dead, 0, reason=reason[:10_000], trace=trace[-100_000:])

    def _point(
        self,
        delivery: Delivery,
        topic: str,
        partition: int,
        *,
        due_ms: int = 0,
        reason: str = "",
        trace: str = "",
    ) -> None:
        """Write a pointer; only when the broker has it, the original counts as done."""
        if _item(delivery).held.void:  # its new owner delivers it again
            with self._changed:
                self._settled(delivery)
            return
        pointer = Pointer(
            stream_key=self._key,
            number=delivery.frame.number,
            attempt=delivery.attempt,
            due_ms=due_ms,
            group=self._group,
            member=holder(),
            reason=reason,
            trace=trace,
        )

        def done(outcome: Acknowledged | PipelineError) -> None:
            with self._changed:
                if isinstance(outcome, PipelineError):
                    self._failure = self._failure or outcome
                    self._changed.notify_all()
                else:
                    self._settled(delivery)

        key = record_key(self._key, pointer.number)
        self._services.producer.append(topic, partition, key, codec.encode(pointer), done)

    def _settled(self, delivery: Delivery) -> None:
        item = _item(delivery)
        item.held.in_hand -= 1
        if item.held.void:
            self.counts.void += 1
        else:
            item.finish()
        self._active_s = time.monotonic()
        self._changed.notify_all()

    # -- the member's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        assert self._member is not None
        try:
            while not self._stop.is_set() and not self._finished:
                behind = bool(self._backlog.partitions) and not self._paused
                self._take_in(self._member.poll(0 if behind else _POLL_S))
                self._take_stored()
                self._take_due()
                self._give_up()
                self._balance()
                self._commit()
                self._look()
        except Exception as error:  # noqa: BLE001 -- re-raised to the owner by ``take``
            with self._changed:
                self._failure = self._failure or error
        finally:
            try:
                self._member.close()
            except Exception as error:  # noqa: BLE001 -- the broker may be away; it notices
                log.debug("leaving group %s: %s", self.group_id, error)
            with self._changed:
                self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            self._wake()

    def _take_in(self, messages: Sequence[Message]) -> None:
        resolve = self._services.schemas.resolve
        for message in messages:
            place = (message.topic(), message.partition())
            if message.topic() == self._work:
                self._take_pointer(place, message)
                continue
            while message.partition() in self._backlog:  # what comes before it, first
                self._take_batch(message.partition())
            located = decode_message(message, self._key, resolve)
            with self._changed:
                self._take_record(place, message.offset(), located)
        if messages:
            with self._changed:
                self._buffer.pump()
                self._tell()

    def _fall_behind(self, place: Place) -> None:
        """Read from the manifest what the topic no longer holds, then go on in the topic."""
        held = self._held.get(place)
        if held is None or self._member is None:
            return
        low = groups.first_offsets(self._services.admin, place[0], place[1] + 1)[place[1]]
        if place[0] == self._topic:
            low = self._backlog.begin(place[1], held.progress.position, low)
        self._member.seek(place, low)
        if place[0] == self._topic:
            self._member.pause([place])

    def _take_stored(self) -> None:
        """Take in some of what has left the topic, as long as there is room for it."""
        for partition in self._backlog.partitions:
            if not self._paused:
                self._take_batch(partition)

    def _take_batch(self, partition: int) -> None:
        place = (self._topic, partition)
        records, end = self._backlog.poll(partition)
        with self._changed:
            for located in records:
                self._take_record(place, located.offset, located)
            if end is not None and place in self._held:
                self._held[place].progress.passed(end - 1)
            self._buffer.pump()
            self._tell()

    def _take_record(self, place: Place, offset: int, located: Located | None) -> None:
        held = self._held.get(place)
        if held is None or offset < held.progress.position:
            return
        if located is None:
            held.progress.passed(offset)
            return
        value, taken = located.value, None
        if isinstance(value, Segment) and len(value):
            taken = held.progress.taken(offset, len(value))
            taken.appended_ms = located.timestamp_ms
            self.counts.received_nbytes += int(value.lengths.sum())
        else:
            held.progress.passed(offset)
        self._active_s = time.monotonic()
        for unit in self._assemblers[place].add(located, taken):
            self._hand(unit, held)

    def _hand(self, unit: Unit, held: Held) -> None:
        """Have a frame delivered, unless the group's expression leaves it out."""
        if unit.selected:
            self._buffer.put(Item(unit.number, 1, held, unit=unit))
            return
        self.counts.filtered += 1
        if self._waiting is None:
            unit.finish()
        else:
            self._waiting.add(unit, held)

    def _take_pointer(self, place: Place, message: Message) -> None:
        pointer = None
        try:
            record = codec.decode(message.value() or b"", where=self._work)
            pointer = record if isinstance(record, Pointer) else None
        except WireError as error:
            log.error("record skipped: %s", error)
        with self._changed:
            held = self._held.get(place)
            if held is None or message.offset() < held.progress.position:
                return
            if pointer is None or pointer.stream_key != self._key:
                held.progress.passed(message.offset())
                return
            taken = held.progress.taken(message.offset(), 1)
            if taken.open:
                entry = (pointer.due_ms / 1000, next(self._order), pointer, taken, held)
                heapq.heappush(self._later, entry)

    def _take_due(self) -> None:
        """Bring back the frames whose time has come."""
        while self._later and self._later[0][0] <= time.time():
            _, _, pointer, taken, held = heapq.heappop(self._later)
            if held.void:
                continue
            item = Item(pointer.number, pointer.attempt + 1, held, taken=taken)
            try:
                item.frame = self._stream.frame(
                    pointer.number, timeout_s=0.0, min_modules=self._origin.least
                )
            except FrameNotFoundError as error:  # trimmed or deleted meanwhile
                log.error("a retried frame is gone: %s", error)
                with self._changed:
                    item.finish()
                continue
            with self._changed:
                self._buffer.put(item)
                self._tell()

    def _give_up(self) -> None:
        """Hand out frames whose modules have not come in time."""
        if self._deadline_s is None:
            return
        with self._changed:
            late = [p for p, a in self._assemblers.items() if a.overdue(self._deadline_s)]
        # What is in the log by now is read first: a backlog makes nothing late.
        high = self._stream.log.bounds()[1] if late else []
        with self._changed:
            for place, assembler in self._assemblers.items():
                if place in late:
                    assembler.give_up(self._deadline_s, high[place[1]])
                held = self._held[place]
                for unit in assembler.given_up(held.progress.position):
                    self._hand(unit, held)
                    self._tell()

    def _balance(self) -> None:
        """Read no more than is needed, and nothing behind the stream's end."""
        assert self._member is not None
        with self._changed:
            data = [place for place in self._held if place[0] == self._topic]
            behind = [place for place in data if place[1] in self._backlog]
            over = [place for place in data if place not in behind and self._over(place)]
            for place in over:
                for unit in self._assemblers[place].flush():
                    self._hand(unit, self._held[place])
            self._paused = not self._buffer.low if self._paused else self._buffer.full
            self._paused = self._paused or (self._waiting is not None and self._waiting.full)
            paused = self._paused
        still = [*over, *behind]
        self._member.pause(data if paused else still)
        if not paused:
            self._member.resume(place for place in data if place not in still)

    def _over(self, place: Place) -> bool:
        return self._ends is not None and (
            self._held[place].progress.position >= self._ends[place[1]]
        )

    def _commit(self) -> None:
        assert self._member is not None
        now = time.monotonic()
        with self._changed:
            busy = len(self._buffer) or any(held.in_hand for held in self._held.values())
            if busy and now - self._committed_s < _COMMIT_EVERY_S:
                return
            found = {place: held.progress.news() for place, held in self._held.items()}
        news = {place: what for place, what in found.items() if what is not None}
        self._committed_s = now
        if news and self._member.commit(news):
            with self._changed:
                for place, what in news.items():
                    if place in self._held:
                        self._held[place].progress.committed(what)

    def _look(self) -> None:
        """When there is nothing to do, find out whether the stream and the group are finished."""
        now = time.monotonic()
        every_s = min(_LOOK_SELDOM_S, max(_LOOK_EVERY_S, (now - self._active_s) / 5))
        every_s = max(every_s, min(_LOOK_LIMIT_S, _LOOK_SHARE * self._look_took_s))
        if now - self._looked_s < every_s:
            return
        with self._changed:
            idle = not len(self._buffer) and not any(h.in_hand for h in self._held.values())
        if not idle and self._ends is not None:
            return
        if self._ends is None:
            self._ends = self._stream.log.info(refresh=True).end_offsets
        if self._ends is not None and idle and not self._later and self._group_done():
            with self._changed:
                self._finished = True
                self._tell()
        self._looked_s = time.monotonic()
        self._look_took_s = self._looked_s - now

    def _group_done(self) -> bool:
        """Every partition is committed up to the end, and no retries wait."""
        assert self._ends is not None
        admin = self._services.admin
        found = admin.committed(self.group_id, self._topic, len(self._ends))
        at = [entry.offset for entry in found]
        if at != self._seen:  # the others get on
            self._seen, self._active_s = at, time.monotonic()
        if any(offset < end for offset, end in zip(at, self._ends, strict=True)):
            return False
        # In this order: a retried frame's new pointer is written before the old one is committed.
        work = admin.committed(self.group_id, self._work, self._work_partitions)
        ends = groups.next_offsets(admin, self._work, self._work_partitions)
        return all(entry.offset >= end for entry, end in zip(work, ends, strict=True))

    # -- changes of the group, called from poll and close -----------------------------------------

    def _gained(self, places: Mapping[Place, tuple[int, str]]) -> Mapping[Place, int]:
        with self._changed:
            self._active_s = time.monotonic()
            for place, (offset, metadata) in places.items():
                self._held[place] = Held(PartitionProgress(offset, metadata))
                if place[0] == self._topic:
                    self._assemblers[place] = Assembler(
                        self._stream.start, self._stream.fetcher, self._origin, self._where
                    )
        return self._look_behind([place for place in places if place[0] == self._topic])

    def _look_behind(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """Begin in the manifest where the topic has lost what comes next.

        Returns where the topic takes over there.
        """
        found: dict[Place, int] = {}
        if not places:
            return found
        low = groups.first_offsets(self._services.admin, self._topic, self._stream.start.partitions)
        ends = self._stream.log.info(refresh=True).end_offsets
        for place in places:
            at = self._held[place].progress.position
            if at < low[place[1]] and (ends is None or at < ends[place[1]]):
                found[place] = self._backlog.begin(place[1], at, low[place[1]])
        return found

    def _losing(self, places: Sequence[Place]) -> Mapping[Place, tuple[int, str]]:
        with self._changed:
            going = [self._held[place] for place in places if place in self._held]
            for held in going:
                held.closing = True
            if not self._stop.is_set():
                self._changed.wait_for(
                    lambda: self._stop.is_set() or not any(held.in_hand for held in going),
                    _REVOKE_WAIT_S,
                )
            found = {p: self._held[p].progress.news() for p in places if p in self._held}
            self._went(places)
        return {place: what for place, what in found.items() if what is not None}

    def _went(self, places: Sequence[Place]) -> None:
        with self._changed:
            for place in places:
                if place[0] == self._topic:
                    self._backlog.drop(place[1])
                held = self._held.pop(place, None)
                self._assemblers.pop(place, None)
                if held is not None:
                    held.void = True
                    self._buffer.drop(held)
            self._later = [entry for entry in self._later if not entry[4].void]
            heapq.heapify(self._later)

    def _check_held(self) -> None:
        """Raise FrameExpiredError if what the group has not done is nowhere any more."""
        admin, partitions = self._services.admin, self._stream.start.partitions
        ends = self._stream.log.info(refresh=True).end_offsets
        low = groups.first_offsets(admin, self._topic, partitions)
        at = {
            e.partition: e.offset for e in admin.committed(self.group_id, self._topic, partitions)
        }
        open_ = {p: offset for p, offset in at.items() if ends is None or offset < ends[p]}
        check_reached(self._stream, self._group, open_, dict(enumerate(low)))


def _item(delivery: Delivery) -> Item:
    assert isinstance(delivery.ticket, Item)
    return delivery.ticket
