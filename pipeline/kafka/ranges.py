"""Reading short ranges of a topic's partitions, wherever they are, with one consumer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pipeline.errors import FrameExpiredError
from pipeline.kafka.client import Watch, passes

#: A broker that answers does so within this time, whatever the deadline of the whole search.
_SILENCE_S = 1.0


class RangeReader:
    """Jumps about in one topic; keeps the last batch, so that reading on costs nothing.

    Not thread-safe. ``reads`` counts the jumps, for tests and benches.
    """

    def __init__(self, consumer: Consumer, watch: Watch, topic: str) -> None:
        self._consumer = consumer
        self._watch = watch
        self._topic = topic
        self._partition = -1
        self._batch: list[Message] = []
        #: The offset that the consumer will deliver next.
        self._next = -1
        self.reads = 0

    def read(self, partition: int, begin: int, end: int, deadline: float) -> Iterator[Message]:
        """Yield the messages with begin <= offset < end; ends early at the partition's end.

        Raises BrokerUnavailableError when ``deadline`` (monotonic seconds) passes.
        """
        position = begin
        while position < end:
            if not self._covers(partition, position):
                self._jump(partition, position)
            if not any(m.offset() >= position for m in self._batch) and not self._fill(deadline):
                return
            for message in self._batch:
                if message.offset() < position:
                    continue
                position = message.offset() + 1
                if position > end:
                    return
                yield message
                if not self._batch:  # somebody else jumped while we were suspended
                    break

    def _covers(self, partition: int, offset: int) -> bool:
        first = self._batch[0].offset() if self._batch else self._next
        return partition == self._partition and first <= offset <= self._next

    def _jump(self, partition: int, offset: int) -> None:
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        self._partition, self._next, self._batch = partition, offset, []
        self.reads += 1

    def _fill(self, deadline: float) -> bool:
        """Take the next batch; False at the end of the partition.

        A deadline that passes while data flows (other streams' records, by the million) is no
        reason to give up: only silence is.
        """
        silent_until = max(deadline, time.monotonic() + _SILENCE_S)
        while True:
            first = self._consumer.poll(0.2)
            messages = [] if first is None else [first, *self._consumer.consume(64, 0)]
            at_end = self._is_end([message for message in messages if message.error() is not None])
            batch = [message for message in messages if message.error() is None]
            if batch:
                self._batch, self._next = batch, batch[-1].offset() + 1
                return True
            if at_end:
                return False
            if time.monotonic() >= silent_until:
                raise self._watch.error(f"{self._topic}/{self._partition} was not read in time")

    def _is_end(self, errors: Sequence[Message]) -> bool:
        """Tell whether the partition's end is among the errors; raises what does not pass."""
        codes = set()
        for message in errors:
            error = message.error()
            codes.add(error.code())
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                where = f"partition {self._partition}: {error.str()}"
                raise FrameExpiredError(self._topic, where)
            if error.code() != KafkaError._PARTITION_EOF and not passes(error):
                raise self._watch.error(error)
        return KafkaError._PARTITION_EOF in codes
