"""What is written beside a committed offset, and what comes of it after a change of owners."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sharing.progress import (
    MAX_METADATA_NBYTES,
    PartitionProgress,
    decode_done,
    encode_done,
    finish,
)


@given(st.lists(st.integers(0, 1), max_size=3000))
def test_done_flags_survive_the_round_trip(flags: list[int]) -> None:
    found = decode_done(encode_done(bytearray(flags)))
    assert [int(f) for f in found[: len(flags)]] + [0] * (len(flags) - len(found)) == flags
    assert not any(found[len(flags) :])


def test_flags_of_any_length_fit_kafkas_limit_and_what_does_not_fit_counts_as_not_done() -> None:
    chance = random.Random(3)
    flags = bytearray(chance.randrange(2) for _ in range(100_000))
    text = encode_done(flags)
    assert len(text) <= MAX_METADATA_NBYTES
    found = decode_done(text)
    assert found == flags[: len(found)]
    assert len(found) > 20_000


def test_long_runs_of_done_frames_are_kept_whole() -> None:
    flags = bytearray(b"\x00" + b"\x01" * 200_000)
    assert decode_done(encode_done(flags))[: len(flags)] == flags


@pytest.mark.parametrize("metadata", [None, "", "x", "9abc", "1\x00", "2!!!!", "2" + "0" * 50, "é"])
def test_metadata_of_others_says_that_nothing_is_done(metadata: str | None) -> None:
    assert not any(decode_done(metadata))


def test_the_offset_stays_at_the_first_record_with_a_frame_that_is_not_done() -> None:
    progress = PartitionProgress(10)
    first, second = progress.taken(10, 2), progress.taken(12, 3)
    progress.passed(13)
    for row in range(3):
        finish(second, row)
    finish(first, 1)
    offset, metadata = progress.commit()
    assert offset == 10
    assert list(decode_done(metadata)[:5]) == [0, 1, 1, 1, 1]
    finish(first, 0)
    assert progress.commit() == (14, "")


def test_the_same_commit_is_not_sent_twice() -> None:
    progress = PartitionProgress(0)
    progress.passed(0)
    news = progress.news()
    assert news == (1, "")
    progress.committed(news)
    assert progress.news() is None


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    seed=st.integers(0, 10_000),
)
def test_whatever_is_done_in_any_order_with_any_change_of_owners_nothing_is_lost_or_redone(
    sizes: list[int], seed: int
) -> None:
    """Each owner reads from the committed offset, does some frames in any order, and commits."""
    chance = random.Random(seed)
    done: list[tuple[int, int]] = []
    offset, metadata = 0, ""
    for owner in range(50):
        progress = PartitionProgress(offset, metadata)
        # An owner may go before it has read everything.
        readable = len(sizes) if owner > 20 else chance.randint(offset, len(sizes))
        open_rows = []
        for at in range(offset, readable):
            if not sizes[at]:
                progress.passed(at)
                continue
            taken = progress.taken(at, sizes[at])
            open_rows += [(at, taken, row) for row in range(sizes[at]) if not taken.done[row]]
        chance.shuffle(open_rows)
        for at, taken, row in open_rows[
            : chance.randint(0, len(open_rows)) if owner < 40 else None
        ]:
            finish(taken, row)
            done.append((at, row))
        offset, metadata = progress.commit()
    assert offset == len(sizes)
    assert sorted(done) == [(at, row) for at, size in enumerate(sizes) for row in range(size)]
