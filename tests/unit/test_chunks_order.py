"""Chunks come in frame order across partitions: live, replayed, sealed, with gaps."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import StreamTimeoutError
from pipeline.naming import StreamId
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

_names = itertools.count()
LIMIT_S = 20.0


def make(**start: Any) -> tuple[MemoryLog, Stream]:
    log = MemoryLog(make_start(**start))
    store = MemoryStore(f"chunks-{next(_names)}")
    return log, Stream(log, store, name=StreamId("test", "detector", "scan_1"))


def numbers_of(chunks: Any) -> list[list[int]]:
    return [[frame.number for frame in chunk] for chunk in chunks]


def cut(numbers: list[int], n: int) -> list[list[int]]:
    return [numbers[at : at + n] for at in range(0, len(numbers), n)]


@pytest.mark.parametrize("seed", range(5))
def test_chunks_are_the_same_live_and_sealed_with_gaps_and_partitions_out_of_step(
    seed: int,
) -> None:
    chance = random.Random(seed)
    log, stream = make(partitions=3, frames_per_chunk=2)
    numbers = [n for n in range(90) if chance.random() > 0.2]
    gaps = [n for n in range(numbers[0], 90) if n not in numbers]
    with stream:
        live = stream.chunks(7, start=numbers[0], timeout_s=0)
        found: list[list[int]] = []
        waiting: list[list[int]] = [[], [], []]
        floor = 0
        for number in numbers:
            waiting[log.start.partition_of(number)].append(number)
            if chance.random() < 0.3:  # one partition gets what the others still wait for
                partition = chance.randrange(3)
                if waiting[partition]:
                    log.write(waiting[partition], floor=floor)
                    waiting[partition] = []
                    floor = min([n for part in waiting for n in part] or [number + 1])
            try:
                found.append([frame.number for frame in next(live)])
            except StreamTimeoutError:
                continue
        for part in waiting:
            if part:
                log.write(part, floor=floor)
        log.mark("closing", floor=90, ceil=89)
        log.end()
        found += numbers_of(live)
        assert found == cut(numbers, 7)
        replayed = stream.chunks(7, start=numbers[0], timeout_s=LIMIT_S)
        assert numbers_of(replayed) == found
        for chunks in (live, replayed):
            assert [n for a, b in chunks.missing for n in range(a, b + 1)] == gaps
            assert chunks.late == []


def test_a_chunk_in_progress_survives_a_timeout_and_a_start_in_a_gap_begins_behind_it() -> None:
    log, stream = make(partitions=2, frames_per_chunk=1)
    with stream:
        log.write([0, 1, 2, 6], floor=0)
        chunks = stream.chunks(4, timeout_s=0)
        with pytest.raises(StreamTimeoutError):
            next(chunks)
        log.write([7, 8], floor=6)
        assert numbers_of([next(chunks)]) == [[0, 1, 2, 6]]
        log.mark("closing", floor=9, ceil=8)
        log.end()
        assert numbers_of(chunks) == [[7, 8]]
        assert chunks.missing == [[3, 5]]
        assert numbers_of(stream.chunks(2, start=4)) == [[6, 7], [8]]
