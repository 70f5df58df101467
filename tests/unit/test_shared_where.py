"""Groups that filter: what an expression leaves out is done without being read or delivered."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import ExpressionError, StreamTimeoutError
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.shared import SharedFrames, open_shared
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

_names = itertools.count()
NAME = StreamId("test", "detector", "scan_1")


class CountingStore(MemoryStore):
    """Remembers what was read."""

    def __init__(self) -> None:
        super().__init__(f"where-{next(_names)}")
        self.create_bucket("b")
        self.read: list[tuple[str, int, int]] = []

    def get(self, key: str, offset: int, length: int) -> memoryview:
        self.read.append((key, offset, length))
        return super().get(key, offset, length)


def make_stream(count: int = 40, segment: int = 4, **start: Any) -> tuple[Stream, CountingStore]:
    """Frames of four bytes with their number as ``n``, ``segment`` of them in an object."""
    store = CountingStore()
    log = MemoryLog(make_start(partitions=2, frames_per_chunk=segment, **start))
    for module in log.start.module_indices:
        for first in range(0, count, segment):
            numbers = range(first, min(first + segment, count))
            payloads = [bytes([n % 256]) * 4 for n in numbers]
            key = f"b/{module}-{first}"
            store.put(key, payloads, durability="process")
            log.write(
                numbers,
                payloads=payloads,
                shape=(2, 2),
                blob=key,
                module=module,
                attributes=[{"n": n, "module_n": 100 * module + n} for n in numbers],
            )
    log.end()
    return Stream(log, store, name=NAME), store


def join(stream: Stream, tmp_path: Path, where: str, **options: Any) -> SharedFrames:
    options = {"timeout_s": 5.0, **options}
    return open_shared(None, stream, group="g", state=tmp_path / "g.db", where=where, **options)


def drain(frames: SharedFrames) -> list[int]:
    found = []
    for delivery in frames:
        assert (delivery.frame.array == delivery.frame.number % 256).all()
        found.append(delivery.frame.number)
        delivery.ack()
    return sorted(found)


def test_only_matching_frames_are_delivered_and_the_others_are_done(tmp_path: Path) -> None:
    stream, _ = make_stream()
    with stream:
        frames = join(stream, tmp_path, "n % 3 == 0")
        assert drain(frames) == list(range(0, 40, 3))
        assert frames.share.counts.filtered == 40 - 14  # type: ignore[attr-defined]  # a StoredShare
        # another expression finds nothing: all of the group's frames are done
        assert drain(join(stream, tmp_path, "n >= 0")) == []


def test_of_what_is_filtered_out_nothing_is_read(tmp_path: Path) -> None:
    stream, store = make_stream()
    with stream:
        assert drain(join(stream, tmp_path, "8 < n <= 10 or n == 21")) == [9, 10, 21]
    assert sorted(store.read) == [("b/0-20", 4, 4), ("b/0-8", 4, 8)]


def test_selecting_reads_nothing_of_the_frames_that_do_not_match() -> None:
    stream, store = make_stream()
    with stream:
        assert [f.number for f in stream.select("n == 21 or n == 23") if f.array.any()] == [21, 23]
        assert [key for key, _, _ in store.read] == ["b/0-20"]
        store.read.clear()
        assert list(stream.select("n > 1000")) == []
        assert store.read == []


def test_kept_numbers_are_fetched_and_settled_before_the_group_is_done(tmp_path: Path) -> None:
    stream, _ = make_stream(8)
    with stream:
        frames = join(stream, tmp_path, "n >= 6", keep_filtered=True, timeout_s=0.0)
        for number in (6, 7):
            delivery = next(frames)
            assert delivery.frame.number == number
            delivery.ack()
        with pytest.raises(StreamTimeoutError, match="6 frames"):
            next(frames)
        left_out = frames.take_filtered()
        assert left_out is not None
        assert left_out.numbers.tolist() == list(range(6))
        assert frames.take_filtered() is None
        with pytest.raises(StreamTimeoutError):
            next(frames)
        left_out.ack()
        left_out.ack()
        assert list(frames) == []


def test_what_was_fetched_and_not_settled_is_filtered_again_by_the_next_member(
    tmp_path: Path,
) -> None:
    stream, _ = make_stream(8)
    with stream:
        for _ in range(2):
            with join(stream, tmp_path, "n < 0", keep_filtered=True, timeout_s=0.0) as frames:
                with pytest.raises(StreamTimeoutError):
                    next(frames)
                left_out = frames.take_filtered()
                assert left_out is not None
                assert left_out.numbers.tolist() == list(range(8))


def test_one_module_that_matches_brings_its_frame(tmp_path: Path) -> None:
    modules = tuple(Module(index=i, shape=(2, 2), position=(2 * i, 0)) for i in range(2))
    stream, _ = make_stream(8, modules=modules)
    with stream:
        assert drain(join(stream, tmp_path, "module_n in [3, 105]")) == [3, 5]


def test_an_expression_that_does_not_parse_is_refused_at_once(tmp_path: Path) -> None:
    stream, _ = make_stream(4)
    with stream, pytest.raises(ExpressionError, match="column 5"):
        join(stream, tmp_path, "n > (")


def test_a_name_that_no_frame_has_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream, _ = make_stream(1200, 100)
    with stream, caplog.at_level(logging.WARNING):
        assert drain(join(stream, tmp_path, "module_m > 2")) == []
    (record,) = caplog.records
    assert "none of 1000 frames has an attribute 'module_m'" in record.message
    assert "'module_n'" in record.message
