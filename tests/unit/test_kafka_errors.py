"""librdkafka's errors as ours: unreachable, refused, missing, or a setting that is wrong."""

from __future__ import annotations

import json
import logging
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.config import KafkaSettings
from pipeline.errors import (
    BrokerDeniedError,
    BrokerUnavailableError,
    ConfigError,
    FrameExpiredError,
    TopicMissingError,
    WireError,
)
from pipeline.kafka.admin import Admin
from pipeline.kafka.catalogue import CatalogueTopic
from pipeline.kafka.client import Watch, asked, make_admin, make_consumer, make_producer, translated
from pipeline.kafka.cursor import KafkaCursor, decode_message
from pipeline.kafka.producer import Acknowledged, LogProducer
from pipeline.kafka.schemas import SchemaTopic, _take
from pipeline.naming import StreamId, record_key
from pipeline.records import Claim
from pipeline.testing.memory_log import STREAM_KEY, make_segment
from pipeline.wire import codec
from pipeline.wire.schemas import make_schema, shipped

#: A port of this machine where nobody listens; timeouts are short because nobody answers.
NOBODY = KafkaSettings(bootstrap="127.0.0.1:1", timeout_s=0.3)
DENIED = ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "TOPIC_AUTHORIZATION_FAILED")
REFUSED = ("TOPIC_EXCEPTION", "INVALID_REPLICATION_FACTOR", "MSG_SIZE_TOO_LARGE", "INVALID_CONFIG")
PASSING = ("_ALL_BROKERS_DOWN", "_TRANSPORT", "_TIMED_OUT", "LEADER_NOT_AVAILABLE")


def kafka_error(name: str) -> KafkaError:
    return KafkaError(getattr(KafkaError, name))


# -- translation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENIED + REFUSED)
def test_what_the_broker_refuses_does_not_pass_by_waiting(name: str) -> None:
    error = Watch(NOBODY).error(KafkaException(kafka_error(name)))
    assert isinstance(error, BrokerDeniedError)
    assert error.retriable is False
    assert "127.0.0.1:1 refused" in str(error)


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_retriable_and_names_the_address(name: str) -> None:
    error = Watch(NOBODY).error(kafka_error(name))
    assert isinstance(error, BrokerUnavailableError)
    assert error.retriable is True
    assert error.bootstrap == "127.0.0.1:1"
    assert "lichtstrom status" in str(error)


def test_a_time_out_says_what_the_client_complained_about_last() -> None:
    watch = Watch(NOBODY)
    assert "(" not in str(watch.error("no answer")).split(": no answer")[1].split(";")[0]
    watch(KafkaError(KafkaError._TRANSPORT, "connection reset by somebody"))
    assert "no answer (connection reset by somebody)" in str(watch.error("no answer"))
    assert "connection reset" in str(watch.error(kafka_error("_TIMED_OUT")))


def test_a_time_out_after_a_refusal_is_the_refusal() -> None:
    watch = Watch(NOBODY)
    watch(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    watch(kafka_error("_ALL_BROKERS_DOWN"))
    error = watch.error(kafka_error("_TIMED_OUT"))
    assert isinstance(error, BrokerDeniedError)
    assert "wrong password" in str(error)


def test_only_librdkafkas_exceptions_are_translated() -> None:
    with pytest.raises(BrokerUnavailableError) as caught, translated(Watch(NOBODY)):
        raise KafkaException(kafka_error("_TRANSPORT"))
    assert isinstance(caught.value.__cause__, KafkaException)
    with pytest.raises(ZeroDivisionError), translated(Watch(NOBODY)):
        _ = 1 / 0


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_producer, make_consumer, make_admin])
def test_without_an_address_the_error_says_how_to_get_one(make) -> None:
    with pytest.raises(ConfigError, match="lichtstrom up"):
        make(KafkaSettings())


@pytest.mark.parametrize("make", [make_producer, make_consumer, make_admin])
@pytest.mark.parametrize(
    "properties", [{"no.such.property": "1"}, {"security.protocol": "carrier pigeon"}]
)
def test_a_property_that_librdkafka_does_not_know_is_named(make, properties) -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1", properties=properties)
    with pytest.raises(ConfigError, match=next(iter(properties))):
        make(settings)


def test_properties_reach_librdkafka() -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1", properties={"client.id": "other"})
    consumer, watch = make_consumer(settings, group="g")
    consumer.close()
    assert watch.last is None or watch.denied is None


