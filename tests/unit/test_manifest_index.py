"""A frame is found by two ranged reads, however many there are."""

from __future__ import annotations

import random

import numpy as np
from manifest_helpers import (
    make_store,
    make_writer,
    read_all,
    stored,
)

from pipeline.records import Located
from pipeline.testing.memory_log import MemoryLog, make_segment, make_start

FRAMES = 200_000
PER_RECORD = 10


def _long_log() -> MemoryLog:
    """200,000 frames in 20,000 records that point into one foreign file."""
    log = MemoryLog(make_start(partitions=4, frames_per_chunk=PER_RECORD))
    pattern = make_segment(range(PER_RECORD), payloads=[b"1234"] * PER_RECORD, blob="b/file.h5")
    from dataclasses import replace

    for first in range(0, FRAMES, PER_RECORD):
        numbers = np.arange(first, first + PER_RECORD, dtype=np.int64)
        segment = replace(
            pattern, numbers=numbers, timestamps_ns=numbers, ceil=first + PER_RECORD - 1
        )
        log.append(log.start.partition_of(first), segment)
    log.end()
    return log


def test_one_of_200000_frames_is_found_by_two_ranged_reads() -> None:
    log, store = _long_log(), make_store()
    writer = make_writer(log, store, part_nbytes=1 << 20)
    ref = writer.seal(log.info(refresh=True).ends[0], {})
    reader = stored(store)
    info = reader.info(refresh=False)
    assert len(info.parts) > 5
    assert store.size(info.seal.key) < 32_000
    chosen = random.Random(4).sample(range(FRAMES), 40)
    for number in [0, FRAMES - 1, *chosen]:
        store.reads.clear()
        fresh = stored(store)
        fresh.info(refresh=False)
        assert len(store.reads) == 1  # the seal
        (record,) = fresh.find(number, timeout_s=1.0).records
        assert number in record.value.numbers
        assert len(store.reads) <= 3
        assert sum(length for _, _, length in store.reads) < 200_000
        assert fresh.seek(number)[record.partition] <= record.offset
    # Reading through takes few requests, since blocks that follow each other come together.
    store.reads.clear()
    found = read_all(stored(store).cursor(), ref.offsets)
    assert sum(len(r.value) for r in found) == FRAMES
    assert len(store.reads) < 100


def test_a_number_outside_costs_no_read() -> None:
    log, store = MemoryLog(), make_store()
    log.write([5, 6, 9])
    log.end()
    make_writer(log, store).seal(log.info(refresh=True).ends[0], {})
    reader = stored(store)
    reader.info(refresh=False)
    store.reads.clear()
    assert reader.find(10, timeout_s=1.0).records == ()
    assert store.reads == []
    assert reader.find(7, timeout_s=1.0).passed
    found: tuple[Located, ...] = reader.find(7, timeout_s=1.0).records
    assert found == ()
