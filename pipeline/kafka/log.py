"""One stream on its topic, as readers see it (:class:`pipeline.protocols.StreamLog`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.config import KafkaSettings
from pipeline.errors import StreamNotFoundError
from pipeline.kafka.catalogue import CatalogueTopic
from pipeline.kafka.client import UNKNOWN, Watch, asked, make_consumer, translated
from pipeline.kafka.cursor import KafkaCursor
from pipeline.kafka.ranges import RangeReader
from pipeline.kafka.search import PartitionSearch
from pipeline.naming import Names
from pipeline.protocols import Lookup
from pipeline.records import NO_FLOOR, Located, Segment, StreamInfo
from pipeline.wire import codec
from pipeline.wire.catalogue import fate


class KafkaStreamLog:
    """The live log of one stream; methods may be called from several threads."""

    def __init__(
        self,
        settings: KafkaSettings,
        info: StreamInfo,
        catalogue: CatalogueTopic,
        resolve: codec.Resolver | None = None,
    ) -> None:
        self._settings = settings
        self._info = info
        self._catalogue = catalogue
        self._resolve = resolve
        start = info.start
        self.topic = Names(settings.prefix).topic(start.beamtime, start.detector)
        self._lock = threading.RLock()
        self._consumer: Consumer | None = None
        self._watch = Watch(settings)
        self._asker: Consumer | None = None
        self._ranges: RangeReader | None = None
        self._searches: dict[int, PartitionSearch] = {}

    def info(self, *, refresh: bool) -> StreamInfo:
        """Return the catalogue's word on this stream."""
        if refresh:
            found = self._catalogue.look().by_key(self._info.start.stream_key)
            if found is None or found.deleted:
                start = self._info.start
                name = f"{start.beamtime}/{start.detector}/{start.stream}"
                hint = "it was deleted" if found is None else fate(found)
                raise StreamNotFoundError(name, where=self._catalogue.topic, hint=hint)
            self._info = found
        return self._info

    def bounds(self) -> tuple[list[int], list[int]]:
        """Return first and next offsets: the stream's start to its end, or the topic's end now."""
        low = list(self._info.start.offsets)
        end = self._info.end_offsets
        if end is not None:
            return low, list(end)
        return low, [self._watermarks(p)[1] for p in range(self._info.start.partitions)]

    def available_from(self) -> list[int]:
        """Return per partition the first offset that the topic still holds."""
        return [self._watermarks(p)[0] for p in range(self._info.start.partitions)]

    def cursor(self, start: Sequence[int] | None = None) -> KafkaCursor:
        """Return a cursor from ``start``, or from the stream's first record."""
        offsets = self._info.start.offsets if start is None else start
        key = self._info.start.stream_key
        return KafkaCursor(self._settings, self.topic, key, offsets, self._resolve)

    def find(self, number: int, *, timeout_s: float) -> Lookup:
        """Find one frame by search in its partition."""
        partition = self._info.start.partition_of(number)
        with self._lock, translated(self._watch):
            low, high = self._range(partition)
            return self._search(partition).find(number, low, high, timeout_s)

    def seek(self, number: int) -> list[int]:
        """Return start offsets for reading from frame ``number`` on."""
        offsets = []
        with self._lock, translated(self._watch):
            for partition in range(self._info.start.partitions):
                low, high = self._range(partition)
                search = self._search(partition)
                offsets.append(search.seek(number, low, high, self._settings.timeout_s))
        return offsets

    def tail(self, *, timeout_s: float) -> list[Located]:
        """Return the last segment of each partition."""
        found = []
        with self._lock, translated(self._watch):
            for partition in range(self._info.start.partitions):
                low, high = self._range(partition)
                last = self._search(partition).last(low, high, timeout_s)
                if last is not None and isinstance(last.value, Segment):
                    found.append(last)
        return found

    def read(self, begin: Sequence[int], end: Sequence[int], *, timeout_s: float) -> list[Located]:
        """Return all records between the offsets of each partition (``end`` excluded)."""
        deadline = time.monotonic() + timeout_s
        found: list[Located] = []
        with self._lock, translated(self._watch):
            for partition, (first, last) in enumerate(zip(begin, end, strict=True)):
                found.extend(self._search(partition).read(first, last, deadline))
        return found

    def progress(self, module: int, *, timeout_s: float) -> tuple[int, list[int]]:
        """Return the highest floor and, per partition, the highest ceil of a module's writers."""
        floor, ceils = NO_FLOOR, []
        with self._lock, translated(self._watch):
            for partition in range(self._info.start.partitions):
                low, high = self._range(partition)
                last = self._search(partition).newest(module, low, high, timeout_s)
                floor = max(floor, last[0])
                ceils.append(last[1])
        return floor, ceils

    def floor_before(self, partition: int, offset: int, module: int) -> int:
        """Return the floor that a module's writers had shown in a partition before ``offset``."""
        with self._lock, translated(self._watch):
            low, high = self._range(partition)
            search = self._search(partition)
            floor, _ = search.newest(module, low, min(high, offset), self._settings.timeout_s)
            return floor

    def last_sign_ms(self, module: int, since_ms: int) -> int | None:
        """Return when a writer of ``module`` was last heard of since then, by the broker's clock.

        None if it was silent; reads at most the records that came since.
        """
        newest = None
        deadline = time.monotonic() + self._settings.timeout_s
        with self._lock, translated(self._watch):
            wanted = [
                TopicPartition(self.topic, p, since_ms) for p in range(self._info.start.partitions)
            ]
            found = asked(
                lambda left_s: self._offsets_at(wanted, left_s),
                self._settings.timeout_s,
                client=self._client(),
                topic=self.topic,
                also=UNKNOWN,
            )
            for entry in found:
                if entry.offset < 0:  # nothing since then
                    continue
                high = self._watermarks(entry.partition)[1]
                for located in self._search(entry.partition).read(entry.offset, high, deadline):
                    if located.value.module == module:
                        newest = max(newest or 0, located.timestamp_ms)
        return newest

    def _offsets_at(self, wanted: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        found = self._client().offsets_for_times(wanted, timeout=timeout_s)
        for entry in found:
            if entry.error is not None:
                raise KafkaException(entry.error)
        return list(found)

    def _range(self, partition: int) -> tuple[int, int]:
        end = self._info.end_offsets
        low, high = self._watermarks(partition)
        first = max(low, self._info.start.offsets[partition])
        return first, high if end is None else min(high, end[partition])

    def _watermarks(self, partition: int) -> tuple[int, int]:
        where = TopicPartition(self.topic, partition)
        with self._lock:
            asker = self._asking()
            with translated(self._watch):
                low, high = asked(
                    lambda left_s: asker.get_watermark_offsets(where, timeout=left_s),
                    self._settings.timeout_s,
                    client=asker,
                    topic=self.topic,
                    also=UNKNOWN,
                )
        return int(low), int(high)

    def _search(self, partition: int) -> PartitionSearch:
        if partition not in self._searches:
            self._searches[partition] = PartitionSearch(
                self._reader(), partition, self._info.start, self._resolve
            )
        return self._searches[partition]

    def _reader(self) -> RangeReader:
        if self._ranges is None:
            self._ranges = RangeReader(self._client(), self._watch, self.topic)
        return self._ranges

    def _asking(self) -> Consumer:
        """Return a consumer that never fetches: its questions wait for no fetch of the search."""
        if self._asker is None:
            self._asker, self._watch = make_consumer(self._settings)
        return self._asker

    def _client(self) -> Consumer:
        if self._consumer is None:
            # A short wait and small fetches: assign + poll is one quick read wherever it jumps.
            self._consumer, self._watch = make_consumer(
                self._settings,
                {
                    "enable.partition.eof": True,
                    "max.partition.fetch.bytes": 128 * 1024,
                    # Do not read ahead: the next search is elsewhere.
                    "queued.min.messages": 1,
                },
                wait_ms=10,
            )
        return self._consumer

    def close(self) -> None:
        """Release the search's consumer; cursors are closed by who made them."""
        with self._lock:
            if self._asker is not None:
                self._asker.close()
                self._asker = None
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = self._ranges = None
                self._searches.clear()
