"""Reading small topics beside the data: retries, dead letters, pointers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import Message

from pipeline.config import KafkaSettings
from pipeline.kafka.client import make_consumer, translated
from pipeline.kafka.ranges import RangeReader


class TopicReader:
    """Reads ranges of one topic's partitions; not thread-safe, ``close`` releases its consumer."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._timeout_s = settings.timeout_s
        self._consumer, self._watch = make_consumer(
            settings, {"enable.partition.eof": True}, wait_ms=10
        )
        self._ranges = RangeReader(self._consumer, self._watch, topic)

    def read(self, partition: int, begin: int, end: int) -> Iterator[Message]:
        """Yield the messages with begin <= offset < end.

        Raises BrokerUnavailableError when they do not come within the settings' limit.
        """
        with translated(self._watch):
            yield from self._ranges.read(partition, begin, end, time.monotonic() + self._timeout_s)

    def read_all(self, begin: Sequence[int], end: Sequence[int]) -> Iterator[Message]:
        """Yield the messages of all partitions, one partition after the other."""
        for partition, (first, last) in enumerate(zip(begin, end, strict=True)):
            if first < last:
                yield from self.read(partition, first, last)

    def close(self) -> None:
        """Release the consumer."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
