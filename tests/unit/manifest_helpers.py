"""Streams, logs and stores for the tests of manifests and exports."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import FrameExpiredError
from pipeline.frame import Buffer
from pipeline.manifest.stored import StoredLog
from pipeline.manifest.writer import ManifestWriter
from pipeline.naming import Names
from pipeline.protocols import Cursor, Durability, StreamLog
from pipeline.records import Located, Mark, Segment, StreamInfo
from pipeline.testing.memory_log import STREAM_KEY, MemoryCursor, MemoryLog, make_start
from pipeline.wire.codec import encode

NAMES = Names()
BUCKET = NAMES.bucket("test")
PREFIX = NAMES.stream_prefix("test", "detector", STREAM_KEY)
ACCOUNT = {"stream": "test/detector/scan_1", "state": "complete", "received": 3, "complete": True}


class CountingStore(MemoryStore):
    """Counts reads; may fail writes a number of times."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reads: list[tuple[str, int, int]] = []
        self.puts: list[str] = []
        self.failures: list[Exception] = []

    def get(self, key: str, offset: int, length: int) -> memoryview:
        self.reads.append((key, offset, length))
        return super().get(key, offset, length)

    def put(self, key: str, parts: Sequence[Buffer], *, durability: Durability) -> None:
        if self.failures:
            raise self.failures.pop()
        self.puts.append(key)
        super().put(key, parts, durability=durability)


class TrimmedLog(MemoryLog):
    """A log whose first records retention has removed."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.low = [0] * self.start.partitions
        self.asked = 0

    def available_from(self) -> list[int]:
        self.asked += 1
        return list(self.low)

    def trim(self, low: Sequence[int]) -> None:
        self.low = list(low)

    def cursor(self, start: Sequence[int] | None = None) -> MemoryCursor:
        found = _TrimmedCursor(self._partitions, self._changed, start or self.start.offsets)
        found.log = self
        return found

    def find(self, number, *, timeout_s):
        found = super().find(number, timeout_s=timeout_s)
        kept = [r for r in found.records if r.offset >= self.low[r.partition]]
        return type(found)(records=tuple(kept), passed=found.passed)

    def seek(self, number):
        return [max(pair) for pair in zip(super().seek(number), self.low, strict=True)]

    def tail(self, *, timeout_s):
        found = super().tail(timeout_s=timeout_s)
        return [r for r in found if r.offset >= self.low[r.partition]]


class _TrimmedCursor(MemoryCursor):
    log: TrimmedLog

    def _take(self) -> list[Located]:
        positions = list(self._positions)
        for partition, low in enumerate(self.log.low):
            if partition not in self._paused and positions[partition] < low:
                raise FrameExpiredError("test", f"partition {partition}")
        return super()._take()


def make_store(cls: type = CountingStore) -> CountingStore:
    store = cls(f"manifest-{secrets.token_hex(8)}")
    store.create_bucket(BUCKET)
    return store


def make_writer(log: StreamLog, store, epoch: int = 1, nonce: str = "0a0a0a0a", **options):
    return ManifestWriter(log, store, prefix=PREFIX, epoch=epoch, nonce=nonce, **options)


def seal(log: MemoryLog, store, account=ACCOUNT, **options):
    info = log.info(refresh=True)
    return make_writer(log, store, **options).seal(info.ends[0], account, timeout_s=5.0)


def stored(store) -> StoredLog:
    return StoredLog(store, PREFIX)


def read_all(cursor: Cursor, ends: Sequence[int]) -> list[Located]:
    """Read to ``ends``; every poll must bring something."""
    found: list[Located] = []
    try:
        while any(at < end for at, end in zip(cursor.positions(), ends, strict=True)):
            records = cursor.poll(5.0)
            assert records, f"nothing came at {cursor.positions()} of {ends}"
            found += records
    finally:
        cursor.close()
    return found


def live_records(log: MemoryLog) -> list[Located]:
    return read_all(log.cursor(), log.bounds()[1])


def by_place(records: Sequence[Located]) -> dict[tuple[int, int], Located]:
    places = {(r.partition, r.offset): r for r in records}
    assert len(places) == len(records), "a record came twice"
    return places


def in_order(records: Sequence[Located]) -> bool:
    last: dict[int, int] = {}
    for record in records:
        if record.offset <= last.get(record.partition, -1):
            return False
        last[record.partition] = record.offset
    return True


def payload_of(store, segment: Segment, row: int) -> bytes:
    offset, length = int(segment.offsets[row]), int(segment.lengths[row])
    if not segment.blob:
        return segment.inline[offset : offset + length]
    return bytes(store.get(segment.blob, offset, length))


def same_record(store, one: Located, other: Located) -> bool:
    """Compare everything but where the payloads lie, and the payloads themselves."""
    if (one.partition, one.offset, one.timestamp_ms) != (
        other.partition,
        other.offset,
        other.timestamp_ms,
    ):
        return False
    a, b = one.value, other.value
    if isinstance(a, Mark) or isinstance(b, Mark):
        return encode(a) == encode(b)
    if any(payload_of(store, a, r) != payload_of(store, b, r) for r in range(len(a))):
        return False
    return encode(_placeless(a)) == encode(_placeless(b))


def _placeless(segment: Segment) -> Segment:
    from dataclasses import replace

    return replace(segment, blob="x", inline=b"", offsets=segment.offsets * 0)


def numbers_of(records: Sequence[Located]) -> list[int]:
    return sorted(int(n) for r in records if isinstance(r.value, Segment) for n in r.value.numbers)


def sample_log(cls: type = MemoryLog, *, partitions=3, frames=200, chunk=4, payload=True):
    """A stream of small frames: claim marks, segments with inline payloads, closing marks."""
    log = cls(make_start(partitions=partitions, frames_per_chunk=chunk))
    log.mark("claim")
    numbers = range(10, 10 + frames)
    for first in range(0, frames, 10):
        chosen = list(numbers[first : first + 10])
        log.write(
            chosen,
            payloads=[bytes([n % 251]) * 8 for n in chosen] if payload else None,
            attributes=[{"omega": n / 10, "name": f"frame {n}"} for n in chosen],
            floor=chosen[0],
        )
    log.mark("closing", floor=numbers[-1] + 1, ceil=numbers[-1])
    return log


def info_of(store) -> StreamInfo:
    return stored(store).info(refresh=False)
