"""One stream as its users read it, over a log and a store in memory."""

from __future__ import annotations

import io
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.config import ReadSettings
from pipeline.errors import (
    ChecksumError,
    ClosedError,
    DecodeError,
    ExpressionError,
    FrameNotFoundError,
    IncompleteFrameError,
    InvalidArgumentError,
    PipelineError,
    StreamOpenError,
    StreamTimeoutError,
)
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_mark, make_segment, make_start

NAME = StreamId("test", "detector", "scan_1")
LIMIT_S = 20.0
_stores = itertools.count()


class Bench:
    """A log, a store and a stream over them."""

    def __init__(self, *, prefetch_nbytes: int = 1 << 20, shared: Any = None, **start: Any) -> None:
        self.log = MemoryLog(make_start(**start))
        self.store = MemoryStore(f"test-stream-{next(_stores)}")
        self.store.create_bucket("b")
        read = ReadSettings(prefetch_nbytes=prefetch_nbytes, threads=2)
        self.stream = Stream(self.log, self.store, name=NAME, read=read, shared=shared)
        self._objects = itertools.count()

    def write(self, numbers: range | list[int], *, stored: bool = False, **fields: Any) -> None:
        """Add frames of four bytes, all of their number modulo 256."""
        payloads = [bytes([n % 256]) * 4 for n in numbers]
        if not stored:
            self.log.write(numbers, payloads=payloads, shape=(2, 2), **fields)
            return
        chunk = self.log.start.frames_per_chunk
        for _, group in itertools.groupby(zip(numbers, payloads, strict=True), _chunks(chunk)):
            pairs = list(group)
            key = f"b/{next(self._objects)}"
            self.store.put(key, [p for _, p in pairs], durability="process")
            self.log.write(
                [n for n, _ in pairs],
                payloads=[p for _, p in pairs],
                shape=(2, 2),
                blob=key,
                **fields,
            )

    def finish(self, floor: int, **fields: Any) -> None:
        for module in self.log.start.module_indices:
            self.log.mark("closing", floor=floor, ceil=floor - 1, module=module)
        self.log.end(**fields)


def _chunks(chunk: int) -> Any:
    return lambda pair: pair[0] // chunk


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        bench.stream.close()


def numbers_of(frames: Any) -> list[int]:
    return [frame.number for frame in frames]


# -- ordered --------------------------------------------------------------------------------------


def test_ordered_gives_every_frame_with_its_pixels(make: Any) -> None:
    bench = make(partitions=3, frames_per_chunk=4)
    bench.write(range(100), stored=True, floor=0)
    bench.finish(100)
    frames = list(bench.stream.ordered())
    assert numbers_of(frames) == list(range(100))
    assert all((f.array == f.number % 256).all() and f.array.shape == (2, 2) for f in frames)


def test_ordered_passes_a_hole_and_reports_it(make: Any) -> None:
    bench = make(partitions=3, frames_per_chunk=2)
    bench.write([*range(10), *range(15, 30)], floor=0)
    bench.finish(33)
    frames = bench.stream.ordered(timeout_s=LIMIT_S)
    assert numbers_of(frames) == [*range(10), *range(15, 30)]
    assert frames.missing == [[10, 14], [30, 32]]


def test_a_hole_is_passed_without_waiting_for_marks_of_its_partition(make: Any) -> None:
    bench = make(partitions=4, frames_per_chunk=1)
    bench.write([0, 1, 2, 3], floor=0)
    bench.log.append(2, make_segment([6], floor=6))  # 4 and 5 are lost, and nothing says so there
    frames = bench.stream.ordered(timeout_s=LIMIT_S)
    assert [next(frames).number for _ in range(5)] == [0, 1, 2, 3, 6]
    assert frames.missing == [[4, 5]]


def test_ordered_waits_for_a_frame_that_may_still_come(make: Any) -> None:
    bench = make(partitions=2)
    bench.write([0, 1], floor=0)
    bench.log.append(1, make_segment([3], floor=2))
    frames = bench.stream.ordered(timeout_s=0)
    with pytest.raises(StreamTimeoutError, match="below 3"):
        numbers_of(frames)
    bench.log.append(0, make_segment([2], floor=2))
    bench.finish(4)
    assert numbers_of(frames) == [2, 3]
    assert frames.missing == []


