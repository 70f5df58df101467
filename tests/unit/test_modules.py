"""Detectors of several modules: assembled complete, with fewer modules, or at a deadline."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import IncompleteFrameError, InvalidArgumentError, StreamTimeoutError
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.reading.frame import canvas, places
from pipeline.shared import open_shared
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

LIMIT_S = 20.0
_names = itertools.count()
MODULES = (
    Module(index=0, shape=(2, 3), position=(0, 0)),
    Module(index=1, shape=(2, 3), position=(4, 2), rotation_deg=180),
    Module(index=2, shape=(2, 3), position=(2, 4), rotation_deg=90),
)


class Bench:
    """A log and a stream of a detector with three modules; frame n of module m is 10 m + n."""

    def __init__(self) -> None:
        self.log = MemoryLog(make_start(modules=MODULES, partitions=2, frames_per_chunk=4))
        store = MemoryStore(f"modules-{next(_names)}")
        self.stream = Stream(self.log, store, name=StreamId("test", "detector", "scan_1"))

    def write(self, module: int, numbers: list[int] | range, floor: int = 0) -> None:
        payloads = [bytes([10 * module + n % 10]) * 6 for n in numbers]
        self.log.write(numbers, payloads=payloads, module=module, shape=(2, 3), floor=floor)

    def finish(self, end: int) -> None:
        for module in range(3):
            self.log.mark("closing", floor=end, ceil=end - 1, module=module)
        self.log.end()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    with bench.stream:
        yield bench


def missing_of(frames: Any) -> list[tuple[int, tuple[int, ...]]]:
    return [(frame.number, frame.missing_modules) for frame in frames]


def test_with_fewer_modules_the_others_pixels_are_gaps(bench: Bench) -> None:
    for module in (0, 2):
        bench.write(module, [0])
    frame = bench.stream.latest(min_modules=2)
    blank = 255
    expected = [
        [0, 0, 0, blank, 20, 20],
        [0, 0, 0, blank, 20, 20],
        [blank, blank, blank, blank, 20, 20],
        [blank] * 6,
        [blank] * 6,
    ]
    assert frame.array.tolist() == expected
    assert frame.gaps.tolist() == (np.array(expected) == blank).tolist()
    assert bench.stream.frame(0, min_modules=2).array.tolist() == expected
    with pytest.raises(IncompleteFrameError):
        bench.stream.frame(0).array  # noqa: B018


def test_a_whole_frame_has_gaps_between_its_modules_alone(bench: Bench) -> None:
    for module in range(3):
        bench.write(module, [0])
    frame = bench.stream.frame(0)
    assert (frame.gaps == (frame.array == 255)).all()
    assert not frame.modules[1].gaps.any()


def test_places_are_where_the_first_pixels_of_turned_modules_say() -> None:
    assert canvas(MODULES)[0] == (5, 6)
    for module in MODULES:
        rows, columns, turns = places(MODULES)[module.index]
        image = np.zeros((5, 6), int)
        marked = np.zeros(module.shape, int)
        marked[0, 0] = 1
        image[rows, columns] = np.rot90(marked, turns)
        assert np.argwhere(image).tolist() == [list(module.position)]


def test_without_a_deadline_a_live_frame_waits_for_its_modules(bench: Bench) -> None:
    bench.write(0, [0, 1])
    bench.write(1, [0, 1])
    with pytest.raises(StreamTimeoutError):
        next(bench.stream.ordered(timeout_s=0, min_modules=1))


def test_past_its_deadline_a_live_frame_is_given_as_it_is_and_counted(bench: Bench) -> None:
    bench.write(0, [0, 1, 2])
    bench.write(1, [0, 1])
    bench.write(2, [1])
    frames = bench.stream.ordered(timeout_s=LIMIT_S, min_modules=2, deadline_s=0.01)
    given = [next(frames) for _ in range(3)]
    assert missing_of(given) == [(0, (2,)), (1, ()), (2, (1, 2))]
    assert given[0].array[0].tolist() == [0, 0, 0, 255, 255, 255]
    with pytest.raises(IncompleteFrameError):
        given[2].array  # noqa: B018
    assert frames.incomplete == [[0, 0], [2, 2]]
    bench.write(2, [0])
    for module in range(3):
        bench.write(module, [3])
    assert missing_of([next(frames)]) == [(3, ())]
    assert frames.late == [[0, 0]]
    bench.finish(4)
    assert list(frames) == []
    # the stream itself lacks less than this reader saw
    assert bench.stream.account()["incomplete"] == [[2, 2]]


def test_a_frame_before_the_one_that_is_overdue_is_missed_and_late_when_it_comes(
    bench: Bench,
) -> None:
    bench.write(0, [0, 2])
    frames = bench.stream.ordered(0, timeout_s=LIMIT_S, deadline_s=0.01)
    assert missing_of([next(frames), next(frames)]) == [(0, (1, 2)), (2, (1, 2))]
    assert frames.missing == [[1, 1]]
    bench.write(1, [1])
    bench.finish(3)
    assert list(frames) == []
    assert (frames.missing, frames.late) == ([], [[1, 1]])


def test_a_backlog_makes_nothing_late(bench: Bench) -> None:
    for module in range(3):  # one module after the other, as a replay may bring them
        bench.write(module, range(400), floor=400)
    frames = bench.stream.chunks(100, timeout_s=LIMIT_S, deadline_s=0.0)
    numbers = [frame.number for _ in range(4) for frame in next(frames)]
    assert numbers == list(range(400))
    assert (frames.incomplete, frames.missing, frames.late) == ([], [], [])


def test_a_sealed_stream_gives_the_same_with_and_without_a_deadline(bench: Bench) -> None:
    bench.write(0, range(6))
    bench.write(1, range(6))
    bench.write(2, [0, 2, 4])
    bench.finish(6)
    expected = [(n, () if n % 2 == 0 else (2,)) for n in range(6)]
    for deadline_s in (None, 0.0, 5.0):
        frames = bench.stream.ordered(min_modules=2, deadline_s=deadline_s)
        given = list(frames)
        assert missing_of(given) == expected
        assert all(frame.array.shape == (5, 6) for frame in given)
        assert frames.incomplete == [[1, 1], [3, 3], [5, 5]]
    assert bench.stream.account()["incomplete"] == [[1, 1], [3, 3], [5, 5]]


def test_selected_frames_wait_until_their_deadline(bench: Bench) -> None:
    bench.write(0, [0, 1])
    bench.write(1, [1])
    bench.write(2, [1])
    frames = bench.stream.select("number < 3", timeout_s=LIMIT_S, min_modules=1, deadline_s=0.01)
    assert missing_of([next(frames)]) == [(1, ())]  # that is complete: it waits for nothing
    first = next(frames)
    assert missing_of([first]) == [(0, (1, 2))]
    assert first.array[0].tolist() == [0, 0, 0, 255, 255, 255]
    bench.write(2, [2, 3])
    assert missing_of([next(frames)]) == [(2, (0, 1))]
    bench.finish(4)
    assert list(frames) == []
    assert frames.incomplete == [[0, 0], [2, 2]]


def test_groups_get_every_frame_and_count_the_incomplete_ones(bench: Bench, tmp_path: Path) -> None:
    bench.write(0, range(4))
    bench.write(1, [1, 3])
    bench.write(2, range(4))
    bench.finish(4)
    state = tmp_path / "g.db"
    with open_shared(None, bench.stream, group="g", state=state, min_modules=2) as frames:
        found = {}
        for delivery in frames:
            found[delivery.frame.number] = int(delivery.frame.array[4, 0])
            delivery.ack()
        assert found == {0: 255, 1: 11, 2: 255, 3: 13}
        assert frames.share.counts.incomplete == 2  # type: ignore[attr-defined]  # a StoredShare


@pytest.mark.parametrize(
    ("options", "field"),
    [({"deadline_s": -1}, "deadline_s"), ({"min_modules": 4}, "min_modules")],
)
def test_arguments_are_checked_at_the_door(
    bench: Bench, options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    for call in (
        lambda: bench.stream.ordered(**options),
        lambda: bench.stream.chunks(2, **options),
        lambda: bench.stream.select("number > 1", **options),
        lambda: open_shared(None, bench.stream, group="g", state=tmp_path / "g", **options),
    ):
        with pytest.raises(InvalidArgumentError) as failure:
            call()
        assert failure.value.field == field
