"""librdkafka's clients with our settings, and its errors as ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from pipeline.config import KafkaSettings
from pipeline.credentials import certificates
from pipeline.errors import BrokerDeniedError, BrokerUnavailableError, ConfigError, PipelineError

T = TypeVar("T")

log = logging.getLogger("lichtstrom.kafka")
#: librdkafka's own lines (reconnects, ...) are its business unless somebody debugs.
_client_log = logging.getLogger("lichtstrom.librdkafka")
_client_log.setLevel(logging.CRITICAL)

_DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
#: The broker has answered, and the same call will get the same answer.
_REFUSED = frozenset(
    {
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REQUEST,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.NON_EMPTY_GROUP,
    }
)
#: What passes by itself: a leader or a coordinator is about to be known (of a topic made a moment
#: ago, or after a broker went), or a connection went with its broker.  The client asks again by
#: itself when it fetches or produces, not when it asks for offsets.
_PASSING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        # The metadata do not name a broker any more, and the client lets go of it: with three
        # brokers one of them killed, seen for two seconds of ten (librdkafka 2.16, 2026-11-24).
        KafkaError._DESTROY_BROKER,
        KafkaError._WAIT_COORD,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
    }
)
#: A topic or partition that is not there; or that a broker which has just started, or a client
#: that has just lost one, does not know yet.
UNKNOWN = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
#: How long to wait before a question is asked again, and how long the first answer may take.
ASK_AGAIN_S = 0.05
_FIRST_TRY_S = 1.0


def passes(error: KafkaError) -> bool:
    """Tell whether the client goes on by itself after an error, or the same call may succeed."""
    return error.retriable() or error.code() in _PASSING


class Watch:
    """Remembers what a client complained about last, for the message of a later time-out."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.last: KafkaError | None = None
        self.denied: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """Take an error from librdkafka's ``error_cb``."""
        self.last = error
        if error.code() in _DENIED:
            self.denied = error

    def error(self, error: BaseException | KafkaError | str) -> PipelineError:
        """Return our error for one of librdkafka's."""
        found = error.args[0] if isinstance(error, KafkaException) else error
        if self.denied is not None:
            return BrokerDeniedError(self.settings.bootstrap, self.denied.str())
        if isinstance(found, KafkaError):
            if found.code() in _DENIED | _REFUSED:
                return BrokerDeniedError(self.settings.bootstrap, found.str())
            detail = found.str() if self.last is None else f"{found.str()} ({self.last.str()})"
            return BrokerUnavailableError(self.settings.bootstrap, detail)
        detail = str(found) if self.last is None else f"{found} ({self.last.str()})"
        return BrokerUnavailableError(self.settings.bootstrap, detail)


@contextmanager
def translated(watch: Watch) -> Iterator[None]:
    """Turn librdkafka's exceptions inside the block into ours."""
    try:
        yield
    except KafkaException as error:
        raise watch.error(error) from error


def asked(
    question: Callable[[float], T],
    timeout_s: float,
    *,
    client: Consumer | AdminClient | None = None,
    topic: str = "",
    also: Container[int] = frozenset(),
) -> T:
    """Return the answer to a question about offsets, asked again while brokers change.

    ``question`` gets the seconds it may take; blocks up to ``timeout_s``.  Between two tries
    ``client`` asks who leads ``topic``: of itself it goes on asking a leader that has died (for
    minutes, seen with librdkafka 2.16, 2026-11-24).  Name none in a callback of that client: the
    process would end at the next callback (an assertion of confluent-kafka 2.16.1).
    ``also``: further codes that are no answer, such as UNKNOWN about a topic that is known to
    exist.  Raises KafkaException.
    """
    deadline = time.monotonic() + timeout_s
    limit_s = _FIRST_TRY_S
    while True:
        left = deadline - time.monotonic()
        try:
            return question(max(min(left, limit_s), ASK_AGAIN_S))
        except KafkaException as error:
            found = error.args[0]
            left = deadline - time.monotonic()
            if left <= ASK_AGAIN_S or not (passes(found) or found.code() in also):
                raise
        time.sleep(ASK_AGAIN_S)
        if client is not None:
            with suppress(KafkaException):
                client.list_topics(topic, timeout=min(left, limit_s))
        limit_s *= 2


def _base(settings: KafkaSettings, watch: Watch) -> dict[str, Any]:
    if not settings.bootstrap:
        raise ConfigError(
            "no Kafka broker is configured: run `lichtstrom up`, or set LICHTSTROM_KAFKA_BOOTSTRAP"
        )
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "lichtstrom",
        "error_cb": watch,
        "logger": _client_log,
        # A broker that comes back is found again within half a second.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "socket.keepalive.enable": True,
        "allow.auto.create.topics": False,
        # For so long a topic that is not there may be one that was made a moment ago; the default
        # of 30 s would outlast every limit of ours and look like an outage.
        "topic.metadata.propagation.max.ms": 5_000,
        **security(settings),
        **settings.properties,
    }


def security(settings: KafkaSettings) -> dict[str, Any]:
    """Return what makes a client of librdkafka prove the broker and itself; {} for plain text."""
    if not (settings.username or settings.ca):
        return {}
    found: dict[str, Any] = {"security.protocol": "SSL"}
    if settings.ca:
        found["ssl.ca.pem"] = certificates(settings.ca)
    if settings.username:
        found |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": settings.mechanism,
            "sasl.username": settings.username,
            "sasl.password": str(settings.password),
        }
    return found


def _made(kind: Any, settings: KafkaSettings, watch: Watch, changes: dict[str, Any]) -> Any:
    try:
        return kind({**_base(settings, watch), **changes})
    except (KafkaException, ValueError, TypeError) as error:
        raise ConfigError(f"Kafka settings: {error}") from error


def make_producer(settings: KafkaSettings) -> tuple[Producer, Watch]:
    """Return an idempotent producer that never gives a record up by itself."""
    watch = Watch(settings)
    changes = {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 0,
        # Giving up is the publisher's decision (it spools), never the client's.
        "message.timeout.ms": 0,
        "message.max.bytes": 1_000_000,
        "queue.buffering.max.messages": 200_000,
        "request.timeout.ms": 10_000,
        "retry.backoff.ms": 50,
        "retry.backoff.max.ms": 500,
    }
    return _made(Producer, settings, watch, changes), watch


def make_consumer(
    settings: KafkaSettings,
    changes: Mapping[str, Any] | None = None,
    *,
    wait_ms: int = 100,
    group: str = "",
) -> tuple[Consumer, Watch]:
    """Return a consumer for assigned partitions (or a group, when named).

    ``wait_ms``: how long the broker holds a fetch without data. New data always returns at once;
    a short wait lets ``assign`` elsewhere take effect quickly (random access).
    """
    watch = Watch(settings)
    values = {
        # The client demands a group id even when partitions are assigned by hand.
        "group.id": group or f"{settings.prefix}.reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": wait_ms,
        "fetch.queue.backoff.ms": 2,
        "check.crcs": False,  # payloads and records carry our own checksums where it matters
        "queued.max.messages.kbytes": 16 * 1024,
        **(changes or {}),
    }
    return _made(Consumer, settings, watch, values), watch


def make_admin(settings: KafkaSettings) -> tuple[AdminClient, Watch]:
    """Return an admin client."""
    watch = Watch(settings)
    return _made(AdminClient, settings, watch, {}), watch