def test_the_first_frame_is_the_lowest_one_whatever_partition_comes_first(make: Any) -> None:
    bench = make(partitions=2, frames_per_chunk=2)
    bench.log.mark("claim")
    bench.log.append(1, make_segment([7], floor=5))
    frames = bench.stream.ordered(timeout_s=0)
    with pytest.raises(StreamTimeoutError):
        next(frames)
    bench.log.append(0, make_segment([5], floor=5))
    bench.finish(8)
    assert numbers_of(frames) == [5, 7]
    assert frames.missing == [[6, 6]]


def test_nothing_before_the_first_frame_is_missing(make: Any) -> None:
    bench = make()
    bench.write(range(1_000_000_000, 1_000_000_003), floor=1_000_000_000)
    bench.finish(1_000_000_003)
    frames = bench.stream.ordered(start=0)
    assert len(numbers_of(frames)) == 3
    assert frames.missing == []


def test_ordered_starts_where_it_is_told(make: Any) -> None:
    bench = make(partitions=3, frames_per_chunk=4)
    bench.write(range(50), floor=0)
    bench.finish(50)
    assert numbers_of(bench.stream.ordered(start=13)) == list(range(13, 50))
    assert numbers_of(bench.stream.ordered(start=49)) == [49]
    assert numbers_of(bench.stream.ordered(start=50)) == []


def test_a_late_frame_is_reported_and_not_given(make: Any) -> None:
    bench = make()
    bench.write([0, 2, 3], floor=2)
    frames = bench.stream.ordered(timeout_s=0)
    with pytest.raises(StreamTimeoutError):
        numbers_of(frames)
    assert frames.missing == [[1, 1]]
    bench.write([1], floor=4)
    bench.finish(4)
    assert numbers_of(frames) == []
    assert (frames.missing, frames.late) == ([], [[1, 1]])


def test_frames_out_of_order_in_a_partition_come_in_order(make: Any) -> None:
    bench = make()
    for numbers in ([4, 5], [0, 1, 2], [7], [3], [6]):
        bench.write(numbers, floor=0)
    bench.finish(8)
    assert numbers_of(bench.stream.ordered()) == list(range(8))


def test_what_a_superseded_writer_sends_behind_the_end_does_not_count(make: Any) -> None:
    bench = make()
    bench.write([0, 1], floor=0)
    live = bench.stream.ordered(timeout_s=0)
    assert next(live).number == 0
    bench.log.mark("claim", epoch=2, floor=2, ceil=1)
    bench.log.mark("closing", epoch=2, floor=2, ceil=1)
    bench.log.end()
    bench.write([2], floor=2)
    assert numbers_of(live) == [1]
    assert numbers_of(bench.stream.ordered()) == [0, 1]
    assert bench.stream.account()["received"] == 2


def test_a_copy_behind_a_claim_loses_to_the_newer_writers(make: Any) -> None:
    bench = make()
    bench.log.mark("claim", epoch=1, floor=0)
    bench.log.mark("claim", epoch=2, floor=0)
    bench.log.write([0], payloads=[b"old "], epoch=1, floor=9)
    bench.log.write([0], payloads=[b"new "], epoch=2, floor=0)
    bench.finish(1, state="complete")
    (frame,) = bench.stream.ordered()
    assert bytes(frame.payload) == b"new "
    assert bytes(bench.stream.frame(0).payload) == b"new "
    assert bytes(next(bench.stream.frames()).payload) == b"new "
    assert bench.stream.account()["conflict"] == [[0, 0]]


def test_without_a_claim_between_them_the_first_copy_counts(make: Any) -> None:
    bench = make()
    bench.log.write([0], payloads=[b"one "], epoch=1)
    bench.log.mark("claim", epoch=2)
    bench.log.write([0], payloads=[b"two "], epoch=2)
    bench.finish(1)
    (frame,) = bench.stream.ordered()
    assert bytes(frame.payload) == b"one "
    assert bytes(bench.stream.frame(0).payload) == b"one "


def test_ordered_ends_only_with_the_stream_and_wakes_up_when_it_does(make: Any) -> None:
    bench = make(partitions=2)
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.extend(numbers_of(bench.stream.ordered(timeout_s=LIMIT_S)))
    )
    thread.start()
    bench.write(range(5), floor=0)
    bench.finish(5)
    thread.join(LIMIT_S)
    assert found == list(range(5))


