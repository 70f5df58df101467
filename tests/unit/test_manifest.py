"""Manifests: what is written is what is read, by any writers in any order."""

from __future__ import annotations

import io
from itertools import pairwise

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_helpers import (
    ACCOUNT,
    BUCKET,
    PREFIX,
    by_place,
    in_order,
    info_of,
    live_records,
    make_store,
    make_writer,
    numbers_of,
    payload_of,
    read_all,
    same_record,
    sample_log,
    seal,
    stored,
)

from pipeline import naming
from pipeline.errors import (
    InvalidArgumentError,
    StoreUnavailableError,
    StreamNotFoundError,
    StreamOpenError,
    StreamTimeoutError,
)
from pipeline.frame import Module
from pipeline.records import Mark, Segment
from pipeline.testing.memory_log import STREAM_KEY, MemoryLog, make_mark, make_start


def test_a_sealed_stream_reads_like_the_live_one() -> None:
    log, store = sample_log(), make_store()
    log.end(expected=200)
    seal(log, store)
    reader = stored(store)
    found = read_all(reader.cursor(), reader.bounds()[1])
    live = live_records(log)
    assert by_place(found).keys() == by_place(live).keys()
    assert in_order(found)
    assert reader.bounds() == log.bounds()
    pairs = zip(sorted(found, key=_place), sorted(live, key=_place), strict=True)
    assert all(same_record(store, a, b) for a, b in pairs)


def _place(record):
    return record.partition, record.offset


def test_the_seal_says_what_the_catalogue_said() -> None:
    log, store = sample_log(), make_store()
    log.change(
        metadata={"energy_eV": 12000.0},
        attachments={"mask": f"{PREFIX}attachments/mask-0.npy"},
        quarantined=[{"source": "a.cbf", "reason": "cut short"}],
    )
    log.end("aborted", expected=300)
    ref = seal(log, store, account=ACCOUNT)
    info, live = info_of(store), log.info(refresh=False)
    assert info.start == live.start
    assert (info.state, info.expected) == ("aborted", 300)
    assert info.end_offsets == live.end_offsets == ref.offsets
    assert info.metadata == live.metadata
    assert info.attachments == live.attachments
    assert info.quarantined == live.quarantined
    assert info.ends[0].account == ACCOUNT
    assert info.seal == ref
    assert (ref.part, ref.frames, ref.account) == (-1, 200, ACCOUNT)


def test_inline_payloads_move_into_an_object_beside_the_part() -> None:
    log, store = sample_log(), make_store()
    log.end()
    seal(log, store)
    for number in (10, 57, 209):
        (record,) = stored(store).find(number, timeout_s=1.0).records
        segment = record.value
        assert not segment.inline
        row = segment.numbers.tolist().index(number)
        assert payload_of(store, segment, row) == bytes([number % 251]) * 8


