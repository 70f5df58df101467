"""What a publisher remembers: tokens come back once, content of recent numbers, bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publishing import tally
from pipeline.publishing.tally import Known, Spooled, Tally


def test_tokens_come_back_once_and_nothing_for_frames_without_one() -> None:
    found = Tally()
    found.confirmed(["a", None, "b"], 3)
    found.confirmed([], 2)
    assert found.acknowledged == 5
    assert found.take() == ["a", "b"]
    assert found.take() == []


def test_the_token_of_a_spooled_draft_tells_its_file_too() -> None:
    found = Tally()
    one, two = Path("spool/1"), Path("spool/2")
    found.confirmed(["a", Spooled(one, "b"), Spooled(two, None)], 3)
    assert found.take() == ["a", "b"]
    assert found.take_published() == [one, two]
    assert found.take_published() == []


def test_false_and_zero_are_tokens() -> None:
    found = Tally()
    found.confirmed([0, False, ""], 3)
    assert found.take() == [0, False, ""]


def test_many_threads_lose_no_token() -> None:
    found = Tally()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: found.confirmed([n], 1), range(2000)))
    assert found.acknowledged == 2000
    assert sorted(found.take()) == list(range(2000))


@given(
    st.integers(0, 3),
    st.integers(0, 2**63 - 2),
    st.integers(0, 2**40),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_content_is_told_as_it_was_given(
    module: int, number: int, length: int, checksum: int, digest: int
) -> None:
    known = Known()
    assert known.get(module, number) is None
    known.add(module, number, (length, checksum, digest))
    assert known.get(module, number) == (length, checksum, digest)
    assert known.get(module + 1, number) is None


def test_what_others_wrote_is_known_too_and_the_last_word_counts() -> None:
    known = Known()
    known.update(0, [(1, 2, 3, 4), (5, 6, 7, 8)])
    known.update(1, [(1, 9, 9, 9)])
    known.add(0, 1, (0, 0, 0))
    assert known.get(0, 1) == (0, 0, 0)
    assert known.get(0, 5) == (6, 7, 8)
    assert known.get(1, 1) == (9, 9, 9)


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_REMEMBERED", 10)
    known = Known()
    for number in range(25):
        known.add(0, number, (1, number, 1))
    assert [n for n in range(25) if known.get(0, n)] == list(range(15, 25))
