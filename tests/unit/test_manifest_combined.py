"""A trimmed topic and its manifest are one log: nothing lost, nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_helpers import (
    TrimmedLog,
    by_place,
    in_order,
    live_records,
    make_store,
    make_writer,
    numbers_of,
    read_all,
    sample_log,
    seal,
)

from pipeline.errors import FrameExpiredError
from pipeline.manifest.combined import CombinedLog
from pipeline.records import Segment
from pipeline.testing.memory_log import MemoryLog


def _half_stored(frames: int = 120):
    """Return (log, store, where the part ends): the first half is in a part."""
    log, store = sample_log(TrimmedLog, frames=frames), make_store()
    half = [high // 2 for high in log.bounds()[1]]
    log.change(parts=[make_writer(log, store).advance(half, final=True)])
    return log, store, half


def test_a_whole_topic_is_read_without_the_store() -> None:
    log, store, _ = _half_stored()
    store.reads.clear()
    combined = CombinedLog(log, store)
    ends = combined.bounds()[1]
    assert by_place(read_all(combined.cursor(), ends)).keys() == by_place(live_records(log)).keys()
    assert combined.find(15, timeout_s=1.0).records == log.find(15, timeout_s=1.0).records
    assert combined.seek(50) == log.seek(50)
    assert combined.tail(timeout_s=1.0) == log.tail(timeout_s=1.0)
    assert store.reads == []


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_trimmed_anywhere_everything_is_read_once(data: st.DataObject) -> None:
    log, store, half = _half_stored()
    whole = by_place(MemoryLog.cursor(log).poll(0))
    log.trim([data.draw(st.integers(0, high)) for high in half])
    combined = CombinedLog(log, store)
    starts, ends = combined.bounds()
    assert starts == [0, 0, 0]
    cursor = combined.cursor()
    found, paused = [], set()
    while any(at < end for at, end in zip(cursor.positions(), ends, strict=True)):
        cursor.resume(paused)
        paused = data.draw(st.sets(st.integers(0, 2), max_size=2))
        cursor.pause(paused)
        if data.draw(st.booleans()):  # retention goes on while somebody reads
            log.trim(
                [data.draw(st.integers(low, high)) for low, high in zip(log.low, half, strict=True)]
            )
        found += cursor.poll(0.0)
        positions = cursor.positions()
        assert all(record.offset < positions[record.partition] for record in found)
    cursor.close()
    assert by_place(found).keys() == whole.keys()
    assert in_order(found)


def test_frames_are_found_on_both_sides() -> None:
    log, store, half = _half_stored()
    log.trim(half)
    combined = CombinedLog(log, store)
    for number in range(10, 130):
        places = [(r.partition, r.offset) for r in combined.find(number, timeout_s=1.0).records]
        whole = MemoryLog.find(log, number, timeout_s=1.0).records
        assert places == [(r.partition, r.offset) for r in whole]
    for number in (10, 40, 100, 129):
        offsets = combined.seek(number)
        assert all(
            record.offset >= offsets[record.partition]
            for record in MemoryLog.cursor(log).poll(0)
            if isinstance(record.value, Segment) and (record.value.numbers >= number).any()
        )


def test_a_topic_that_holds_nothing_any_more_is_read_from_the_seal() -> None:
    log, store = sample_log(TrimmedLog, frames=60), make_store()
    log.end()
    log.change(seal=seal(log, store))
    log.mark("claim", epoch=9)  # of later streams, trimmed too
    ends = log.info(refresh=True).end_offsets
    log.trim([end + 1 for end in ends])
    combined = CombinedLog(log, store)
    cursor = combined.cursor()
    assert numbers_of(read_all(cursor, ends)) == list(range(10, 70))
    assert len(combined.tail(timeout_s=1.0)) == 3
    lookup = combined.find(69, timeout_s=1.0)
    assert (len(lookup.records), lookup.passed) == (1, True)
    finished = combined.cursor(ends)
    assert finished.poll(0.0) == []
    finished.close()


def test_what_neither_holds_is_an_error_that_says_which_offsets() -> None:
    log, store, half = _half_stored()
    log.trim([half[0] + 2, half[1], half[2]])
    combined = CombinedLog(log, store)
    gone = f"partition 0 offsets {half[0]} to {half[0] + 1}"
    with pytest.raises(FrameExpiredError, match=gone):
        combined.cursor()
    assert combined.bounds()[0] == [half[0] + 2, 0, 0]
    lost = next(
        int(r.value.numbers[0])
        for r in MemoryLog.cursor(log).poll(0)
        if r.partition == 0 and r.offset == half[0]
    )
    with pytest.raises(FrameExpiredError, match=gone):
        combined.find(lost, timeout_s=1.0)
    with pytest.raises(FrameExpiredError, match=gone):
        combined.seek(lost)
    assert combined.seek(125)[0] > half[0] + 2
    later = combined.cursor([half[0] + 2, 0, 0])
    assert in_order(read_all(later, combined.bounds()[1]))


def test_a_part_written_after_the_log_was_opened_is_used() -> None:
    log, store, half = _half_stored()
    log.trim(half)
    combined = CombinedLog(log, store)
    read_all(combined.cursor(), combined.bounds()[1])
    ends = log.bounds()[1]
    parts = log.info(refresh=True).parts
    ref = make_writer(log, store, epoch=2, nonce="0b0b0b0b").advance(ends, final=True)
    log.change(parts=[*parts, ref])
    log.trim(ends)
    assert numbers_of(read_all(combined.cursor(), ends)) == list(range(10, 130))
    combined.close()
