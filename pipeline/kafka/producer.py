"""One producer for a whole session: records go out in order, callbacks come from its thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.config import KafkaSettings
from pipeline.errors import (
    BrokerUnavailableError,
    InvalidArgumentError,
    PipelineError,
    TopicMissingError,
)
from pipeline.kafka.client import make_producer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Where a record was appended, and when by the broker's clock (ms since 1970)."""

    partition: int
    offset: int
    timestamp_ms: int


#: Called from the producer's thread with what came of a record.
OnDelivery = Callable[[Acknowledged | PipelineError], None]


class LogProducer:
    """Appends records to topics; thread-safe.

    A record stays queued while the broker is away, for as long as it takes; the caller bounds how
    much it hands over.  ``close`` waits no longer than told and drops what is left, so callers
    flush first.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer, self._watch = make_producer(settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kafka-producer", daemon=True)
        self._thread.start()

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, done: OnDelivery
    ) -> None:
        """Queue a record; ``done`` hears of it once. ``value`` None is a tombstone."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            done(self._outcome(error, message, topic))

        while True:
            try:
                self._producer.produce(
                    topic, value, key, partition=partition, on_delivery=delivered
                )
                return
            except BufferError:  # its queue is full: the serving thread makes room
                if self._stop.wait(0.005):
                    raise
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise self._watch.error(error) from error
                nbytes = len(value or b"")
                problem = f"{nbytes} bytes are too many for {topic}: 900 kB is the limit"
                raise InvalidArgumentError("record", problem) from error

    def append_wait(
        self, topic: str, partition: int, key: bytes, value: bytes | None, timeout_s: float
    ) -> Acknowledged:
        """Append one record and wait until the broker has it.

        Raises BrokerUnavailableError after ``timeout_s``; the record may still arrive later.
        """
        return self.append_all([(topic, partition, key, value)], timeout_s)[0]

    def append_all(
        self, entries: Sequence[tuple[str, int, bytes, bytes | None]], timeout_s: float
    ) -> list[Acknowledged]:
        """Append several records and wait until the broker has all; order of the answers kept."""
        answers: list[Acknowledged | PipelineError | None] = [None] * len(entries)
        arrived = threading.Semaphore(0)

        def take(index: int) -> OnDelivery:
            def done(outcome: Acknowledged | PipelineError) -> None:
                answers[index] = outcome
                arrived.release()

            return done

        for index, (topic, partition, key, value) in enumerate(entries):
            self.append(topic, partition, key, value, take(index))
        deadline = time.monotonic() + timeout_s
        for _ in entries:
            if not arrived.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise self._watch.error(f"a record was not acknowledged in {timeout_s:g} s")
        for answer in answers:
            if isinstance(answer, PipelineError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Acknowledged)]

    def _outcome(
        self, error: KafkaError | None, message: Message, topic: str
    ) -> Acknowledged | PipelineError:
        if error is None:
            _, timestamp_ms = message.timestamp()
            return Acknowledged(message.partition(), message.offset(), timestamp_ms)
        unknown = (
            KafkaError._UNKNOWN_TOPIC,
            KafkaError._UNKNOWN_PARTITION,
            KafkaError.UNKNOWN_TOPIC_OR_PART,
        )
        if error.code() in unknown:
            return TopicMissingError(topic, "lichtstrom beamtime create")
        return self._watch.error(error)

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                self._producer.poll(0.2)
            except Exception:  # from a callback: the other records' must go on
                log.exception("a record's callback failed")

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop; what is still queued after ``timeout_s`` is dropped and reported as an error."""
        if self._stop.is_set():
            return
        left = self._producer.flush(timeout_s)
        if left:
            self._producer.purge()
            self._producer.flush(1.0)
        self._stop.set()
        self._thread.join(5.0)
        if left:
            raise BrokerUnavailableError(
                self._settings.bootstrap, f"{left} records were not acknowledged before closing"
            )