# -- nobody there -------------------------------------------------------------------------------


def test_an_admin_of_a_broker_that_is_away_says_so() -> None:
    admin = Admin(NOBODY)
    try:
        for call in (
            admin.topics,
            admin.beamtimes,
            lambda: admin.partitions("t"),
            lambda: admin.create_topic("t", partitions=1),
            lambda: admin.require(StreamId("b", "d", "s")),
            lambda: admin.flush_every_record("t"),
            lambda: admin.committed("g", "t", 1),
        ):
            with pytest.raises(BrokerUnavailableError, match=r"127.0.0.1:1"):
                call()
        admin.delete_topics([])
    finally:
        admin.close()
        admin.close()


def test_a_catalogue_of_a_broker_that_is_away_says_so() -> None:
    producer = LogProducer(NOBODY)
    catalogue = CatalogueTopic(NOBODY, "b", producer)
    try:
        with pytest.raises(BrokerUnavailableError, match=r"127.0.0.1:1"):
            catalogue.look()
        claim = Claim(stream_key=STREAM_KEY, module=0, epoch=1, nonce="n", holder="h")
        with pytest.raises(BrokerUnavailableError, match=r"not acknowledged in 0.1 s"):
            catalogue.append(claim, timeout_s=0.1)
        with pytest.raises(BrokerUnavailableError):
            catalogue.tombstone([b"k"], timeout_s=0.1)
        catalogue.tombstone([])
    finally:
        catalogue.close()
        with pytest.raises(BrokerUnavailableError, match="2 records were not acknowledged"):
            producer.close(0.1)
    producer.close()  # a second time is no error


def test_what_was_dropped_at_the_close_is_told_once() -> None:
    producer = LogProducer(NOBODY)
    told: list[object] = []
    producer.append("t", 0, b"k", b"v", told.append)
    with pytest.raises(BrokerUnavailableError, match="1 records"):
        producer.close(0.05)
    (answer,) = told
    assert isinstance(answer, BrokerUnavailableError)


def test_schemas_of_a_broker_that_is_away_are_not_taken_for_none() -> None:
    topic = SchemaTopic(NOBODY, Admin(NOBODY))
    with pytest.raises(BrokerUnavailableError):
        topic.resolve(b"12345678")
    assert topic.resolve(5) is None  # no registry is configured


# -- outcomes of records ------------------------------------------------------------------------


class FakeMessage:
    def __init__(self, value: bytes | None, key: bytes | None, error: KafkaError | None = None):
        self._value, self._key, self._error = value, key, error

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return "topic"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7

    def timestamp(self) -> tuple[int, int]:
        return 2, 99


@pytest.fixture
def producer() -> Iterator[LogProducer]:
    made = LogProducer(NOBODY)
    yield made
    made.close(0.0)


def test_a_record_that_arrived_tells_where_and_when(producer: LogProducer) -> None:
    assert producer._outcome(None, FakeMessage(b"", b""), "topic") == Acknowledged(0, 7, 99)


@pytest.mark.parametrize("name", ["UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"])
def test_a_record_for_a_topic_that_is_missing_names_the_command(
    producer: LogProducer, name: str
) -> None:
    error = producer._outcome(kafka_error(name), FakeMessage(b"", b""), "topic")
    assert isinstance(error, TopicMissingError)
    assert "lichtstrom beamtime create" in str(error)


def test_a_record_that_was_refused_is_told_apart(producer: LogProducer) -> None:
    error = producer._outcome(kafka_error("TOPIC_AUTHORIZATION_FAILED"), FakeMessage(b"", b""), "t")
    assert isinstance(error, BrokerDeniedError)


def test_a_damaged_record_is_skipped_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = record_key(STREAM_KEY, 0)
    with caplog.at_level(logging.ERROR):
        assert decode_message(FakeMessage(b"damaged", key), STREAM_KEY, None) is None
    assert "topic/0@7" in caplog.text
    whole = codec.encode(make_segment([0]))
    assert decode_message(FakeMessage(whole, key), None, None) is not None
    assert decode_message(FakeMessage(whole, key), b"87654321", None) is None
    assert decode_message(FakeMessage(None, key), STREAM_KEY, None) is None


