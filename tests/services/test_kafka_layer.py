"""The Kafka layer on the real broker, and what we assume of confluent-kafka."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event

import fastavro
import numpy as np
import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from pipeline import config
from pipeline.config import KafkaSettings, Settings, StoreSettings
from pipeline.errors import (
    BrokerDeniedError,
    BrokerUnavailableError,
    FrameExpiredError,
    PipelineError,
    StreamNotFoundError,
    TopicMissingError,
    UnknownSchemaError,
)
from pipeline.kafka.admin import Admin
from pipeline.kafka.client import make_consumer, make_producer
from pipeline.kafka.producer import Acknowledged, LogProducer
from pipeline.kafka.schemas import SchemaTopic
from pipeline.local.processes import wait_until
from pipeline.naming import Names, StreamId, new_nonce, new_stream_key, record_key
from pipeline.publishing import claims
from pipeline.records import Claim, Deleted, Segment, Start, StreamInfo
from pipeline.services import Services
from pipeline.testing.memory_log import make_mark, make_segment, make_start
from pipeline.wire import codec
from pipeline.wire.catalogue import key_of
from pipeline.wire.schemas import make_schema, shipped

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def settings(runtime_home: Path) -> Settings:
    return config.load("file", environment={"LICHTSTROM_HOME": str(runtime_home)})


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    opened = Services(settings)
    assert opened.producer  # its thread lives as long as this module
    yield opened
    opened.close()


@pytest.fixture
def topic(services: Services) -> Iterator[str]:
    name = f"lichtstrom.test.{secrets.token_hex(6)}"
    services.admin.create_topic(name, partitions=2)
    yield name
    services.admin.delete_topics([name])


def started(services: Services, beamtime: str, **changes: object) -> StreamInfo:
    """Start a stream on fresh topics."""
    values = {"partitions": 2, "frames_per_chunk": 4, "stream_key": new_stream_key(), **changes}
    start = replace(make_start(**values), beamtime=beamtime)  # type: ignore[arg-type]
    claims.create_beamtime(services, beamtime, start.detector, partitions=start.partitions)
    return claims.find_or_start(services, start)


def until(found: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait for a condition; the callable waits a little itself."""
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline, "it did not happen in time"


def poll(consumer: Consumer, limit_s: float = LIMIT_S) -> Message:
    message = consumer.poll(limit_s)
    assert message is not None, "nothing came in time"
    return message


# -- what we assume of confluent-kafka ----------------------------------------------------------


def test_an_acknowledgement_carries_partition_offset_and_the_brokers_time(
    services: Services, topic: str
) -> None:
    before_ms = services.producer.append_wait(topic, 1, b"k", b"0", LIMIT_S).timestamp_ms
    answers = services.producer.append_all(
        [(topic, 1, b"k", b"%d" % i) for i in range(50)], LIMIT_S
    )
    assert [a.partition for a in answers] == [1] * 50
    assert [a.offset for a in answers] == list(range(1, 51))
    # LogAppendTime: the broker's clock, which on this machine is ours.
    assert before_ms <= answers[0].timestamp_ms <= answers[-1].timestamp_ms
    assert abs(answers[0].timestamp_ms / 1000 - time.time()) < 60


def test_the_time_in_an_acknowledgement_is_the_one_a_reader_sees(
    services: Services, topic: str
) -> None:
    answer = services.producer.append_wait(topic, 0, b"k", b"v", LIMIT_S)
    consumer, _ = make_consumer(services.settings.kafka)
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        message = poll(consumer)
        assert message.timestamp()[1] == answer.timestamp_ms
    finally:
        consumer.close()


def test_callbacks_come_in_the_order_of_the_records_of_a_partition(
    services: Services, topic: str
) -> None:
    told: list[object] = []
    done = Event()

    def take(outcome: Acknowledged | PipelineError) -> None:
        told.append(outcome)
        if len(told) == 500:
            done.set()

    for _ in range(500):
        services.producer.append(topic, 0, b"k", b"x" * 1000, take)
    assert done.wait(LIMIT_S)
    assert [a.offset for a in told if isinstance(a, Acknowledged)] == list(range(500))


