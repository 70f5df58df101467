"""The kit's verdict on what goes wrong: a kit that finds nothing would pass everything."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.testing.conformance import Sent
from pipeline.testing.conformance.verdict import Found, Series, problems


def series(numbers: range, *, salt: str = "a", unread: tuple[int, ...] = ()) -> Series:
    made = Series(salt)
    made.add([Sent(number, f"{salt}{number}") for number in numbers])
    made.unread.update(unread)
    return made


def found(numbers: Any, *, salt: str = "a", state: str = "complete", **account: Any) -> Found:
    kinds = ("missing", "rejected", "incomplete", "duplicate", "conflict", "corrupt")
    whole: dict[str, Any] = {kind: [] for kind in kinds}
    frames = {(number, 0): f"{salt}{number}" for number in numbers}
    return Found(f"s_{salt}", state, frames, {**whole, "expected": None, **account})


def test_what_is_as_it_was_sent_has_no_problems():
    assert problems([series(range(5))], [found(range(5))]) == []


@pytest.mark.parametrize(
    ("stream", "word"),
    [
        (found(range(4)), "lost 1 frames"),
        (found(range(5), salt="b"), "fits no series"),
        (found(range(6)), "fits no series"),
        (found(range(5), state="open"), "is open"),
        (found(range(5), duplicate=[[1, 1]]), "duplicate frames"),
        (found(range(5), missing=[[2, 2]]), "came"),
        (found(range(5), incomplete=[[2, 2]]), "incomplete"),
    ],
)
def test_each_deviation_is_found(stream: Found, word: str):
    assert any(word in text for text in problems([series(range(5))], [stream]))


def test_a_series_without_a_stream_and_one_in_two_streams_are_found():
    assert any("no stream" in text for text in problems([series(range(5))], []))
    halves = [found(range(3)), found(range(3, 5))]
    assert any("in 2 streams" in text for text in problems([series(range(5))], halves))
    assert problems([series(range(5))], halves, may_split=True) == []


def test_frames_that_come_twice_or_in_another_series_are_found():
    one = [series(range(5))]
    assert any("second time" in text for text in problems(one, [found(range(5)), found([2])]))
    two = [series(range(5)), series(range(5), salt="b")]
    mixed = found(range(5), salt="b")
    mixed.frames[4, 0] = "a4"
    assert any("fits no series" in text for text in problems(two, [found(range(4)), mixed]))


def test_losses_in_the_midst_must_be_named_and_those_at_the_end_counted():
    made = [series(range(5), unread=(5, 6))]
    made[0].add([Sent(7, "a7")])
    came = [*range(5), 7]
    assert any("does not name" in text for text in problems(made, [found(came)]))
    assert problems(made, [found(came, missing=[[5, 6]])]) == []
    cut = [series(range(5), unread=(5, 6))]
    assert any("nothing tells" in text for text in problems(cut, [found(range(5))]))
    assert problems(cut, [found(range(5), expected=7)]) == []
    assert problems(cut, [found(range(5))], tells_count=False) == []


def test_what_a_killed_adapter_had_may_be_missing_unless_readers_saw_it():
    made = series(range(5))
    made.doubt()
    made.confirm([(0, 0), (1, 0)])
    assert problems([made], [found(range(3), expected=5)]) == []
    assert any("lost 1" in text for text in problems([made], [found([0], expected=5)]))
