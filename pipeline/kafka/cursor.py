"""Reading one stream's records from its topic, onward from given offsets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pipeline.config import KafkaSettings
from pipeline.errors import FrameExpiredError, PipelineError, UnknownSchemaError, WireError
from pipeline.kafka.client import Watch, make_consumer, passes, translated
from pipeline.records import Located
from pipeline.wire import codec
from pipeline.wire.located import decode_record

log = logging.getLogger(__name__)
#: Records taken from librdkafka's queue in one call, once there is one.
_BATCH = 500


def decode_message(
    message: Message, stream_key: bytes | None, resolve: codec.Resolver | None
) -> Located | None:
    """Return the record if it belongs to the stream (any stream for None), else None.

    A record that cannot be decoded is logged and counts as none: it must not stop its neighbours.
    An unknown schema is not skipped in silence but raised: frames may be in it.
    """
    value = message.value()
    if value is None:
        return None
    _, timestamp_ms = message.timestamp()
    try:
        return decode_record(
            message.key(),
            value,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            timestamp_ms=timestamp_ms,
            stream_key=stream_key,
            resolve=resolve,
        )
    except UnknownSchemaError:
        raise
    except WireError as error:
        log.error("record skipped: %s", error)
        return None


class KafkaCursor:
    """A :class:`pipeline.protocols.Cursor` over a topic."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        stream_key: bytes,
        start: Sequence[int],
        resolve: codec.Resolver | None = None,
    ) -> None:
        self._topic = topic
        self._stream_key = stream_key
        self._resolve = resolve
        self._positions = list(start)
        self._paused: set[int] = set()
        self._failure: PipelineError | None = None
        self._consumer: Consumer
        self._watch: Watch
        self._consumer, self._watch = make_consumer(settings)
        wanted = [TopicPartition(topic, p, offset) for p, offset in enumerate(start)]
        with translated(self._watch):
            self._consumer.assign(wanted)

    def poll(self, timeout_s: float) -> list[Located]:
        """Return the next records of the stream (see the protocol)."""
        if self._failure is not None:
            raise self._failure
        with translated(self._watch):
            first = self._consumer.poll(timeout_s)
            if first is None:
                return []
            # poll, then consume without waiting: consume alone waits for a full batch.
            messages = [first, *self._consumer.consume(_BATCH, 0)]
        found: list[Located] = []
        for message in messages:
            try:
                located = self._take(message)
            except PipelineError as error:
                self._failure = error  # what came before it is still delivered
                if not found:
                    raise
                break
            if located is not None:
                found.append(located)
        return found

    def _take(self, message: Message) -> Located | None:
        if message.error() is not None:
            self._failed(message)
            return None
        located = decode_message(message, self._stream_key, self._resolve)
        self._positions[message.partition()] = message.offset() + 1
        return located

    def _failed(self, message: Message) -> None:
        error = message.error()
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise FrameExpiredError(self._topic, f"partition {message.partition()}: {error.str()}")
        if error.code() == KafkaError._PARTITION_EOF or passes(error):
            log.debug("cursor: %s", error)
            return
        raise self._watch.error(error)

    def positions(self) -> list[int]:
        """Return the next offset of each partition."""
        return list(self._positions)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop returning records of these partitions."""
        new = [p for p in partitions if p not in self._paused]
        self._paused.update(new)
        with translated(self._watch):
            self._consumer.pause([TopicPartition(self._topic, p) for p in new])

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with paused partitions."""
        back = [p for p in partitions if p in self._paused]
        self._paused.difference_update(back)
        with translated(self._watch):
            self._consumer.resume([TopicPartition(self._topic, p) for p in back])

    def close(self) -> None:
        """Release the consumer."""
        self._consumer.close()