def test_watermarks_tell_the_end_without_assigning(services: Services, topic: str) -> None:
    consumer, _ = make_consumer(services.settings.kafka)
    try:
        partition = TopicPartition(topic, 0)

        def led() -> bool:  # a topic made a moment ago may not have its leader yet
            try:
                return consumer.get_watermark_offsets(partition, timeout=LIMIT_S) == (0, 0)
            except KafkaException:
                return False

        assert wait_until(led, timeout_s=LIMIT_S)
        services.producer.append_wait(topic, 0, b"k", b"v", LIMIT_S)
        # An acknowledged record is below the high watermark of any later question.
        assert consumer.get_watermark_offsets(partition, timeout=LIMIT_S) == (0, 1)
    finally:
        consumer.close()


def test_the_end_of_a_partition_is_a_message_with_its_offset(
    services: Services, topic: str
) -> None:
    services.producer.append_wait(topic, 0, b"k", b"v", LIMIT_S)
    consumer, _ = make_consumer(services.settings.kafka, {"enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    try:
        assert poll(consumer).error() is None
        end = poll(consumer)
        assert end.error().code() == KafkaError._PARTITION_EOF
        assert (end.offset(), end.partition()) == (1, 0)
    finally:
        consumer.close()


def test_assigning_again_drops_what_was_fetched_for_the_old_place(
    services: Services, topic: str
) -> None:
    services.producer.append_all([(topic, 0, b"k", b"%d" % i) for i in range(100)], LIMIT_S)
    consumer, _ = make_consumer(services.settings.kafka)
    try:
        for offset in (0, 90, 10, 50):
            consumer.assign([TopicPartition(topic, 0, offset)])
            assert poll(consumer).offset() == offset
    finally:
        consumer.close()


def test_consume_without_waiting_returns_what_is_there(services: Services, topic: str) -> None:
    services.producer.append_all([(topic, 0, b"k", b"%d" % i) for i in range(20)], LIMIT_S)
    consumer, _ = make_consumer(services.settings.kafka)
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        found = [poll(consumer)]
        until(lambda: found.extend(consumer.consume(500, 0)) or len(found) == 20)
        assert [m.offset() for m in found] == list(range(20))
        assert consumer.consume(500, 0) == []
    finally:
        consumer.close()


def test_a_paused_partition_is_silent_and_resumes_where_it_was(
    services: Services, topic: str
) -> None:
    services.producer.append_all([(topic, p, b"k", b"v") for p in (0, 1)] * 10, LIMIT_S)
    consumer, _ = make_consumer(services.settings.kafka)
    consumer.assign([TopicPartition(topic, p, 0) for p in (0, 1)])
    consumer.pause([TopicPartition(topic, 0)])
    try:
        first = [poll(consumer) for _ in range(10)]
        assert {m.partition() for m in first} == {1}
        consumer.resume([TopicPartition(topic, 0)])
        second = [poll(consumer) for _ in range(10)]
        assert [(m.partition(), m.offset()) for m in second] == [(0, i) for i in range(10)]
    finally:
        consumer.close()


def test_a_producer_without_a_message_timeout_gives_nothing_up_until_it_is_purged() -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1")
    producer, _ = make_producer(settings)
    told: list[KafkaError] = []
    producer.produce("t", b"v", partition=0, on_delivery=lambda error, _: told.append(error))
    assert producer.flush(0.3) == 1
    assert told == []
    producer.purge()
    until(lambda: producer.flush(0.2) == 0)
    assert [error.code() for error in told] == [KafkaError._PURGE_QUEUE]


def test_a_record_larger_than_the_limit_is_refused_when_it_is_handed_over(
    services: Services, topic: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        services.producer.append_wait(topic, 0, b"k", b"x" * 1_100_000, LIMIT_S)
    assert caught.value.retriable is False


def test_the_brokers_limit_takes_the_largest_record_a_producer_sends(
    services: Services, topic: str
) -> None:
    largest = secrets.token_bytes(999_000)
    assert services.producer.append_wait(topic, 0, b"k", largest, LIMIT_S).offset == 0


def test_an_offset_below_the_first_is_an_error_of_its_own(services: Services, topic: str) -> None:
    services.producer.append_all([(topic, 0, b"k", b"v")] * 5, LIMIT_S)
    services.admin.delete_records(topic, {0: 3})
    consumer, _ = make_consumer(services.settings.kafka)
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        error = poll(consumer).error()
        assert error is not None
        assert error.code() == KafkaError._AUTO_OFFSET_RESET
    finally:
        consumer.close()


def test_dots_and_underscores_are_one_to_the_broker(services: Services, beamtime: str) -> None:
    # Why names are escaped without any underscore.
    one, other = f"lichtstrom.{beamtime}.a_b", f"lichtstrom.{beamtime}.a.b"
    services.admin.create_topic(one, partitions=1)
    try:
        with pytest.raises(BrokerDeniedError, match="collides"):
            services.admin.create_topic(other, partitions=1)
    finally:
        services.admin.delete_topics([one])


# -- administration -----------------------------------------------------------------------------


def test_topics_of_any_names_are_made_twice_without_harm(services: Services, beamtime: str) -> None:
    names = services.names
    tricky = [(f"{beamtime}_", "d"), (beamtime, "_d"), (f"{beamtime} é/.", "+ x")]
    for name, detector in tricky:
        first = services.admin.create_beamtime(name, detector, partitions=3)
        again = services.admin.create_beamtime(name, detector, partitions=5)
        assert first == again == [names.catalogue(name), names.topic(name, detector)]
        assert services.admin.partitions(names.topic(name, detector)) == 3
        assert services.admin.partitions(names.catalogue(name)) == 1
        assert services.admin.require(StreamId(name, detector, "s")) == 3
        assert name in services.admin.beamtimes()
    assert services.admin.topics()[names.topic(*tricky[0])] == 3


def test_a_missing_topic_names_the_command_that_makes_it(services: Services, beamtime: str) -> None:
    stream = StreamId(beamtime, "lambda", "s")
    with pytest.raises(TopicMissingError) as caught:
        services.admin.require(stream)
    assert caught.value.command == f"lichtstrom beamtime create {beamtime} --detector lambda"
    assert caught.value.command in str(caught.value)
    assert services.admin.partitions(services.names.topic(beamtime, "lambda")) == 0
    with pytest.raises(TopicMissingError, match="lichtstrom beamtime create"):
        services.catalogue(beamtime).look()
    with pytest.raises(TopicMissingError, match="lichtstrom beamtime create"):
        services.producer.append_wait(f"lichtstrom.{beamtime}.x", 0, b"k", b"v", LIMIT_S)
    services.admin.delete_topics([f"lichtstrom.{beamtime}.x"])  # none is no error


@pytest.mark.parametrize(("partitions", "replication"), [(0, 1), (1, 99)])
def test_a_topic_that_the_broker_cannot_make_is_refused_not_waited_for(
    services: Services, beamtime: str, partitions: int, replication: int
) -> None:
    with pytest.raises(BrokerDeniedError) as caught:
        services.admin.create_topic(
            f"lichtstrom.{beamtime}.x", partitions=partitions, replication=replication
        )
    assert caught.value.retriable is False


def settings_of(services: Services, topic: str) -> dict[str, str]:
    from confluent_kafka.admin import ConfigResource, ResourceType

    wanted = ConfigResource(ResourceType.TOPIC, topic)
    found = services.admin.result(services.admin.client.describe_configs([wanted])[wanted])
    return {name: entry.value for name, entry in found.items()}


def test_topics_are_made_as_the_design_says(services: Services, beamtime: str) -> None:
    services.admin.create_beamtime(beamtime, "d")
    catalogue = settings_of(services, services.names.catalogue(beamtime))
    data = settings_of(services, services.names.topic(beamtime, "d"))
    for values in (catalogue, data):
        assert values["message.timestamp.type"] == "LogAppendTime"
        assert values["unclean.leader.election.enable"] == "false"
    assert catalogue["cleanup.policy"] == "compact"
    assert (data["cleanup.policy"], data["retention.ms"]) == ("delete", "-1")


def test_a_topic_of_one_replica_can_be_made_to_flush_every_record(
    services: Services, beamtime: str
) -> None:
    durable, other = f"lichtstrom.{beamtime}.durable", f"lichtstrom.{beamtime}.other"
    services.admin.create_topic(durable, partitions=1, durable=True)
    services.admin.create_topic(other, partitions=1)
    assert settings_of(services, durable)["flush.messages"] == "1"
    services.admin.flush_every_record(other)
    # The broker takes a changed setting over a moment after it has acknowledged it.
    until(lambda: settings_of(services, other)["flush.messages"] == "1")


def test_trimmed_records_are_gone_and_a_cursor_says_so(services: Services, beamtime: str) -> None:
    info = started(services, beamtime, partitions=1)
    topic = services.names.topic(beamtime, info.start.detector)
    append(services, info, *[(0, make_segment([n], floor=n)) for n in range(10)])
    log = services.log(info)
    try:
        services.admin.delete_records(topic, {0: 6})
        assert log.available_from() == [6]
        assert log.find(3, timeout_s=LIMIT_S).records == ()
        assert [r.offset for r in log.find(8, timeout_s=LIMIT_S).records] == [8]
        cursor = log.cursor([2])
        try:
            with pytest.raises(FrameExpiredError):
                until(lambda: cursor.poll(1.0))
        finally:
            cursor.close()
        with pytest.raises(BrokerDeniedError, match="Kafka at"):
            services.admin.delete_records(topic, {0: 999})
    finally:
        log.close()


def test_progress_of_a_group_is_set_and_read_without_members(
    services: Services, topic: str
) -> None:
    group = f"g{secrets.token_hex(4)}"
    assert [p.offset for p in services.admin.committed(group, topic, 2)] == [-1001, -1001]
    wanted = [TopicPartition(topic, p, 5 + p, "done: 7") for p in range(2)]
    services.admin.commit(group, wanted)
    found = services.admin.committed(group, topic, 2)
    assert [(p.offset, p.metadata) for p in found] == [(5, "done: 7"), (6, "done: 7")]


# -- unreachable, wrong credentials -------------------------------------------------------------


def test_wrong_credentials_are_told_from_an_outage(settings: Settings) -> None:
    # The broker speaks plain text; a client that insists on a password is turned away.
    properties: Mapping[str, str] = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "nobody",
        "sasl.password": "hush",
    }
    wrong = replace(settings.kafka, properties=properties, timeout_s=3.0)
    admin = Admin(wrong)
    try:
        with pytest.raises((BrokerDeniedError, BrokerUnavailableError)) as caught:
            admin.topics()
        assert settings.kafka.bootstrap in str(caught.value)
        assert "hush" not in str(caught.value)
        assert "hush" not in repr(wrong)
    finally:
        admin.close()


def test_an_unreachable_broker_is_named_with_its_address() -> None:
    kafka = KafkaSettings(bootstrap="127.0.0.1:1", timeout_s=0.5)
    away = Services(Settings(kafka=kafka, store=StoreSettings(url="memory://away")))
    try:
        for call in (
            away.admin.topics,
            lambda: away.catalogue("b").look(),
            lambda: away.producer.append_wait("t", 0, b"k", b"v", 0.2),
        ):
            with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
                call()
        assert away.has_broker
    finally:
        with pytest.raises(BrokerUnavailableError, match="1 records"):
            away.close()
        away.close()


# -- catalogue ----------------------------------------------------------------------------------


def test_a_look_sees_everything_that_was_there_when_it_began(
    services: Services, settings: Settings, beamtime: str
) -> None:
    info = started(services, beamtime)
    other = Services(settings)
    try:
        for epoch in range(1, 20):
            claim = Claim(
                stream_key=info.start.stream_key,
                module=0,
                epoch=epoch,
                nonce=new_nonce(),
                holder="h:1",
            )
            answer = services.catalogue(beamtime).append(claim)
            found = other.catalogue(beamtime).look().by_key(info.start.stream_key)
            assert found is not None
            assert found.modules[0].claim == claim
            assert found.modules[0].claimed_ms == answer.timestamp_ms
        assert other.catalogue(beamtime) is other.catalogue(beamtime)
    finally:
        other.close()


def test_bad_records_foreign_ones_and_tombstones_hide_no_stream(
    services: Services, settings: Settings, beamtime: str, caplog: pytest.LogCaptureFixture
) -> None:
    info = started(services, beamtime)
    topic = services.names.catalogue(beamtime)
    gone = Claim(
        stream_key=info.start.stream_key, module=0, epoch=1, nonce=new_nonce(), holder="h:1"
    )
    catalogue = services.catalogue(beamtime)
    services.producer.append_all(
        [
            (topic, 0, b"x", b"damaged"),
            (topic, 0, b"x", b"\xc3\x01" + b"\xee" * 8 + b"from the future"),
            (topic, 0, b"x", codec.encode(make_segment([1]))),
            (topic, 0, b"x", codec.encode(make_mark())),
            (topic, 0, b"y", None),
        ],
        LIMIT_S,
    )
    catalogue.append(gone)
    catalogue.tombstone([key_of(gone)])
    now_ms = catalogue.clock_ms()
    assert abs(now_ms / 1000 - time.time()) < 60
    later = replace(info.start, stream="later", stream_key=new_stream_key())
    catalogue.append(later)
    other = Services(settings)
    try:
        with caplog.at_level(logging.WARNING):
            state = other.catalogue(beamtime).look()
        assert [i.start.stream for i in state.streams()] == [info.start.stream, "later"]
        assert caplog.text.count("catalogue record ignored") == 2
        assert f"{topic}/0@" in caplog.text
    finally:
        other.close()


def test_a_stream_that_was_deleted_meanwhile_is_not_found(
    services: Services, beamtime: str
) -> None:
    info = started(services, beamtime)
    log = services.log(info)
    try:
        assert log.info(refresh=True).start == info.start
        services.catalogue(beamtime).append(
            Deleted(stream_key=info.start.stream_key, nonce=new_nonce())
        )
        with pytest.raises(StreamNotFoundError, match="deleted"):
            log.info(refresh=True)
        assert log.info(refresh=False).start == info.start
    finally:
        log.close()


def test_of_two_starts_of_a_name_both_processes_see_the_first(
    services: Services, settings: Settings, beamtime: str
) -> None:
    info = started(services, beamtime)
    rival = replace(info.start, stream_key=new_stream_key())
    other = Services(settings)
    try:
        other.catalogue(beamtime).append(rival)
        assert claims.find_or_start(other, rival).start == info.start
    finally:
        other.close()


# -- schemas ------------------------------------------------------------------------------------


@pytest.fixture
def schema_settings(settings: Settings) -> KafkaSettings:
    return replace(settings.kafka, prefix=f"t{secrets.token_hex(6)}")


def test_schemas_are_published_once_and_read_by_others(
    services: Services, schema_settings: KafkaSettings
) -> None:
    admin = Admin(schema_settings)
    topic = SchemaTopic(schema_settings, admin)
    assert topic.resolve(b"12345678") is None  # there is no topic yet
    for _ in range(2):
        topic.publish(services.producer)
    assert ends(services, topic.topic) == len(shipped())
    reader = SchemaTopic(schema_settings, admin)
    for schema in shipped().values():
        assert reader.resolve(schema.fingerprint) == schema.text
    admin.close()


def test_a_schema_from_the_future_is_read_once_it_is_published(
    services: Services, schema_settings: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    admin = Admin(schema_settings)
    topic = SchemaTopic(schema_settings, admin)
    topic.publish(services.producer)
    definition = json.loads(shipped()[Segment].text)
    definition["fields"].append({"name": "colour", "type": "string", "default": "none"})
    future = make_schema(json.dumps(definition))
    buffer = _Buffer()
    plain = codec.to_plain(make_segment([5, 6]))
    fastavro.schemaless_writer(buffer, future.parsed, {**plain, "colour": "red"})
    data = future.marker + buffer.data
    with pytest.raises(UnknownSchemaError, match=future.fingerprint.hex()):
        codec.decode(data, resolve=topic.resolve)
    key = future.fingerprint.hex().encode()
    wrong = json.dumps({"sha256": "0" * 64, "schema": future.text}).encode()
    services.producer.append_wait(topic.topic, 0, key, wrong, LIMIT_S)
    with pytest.raises(UnknownSchemaError), caplog.at_level(logging.WARNING):
        codec.decode(data, resolve=topic.resolve)
    assert "checksum is wrong" in caplog.text
    right = json.dumps({"sha256": future.sha256, "schema": future.text}).encode()
    services.producer.append_wait(topic.topic, 0, key, right, LIMIT_S)
    found = codec.decode(data, resolve=topic.resolve)
    assert isinstance(found, Segment)
    assert found.numbers.tolist() == [5, 6]
    admin.close()


class _Buffer:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def ends(services: Services, topic: str) -> int:
    consumer, _ = make_consumer(services.settings.kafka)
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=LIMIT_S)[1])
    finally:
        consumer.close()


# -- logs and search ----------------------------------------------------------------------------


def append(services: Services, info: StreamInfo, *entries: tuple[int, object]) -> None:
    start = info.start
    topic = services.names.topic(start.beamtime, start.detector)
    records = []
    for partition, value in entries:
        ours = replace(value, stream_key=start.stream_key)  # type: ignore[type-var]
        first = int(ours.numbers[0]) if isinstance(ours, Segment) else max(ours.ceil + 1, 0)
        key = record_key(start.stream_key, first)
        records.append((topic, partition, key, codec.encode(ours)))
    services.producer.append_all(records, LIMIT_S)


def test_search_on_a_topic_of_many_records_finds_each_frame_with_few_reads(
    services: Services, beamtime: str
) -> None:
    info = started(services, beamtime, partitions=2, frames_per_chunk=8)
    entries = []
    rng = np.random.default_rng(7)
    number, kept = 0, []
    while len(kept) < 20_000:
        number += int(rng.integers(1, 4))
        entries.append((info.start.partition_of(number), make_segment([number], floor=number)))
        kept.append(number)
    append(services, info, *entries)
    last = [make_mark("idle", floor=number + 1, ceil=number)] * 2
    append(services, info, *enumerate(last))
    log = services.log(info)
    try:
        chosen = rng.choice(kept, 60, replace=False).tolist()
        for wanted in chosen:
            (located,) = log.find(wanted, timeout_s=LIMIT_S).records
            assert located.value.numbers.tolist() == [wanted]  # type: ignore[union-attr]
        reads = log._reader().reads
        assert reads <= 10 * len(chosen), reads
        absent = next(n for n in range(1, number) if n not in kept)
        found = log.find(absent, timeout_s=LIMIT_S)
        assert (found.records, found.passed) == ((), True)
        assert log.find(number + 50, timeout_s=LIMIT_S).passed is False
        assert log.progress(0, timeout_s=LIMIT_S) == (number + 1, [number, number])
        offsets = log.seek(kept[10_000])
        rest = log.read(offsets, log.bounds()[1], timeout_s=LIMIT_S)
        numbers = {
            n for r in rest if isinstance(r.value, Segment) for n in r.value.numbers.tolist()
        }
        assert numbers >= set(kept[10_000:])
        assert len(numbers) < 11_000
    finally:
        log.close()
        log.close()


def test_the_last_sign_of_a_writer_is_told_by_the_brokers_clock(
    services: Services, beamtime: str
) -> None:
    info = started(services, beamtime)
    log = services.log(info)
    try:
        before_ms = services.catalogue(beamtime).clock_ms()
        assert log.last_sign_ms(0, before_ms - 10_000) is None
        append(services, info, (1, make_mark(module=0)), (0, make_mark(module=3)))
        sign_ms = log.last_sign_ms(0, before_ms - 10_000)
        assert sign_ms is not None
        assert before_ms <= sign_ms <= services.catalogue(beamtime).clock_ms()
        assert log.last_sign_ms(0, sign_ms + 60_000) is None
        assert log.last_sign_ms(5, before_ms - 10_000) is None
    finally:
        log.close()


def test_two_streams_of_a_topic_do_not_see_each_other(services: Services, beamtime: str) -> None:
    one = started(services, beamtime, partitions=1)
    two = started(services, beamtime, partitions=1, stream="other")
    for n in range(6):
        append(services, one, (0, make_segment([n], floor=n)))
        append(services, two, (0, make_segment([n + 100], floor=n)))
    for info, first in ((one, 0), (two, 100)):
        log = services.log(info)
        cursor = log.cursor()
        found: list[int] = []
        try:
            until(
                lambda cursor=cursor, found=found: (
                    found.extend(int(r.value.numbers[0]) for r in cursor.poll(1.0))
                    or len(found) == 6
                )
            )
            assert found == list(range(first, first + 6))
            assert [int(r.value.numbers[0]) for r in log.tail(timeout_s=LIMIT_S)] == [first + 5]  # type: ignore[union-attr]
            assert log.find(first + 3, timeout_s=LIMIT_S).records
            assert not log.find(103 - first, timeout_s=LIMIT_S).records
        finally:
            cursor.close()
            log.close()


# -- closing ------------------------------------------------------------------------------------


def test_an_orderly_close_delivers_what_was_queued(
    settings: Settings, services: Services, topic: str
) -> None:
    producer = LogProducer(settings.kafka)
    told: list[object] = []
    for _ in range(200):
        producer.append(topic, 0, b"k", b"v", told.append)
    producer.close(LIMIT_S)
    producer.close(LIMIT_S)
    assert len(told) == 200
    assert all(isinstance(answer, Acknowledged) for answer in told)
    assert ends(services, topic) == 200


def test_services_open_what_is_used_and_close_twice(settings: Settings, beamtime: str) -> None:
    used = Services(settings)
    info = started(used, beamtime)
    assert used.prefix(info).startswith(Names().bucket(beamtime))
    used.close()
    used.close()
    unused = Services(replace(settings, kafka=KafkaSettings()))
    assert not unused.has_broker
    unused.close()


def test_a_start_is_what_the_catalogue_says_not_what_was_asked(
    services: Services, beamtime: str
) -> None:
    first: Start = started(services, beamtime, partitions=2).start
    wanted = replace(first, partitions=7, stream_key=new_stream_key())
    assert claims.find_or_start(services, wanted).start.partitions == 2


def test_the_plain_producer_of_the_library_interleaves_with_ours(
    settings: Settings, services: Services, topic: str
) -> None:
    plain = Producer({"bootstrap.servers": settings.kafka.bootstrap})
    services.producer.append_wait(topic, 0, b"k", b"ours", LIMIT_S)
    plain.produce(topic, b"foreign", partition=0)
    assert plain.flush(LIMIT_S) == 0
    assert services.producer.append_wait(topic, 0, b"k", b"ours", LIMIT_S).offset == 2