def test_any_avro_tool_reads_a_part() -> None:
    log, store = sample_log(), make_store()
    log.end()
    seal(log, store)
    rows = []
    for part in info_of(store).parts:
        data = bytes(store.get(part.key, 0, store.size(part.key)))
        rows += list(fastavro.reader(io.BytesIO(data)))
    segments = [row["segment"] for row in rows if row["segment"]]
    assert sum(len(s["numbers"]) // 8 for s in segments) == 200
    assert {row["mark"]["kind"] for row in rows if row["mark"]} == {"claim", "closing"}
    assert {row["partition"] for row in rows} == {0, 1, 2}


def test_any_avro_tool_reads_a_seal() -> None:
    log, store = sample_log(), make_store()
    log.end()
    key = seal(log, store).key
    (row,) = fastavro.reader(io.BytesIO(bytes(store.get(key, 0, store.size(key)))))
    assert (row["stream_key"], row["frames"]) == (STREAM_KEY, 200)


def test_parts_are_written_by_size_while_the_stream_runs() -> None:
    log, store = sample_log(frames=4000), make_store()
    writer = make_writer(log, store, part_nbytes=10_000)
    until, refs = log.bounds()[1], []
    while (ref := writer.advance(until)) is not None:
        refs.append(ref)
    assert len(refs) > 2
    assert [ref.part for ref in refs] == list(range(len(refs)))
    assert all(a.offsets <= b.offsets for a, b in pairwise(refs))
    log.end()
    final = writer.seal(log.info(refresh=True).ends[0], {})
    assert final.frames == 4000
    assert numbers_of(read_all(stored(store).cursor(), final.offsets)) == list(range(10, 4010))


def test_a_part_is_written_by_age_when_there_are_frames() -> None:
    log, store = MemoryLog(), make_store()
    now = [0.0]
    writer = make_writer(log, store, clock=lambda: now[0])
    log.mark("claim")
    now[0] = 601.0
    assert writer.advance(log.bounds()[1]) is None
    log.write([1])
    assert writer.advance(log.bounds()[1]).frames == 1
    log.write([2])
    assert writer.advance(log.bounds()[1]) is None
    now[0] = 1202.0
    assert writer.advance(log.bounds()[1]).frames == 1


def test_a_part_ends_where_it_was_told() -> None:
    log, store = MemoryLog(), make_store()
    for number in range(20):
        log.write([number])
    writer = make_writer(log, store)
    assert writer.advance([7], final=True).frames == 7
    assert writer.advance([7], final=True) is None
    ref = writer.advance([12], final=True)
    assert (ref.frames, ref.offsets) == (5, (12,))


def test_a_partition_that_lags_does_not_let_the_others_run_ahead() -> None:
    log, store = MemoryLog(make_start(partitions=2)), make_store()
    for number in range(0, 2000, 2):
        log.write([number])
    writer = make_writer(log, store)
    with pytest.raises(StreamTimeoutError):
        writer.advance([10, 1], timeout_s=0.0)
    assert len(writer._ahead) <= 200
    log.write([1])
    assert writer.advance([10, 1], final=True).frames == 11


def test_a_new_writer_goes_on_where_the_catalogue_says() -> None:
    log, store = sample_log(frames=100), make_store()
    half = [offset // 2 for offset in log.bounds()[1]]
    first = make_writer(log, store).advance(half, final=True)
    log.change(parts=[first])
    second = make_writer(log, store, epoch=2, nonce="0b0b0b0b")
    ref = second.advance(log.bounds()[1], final=True)
    assert ref.part == 1
    assert first.frames + ref.frames == 100


def test_parts_that_overlap_are_read_once() -> None:
    log, store = sample_log(frames=100), make_store()
    ends = log.bounds()[1]
    one = make_writer(log, store).advance([e * 2 // 3 for e in ends], final=True)
    other_writer = make_writer(log, store, epoch=2, nonce="0b0b0b0b")
    other = other_writer.advance([e // 2 for e in ends], final=True)
    more = other_writer.advance([e * 3 // 4 for e in ends], final=True)
    log.change(parts=[other, one, more])
    log.end()
    seal(log, store, epoch=3, nonce="0c0c0c0c")
    records = read_all(stored(store).cursor(), ends)
    assert len(by_place(records)) == len(live_records(log))
    assert numbers_of(records) == list(range(10, 110))
    for number in range(10, 110):
        assert len(stored(store).find(number, timeout_s=1.0).records) == 1


def test_a_part_behind_a_hole_or_gone_is_written_anew_from_the_log() -> None:
    log, store = sample_log(frames=100), make_store()
    ends = log.bounds()[1]
    writer = make_writer(log, store)
    first = writer.advance([e // 3 for e in ends], final=True)
    second = writer.advance([e // 2 for e in ends], final=True)
    log.end()
    log.change(parts=[second])
    seal(log, store, epoch=2, nonce="0b0b0b0b")
    assert numbers_of(read_all(stored(store).cursor(), ends)) == list(range(10, 110))
    log.change(parts=[first, second])
    store.delete([first.key])
    seal(log, store, epoch=3, nonce="0c0c0c0c")
    assert numbers_of(read_all(stored(store).cursor(), ends)) == list(range(10, 110))


def test_the_highest_seal_wins_and_includes_what_an_earlier_one_held() -> None:
    log, store = sample_log(frames=50), make_store()
    log.end("timeout")
    log.change(seal=seal(log, store))
    log.mark("claim", epoch=2)
    log.write(list(range(60, 80)), epoch=2)
    log.end("complete")
    reader = stored(store)
    assert reader.info(refresh=False).state == "timeout"
    again = seal(log, store, epoch=2, nonce="00000001")
    assert reader.info(refresh=False).state == "timeout"
    assert reader.info(refresh=True).state == "complete"
    assert numbers_of(read_all(reader.cursor(), again.offsets)) == list(range(10, 80))
    assert len(store.puts) == len(set(store.puts))


def test_a_store_that_fails_gets_the_same_part_again() -> None:
    log, store = sample_log(frames=50), make_store()
    log.end()
    writer = make_writer(log, store)
    end = log.info(refresh=True).ends[0]
    for _ in range(3):
        store.failures = [StoreUnavailableError(store.url, "for a test")]
        with pytest.raises(StoreUnavailableError):
            writer.seal(end, {})
    ref = writer.seal(end, {})
    assert numbers_of(read_all(stored(store).cursor(), ref.offsets)) == list(range(10, 60))
    writer.close()


def test_idle_marks_that_say_nothing_new_are_left_out() -> None:
    log, store = MemoryLog(), make_store()
    log.mark("claim")
    for _ in range(20):
        log.mark("idle", floor=5)
    log.append(0, make_mark("idle", floor=5, skipped=np.array([3], np.int64)))
    log.mark("closing", floor=5)
    log.end()
    ref = seal(log, store)
    marks = [r.value for r in read_all(stored(store).cursor(), ref.offsets)]
    assert all(isinstance(mark, Mark) for mark in marks)
    assert [mark.kind for mark in marks] == ["claim", "idle", "idle", "closing"]
    assert marks[2].skipped.tolist() == [3]


def test_a_stream_of_which_a_module_goes_on_is_not_sealed() -> None:
    modules = tuple(Module(index=i, shape=(1, 1), position=(0, i)) for i in range(2))
    log, store = MemoryLog(make_start(modules=modules)), make_store()
    log.end()
    end = log.info(refresh=True).ends[0]
    log.change(modules={})
    with pytest.raises(StreamOpenError):
        make_writer(log, store).seal(end, {})


def test_an_empty_stream_is_sealed_and_read() -> None:
    log, store = MemoryLog(make_start(partitions=2)), make_store()
    log.end()
    ref = seal(log, store)
    reader = stored(store)
    assert read_all(reader.cursor(), ref.offsets) == []
    assert reader.tail(timeout_s=1.0) == []
    assert reader.find(0, timeout_s=1.0).records == ()
    assert reader.seek(0) == [0, 0]
    assert reader.cursor().poll(0.0) == []


def test_a_stream_without_seal_is_not_found() -> None:
    store = make_store()
    with pytest.raises(StreamNotFoundError, match="never sealed"):
        stored(store).info(refresh=False)


def test_tail_gives_the_last_segment_of_each_partition() -> None:
    log, store = sample_log(), make_store()
    log.end()
    seal(log, store)
    found = {r.partition: r.offset for r in stored(store).tail(timeout_s=1.0)}
    assert found == {r.partition: r.offset for r in log.tail(timeout_s=1.0)}


def test_a_paused_partition_gives_nothing_until_resumed() -> None:
    log, store = sample_log(), make_store()
    log.end()
    ends = list(seal(log, store).offsets)
    cursor = stored(store).cursor()
    cursor.pause([1])
    found = []
    while records := cursor.poll(0.0):
        found += records
    assert {r.partition for r in found} == {0, 2}
    assert cursor.positions() == [ends[0], 0, ends[2]]
    cursor.resume([1])
    found += read_all(cursor, ends)
    assert len(by_place(found)) == len(live_records(log))


def test_a_cursor_starts_inside_a_block_or_before_the_stream() -> None:
    log, store = sample_log(), make_store()
    log.end()
    seal(log, store)
    ends = log.bounds()[1]
    found = read_all(stored(store).cursor([5, 0, ends[2]]), ends)
    expected = {p for p in by_place(live_records(log)) if p >= (0, 5) and p[0] < 2}
    assert by_place(found).keys() == expected
    with pytest.raises(InvalidArgumentError, match="partitions"):
        stored(store).cursor([0])


def test_records_larger_than_a_block_have_one_of_their_own() -> None:
    log, store = MemoryLog(), make_store()
    for number in range(5):
        log.write([number], attributes=[{"text": "x" * 60_000, "n": number}])
    log.end()
    ref = seal(log, store)
    found = read_all(stored(store).cursor(), ref.offsets)
    assert numbers_of(found) == [0, 1, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_order_of_writes_parts_and_writers_reads_back_whole(data: st.DataObject) -> None:
    partitions = data.draw(st.integers(1, 3))
    log = MemoryLog(
        make_start(partitions=partitions, frames_per_chunk=data.draw(st.integers(1, 3)))
    )
    store = make_store()
    writers = {0: make_writer(log, store)}
    for step in range(data.draw(st.integers(1, 12))):
        numbers = sorted(data.draw(st.sets(st.integers(0, 60), max_size=6)))
        payloads = [bytes([n]) * data.draw(st.integers(0, 3)) for n in numbers]
        log.write(numbers, payloads=payloads if numbers else None, epoch=step + 1)
        if data.draw(st.booleans()):
            log.mark("claim", epoch=step + 2)
        which = data.draw(st.integers(0, 2))
        if which not in writers:
            writers[which] = make_writer(log, store, epoch=step + 2, nonce=f"0000000{which}")
        until = [data.draw(st.integers(0, high)) for high in log.bounds()[1]]
        ref = writers[which].advance(until, final=data.draw(st.booleans()), timeout_s=1.0)
        if ref is not None and data.draw(st.booleans()):
            log.change(parts=[*log.info(refresh=False).parts, ref])
    log.end()
    sealer = writers[data.draw(st.sampled_from(sorted(writers)))]
    sealer.seal(log.info(refresh=True).ends[0], {}, timeout_s=1.0)
    reader, ends = stored(store), log.bounds()[1]
    found, live = by_place(read_all(reader.cursor(), ends)), by_place(live_records(log))
    assert found.keys() == live.keys()
    assert all(same_record(store, found[place], live[place]) for place in live)
    for number in range(61):
        one = [(r.partition, r.offset) for r in reader.find(number, timeout_s=1.0).records]
        assert one == [(r.partition, r.offset) for r in log.find(number, timeout_s=1.0).records]
        seek = reader.seek(number)
        assert all(
            r.offset >= seek[r.partition]
            for r in live.values()
            if isinstance(r.value, Segment) and (r.value.numbers >= number).any()
        )


def test_keys_are_those_of_the_naming_rules() -> None:
    log, store = sample_log(frames=10), make_store()
    log.end()
    seal(log, store)
    part = naming.part_key(PREFIX, epoch=1, nonce="0a0a0a0a", part=0)
    assert {o.key for o in store.list(f"{BUCKET}/")} == {
        part,
        part.replace(".avro", ".bin"),
        naming.seal_key(PREFIX, epoch=1, nonce="0a0a0a0a"),
    }
