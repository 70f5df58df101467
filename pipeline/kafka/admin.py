"""Topics: made and checked by a command, with their retention in view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.config import KafkaSettings
from pipeline.errors import PipelineError, TopicMissingError
from pipeline.kafka.client import ASK_AGAIN_S, Watch, asked, make_admin, passes, translated
from pipeline.naming import Names, StreamId

K = TypeVar("K")
#: How long a broker that does not answer, or knows nothing of a new topic, is waited for.
_BROKER_WAIT_S = 2.0
#: Data topics have no time retention of their own: `lichtstrom retention` trims them.
_DATA: Mapping[str, str] = {
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "unclean.leader.election.enable": "false",
}
_COMPACTED: Mapping[str, str] = {
    "message.timestamp.type": "LogAppendTime",
    "cleanup.policy": "compact",
    "unclean.leader.election.enable": "false",
    # Tombstones stay long enough for the slowest reader to see them.
    "delete.retention.ms": "604800000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How many brokers there are, and how the partitions of our topics are.

    ``under_replicated``: fewer replicas in sync than there should be; ``offline``: no leader.
    """

    brokers: int
    partitions: int
    under_replicated: int
    offline: int


class Admin:
    """Creates, inspects and trims topics. Thread-safe; ``close`` releases the client."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.names = Names(settings.prefix)
        self._client: AdminClient | None = None
        self._watch = Watch(settings)

    @property
    def client(self) -> AdminClient:
        """The admin client, made on first use."""
        if self._client is None:
            self._client, self._watch = make_admin(self.settings)
        return self._client

    def result(self, future: Future[Any]) -> Any:
        """Wait for one admin call; raises our errors."""
        try:
            return future.result(self.settings.timeout_s)
        except KafkaException as error:
            raise self._watch.error(error) from error
        except TimeoutError as error:
            # After a broker was killed, requests about groups stay unanswered on the old client
            # for minutes (seen with librdkafka 2.16); a new one gets its answers.
            self._client = None
            raise self._watch.error("no answer in time") from error

    def ask_all(
        self, question: Callable[[AdminClient], Mapping[K, Future[Any]]], *, topic: str = ""
    ) -> dict[K, Any]:
        """Return the answers of a call that may be made twice; it is, while brokers change.

        ``topic``: whose leaders it asks; the client finds out about them again before it is made
        once more.  Blocks up to ``settings.timeout_s``.  Raises our errors.
        """
        deadline = time.monotonic() + self.settings.timeout_s
        # A request to a broker that has just gone may stay without an answer for ever: half of
        # the time, then a new client asks again.
        limit_s = self.settings.timeout_s / 2
        while True:
            try:
                client = self.client
                found = question(client)
                end = time.monotonic() + limit_s
                return {
                    key: future.result(max(0.0, end - time.monotonic()))
                    for key, future in found.items()
                }
            except KafkaException as error:
                if not passes(error.args[0]) or time.monotonic() >= deadline:
                    raise self._watch.error(error) from error
                if topic:
                    with suppress(KafkaException):
                        client.list_topics(topic, timeout=limit_s)
            except TimeoutError as error:
                self._client = None
                if time.monotonic() >= deadline:
                    raise self._watch.error("no answer in time") from error
            time.sleep(ASK_AGAIN_S)
            limit_s = max(ASK_AGAIN_S, deadline - time.monotonic())

    def cluster(self) -> Cluster:
        """Return how brokers and our partitions are; raises BrokerUnavailableError."""
        client = self.client
        with translated(self._watch):
            found = client.list_topics(timeout=self.settings.timeout_s)
        ours = f"{self.settings.prefix}."
        partitions = [
            partition
            for name, topic in found.topics.items()
            if name.startswith(ours)
            for partition in topic.partitions.values()
        ]
        return Cluster(
            brokers=len(found.brokers),
            partitions=len(partitions),
            under_replicated=sum(len(p.isrs) < len(p.replicas) for p in partitions),
            offline=sum(p.leader < 0 for p in partitions),
        )

    def answers(self, timeout_s: float) -> bool:
        """Whether some broker answers in so short a time."""
        try:
            self.client.list_topics(timeout=timeout_s)
        except KafkaException:
            return False
        return True

    def _metadata(self, topic: str | None = None) -> Any:
        """Return what brokers, topics and replicas there are, asked again while brokers change."""
        client = self.client
        with translated(self._watch):
            return asked(
                lambda left_s: client.list_topics(topic, timeout=left_s),
                self.settings.timeout_s,
                client=client,
                topic=topic or "",
            )

    def topics(self) -> dict[str, int]:
        """Return the names of all topics with their number of partitions."""
        found = self._metadata().topics
        return {name: len(topic.partitions) for name, topic in found.items()}

    def partitions(self, topic: str) -> int:
        """Return the number of partitions, 0 for a topic that does not exist."""
        found = self._metadata(topic).topics[topic]
        if found.error is not None and found.error.code() not in (
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,
            KafkaError.LEADER_NOT_AVAILABLE,
        ):
            raise self._watch.error(found.error)
        return len(found.partitions)

    def create_topic(
        self,
        topic: str,
        *,
        partitions: int,
        compacted: bool = False,
        replication: int | None = None,
        durable: bool = False,
    ) -> None:
        """Create a topic and wait until the brokers tell of it; one that exists is left as it is.

        ``replication`` defaults to min(3, brokers); with 2 or more min.insync.replicas is 2.
        ``durable``: flush every record where there is one replica only.
        """
        replicas = replication or self.replication()
        config = dict(_COMPACTED if compacted else _DATA)
        if replicas >= 2:
            config["min.insync.replicas"] = "2"
        elif durable:
            config["flush.messages"] = "1"
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replicas, config=config)
        try:
            self.client.create_topics([new])[topic].result(self.settings.timeout_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._watch.error(error) from error
        except TimeoutError as error:
            raise self._watch.error("creating a topic took too long") from error
        self._wait_for(topic)

    def _wait_for(self, topic: str) -> None:
        # The controller answers first; a broker that has just started knows seconds later.
        deadline_s = time.monotonic() + self.settings.timeout_s
        while not self.partitions(topic):
            if time.monotonic() > deadline_s:
                raise self._watch.error(f"topic {topic} was created, but no broker tells of it")
            time.sleep(0.02)
        brokers = self._metadata().brokers.values()
        for broker in brokers if len(brokers) > 1 else ():
            self._wait_for_broker(f"{broker.host}:{broker.port}", topic, deadline_s)

    def _wait_for_broker(self, address: str, topic: str, deadline_s: float) -> None:
        """Wait until one of several brokers tells of a topic, too, if it can be reached.

        Whoever asks it next would else be told that the topic does not exist.
        """
        # Only a client that knows no other broker yet asks this one.
        client, _ = make_admin(replace(self.settings, bootstrap=address))
        until_s = min(deadline_s, time.monotonic() + _BROKER_WAIT_S)
        while time.monotonic() < until_s:
            with suppress(KafkaException):
                if client.list_topics(topic, timeout=_BROKER_WAIT_S).topics[topic].partitions:
                    return
            time.sleep(0.02)

    def replication(self) -> int:
        """Return how many replicas a topic gets where nobody says: 3, or as many as brokers."""
        return min(3, len(self._metadata().brokers))

    def lagging_replicas(self) -> Iterator[tuple[str, int, set[int]]]:
        """Yield topic, partition and the brokers whose replica of it is not in sync."""
        for name, topic in self._metadata().topics.items():
            for number, partition in topic.partitions.items():
                missing = set(partition.replicas) - set(partition.isrs)
                if missing:
                    yield name, number, missing

    def cluster_id(self) -> str:
        """Return Kafka's own name for the cluster of these brokers."""
        return str(self._metadata().cluster_id)

    def flush_every_record(self, topic: str) -> None:
        """Make the broker fsync each record of ``topic`` where it has one replica only."""
        from confluent_kafka.admin import (
            AlterConfigOpType,
            ConfigEntry,
            ConfigResource,
            ResourceType,
        )

        found = self._metadata(topic)
        if any(len(p.replicas) > 1 for p in found.topics[topic].partitions.values()):
            return
        entry = ConfigEntry("flush.messages", "1", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        self.result(self.client.incremental_alter_configs([resource])[resource])

    def create_beamtime(
        self,
        beamtime: str,
        detector: str | None = None,
        *,
        partitions: int | None = None,
        replication: int | None = None,
    ) -> list[str]:
        """Create a beamtime's catalogue and a detector's topic; return the topics' names."""
        catalogue = self.names.catalogue(beamtime)
        self.create_topic(catalogue, partitions=1, compacted=True, replication=replication)
        made = [catalogue]
        if detector is not None:
            topic = self.names.topic(beamtime, detector)
            count = partitions or self.settings.partitions
            self.create_topic(topic, partitions=count, replication=replication)
            made.append(topic)
        return made

    def beamtimes(self) -> list[str]:
        """Return the beamtimes that have a catalogue on this broker."""
        found = (self.names.beamtime_of_catalogue(topic) for topic in self.topics())
        return sorted(name for name in found if name is not None)

    def require(self, stream: StreamId) -> int:
        """Return the partitions of the stream's topic, or raise TopicMissingError."""
        topic = self.names.topic(stream.beamtime, stream.detector)
        count = self.partitions(topic)
        if not count or not self.partitions(self.names.catalogue(stream.beamtime)):
            raise TopicMissingError(
                topic,
                f"lichtstrom beamtime create {stream.beamtime} --detector {stream.detector}",
            )
        return count

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Trim partitions: records below the offsets go."""
        wanted = [TopicPartition(topic, p, offset) for p, offset in before.items()]
        self.ask_all(lambda client: client.delete_records(wanted), topic=topic)

    def delete_topics(self, topics: Sequence[str]) -> None:
        """Delete topics; ones that do not exist are no error."""
        if not topics:
            return
        for future in self.client.delete_topics(list(topics)).values():
            try:
                self.result(future)
            except PipelineError as error:
                cause = error.__cause__
                unknown = isinstance(cause, KafkaException) and (
                    cause.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
                )
                if not unknown:
                    raise

    def committed(self, group: str, topic: str, partitions: int) -> list[TopicPartition]:
        """Return the committed offsets of a group with their metadata; -1001 where none is."""
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        request = [ConsumerGroupTopicPartitions(group, wanted)]
        return self._of_group(group, lambda client: client.list_consumer_group_offsets(request))

    def commit(self, group: str, offsets: Sequence[TopicPartition]) -> None:
        """Set a group's offsets; only for a group without members.

        Raises BrokerDeniedError or BrokerUnavailableError, also if it has some.
        """
        request = [ConsumerGroupTopicPartitions(group, list(offsets))]
        self._of_group(group, lambda client: client.alter_consumer_group_offsets(request))

    def _of_group(
        self, group: str, question: Callable[[AdminClient], Mapping[str, Future[Any]]]
    ) -> list[TopicPartition]:
        """Return a group's partitions; asked again while its coordinator changes."""
        deadline = time.monotonic() + self.settings.timeout_s
        while True:
            found: list[TopicPartition] = self.ask_all(question)[group].topic_partitions
            # The call as a whole has succeeded all the same.
            errors = [entry.error for entry in found if entry.error is not None]
            if not errors:
                return found
            if time.monotonic() >= deadline or not all(map(passes, errors)):
                raise self._watch.error(errors[0])
            time.sleep(ASK_AGAIN_S)

    def close(self) -> None:
        """Release the client."""
        self._client = None