def test_reading_far_ahead_of_one_partition_is_paused(make: Any) -> None:
    bench = make(partitions=2)
    for number in range(1, 6001, 2):
        bench.log.append(1, make_segment([number], floor=0))
    frames = bench.stream.ordered(timeout_s=0)
    with pytest.raises(StreamTimeoutError):
        next(frames)
    for number in range(0, 6001, 2):
        bench.log.append(0, make_segment([number], floor=0))
    bench.finish(6001)
    assert numbers_of(frames) == list(range(6001))


def test_payloads_read_ahead_stay_within_the_limit(make: Any) -> None:
    bench = make(frames_per_chunk=4, prefetch_nbytes=64)
    bench.write(range(200), stored=True, floor=0)
    bench.finish(200)
    frames = bench.stream.ordered()
    for frame in frames:
        assert frames._window.nbytes <= 64
        assert frame.array[0, 0] == frame.number


def test_a_closed_stream_cannot_be_read(make: Any) -> None:
    bench = make(frames_per_chunk=8)
    bench.write(range(5), floor=0)
    frames = bench.stream.ordered()
    assert next(frames).number == 0
    bench.stream.close()
    bench.stream.close()
    assert numbers_of(itertools.islice(frames, 4)) == [1, 2, 3, 4]  # these had been taken
    with pytest.raises(ClosedError):
        next(frames)
    for call in (bench.stream.ordered, bench.stream.latest, bench.stream.account):
        with pytest.raises(ClosedError):
            call()


def test_closing_the_stream_wakes_up_who_waits(make: Any) -> None:
    bench = make()
    bench.write([0], floor=0)
    waits = [
        lambda: list(bench.stream.ordered(timeout_s=None)),
        lambda: list(bench.stream.select("True", timeout_s=None)),
        lambda: bench.stream.latest(after=5, timeout_s=None),
        lambda: bench.stream.frame(5, timeout_s=None),
    ]
    begun, failures = threading.Semaphore(0), []

    def wait(call: Any) -> None:
        begun.release()
        try:
            call()
        except ClosedError as error:
            failures.append(error)

    threads = [threading.Thread(target=wait, args=(call,)) for call in waits]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=LIMIT_S)
    bench.stream.close()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(failures) == 4


def test_no_wait_means_that_all_there_is_comes_first(make: Any) -> None:
    bench = make(partitions=2)
    bench.write([0], floor=0)
    frames = bench.stream.ordered(timeout_s=0)
    assert next(frames).number == 0
    for number in range(1, 1000):
        bench.log.append(number % 2, make_mark(floor=number))
    bench.write([1000], floor=1000)
    with pytest.raises(StreamTimeoutError):
        numbers_of(frames)
    assert frames._cursor.positions() == bench.log.bounds()[1]


# -- frame and latest -----------------------------------------------------------------------------


def test_frame_finds_one_by_its_number(make: Any) -> None:
    bench = make(partitions=3, frames_per_chunk=4)
    bench.write(range(7, 20), stored=True, floor=7)
    bench.write(range(20, 40), floor=20, attributes=[{"x": n} for n in range(20, 40)])
    assert bench.stream.frame(9).array.tolist() == [[9, 9], [9, 9]]
    frame = bench.stream.frame(np.int64(23))
    assert frame.array.tolist() == [[23, 23], [23, 23]]
    assert (frame.attributes, frame.stream, frame.nbytes) == ({"x": 23}, NAME, 4)
    assert frame.timestamp_ns == 23_000_000
    assert frame.modules == {0: frame}


@pytest.mark.parametrize(("number", "reason"), [(3, "missing"), (0, "outside"), (9, "outside")])
def test_frame_says_why_there_is_none(make: Any, number: int, reason: str) -> None:
    bench = make(partitions=2)
    bench.write([1, 2, 4, 5], floor=1)
    bench.finish(6)
    with pytest.raises(FrameNotFoundError) as failure:
        bench.stream.frame(number)
    assert failure.value.reason == reason


def test_frame_does_not_wait_unless_told_to(make: Any) -> None:
    bench = make()
    bench.write([0], floor=0)
    with pytest.raises(FrameNotFoundError, match="not yet"):
        bench.stream.frame(1)
    timer = threading.Timer(0.05, lambda: bench.write([1], floor=1))
    timer.start()
    assert bench.stream.frame(1, timeout_s=LIMIT_S).number == 1
    timer.join()


