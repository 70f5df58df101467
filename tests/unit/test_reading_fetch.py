"""Payloads: one read for many frames, errors to whom they concern, nothing after closing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import ChecksumError, ClosedError, StoreUnavailableError
from pipeline.naming import StreamId
from pipeline.reading.fetch import Fetcher, Origin, Window
from pipeline.reading.frame import Frame
from pipeline.records import Segment
from pipeline.testing.memory_log import make_segment

ORIGIN = Origin(StreamId("test", "detector", "scan_1"))


class CountingStore(MemoryStore):
    """Counts reads, fails on demand, and waits at a gate."""

    def __init__(self) -> None:
        super().__init__("test-fetch")
        self.create_bucket("b")
        self.reads: list[tuple[str, int, int]] = []
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key: str, offset: int, length: int) -> memoryview:
        self.reads.append((key, offset, length))
        assert self.gate.wait(20)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError(self.url, "on purpose")
        return super().get(key, offset, length)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def fetcher(store: CountingStore) -> Iterator[Fetcher]:
    fetcher = Fetcher(store, threads=2, prefetch_nbytes=100)
    yield fetcher
    store.gate.set()
    fetcher.close()


def make(store: CountingStore, key: str, count: int = 4, offsets: int = 4) -> Segment:
    payloads = [bytes([i]) * 4 for i in range(count)]
    padding = b"-" * (offsets - 4)
    store.put(key, [p + padding for p in payloads], durability="process")
    segment = make_segment(range(count), payloads=payloads, blob=key)
    segment.offsets[:] = [i * offsets for i in range(count)]
    return segment


def test_a_segment_is_read_once_for_all_its_frames(store: CountingStore, fetcher: Fetcher) -> None:
    block = fetcher.open(make(store, "b/1"), ORIGIN)
    frames = [Frame(i, block, i) for i in range(4)]
    assert [bytes(f.payload) for f in frames] == [bytes([i]) * 4 for i in range(4)]
    assert store.reads == [("b/1", 0, 16)]
    assert frames[1].payload.readonly


def test_one_frame_of_a_segment_is_one_small_read(store: CountingStore, fetcher: Fetcher) -> None:
    block = fetcher.open(make(store, "b/2"), ORIGIN, slice(2, 3))
    assert bytes(Frame(2, block, 2).payload) == b"\2\2\2\2"
    assert store.reads == [("b/2", 8, 4)]


def test_frames_far_apart_in_a_foreign_file_are_read_one_by_one(
    store: CountingStore, fetcher: Fetcher
) -> None:
    block = fetcher.open(make(store, "b/3", offsets=1000), ORIGIN)
    assert bytes(Frame(3, block, 3).payload) == b"\3\3\3\3"
    assert store.reads == [("b/3", 3000, 4)]


def test_an_error_reaches_the_frame_that_needs_the_bytes_and_passes(
    store: CountingStore, fetcher: Fetcher
) -> None:
    store.failures = 1
    block = fetcher.open(make(store, "b/4"), ORIGIN)
    window = Window(100)
    window.add(0, block)
    window.pump()
    frame = Frame(0, block, 0)
    with pytest.raises(StoreUnavailableError):
        frame.payload  # noqa: B018
    assert bytes(frame.payload) == b"\0\0\0\0"


def test_damaged_bytes_are_refused(store: CountingStore, fetcher: Fetcher) -> None:
    segment = make(store, "b/5")
    segment.checksums[1] ^= 1
    block = fetcher.open(segment, ORIGIN)
    assert bytes(Frame(0, block, 0).payload) == b"\0\0\0\0"
    with pytest.raises(ChecksumError, match="b/5") as failure:
        Frame(1, block, 1).payload  # noqa: B018
    assert failure.value.number == 1


def test_reading_ahead_is_bounded_and_goes_by_number(
    store: CountingStore, fetcher: Fetcher
) -> None:
    window = Window(40)
    blocks = [fetcher.open(make(store, f"b/w{i}"), ORIGIN) for i in range(5)]
    for i in (4, 3, 2, 1, 0):
        window.add(i, blocks[i])
    window.pump()
    assert window.nbytes == 32
    for i in range(5):
        assert bytes(Frame(3, blocks[i], 3).payload) == b"\3\3\3\3"
        window.release(blocks[i])
        window.pump()
        assert window.nbytes <= 40
    assert window.nbytes == 0
    assert sorted(key for key, _, _ in store.reads) == [f"b/w{i}" for i in range(5)]


def test_one_block_larger_than_the_limit_is_still_read_ahead(
    store: CountingStore, fetcher: Fetcher
) -> None:
    window = Window(1)
    window.add(0, fetcher.open(make(store, "b/6"), ORIGIN))
    window.pump()
    assert window.nbytes == 16


def test_a_frame_need_not_wait_behind_what_is_read_ahead(
    store: CountingStore, fetcher: Fetcher
) -> None:
    store.gate.clear()
    blocks = [fetcher.open(make(store, f"b/q{i}"), ORIGIN) for i in range(4)]
    for block in blocks:
        block.prefetch()  # two threads wait at the gate, two blocks in the queue
    timer = threading.Timer(0.05, store.gate.set)
    timer.start()
    assert bytes(Frame(1, blocks[3], 1).payload) == b"\1\1\1\1"
    timer.join()


def test_after_closing_only_what_was_read_is_there(store: CountingStore) -> None:
    fetcher = Fetcher(store, threads=1, prefetch_nbytes=100)
    read, unread = (fetcher.open(make(store, f"b/c{i}"), ORIGIN) for i in range(2))
    frame = Frame(0, read, 0)
    assert frame.payload.nbytes == 4
    fetcher.close()
    fetcher.close()
    assert bytes(frame.payload) == b"\0\0\0\0"
    unread.prefetch()
    with pytest.raises(ClosedError):
        Frame(0, unread, 0).payload  # noqa: B018