def test_a_cursor_tells_expiry_from_what_passes_from_what_does_not() -> None:
    cursor = KafkaCursor(NOBODY, "topic", STREAM_KEY, [0])
    try:
        for name in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
            with pytest.raises(FrameExpiredError, match="partition 0"):
                cursor._take(FakeMessage(None, None, kafka_error(name)))
        for name in (*PASSING, "_PARTITION_EOF"):
            assert cursor._take(FakeMessage(None, None, kafka_error(name))) is None
        for name in ("TOPIC_AUTHORIZATION_FAILED", "UNKNOWN_TOPIC_OR_PART"):
            with pytest.raises((BrokerDeniedError, BrokerUnavailableError)):
                cursor._take(FakeMessage(None, None, kafka_error(name)))
        assert cursor.positions() == [0]
        key = record_key(STREAM_KEY, 0)
        located = cursor._take(FakeMessage(codec.encode(make_segment([0])), key))
        assert located is not None
        assert (located.partition, located.offset, located.timestamp_ms) == (0, 7, 99)
        assert cursor.positions() == [8]
    finally:
        cursor.close()


# -- schemas of others --------------------------------------------------------------------------


def test_schema_records_with_a_wrong_checksum_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    schema = next(iter(shipped().values()))
    key = schema.fingerprint.hex().encode()
    good = {"sha256": schema.sha256, "schema": schema.text}
    wrong: list[tuple[bytes | None, bytes | None]] = [
        (key, json.dumps({**good, "sha256": "0" * 64}).encode()),
        (b"ffffffffffffffff", json.dumps(good).encode()),
        (key, json.dumps({**good, "schema": '"string"'}).encode()),
        (key, json.dumps({**good, "schema": 5}).encode()),
        (key, json.dumps([1]).encode()),
        (key, b"{"),
        (key, b"\xff"),
        (key, None),
        (None, json.dumps(good).encode()),
    ]
    found: dict[bytes, str] = {}
    with caplog.at_level(logging.WARNING):
        for record in wrong:
            _take(*record, found)
    assert found == {}
    assert caplog.text.count("ignored") == len(wrong)
    _take(key, json.dumps(good).encode(), found)
    assert found == {schema.fingerprint: schema.text}
    assert make_schema(found[schema.fingerprint]).sha256 == schema.sha256


class Registry(BaseHTTPRequestHandler):
    """A schema registry that knows one id."""

    def do_GET(self) -> None:
        known = self.path == "/schemas/ids/7"
        self.send_response(200 if known or self.path.endswith("/8") else 404)
        self.end_headers()
        self.wfile.write(b'{"schema": "{}"}' if known else b"[5]")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Registry)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(5.0)
        server.server_close()


def test_a_registry_resolves_ids_and_its_failures_are_no_schema(
    registry: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1", registry=registry, timeout_s=5.0)
    topic = SchemaTopic(settings, Admin(settings))
    assert topic.resolve(7) == "{}"
    assert topic.resolve(7) == "{}"
    with caplog.at_level(logging.WARNING):
        assert topic.resolve(8) is None
        assert topic.resolve(9) is None
    assert caplog.text.count("schema registry") == 2


def test_a_registry_that_is_no_http_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("asked")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    settings = KafkaSettings(bootstrap="127.0.0.1:1", registry="file:///etc")
    assert SchemaTopic(settings, Admin(settings)).resolve(7) is None


def test_damaged_schemas_are_wire_errors() -> None:
    with pytest.raises(WireError):
        make_schema("5")


def test_offsets_are_asked_for_again_while_a_leader_changes() -> None:
    answers = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, None]

    def question(left_s: float) -> int:
        assert 0 < left_s <= 10
        if (code := answers.pop(0)) is not None:
            raise KafkaException(KafkaError(code))
        return 7

    assert asked(question, 10) == 7
    assert not answers


@pytest.mark.parametrize(
    ("code", "again"),
    [(KafkaError.UNKNOWN_TOPIC_OR_PART, False), (KafkaError.NOT_LEADER_FOR_PARTITION, True)],
)
def test_other_answers_and_leaders_that_never_come_are_told(code: int, again: bool) -> None:
    calls = []

    def question(left_s: float) -> int:
        calls.append(left_s)
        raise KafkaException(KafkaError(code))

    with pytest.raises(KafkaException):
        asked(question, 0.5)
    assert (len(calls) > 1) is again