def test_latest_follows(make: Any) -> None:
    bench = make(partitions=2)
    bench.write([0, 1, 2], floor=0)
    assert bench.stream.latest().number == 2
    bench.write([3], floor=0)
    assert bench.stream.latest().number == 3
    with pytest.raises(StreamTimeoutError):
        bench.stream.latest(after=3, timeout_s=0)
    timer = threading.Timer(0.05, lambda: bench.write([4], floor=4))
    timer.start()
    assert bench.stream.latest(after=3, timeout_s=LIMIT_S).array[0, 0] == 4
    timer.join()
    bench.finish(5)
    assert bench.stream.latest().number == 4
    with pytest.raises(FrameNotFoundError):
        bench.stream.latest(after=4, timeout_s=LIMIT_S)


def test_latest_of_an_empty_stream_says_whether_to_wait(make: Any) -> None:
    bench = make()
    with pytest.raises(StreamTimeoutError):
        bench.stream.latest(timeout_s=0)
    bench.log.end()
    with pytest.raises(FrameNotFoundError):
        bench.stream.latest()


def test_latest_jumps_when_it_is_far_behind(make: Any) -> None:
    bench = make()
    bench.write([0], floor=0)
    assert bench.stream.latest().number == 0
    bench.stream._newest._used = 0.0  # it was not called for long
    for number in range(1, 2500):
        bench.log.append(0, make_segment([number]))
    assert bench.stream.latest().number == 2499


# -- select, chunks, frames -----------------------------------------------------------------------


def test_select_gives_what_there_is_in_order_and_then_what_comes(make: Any) -> None:
    bench = make(partitions=3)
    bench.write(range(20), floor=0, stored=True)
    frames = bench.stream.select("number % 2 == 0", timeout_s=0)
    found = [next(frames) for _ in range(10)]
    assert numbers_of(found) == list(range(0, 20, 2))
    assert all(frame.array[0, 0] == frame.number for frame in found)
    with pytest.raises(StreamTimeoutError):
        next(frames)
    bench.write(range(20, 26), floor=20)
    bench.finish(26)
    assert numbers_of(frames) == [20, 22, 24]


def test_select_without_follow_ends_with_what_there_is(make: Any) -> None:
    bench = make(partitions=2)
    bench.write(range(10), floor=0, attributes=[{"x": n * 0.5} for n in range(10)])
    assert numbers_of(bench.stream.select("x > 3", follow=False)) == [7, 8, 9]
    assert numbers_of(bench.stream.select("attr('x') > 3 and x < 4", follow=False)) == [7]


def test_select_names_an_attribute_that_no_frame_has(make: Any) -> None:
    bench = make()
    bench.write(range(10), floor=0, attributes=[{"omega": 1.0, "flag": True}] * 10)
    with pytest.raises(ExpressionError, match="did you mean 'omega'"):
        next(bench.stream.select("omgea > 1"))
    with pytest.raises(ExpressionError, match="column 5"):
        bench.stream.select("x > lambda: 1")
    assert len(list(bench.stream.select("flag", follow=False))) == 10


def test_select_gives_late_frames_and_copies_once(make: Any) -> None:
    bench = make()
    bench.write([0, 2, 2, 3][:2], floor=2)
    frames = bench.stream.select("number >= 0", timeout_s=0)
    assert [next(frames).number, next(frames).number] == [0, 2]
    bench.write([1], floor=3)
    bench.write([2], floor=3)
    bench.finish(3)
    assert numbers_of(frames) == [1]


def test_chunks_are_lists_and_survive_a_timeout(make: Any) -> None:
    bench = make()
    bench.write(range(7), floor=0)
    chunks = bench.stream.chunks(5, start=1, timeout_s=0)
    assert numbers_of(next(chunks)) == [1, 2, 3, 4, 5]
    with pytest.raises(StreamTimeoutError):
        next(chunks)
    bench.write([7, 8], floor=7)
    bench.finish(9)
    assert [numbers_of(chunk) for chunk in chunks] == [[6, 7, 8]]


def test_frames_lists_headers_without_reading_payloads(make: Any) -> None:
    bench = make(partitions=2)
    bench.log.write(range(600), payloads=[b"abcd"] * 600, blob="b/not-there")
    listed = list(bench.stream)
    assert numbers_of(listed) == list(range(600))
    assert {(f.nbytes, f.shape, f.dtype) for f in listed} == {(4, (4,), "uint8")}


