"""Membership in a Kafka consumer group: joining, polling, committing, leaving."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from pipeline.config import KafkaSettings
from pipeline.errors import FrameExpiredError, PipelineError
from pipeline.kafka.admin import Admin
from pipeline.kafka.client import asked, make_consumer, passes, translated

log = logging.getLogger(__name__)
#: A topic and a partition of it.
Place = tuple[str, int]
#: Messages taken from librdkafka's queue in one call, once there is one.
_BATCH = 500


def begin(admin: Admin, group: str, offsets: Mapping[str, Sequence[int]]) -> None:
    """Set a group's offsets before anybody joins, where it has none.

    Two members that begin at once set the same; the broker refuses the one that comes after the
    other has joined, and its word is not needed then.
    """
    missing = []
    for topic, starts in offsets.items():
        found = admin.committed(group, topic, len(starts))
        missing += [
            TopicPartition(topic, entry.partition, starts[entry.partition])
            for entry in found
            if entry.offset < 0
        ]
    if not missing:
        return
    try:
        admin.commit(group, missing)
    except PipelineError:
        for topic, starts in offsets.items():
            if any(entry.offset < 0 for entry in admin.committed(group, topic, len(starts))):
                raise


def first_offsets(admin: Admin, topic: str, partitions: int) -> list[int]:
    """Return the first offset that each partition still holds."""
    return _offsets(admin, topic, partitions, OffsetSpec.earliest())


def next_offsets(admin: Admin, topic: str, partitions: int) -> list[int]:
    """Return the offset behind the last record of each partition."""
    return _offsets(admin, topic, partitions, OffsetSpec.latest())


def offsets_at(admin: Admin, topic: str, partitions: int, time_ms: int) -> list[int]:
    """Return per partition the first offset appended at or after a time, else the next one."""
    found = _offsets(admin, topic, partitions, OffsetSpec.for_timestamp(time_ms))
    ends = next_offsets(admin, topic, partitions) if min(found) < 0 else found
    return [at if at >= 0 else end for at, end in zip(found, ends, strict=True)]


def _offsets(admin: Admin, topic: str, partitions: int, spec: OffsetSpec) -> list[int]:
    wanted = {TopicPartition(topic, p): spec for p in range(partitions)}
    found = admin.ask_all(lambda client: client.list_offsets(wanted), topic=topic)
    at = {place.partition: answer.offset for place, answer in found.items()}
    return [int(at[p]) for p in range(partitions)]


class GroupMember:
    """One member of a KIP-848 group; used by one thread, whose ``poll`` runs the callbacks.

    Parameters
    ----------
    gained:
        Called with partitions that are ours now and (offset, metadata) committed for each;
        reading begins there, but for those that it returns: paused, and at other offsets.
    losing:
        Called before partitions go; returns (offset, metadata) to commit for some of them.
    lost:
        Called with partitions that went without asking; nothing can be committed.
    expired:
        Called with a partition whose topic no longer holds what was to be read next; it says by
        :meth:`seek` where to go on.  Without it that is a FrameExpiredError.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str,
        topics: Sequence[str],
        *,
        gained: Callable[[Mapping[Place, tuple[int, str]]], Mapping[Place, int] | None],
        losing: Callable[[Sequence[Place]], Mapping[Place, tuple[int, str]]],
        lost: Callable[[Sequence[Place]], None],
        expired: Callable[[Place], None] | None = None,
    ) -> None:
        self._settings = settings
        self._expired = expired
        self._gained, self._losing, self._lost = gained, losing, lost
        self._paused: set[Place] = set()
        #: What a callback raised: librdkafka cannot carry it.
        self._failure: Exception | None = None
        #: True once the group has said which partitions are ours (it may be none).
        self.joined = False
        self._consumer: Consumer
        self._consumer, self._watch = make_consumer(
            settings,
            {
                "group.protocol": "consumer",
                # The broker's default ("uniform") counts partitions of all topics together: of two
                # members one got all the data and the other all the retries.
                "group.remote.assignor": "range",
                # A record is answered at once however long a fetch may wait, and what would stand
                # behind an idle fetch (commits) has a connection of its own; a thousand idle
                # members then ask a broker 5,000 times a second.
                "fetch.wait.max.ms": 200,
                # Who holds up a reset is told by this.
                "client.id": f"lichtstrom@{socket.gethostname()}:{os.getpid()}",
            },
            group=group,
        )
        with translated(self._watch):
            self._consumer.subscribe(
                list(topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )

    def poll(self, timeout_s: float) -> list[Message]:
        """Return new messages, as soon as there is one; runs the callbacks."""
        with translated(self._watch):
            first = self._consumer.poll(timeout_s)
            messages = [] if first is None else [first, *self._consumer.consume(_BATCH, 0)]
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return [message for message in messages if self._good(message)]

    def _good(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            if self._expired is not None:
                self._expired((message.topic(), message.partition()))
                return False
            where = f"partition {message.partition()}: {error.str()}"
            raise FrameExpiredError(message.topic(), where)
        if error.code() != KafkaError._PARTITION_EOF and not passes(error):
            raise self._watch.error(error)
        return False

    def commit(self, offsets: Mapping[Place, tuple[int, str]]) -> bool:
        """Commit and wait; False if the group was changing just now (try again later)."""
        if not offsets:
            return True
        wanted = [TopicPartition(t, p, at, meta) for (t, p), (at, meta) in offsets.items()]
        try:
            answers = self._consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            log.debug("commit put off: %s", error)
            return False
        return all(answer.error is None for answer in answers or [])

    def pause(self, places: Iterable[Place]) -> None:
        """Stop reading partitions."""
        new = [place for place in places if place not in self._paused]
        self._paused.update(new)
        with translated(self._watch):
            self._consumer.pause([TopicPartition(*place) for place in new])

    def seek(self, place: Place, offset: int) -> None:
        """Go on in a partition of ours at another offset; it is not paused then."""
        with translated(self._watch):
            # After an offset that is gone librdkafka refuses Consumer.seek ("Erroneous state").
            self._consumer.incremental_unassign([TopicPartition(*place)])
            self._consumer.incremental_assign([TopicPartition(*place, offset)])
            self._consumer.resume([TopicPartition(*place)])
        self._paused.discard(place)

    def resume(self, places: Iterable[Place]) -> None:
        """Go on with paused partitions."""
        back = [place for place in places if place in self._paused]
        self._paused.difference_update(back)
        with translated(self._watch):
            self._consumer.resume([TopicPartition(*place) for place in back])

    def close(self) -> None:
        """Leave the group: what ``losing`` returns is committed first."""
        self._consumer.close()

    # -- callbacks, from poll and close -----------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self.joined = True
            # Without an offset they would be taken from the group's, but not its metadata.
            found = asked(
                lambda left_s: consumer.committed(partitions, left_s) if partitions else [],
                self._settings.timeout_s,
            )
            at = {(e.topic, e.partition): (e.offset, e.metadata or "") for e in found}
            moved = self._gained(at) or {}
            begin = {place: moved.get(place, offset) for place, (offset, _) in at.items()}
            consumer.incremental_assign([TopicPartition(t, p, begin[t, p]) for t, p in begin])
            # One that was paused when it went is still paused when it comes back.
            consumer.resume(partitions)
            self.pause(moved)
        except (KafkaException, PipelineError) as error:
            known = isinstance(error, PipelineError)
            self._failure = error if known else self._watch.error(error)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(e.topic, e.partition) for e in partitions]
        try:
            self.commit(self._losing(places))
            self._paused.difference_update(places)
            consumer.incremental_unassign(partitions)
        except (KafkaException, PipelineError) as error:
            log.debug("leaving partitions: %s", error)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(e.topic, e.partition) for e in partitions]
        self._lost(places)
        self._paused.difference_update(places)
        try:
            consumer.incremental_unassign(partitions)
        except KafkaException as error:
            log.debug("partitions were lost: %s", error)
