"""Groups of stored streams seen from outside, without a broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_shared_stored import join, make_stream

from pipeline.errors import GroupActiveError, InvalidArgumentError, PipelineError
from pipeline.sharing.group import StoredGroup, open_group
from pipeline.stream import Stream

COUNT = 40


def group_of(stream: Stream, folder: Path) -> StoredGroup:
    return StoredGroup(stream, "g", folder / "g.db")


def drain(stream: Stream, folder: Path, *rejected: int) -> dict[int, int]:
    """Number to attempt of what a member gets that finishes the stream."""
    found = {}
    for delivery in join(stream, folder / "g.db"):
        found[delivery.frame.number] = delivery.attempt
        if delivery.frame.number in rejected:
            delivery.reject("no beam")
        else:
            delivery.ack()
    return found


def test_lag_and_unacknowledged_frames_follow_what_members_settle(tmp_path: Path) -> None:
    with make_stream() as stream:
        group = group_of(stream, tmp_path)
        assert group.unacknowledged() == list(range(COUNT))
        with join(stream, tmp_path / "g.db") as member:
            kept = next(member)
            next(member).ack()
            next(member).retry(delay_s=1000)
            assert kept.frame.number in group.unacknowledged()
            lag = group.lag()
            assert (lag.frames, lag.retries, lag.first) == (COUNT - 1, 1, 0)
        other = StoredGroup(stream, "h", tmp_path / "g.db")
        assert other.lag().frames == COUNT


@pytest.mark.parametrize(
    ("to", "expected"),
    [("start", range(COUNT)), ("end", range(0)), (17, range(17, COUNT)), ("17", range(17, COUNT))],
)
def test_a_reset_decides_what_is_delivered(to: int | str, expected: range, tmp_path: Path) -> None:
    with make_stream() as stream:
        drain(stream, tmp_path)
        assert group_of(stream, tmp_path).reset(to).frames == len(expected)
        assert sorted(drain(stream, tmp_path)) == list(expected)


def test_a_group_with_frames_in_hand_is_not_reset(tmp_path: Path) -> None:
    with make_stream() as stream, join(stream, tmp_path / "g.db") as member:
        delivery = next(member)
        with pytest.raises(GroupActiveError, match="pid"):
            group_of(stream, tmp_path).reset("start")
        delivery.ack()


@pytest.mark.parametrize("to", ["soon", "", "-3", -3])
def test_a_place_that_is_none_is_refused(to: int | str, tmp_path: Path) -> None:
    with make_stream() as stream, pytest.raises(InvalidArgumentError):
        group_of(stream, tmp_path).reset(to)


def test_letters_are_replayed_as_never_tried_or_dropped(tmp_path: Path) -> None:
    with make_stream() as stream:
        drain(stream, tmp_path, 5, 6, 7)
        group = group_of(stream, tmp_path)
        assert [(x.number, x.attempts, x.reason) for x in group.dead_letters()] == [
            (n, 1, "no beam") for n in (5, 6, 7)
        ]
        assert group.drop([7, 8]) == 1
        assert group.replay([5, 9]).numbers == (5,)
        assert [x.number for x in group.dead_letters()] == [6]
        assert group.unacknowledged() == [5]
        assert drain(stream, tmp_path) == {5: 1}


def test_the_newest_frame_is_given_once_per_group(tmp_path: Path) -> None:
    with make_stream() as stream:
        group = group_of(stream, tmp_path)
        with group.newest(timeout_s=1) as one, group.newest(timeout_s=1) as two:
            assert next(one).number == COUNT - 1
            assert list(two) == []
            assert list(one) == []
        other = StoredGroup(stream, "h", tmp_path / "g.db")
        assert [frame.number for frame in other.newest(timeout_s=1)] == [COUNT - 1]


def test_without_broker_and_file_the_error_says_what_to_name(tmp_path: Path) -> None:
    with make_stream() as stream, pytest.raises(PipelineError, match="state="):
        open_group(None, stream, "g", None)
