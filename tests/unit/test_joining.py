"""Joining values to frames: the arithmetic beside a naive reference, and what waits for what."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import ExpressionError, InvalidArgumentError, PipelineError
from pipeline.joining import series as series_module
from pipeline.joining import track as track_module
from pipeline.joining.lookup import HOWS, look_up
from pipeline.joining.track import Track
from pipeline.naming import StreamId
from pipeline.sinks.hdf5.joining import Series
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

MS = 1_000_000
T0 = 1_795_400_000_000_000_000


# -- arithmetic -----------------------------------------------------------------------------------


def naive(keys: list[int], values: list[float], at: int, how: str, limit: int | None) -> Any:
    """Return the value for one place, None where there is none: by looking at each."""
    pairs = list(zip(keys, values, strict=True))
    before = [(k, v) for k, v in pairs if k <= at]
    after = [(k, v) for k, v in pairs if k > at]
    reach = math.inf if limit is None else limit
    if how in ("step", "exact"):
        far = 0 if how == "exact" else reach
        return before[-1][1] if before and at - before[-1][0] <= far else None
    if how == "nearest":
        nearest = min((abs(k - at) for k in keys), default=None)
        if nearest is None or nearest > reach:
            return None
        chosen = [(k, v) for k, v in pairs if abs(k - at) == nearest]
        earlier = [v for k, v in chosen if k <= at]
        return earlier[-1] if earlier else chosen[-1][1]
    if before and before[-1][0] == at:
        return float(before[-1][1])
    if not before or not after:
        return None
    (k0, v0), k1 = before[-1], after[0][0]
    v1 = [v for k, v in after if k == k1][-1]
    if at - k0 > reach or k1 - at > reach:
        return None
    return v0 + (v1 - v0) * ((at - k0) / (k1 - k0))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(-1000, 1000)), max_size=20),
    st.lists(st.integers(-5, 65), min_size=1, max_size=20),
    st.sampled_from(HOWS),
    st.none() | st.integers(0, 20),
    st.booleans(),
)
def test_every_way_of_looking_up_says_what_looking_at_each_value_says(
    pairs: list[tuple[int, int]], at: list[int], how: Any, limit: int | None, floats: bool
) -> None:
    pairs.sort(key=lambda pair: pair[0])
    keys, values = [T0 + k for k, _ in pairs], [v / 4 if floats else v for _, v in pairs]
    track = Track()
    track.extend(np.array(keys, np.int64), np.array(values, float if floats else np.int64))
    places = [T0 + a for a in at]
    found = look_up(track.keys, track.data, np.array(places, np.int64), how, limit)
    known = np.broadcast_to(found.known, len(at)).tolist()
    got = [v if k else None for v, k in zip(found.data.tolist(), known, strict=True)]
    wanted = [naive(keys, values, place, how, limit) for place in places]
    assert [g is None for g in got] == [w is None for w in wanted]
    assert [g for g in got if g is not None] == pytest.approx([w for w in wanted if w is not None])


def test_text_is_taken_by_step_where_numbers_lie_on_a_line() -> None:
    found = look_up(
        np.array([1, 5]), np.array(["in", "out"], object), np.array([0, 3, 7]), "linear"
    )
    assert np.broadcast_to(found.known, 3).tolist() == [False, True, True]
    assert found.data[1:].tolist() == ["in", "out"]


def test_a_track_sorts_in_what_comes_late_and_turns_to_floats_and_objects_as_needed() -> None:
    track = Track()
    track.extend(np.array([1, 5]), np.array([10, 50]))
    track.extend(np.array([3]), np.array([0.5]))
    assert (track.keys.tolist(), track.data.tolist()) == ([1, 3, 5], [10.0, 0.5, 50.0])
    track.extend(np.array([7]), np.array(["x"], object))
    assert track.data.tolist() == [10.0, 0.5, 50.0, "x"]


def test_a_track_keeps_a_bounded_number_of_values_behind_the_place_that_was_asked_for() -> None:
    track = Track()
    highest = track_module.NOWHERE
    for begin in range(0, 400_000, 1000):
        keys = np.arange(begin, begin + 1000)
        track.extend(keys, keys.astype(float))
        highest = max(highest, track.forget(begin))
        assert len(track.keys) <= 2 * track_module.KEPT + 1000
    assert track.keys[0] == highest + 1
    assert track.keys[-1] == 399_999


def test_the_sink_joins_by_the_same_step_and_has_nan_where_frames_are_missing() -> None:
    series = Series(name="x", units="", times_ns=np.array([10, 20]), values=np.array([1.0, 2.0]))
    found = series.at(np.array([0, 9, 10, 19, 20, 30]))
    assert np.array_equal(found, [np.nan, np.nan, 1, 1, 2, 2], equal_nan=True)


# -- streams in memory ----------------------------------------------------------------------------


class Scene:
    """Frames of a detector and a stream of values, each in a log in memory."""

    def __init__(self) -> None:
        self.frames = MemoryLog(make_start())
        self.values = MemoryLog(make_start(frames_per_chunk=16))
        store = MemoryStore("test-joining")
        self.stream = Stream(self.frames, store, name=StreamId("b", "cam", "s"))
        self.motors = Stream(self.values, store, name=StreamId("b", "motors", "s"))

    def take(self, numbers: range | list[int], **fields: Any) -> None:
        times = [T0 + n * MS for n in numbers]
        self.frames.write(numbers, timestamps_ns=times, encoding="none", **fields)

    def put(self, number: int, at: float, **values: Any) -> None:
        self.values.write(
            [number],
            timestamps_ns=[T0 + round(at * MS)],
            attributes=[values],
            encoding="none",
        )

    def end(self, log: MemoryLog, floor: int) -> None:
        log.mark("closing", floor=floor, ceil=floor - 1)
        log.end()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.stream.close()
    made.motors.close()


def attributes_of(frames: Any) -> list[dict[str, Any]]:
    return [dict(frame.attributes) for frame in frames]


def test_each_frame_gets_the_last_value_and_none_before_the_first(scene: Scene) -> None:
    scene.put(0, 1.5, x=1.0)
    scene.put(1, 3.0, x=2.0, state="in")
    scene.take(range(6))
    scene.end(scene.values, 2)
    scene.end(scene.frames, 6)
    joined = scene.stream.join(scene.motors)
    found = attributes_of(joined.ordered(timeout_s=5))
    assert found == [{}, {}, {"x": 1.0}, *[{"x": 2.0, "state": "in"}] * 3]
    assert (joined.missing, joined.late) == ({"b/motors/s": 3}, {"b/motors/s": 0})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(-9, 9) | st.none()), max_size=20),
    st.lists(st.integers(0, 45), min_size=1, max_size=30),
    st.sampled_from(HOWS),
    st.none() | st.integers(0, 20),
    st.booleans(),
)
def test_frames_of_a_stream_get_what_looking_at_each_value_says(
    pairs: list[tuple[int, int | None]],
    times: list[int],
    how: Any,
    limit: int | None,
    in_order: bool,
) -> None:
    scene = Scene()
    if in_order:
        pairs.sort(key=lambda pair: pair[0])
        times.sort()
    for number, (at, value) in enumerate(pairs):
        scene.put(number, at, **({} if value is None else {"x": value}))
    scene.frames.write(
        range(len(times)), timestamps_ns=[T0 + at * MS for at in times], encoding="none"
    )
    scene.end(scene.values, len(pairs))
    scene.end(scene.frames, len(times))
    options = {} if limit is None else {"tolerance_s": limit / 1000}
    joined = scene.stream.join(scene.motors, how=how, **options)
    got = [frame.attributes.get("x") for frame in joined.ordered(timeout_s=5)]
    known = sorted(((at, v) for at, v in pairs if v is not None), key=lambda pair: pair[0])
    keys, values = [at for at, _ in known], [float(v) for _, v in known]
    wanted = [naive(keys, values, at, how, limit) for at in times]
    assert got == pytest.approx(wanted)
    assert joined.missing == {"b/motors/s": wanted.count(None)}
    assert joined.late == {"b/motors/s": 0}
    scene.stream.close()
    scene.motors.close()


def test_joins_chain_with_prefixes_and_the_frames_own_attributes_win(scene: Scene) -> None:
    scene.put(0, 0, x=0.0, y=0.0, z=5)
    scene.put(1, 4, x=4.0, y=8.0)
    scene.take(range(3), attributes=[{"x": -1}] * 3)
    scene.end(scene.values, 2)
    scene.end(scene.frames, 3)
    joined = scene.stream.join(scene.motors, how="linear", names=["x", "y"]).join(
        scene.motors, how="nearest", prefix="near_", tolerance_s=0.001, names={"x"}
    )
    assert attributes_of(joined.chunks(3, timeout_s=5).__next__()) == [
        {"x": -1, "y": 0.0, "near_x": 0.0},
        {"x": -1, "y": 2.0, "near_x": 0.0},
        {"x": -1, "y": 4.0},
    ]
    assert [f.attributes["y"] for f in joined.select("near_x == 0 and y > 1", timeout_s=5)] == [2.0]
    assert joined.frame(1).attributes["y"] == 2.0
    assert joined.latest().attributes["y"] == 4.0
    assert joined.frame(0).attributes["y"] == 0.0


def test_a_trigger_index_joins_scan_points_whatever_the_clocks_say(scene: Scene) -> None:
    for number, trigger in enumerate((10, 11, 13)):
        scene.put(number, 1e6, trigger=trigger, x=float(trigger))
    scene.put(3, 1e6, x=99.0)  # without an index: no scan point
    # frame 13 has no trigger of its own: its number is its index
    scene.take([1, 2, 3, 13], attributes=[{"trigger": 10}, {"trigger": 11}, {"trigger": 12}, {}])
    scene.end(scene.values, 4)
    scene.end(scene.frames, 14)
    joined = scene.stream.join(scene.motors, on="trigger", how="exact")
    assert [a.get("x") for a in attributes_of(joined.ordered(timeout_s=5))] == [10, 11, None, 13]
    assert joined.missing == {"b/motors/s": 1}


def test_a_scan_point_that_is_there_is_not_waited_behind(scene: Scene) -> None:
    scene.put(0, 0, trigger=1, x=1.0)
    scene.take([1])
    scene.end(scene.frames, 2)
    joined = scene.stream.join(scene.motors, on="trigger", how="exact", wait_s=3600)
    assert next(joined.ordered(timeout_s=5)).attributes == {"x": 1.0}


def test_a_frame_waits_until_the_values_own_time_has_passed_it(scene: Scene) -> None:
    scene.put(0, 0, x=0.0)
    scene.take([0, 1])
    joined = scene.stream.join(scene.motors, wait_s=3600)
    frames = joined.ordered(timeout_s=5)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(next(frames) for _ in range(2)))
    reader.start()
    # the second comes before the first, and says nothing before it is there
    scene.put(2, 2, x=3.0)
    reader.join(0.3)
    assert reader.is_alive()
    scene.put(1, 0.5, x=0.5)
    reader.join(10)
    assert [f.attributes for f in got] == [{"x": 0.0}, {"x": 0.5}]
    assert joined.late == {"b/motors/s": 0}


@pytest.mark.timeout(40)  # a wait for each frame takes 80 s
def test_a_silent_stream_costs_one_wait_and_its_frames_are_counted(scene: Scene) -> None:
    scene.put(0, 0, x=0.0)
    scene.take(range(200))
    joined = scene.stream.join(scene.motors, wait_s=0.4)
    frames = joined.ordered(timeout_s=5)
    found = attributes_of(next(frames) for _ in range(200))
    assert found == [{"x": 0.0}] * 200
    assert joined.late == {"b/motors/s": 200}


def test_an_empty_put_tells_that_nothing_has_changed(scene: Scene) -> None:
    scene.put(0, 0, x=0.0)
    scene.put(1, 10)
    scene.take(range(5))
    joined = scene.stream.join(scene.motors, wait_s=3600)
    frames = joined.ordered(timeout_s=5)
    assert attributes_of(next(frames) for _ in range(5)) == [{"x": 0.0}] * 5
    assert joined.late == {"b/motors/s": 0}


def test_the_end_of_the_values_ends_all_waiting(scene: Scene) -> None:
    scene.put(0, 0, x=0.0)
    scene.take(range(5))
    joined = scene.stream.join(scene.motors, wait_s=3600)
    frames = joined.ordered(timeout_s=5)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(next(frames) for _ in range(5)))
    reader.start()
    scene.end(scene.values, 1)
    reader.join(10)
    assert attributes_of(got) == [{"x": 0.0}] * 5


def test_memory_stays_bounded_over_many_values_and_the_past_is_read_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_module, "KEPT", 64)
    monkeypatch.setattr(series_module, "_AT_ONCE", 256)
    for begin in range(0, 20_000, 2000):
        numbers = range(begin, begin + 2000)
        scene.values.write(
            numbers,
            timestamps_ns=[T0 + n * MS // 10 for n in numbers],
            attributes=[{"x": n} for n in numbers],
            encoding="none",
        )
    scene.take(range(0, 2000, 100))
    scene.end(scene.values, 20_000)
    scene.end(scene.frames, 2000)
    joined = scene.stream.join(scene.motors)
    frames = joined.ordered(timeout_s=5)
    ((_, series),) = frames._joiner._joins
    kept = []
    for _ in range(20):
        frame = next(frames)
        assert frame.attributes == {"x": frame.number * 10}
        kept.append(len(series.tracks["x"].keys) if "x" in series.tracks else 0)
    assert max(kept) < 5000
    assert joined.frame(1900).attributes == {"x": 19_000}
    assert joined.frame(100).attributes == {"x": 1000}


def test_what_cannot_be_joined_is_refused(scene: Scene) -> None:
    for wrong in (
        {"how": "cubic"},
        {"on": ""},
        {"wait_s": -1},
        {"tolerance": 3},
        {"tolerance_s": -1},
        {"on": "trigger", "tolerance_s": 1.0},
    ):
        with pytest.raises(InvalidArgumentError):
            scene.stream.join(scene.motors, **wrong)
    with pytest.raises(PipelineError, match="cannot be opened by name"):
        scene.stream.join("motors")
    scene.put(0, 0, x=0.0)
    scene.take([0])
    scene.end(scene.values, 1)
    with pytest.raises(ExpressionError, match="did you mean 'x'"):
        next(scene.stream.join(scene.motors).select("xx > 0", follow=False))


@pytest.mark.timeout(40)  # in turn they take 80 s
def test_frames_that_pile_up_behind_a_slow_stream_each_wait_their_limit_and_not_in_turn(
    scene: Scene,
) -> None:
    scene.put(0, 0, x=0.0)
    scene.take(range(200))
    joined = scene.stream.join(scene.motors, wait_s=0.4)
    frames = joined.ordered(timeout_s=5)
    for number in range(200):
        assert next(frames).number == number
        scene.put(number + 1, 0.001 * number, x=1.0)  # it moves, always far behind
    assert joined.late == {"b/motors/s": 200}