def test_payloads_in_records_that_were_let_go_are_read_again(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reading.table.INLINE_NBYTES", 100)
    bench = make(partitions=2)
    bench.write(range(60), floor=0)
    bench.finish(60)
    frames = list(bench.stream.select("number > 50"))
    assert [frame.array[0, 0] for frame in frames] == list(range(51, 60))


# -- accounts -------------------------------------------------------------------------------------


def test_an_account_has_exactly_the_keys_that_were_agreed(make: Any) -> None:
    bench = make(expected=3)
    bench.write([4, 5, 6], floor=4)
    bench.finish(7)
    assert bench.stream.account() == {
        "stream": "test/detector/scan_1",
        "state": "complete",
        "expected": 3,
        "received": 3,
        "missing": [],
        "duplicate": [],
        "late": [],
        "corrupt": [],
        "conflict": [],
        "incomplete": [],
        "skipped": [],
        "rejected": [],
        "redelivered": 0,
        "quarantined": [],
        "complete": True,
    }


def test_an_open_stream_misses_only_what_was_passed(make: Any) -> None:
    bench = make(partitions=2)
    bench.write([0, 1, 4, 5], floor=0)
    bench.write([8], floor=4)
    account = bench.stream.account()
    assert account["missing"] == [[2, 2]]  # 3 is in the partition that has not told
    assert not account["complete"]
    bench.finish(9)
    assert bench.stream.account()["missing"] == [[2, 3], [6, 7]]


def test_a_lost_last_record_is_missing(make: Any) -> None:
    bench = make()
    bench.write([0, 1], floor=0)
    bench.log.append(0, make_mark("closing", floor=0, ceil=3))
    bench.log.end("aborted")
    account = bench.stream.account()
    assert (account["missing"], account["state"]) == ([[2, 3]], "aborted")


def test_an_account_forgets_what_lies_behind_an_end_that_it_learns_later(make: Any) -> None:
    bench = make()
    bench.write([0, 1], floor=0)
    bench.log.mark("closing", epoch=2, floor=2, ceil=1)
    frames = bench.stream.select("number >= 0", timeout_s=0)
    assert [next(frames).number, next(frames).number] == [0, 1]
    bench.log.end()
    info = bench.log.info(refresh=False)
    bench.log.change(modules={})
    bench.write([2], floor=2)  # the superseded writer's, before anybody knows of the end
    assert bench.stream.account()["received"] == 3
    bench.log.change(modules=info.modules)
    assert bench.stream.account()["received"] == 2
    assert numbers_of(frames) == []


def test_a_stream_that_is_reopened_is_read_on(make: Any) -> None:
    bench = make()
    bench.write([0, 1], floor=0)
    bench.finish(2)
    assert bench.stream.account()["complete"]
    bench.log.change(modules={})
    bench.write([2], floor=2)
    assert bench.stream.account()["state"] == "open"
    bench.finish(3)
    account = bench.stream.account()
    assert (account["received"], account["complete"]) == (3, True)
    assert numbers_of(bench.stream.ordered()) == [0, 1, 2]


def test_results_that_were_skipped_or_rejected_are_not_missing(make: Any) -> None:
    bench = make()
    bench.write([0, 1, 5], member="w1")
    bench.log.append(0, make_mark(member="w1", ceil=4, skipped=np.array([2, 3, 5])))
    bench.log.append(0, make_mark(member="w2", ceil=4, rejected=np.array([4])))
    bench.log.write([1], payloads=[b"else"], member="w2")
    bench.finish(6)
    account = bench.stream.account()
    assert (account["skipped"], account["rejected"]) == ([[2, 3]], [[4, 4]])
    assert (account["missing"], account["redelivered"], account["received"]) == ([], 1, 3)
    assert account["conflict"] == account["duplicate"] == []
    frames = bench.stream.ordered()
    assert numbers_of(frames) == [0, 1, 5]
    assert frames.missing == []


def test_skipped_frames_hold_nothing_up_while_the_stream_is_open(make: Any) -> None:
    bench = make(partitions=2)
    bench.log.mark("claim", floor=0)
    bench.log.append(0, make_segment([0], member="w1"))
    bench.log.append(1, make_mark(member="w1", ceil=1, skipped=np.array([1])))
    bench.log.append(0, make_segment([2], member="w1"))
    frames = bench.stream.ordered(timeout_s=0)
    assert [next(frames).number, next(frames).number] == [0, 2]
    assert frames.missing == []


def test_verify_reads_everything_and_names_what_is_damaged(make: Any) -> None:
    bench = make(partitions=2, frames_per_chunk=4)
    bench.write(range(40), stored=True, floor=0)
    bench.finish(40)
    bench.store.delete(["b/2"])
    bench.store.put("b/0", [b"XXXX", b"\x01" * 4, b"\x02" * 4, b"\x03" * 4], durability="process")
    seen: list[tuple[int, int]] = []
    account = bench.stream.verify(lambda done, total: seen.append((done, total)))
    assert account["corrupt"] == [[0, 0], [8, 11]]
    assert (account["received"], account["complete"]) == (35, False)
    assert seen[-1] == (40, 40)
    with pytest.raises(ChecksumError):
        bench.stream.frame(0).payload  # noqa: B018


# -- modules --------------------------------------------------------------------------------------

MODULES = (
    Module(index=0, shape=(2, 3), position=(0, 0)),
    Module(index=1, shape=(2, 3), position=(4, 2), rotation_deg=180),
    Module(index=2, shape=(2, 3), position=(2, 4), rotation_deg=90),
)


def write_module(bench: Bench, module: int, numbers: list[int], **fields: Any) -> None:
    payloads = [bytes(range(10 * module, 10 * module + 6)) for _ in numbers]
    bench.log.write(numbers, payloads=payloads, module=module, shape=(2, 3), **fields)


def test_a_frame_of_modules_is_assembled(make: Any) -> None:
    bench = make(modules=MODULES)
    for module in range(3):
        write_module(bench, module, [0], floor=0)
    bench.finish(1)
    (frame,) = bench.stream.ordered()
    assert frame.array.tolist() == [
        [0, 1, 2, 255, 22, 25],
        [3, 4, 5, 255, 21, 24],
        [255, 255, 255, 255, 20, 23],
        [15, 14, 13, 255, 255, 255],
        [12, 11, 10, 255, 255, 255],
    ]
    assert frame.shape == frame.array.shape == (5, 6)
    assert (frame.encoding, frame.dtype, frame.nbytes) == ("raw", "uint8", 18)
    assert bytes(frame.payload) == frame.array.tobytes()
    assert sorted(frame.modules) == [0, 1, 2]


def test_an_incomplete_frame_keeps_its_modules_and_has_no_image(make: Any) -> None:
    bench = make(modules=MODULES)
    for module in range(3):
        write_module(bench, module, [0, 1] if module else [0], floor=0)
    assert bench.stream.latest().number == 0
    assert bench.stream.latest(min_modules=2).number == 1
    bench.finish(2)
    frames = list(bench.stream.ordered())
    assert numbers_of(frames) == [0, 1]
    assert sorted(frames[1].modules) == [1, 2]
    with pytest.raises(IncompleteFrameError) as failure:
        frames[1].array  # noqa: B018
    assert failure.value.missing == (0,)
    account = bench.stream.account()
    assert (account["incomplete"], account["received"]) == ([[1, 1]], 1)
    assert bench.stream.frame(1).missing_modules == (0,)
    assert numbers_of(bench.stream.select("module == 1")) == [0, 1]
    assert [len(f.modules) for f in bench.stream.select("module == 1")] == [3, 2]


def test_select_waits_for_the_modules_of_a_frame(make: Any) -> None:
    bench = make(modules=MODULES)
    write_module(bench, 0, [0], floor=0)
    frames = bench.stream.select("number >= 0", timeout_s=0)
    with pytest.raises(StreamTimeoutError):
        next(frames)
    for module in (1, 2):
        write_module(bench, module, [0], floor=0)
    assert len(next(frames).modules) == 3
    write_module(bench, 2, [1], floor=1)
    bench.finish(2)
    assert [len(frame.modules) for frame in frames] == [1]


# -- the rest -------------------------------------------------------------------------------------


def test_array_is_lazy_and_fills_what_is_missing(make: Any) -> None:
    pytest.importorskip("dask.array")
    bench = make(partitions=2, frames_per_chunk=2)
    bench.write([3, 4, 6, 7], stored=True, floor=3)
    with pytest.raises(StreamOpenError):
        bench.stream.array()
    bench.finish(8)
    array = bench.stream.array()
    assert array.shape == (5, 2, 2)
    assert array.dtype == np.uint8
    values = array[:, 0, 0].compute(scheduler="synchronous")
    assert values.tolist() == [3, 4, 255, 6, 7]
    assert array[1:4].max(axis=(1, 2)).compute(scheduler="synchronous").tolist() == [4, 255, 6]


def test_an_array_needs_frames_of_one_kind(make: Any) -> None:
    pytest.importorskip("dask.array")
    bench = make(partitions=2)
    bench.log.end()
    with pytest.raises(DecodeError, match="no frames"):
        bench.stream.array()
    bench = make()
    bench.log.write([0])
    bench.log.end()
    with pytest.raises(DecodeError, match="no pixels"):
        bench.stream.array()
    bench = make()
    bench.log.write([0], payloads=[b"ab"])
    bench.log.write([1], payloads=[b"abc"])
    bench.log.end()
    with pytest.raises(DecodeError, match="frame 1 "):
        bench.stream.array().compute(scheduler="synchronous")


def test_array_names_the_extra_when_dask_is_not_there(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    bench = make()
    bench.write([0])
    bench.finish(1)
    with pytest.raises(PipelineError, match=r"lichtstrom\[array\]"):
        bench.stream.array()


def test_frames_without_pixels_say_so(make: Any) -> None:
    bench = make()
    bench.log.write([0], attributes=[{"spots": 3}])
    frame = bench.stream.frame(0)
    assert (frame.shape, frame.encoding, bytes(frame.payload)) == ((), "none", b"")
    assert frame.attributes == {"spots": 3}
    with pytest.raises(DecodeError, match="no pixels"):
        frame.array  # noqa: B018


def test_attachments_are_arrays_by_name(make: Any) -> None:
    bench = make()
    file = io.BytesIO()
    np.save(file, np.arange(6).reshape(2, 3))
    bench.store.put("b/mask.npy", [file.getvalue()], durability="process")
    bench.log.change(attachments={"mask": "b/mask.npy"}, metadata={"energy_eV": 12000})
    assert bench.stream.attachment("mask").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert bench.stream.metadata == {"energy_eV": 12000}
    with pytest.raises(InvalidArgumentError, match="did you mean 'mask'"):
        bench.stream.attachment("maks")


def test_shared_is_left_to_the_session(make: Any) -> None:
    calls: list[Any] = []

    def shared(stream: Stream, **options: Any) -> Iterator[int]:
        calls.append((stream, options))
        return (number for number in [1])

    bench = make(shared=shared)
    assert list(bench.stream.shared(group="g", timeout_s=1, member="m")) == [1]
    assert calls == [(bench.stream, {"group": "g", "timeout_s": 1.0, "member": "m"})]
    with pytest.raises(PipelineError):
        make().stream.shared(group="g")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda s: s.ordered(timeout_s=-1), "timeout_s"),
        (lambda s: s.ordered(timeout_s=float("nan")), "timeout_s"),
        (lambda s: s.ordered(timeout_s="3"), "timeout_s"),
        (lambda s: s.ordered(-1), "start"),
        (lambda s: s.ordered(1.5), "start"),
        (lambda s: s.frame(-1), "number"),
        (lambda s: s.frame("1"), "number"),
        (lambda s: s.frame(2**70), "number"),
        (lambda s: s.frame(1, timeout_s=-0.1), "timeout_s"),
        (lambda s: s.frame(1, min_modules=2), "min_modules"),
        (lambda s: s.latest(after=-5), "after"),
        (lambda s: s.latest(min_modules=0), "min_modules"),
        (lambda s: s.chunks(0), "n"),
        (lambda s: s.select("True", timeout_s=-1), "timeout_s"),
        (lambda s: s.shared("g", timeout_s=-1), "timeout_s"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, call: Any, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as failure:
        call(make(shared=lambda *_, **__: iter(())).stream)
    assert failure.value.field == field


def test_the_facts_of_a_stream(make: Any) -> None:
    bench = make(partitions=2, frames_per_chunk=8, expected=4, metadata={"title": "x"})
    assert bench.stream.state == "open"
    assert bench.stream.metadata == {"title": "x"}
    assert bench.stream.settings["frames_per_chunk"] == 8
    assert repr(bench.stream) == "Stream('test/detector/scan_1')"
    bench.finish(0, state="lost")
    assert bench.stream.state == "lost"
    assert not bench.stream.account()["complete"]
