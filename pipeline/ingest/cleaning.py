"""What adapters say about a series, made fit for the catalogue: devices send anything.

A fact that cannot be kept is named in the account; it must not cost the frames of the series.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import InvalidFrameError, InvalidNameError
from pipeline.frame import INT64_MAX, AttributeValue
from pipeline.naming import check_name
from pipeline.protocols import SeriesBegin, SeriesEnd
from pipeline.wire.columns import check_attributes

_Event = TypeVar("_Event", SeriesBegin, SeriesEnd)


def clean_begin(event: SeriesBegin) -> tuple[SeriesBegin, list[str]]:
    """Return a begin with what can be kept of it, and what is wrong with the rest."""
    problems: list[str] = []
    cleaned = replace(
        event,
        name=_name(event.name, problems),
        metadata=_kept(event.metadata, problems),
        run=_kept(event.run, problems),
        rate_hz=_rate(event.rate_hz, problems),
        expected=_count(event.expected, problems),
        attachments=_arrays(event.attachments, problems),
    )
    return (cleaned, problems) if problems else (event, problems)


def clean_end(event: SeriesEnd) -> tuple[SeriesEnd, list[str]]:
    """Return an end with what can be kept of it, and what is wrong with the rest."""
    problems: list[str] = []
    metadata = _kept(event.metadata, problems)
    expected = _count(event.expected, problems)
    cleaned = replace(event, metadata=metadata, expected=expected)
    return (cleaned, problems) if problems else (event, problems)


def _name(name: str | None, problems: list[str]) -> str | None:
    try:
        return check_name("name", name[:150]) and name if name else None
    except (InvalidNameError, TypeError) as error:
        problems.append(str(error))
        return None


def _kept(facts: Mapping[str, AttributeValue], problems: list[str]) -> Mapping[str, AttributeValue]:
    try:
        return check_attributes(facts) if facts else facts
    except InvalidFrameError:
        pass  # below it is seen which of them
    kept: dict[str, AttributeValue] = {}
    for name, value in facts.items():
        try:
            check_attributes({**kept, name: value})
        except InvalidFrameError as error:
            problems.append(f"{name!r:.60}: {error}")
        else:
            kept[name] = value
    return kept


def _rate(rate_hz: Any, problems: list[str]) -> float | None:
    if rate_hz is None:
        return None
    if isinstance(rate_hz, (int, float)) and math.isfinite(rate_hz) and 0 < rate_hz < 1e9:
        return float(rate_hz)
    if rate_hz:
        problems.append(f"rate_hz: {rate_hz!r:.60} is not a rate")
    return None


def _count(count: Any, problems: list[str]) -> int | None:
    if count is None:
        return None
    if isinstance(count, (int, np.integer)) and 0 <= count <= INT64_MAX:
        return int(count)
    problems.append(f"expected: {count!r:.60} is not a number of frames")
    return None


def _arrays(arrays: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    kept = {}
    for name, array in arrays.items():
        try:
            check_name("attachment", name)
        except InvalidNameError as error:
            problems.append(str(error))
            continue
        if isinstance(array, np.ndarray) and not array.dtype.hasobject:
            kept[name] = array
        else:
            problems.append(f"attachment {name!r:.60} is no array of numbers")
    return kept
