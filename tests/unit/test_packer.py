"""Packing: when a segment closes, what a full queue means, and what goes to the spool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drafts import LAYOUT, payload
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PublishSettings
from pipeline.errors import ClosedError, QueueFullError, SpoolError
from pipeline.naming import StreamId
from pipeline.publishing.draft import Draft
from pipeline.publishing.packer import Packer
from pipeline.publishing.spooling import Spooling
from pipeline.publishing.tally import Tally
from pipeline.testing.memory_log import make_start

NAME = StreamId("b", "d", "s")


class FakeWindow:
    """Takes drafts; tells which numbers were announced as begun before they were submitted."""

    trouble = ""

    def __init__(self) -> None:
        self.tickets: list[tuple[int, int]] = []
        self.submitted: list[tuple[Draft, int]] = []

    def open(self, module: int, number: int) -> int:
        self.tickets.append((module, number))
        return len(self.tickets)

    def submit(self, draft: Draft, ticket: int) -> None:
        self.submitted.append((draft, ticket))

    @property
    def numbers(self) -> list[list[int]]:
        return [draft.numbers for draft, _ in self.submitted]


class Bench:
    """A packer with a window, a spool, and time for nothing."""

    def __init__(self, spool: Path | None = None, chunk: int = 1000, **changes: Any) -> None:
        values = {"linger_s": 60.0, "segment_nbytes": 100, "queue_nbytes": 1000, **changes}
        self.settings = PublishSettings(spool=str(spool or ""), **values)
        self.spooling = Spooling(self.settings, NAME, make_start(), sync=False)
        self.tally = Tally()
        self.window = FakeWindow()
        self.checks = 0
        self.closed = False
        self.packer = Packer(
            NAME, self.settings, self.spooling, self.tally, check=self._check, unlocked=self._wait
        )
        start = make_start(frames_per_chunk=chunk)
        self.opened: Any = SimpleNamespace(
            info=SimpleNamespace(start=start), window=self.window, epoch=lambda module: 7
        )
        self.packer.adopt(self.opened)
        # As if frames came without a pause, so that only the rules close a segment.
        self.packer._interval_s = 0.0

    def _check(self) -> None:
        self.checks += 1
        if self.closed:
            raise ClosedError("closed")

    @contextmanager
    def _wait(self) -> Iterator[None]:
        yield

    def add(
        self, *numbers: int, layout: Any = LAYOUT, nbytes: int | None = None, **rest: Any
    ) -> None:
        for number in numbers:
            self.packer._last_s = float("inf")  # the interval shrinks, whatever the clock says
            self.packer._interval_s = 0.0
            self.packer._last_s = 1e18
            self.packer.add(
                layout,
                payload(number) if nbytes is None else np.zeros(nbytes, np.uint8),
                number=number,
                timestamp_ns=0,
                attributes=rest.get("attributes", {}),
                digest=0,
                token=number,
            )


# -- when a segment closes ----------------------------------------------------------------------


def test_frames_gather_until_told_to_go() -> None:
    bench = Bench()
    bench.add(1, 2, 5)
    assert bench.window.submitted == []
    assert bench.packer.draft is not None
    bench.packer.dispatch()
    bench.packer.dispatch()  # nothing is left
    assert bench.window.numbers == [[1, 2, 5]]
    assert bench.window.tickets == [(0, 1)]


def test_a_segment_closes_at_its_size() -> None:
    bench = Bench(segment_nbytes=6)
    bench.add(*range(7))
    assert bench.window.numbers == [[0, 1, 2], [3, 4, 5]]


def test_a_segment_crosses_no_chunk() -> None:
    bench = Bench(chunk=4)
    bench.add(2, 3, 4, 7, 8)
    bench.packer.dispatch()
    assert bench.window.numbers == [[2, 3], [4, 7], [8]]


def test_numbers_that_fall_begin_a_new_segment() -> None:
    bench = Bench()
    bench.add(5, 6, 3, 4)
    bench.packer.dispatch()
    assert bench.window.numbers == [[5, 6], [3, 4]]


def test_another_layout_begins_a_new_segment() -> None:
    bench = Bench()
    bench.add(1)
    bench.add(2, layout=((1, 2), "uint8", "raw", 0))
    bench.add(3, layout=((1, 2), "uint8", "raw", 1))
    bench.packer.dispatch()
    assert bench.window.numbers == [[1], [2], [3]]
    assert bench.window.tickets == [(0, 1), (0, 2), (1, 3)]


def test_attributes_past_the_limit_of_a_record_begin_a_new_segment() -> None:
    bench = Bench()
    bench.add(*range(40), attributes={"a": "x" * 60_000})
    bench.packer.dispatch()
    assert 4 <= len(bench.window.numbers) <= 20
    assert [n for numbers in bench.window.numbers for n in numbers] == list(range(40))


def test_a_slow_source_waits_for_nothing() -> None:
    bench = Bench(linger_s=0.0)
    bench.packer._interval_s = 1.0
    bench.packer.add(
        LAYOUT, payload(1), number=1, timestamp_ns=0, attributes={}, digest=0, token=None
    )
    assert bench.window.numbers == [[1]]


def test_a_frame_larger_than_a_segment_travels_alone() -> None:
    bench = Bench(segment_nbytes=10)
    bench.add(1)
    bench.add(2, nbytes=500)
    bench.add(3)
    bench.packer.dispatch()
    assert bench.window.numbers == [[1], [2], [3]]
    assert len(bench.window.submitted[1][0].payload) == 500


def test_the_linger_counts_from_the_first_frame() -> None:
    bench = Bench(linger_s=60.0)
    assert bench.packer.lingering_s() is None
    bench.add(1)
    first = bench.packer.lingering_s()
    bench.add(2)
    second = bench.packer.lingering_s()
    assert first is not None
    assert second is not None
    assert second <= first <= 60.0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), max_size=60),
    st.integers(1, 16),
    st.integers(2, 40),
)
def test_whatever_comes_each_frame_leaves_once_in_segments_that_rise_within_a_chunk(
    frames: list[tuple[int, int]], chunk: int, segment_nbytes: int
) -> None:
    bench = Bench(chunk=chunk, segment_nbytes=segment_nbytes, queue_nbytes=10_000)
    for number, module in frames:
        bench.add(number, layout=(*LAYOUT[:3], module))
    bench.packer.dispatch()
    sent = []
    for (draft, ticket), (module, first) in zip(
        bench.window.submitted, bench.window.tickets, strict=True
    ):
        assert bench.window.tickets[ticket - 1] == (module, first)
        assert (draft.layout[3], draft.numbers[0]) == (module, first)
        assert draft.numbers == sorted(set(draft.numbers))
        assert len({number // chunk for number in draft.numbers}) == 1
        assert draft.used <= max(2, segment_nbytes)
        sent += [(number, module) for number in draft.numbers]
    assert sent == frames


# -- when there is no room ----------------------------------------------------------------------


def full(**changes: Any) -> Bench:
    bench = Bench(segment_nbytes=2, queue_nbytes=4, **changes)
    bench.add(0, 1)
    assert len(bench.window.submitted) == 2
    return bench


def test_a_full_queue_refuses_when_told_to_and_counts() -> None:
    bench = full(when_full="refuse")
    for _ in range(3):
        with pytest.raises(QueueFullError, match="not taken"):
            bench.add(2)
    assert bench.tally.refused == 3
    assert bench.packer.draft is None
    bench.packer.release(bench.window.submitted[0][0])
    bench.add(2)
    assert bench.window.numbers == [[0], [1], [2]]


def test_a_full_queue_blocks_until_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    bench = full()

    @contextmanager
    def unlocked() -> Iterator[None]:
        bench.packer.release(bench.window.submitted[0][0])
        yield

    bench.packer._unlocked = unlocked
    bench.add(2)
    assert bench.window.numbers == [[0], [1], [2]]
    assert bench.checks == 1
    assert caplog.text == ""


def test_who_waits_for_room_hears_of_the_end_of_the_publisher() -> None:
    bench = full()
    bench.closed = True
    with pytest.raises(ClosedError):
        bench.add(2)
    assert bench.packer.draft is None


def test_a_long_wait_is_told_with_its_cause(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = full()
    bench.window.trouble = "the store is away"
    now = iter([0.0, 0.0, 11.0, 25.0, 1000.0, *[1001.0] * 20])
    monkeypatch.setattr("pipeline.publishing.packer.time.monotonic", lambda: next(now))

    def check() -> None:
        bench.checks += 1
        if bench.checks == 3:
            bench.packer.release(bench.window.submitted[0][0])

    monkeypatch.setattr(bench.packer, "_check", check)
    monkeypatch.setattr(bench.packer._pool, "wait", lambda *_: None)
    bench.add(2)
    assert caplog.text.count("the store is away") >= 2


# -- the spool ----------------------------------------------------------------------------------


def test_when_nothing_moves_for_long_frames_go_to_disk_and_come_back_cut_at_chunks(
    tmp_path: Path,
) -> None:
    bench = full(spool=tmp_path, spool_after_s=0.0, chunk=4)
    bench.add(2, 3, 4)
    bench.packer.dispatch()
    assert bench.spooling.active
    assert bench.packer.direct is None
    assert bench.spooling.frames == 3
    assert len(bench.window.submitted) == 2
    while (draft := bench.spooling.next()) is not None:
        assert draft.epoch == 7
        bench.packer.admit(draft)
        bench.packer.release(draft)  # a file's content is not the pool's to take
    bench.spooling.finish()
    assert bench.packer.direct is bench.opened
    assert [n for numbers in bench.window.numbers for n in numbers] == [0, 1, 2, 3, 4]
    assert all(len({n // 4 for n in numbers}) == 1 for numbers in bench.window.numbers)
    assert bench.packer._pool._left == 0
    bench.spooling.published(list(tmp_path.rglob("*.segment")))
    bench.spooling.close()


def test_before_the_stream_could_be_opened_frames_are_spooled_without_an_epoch(
    tmp_path: Path,
) -> None:
    bench = Bench(spool=tmp_path, chunk=4)
    bench.packer.opened = None
    bench.spooling.begin()
    bench.add(3, 4, 5)  # nobody knows the chunks yet
    bench.packer.dispatch()
    bench.packer.adopt(bench.opened)
    draft = bench.spooling.next()
    assert draft is not None
    assert draft.epoch is None
    bench.packer.admit(draft)
    assert bench.window.numbers == [[3], [4, 5]]
    bench.spooling.close()


def test_a_spool_that_is_full_keeps_the_draft_open_and_tells_the_next_frame(
    tmp_path: Path,
) -> None:
    bench = Bench(spool=tmp_path, segment_nbytes=2, spool_nbytes=1)
    bench.spooling.begin()
    bench.add(1)
    with pytest.raises(SpoolError, match="limit"):
        bench.add(2)
    assert bench.packer.draft is not None
    assert bench.packer.draft.numbers == [1]
    with pytest.raises(SpoolError):
        bench.packer.dispatch()
    bench.spooling.close()


def test_a_queue_that_stays_full_is_spooled_for_also_when_it_moves_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(
        segment_nbytes=2,
        queue_nbytes=8,
        when_full="refuse",
        spool=tmp_path,
        spool_after_s=1.0,
    )
    now = [0.0]
    monkeypatch.setattr("pipeline.publishing.packer.time.monotonic", lambda: now[0])
    bench.add(0, 1, 2, 3)
    for number in range(4, 10):
        with contextlib.suppress(QueueFullError):
            bench.add(number)
            break
        bench.packer.release(bench.window.submitted[number - 4][0])  # one at a time: it is slow
        bench.add(number)
        now[0] += 0.3
    assert bench.spooling.active
    assert number == 8  # after 1.2 s
    assert "more slowly" in caplog.text
    bench.packer.dispatch()
    bench.spooling.close()


def test_a_queue_that_becomes_half_empty_is_not_spooled_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(
        segment_nbytes=2,
        queue_nbytes=8,
        when_full="refuse",
        spool=tmp_path,
        spool_after_s=1.0,
    )
    now = [0.0]
    monkeypatch.setattr("pipeline.publishing.packer.time.monotonic", lambda: now[0])
    bench.add(0, 1, 2, 3)
    for number in range(4, 24, 2):
        with pytest.raises(QueueFullError):
            bench.add(number)
        now[0] += 5.0
        for draft, _ in bench.window.submitted[-2:]:
            bench.packer.release(draft)
        bench.add(number, number + 1)
    assert not bench.spooling.active


def test_what_a_full_spool_does_not_take_goes_directly_and_leaves_the_buffer(
    tmp_path: Path,
) -> None:
    bench = Bench(spool=tmp_path, segment_nbytes=2, spool_nbytes=1)
    bench.spooling.begin()
    bench.add(1)
    bench.packer.admit_open()
    (draft, _) = bench.window.submitted[0]
    sent = bytes(draft.payload)
    bench.add(2)
    assert bench.packer.draft is not None
    assert bench.packer.draft.buffer is not draft.buffer
    assert bytes(draft.payload) == sent
    left = bench.packer._pool._left
    bench.packer.release(draft)
    assert bench.packer._pool._left == left
    bench.packer.draft = None
    bench.spooling.close()
