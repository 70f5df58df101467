from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.reading.ranges import Ranges

_steps = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 8)), max_size=40)


@given(_steps)
def test_ranges_are_a_set_of_integers(steps: list[tuple[bool, int, int]]) -> None:
    ranges, oracle = Ranges(), set()
    for add, first, width in steps:
        numbers = set(range(first, first + width))
        (ranges.add if add else ranges.remove)(first, first + width - 1)
        oracle = oracle | numbers if add else oracle - numbers
    assert {n for a, b in ranges for n in range(a, b + 1)} == oracle
    assert len(ranges) == len(oracle)
    assert all(n in ranges for n in oracle)
    assert not any(n in ranges for n in range(60) if n not in oracle)
    assert ranges.lists() == Ranges.of(oracle).lists()


def test_ranges_do_not_touch_each_other() -> None:
    assert Ranges([(5, 6), (1, 2), (3, 4)]).lists() == [[1, 6]]


def test_a_hole_may_be_as_wide_as_the_numbers_are() -> None:
    ranges = Ranges([(0, 2**62)])
    ranges.remove(7, 7)
    assert ranges.lists() == [[0, 6], [8, 2**62]]
