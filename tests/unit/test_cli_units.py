"""Durations and amounts of data as people write them."""

from __future__ import annotations

import click
import pytest

from pipeline.cli.units import DurationParam, SizeParam, duration_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90min", 5400), ("5m", 300), ("12h", 43200), ("30d", 2592000), ("0.5s", 0.5)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert DurationParam().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1B", 1), ("2TB", 2 * 10**12), ("1.5GB", 1_500_000_000), ("10GiB", 10 << 30), ("3 kB", 3000)],
)
def test_a_size_is_a_number_with_a_unit(text: str, nbytes: int) -> None:
    assert SizeParam().convert(text, None, None) == nbytes


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "3 days", "1e3s", "2tb", "2TD", "never"])
def test_what_has_no_unit_is_refused(text: str) -> None:
    for kind in (DurationParam(), SizeParam()):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


def test_never_takes_an_option_back_where_that_makes_sense() -> None:
    assert DurationParam(or_never=True).convert("never", None, None) == -1
    assert SizeParam(or_never=True).convert("never", None, None) == -1


def test_a_duration_is_shown_in_the_largest_unit_that_divides_it() -> None:
    texts = [duration_text(s) for s in (None, 0.5, 45, 60, 5400, 7200, 86400, 90000)]
    assert texts == ["never", "0.5s", "45s", "1min", "90min", "2h", "1d", "25h"]
