"""Looking values up between those that are known: the arithmetic of every join."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.reading.values import Bools, Mask, Values
from pipeline.records import Int64s

#: ``step``: the last value at or before; ``exact``: the one right there; ``nearest``: the earlier
#: of two equally near ones; ``linear``: on the line between the two neighbours.
How = Literal["step", "exact", "nearest", "linear"]
HOWS: tuple[How, ...] = get_args(How)


def look_up(
    keys: Int64s,
    values: npt.NDArray[Any],
    at: Int64s,
    how: How,
    tolerance: int | None = None,
) -> Values:
    """Return a value for each of ``at``, known where there is one.

    Parameters
    ----------
    keys:
        (n,) rising, of equal ones the last counts.
    values:
        (n,) float64, int64 or objects; only numbers lie on lines, others are taken by step.
    tolerance:
        How far off a value may be, in the unit of the keys; on a line both neighbours.
    """
    if not len(keys):
        return Values(np.zeros(len(at), values.dtype), known=False)
    if how == "linear" and values.dtype != object:
        return _linear(keys, values, at, tolerance)
    before = keys.searchsorted(at, "right") - 1
    if how == "nearest":
        return _nearest(keys, values, at, before, tolerance)
    if how == "exact":
        tolerance = 0
    known: Mask = True if before.min(initial=0) >= 0 else before >= 0
    if tolerance is not None:
        known = (before >= 0) & (at - keys[before] <= tolerance)
    return Values(values[before], known)


def _nearest(
    keys: Int64s, values: npt.NDArray[Any], at: Int64s, before: Int64s, tolerance: int | None
) -> Values:
    after = np.minimum(before + 1, len(keys) - 1)
    # of equal keys behind, the last one
    after = keys.searchsorted(keys[after], "right") - 1
    later = (before < 0) | (np.abs(keys[after] - at) < at - keys[before])
    chosen = np.where(later, after, before)
    known: Mask = True if tolerance is None else np.abs(keys[chosen] - at) <= tolerance
    return Values(values[chosen], known)


def _linear(keys: Int64s, values: npt.NDArray[Any], at: Int64s, tolerance: int | None) -> Values:
    before = keys.searchsorted(at, "right") - 1
    there: Bools = (before >= 0) & (keys[before] == at)
    after = np.where(there, before, np.minimum(before + 1, len(keys) - 1))
    known = there | ((before >= 0) & (before < len(keys) - 1))
    low, high = keys[before], keys[after]
    if tolerance is not None:
        known &= there | ((at - low <= tolerance) & (high - at <= tolerance))
    # differences of integers first: nanoseconds since 1970 do not fit into a float
    share = (at - low) / np.where(high > low, high - low, 1)
    # of equal keys the line starts at the last and aims at the last
    after = keys.searchsorted(high, "right") - 1
    start, end = values[before].astype(np.float64), values[after].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities
        line = np.where(there, start, start + (end - start) * share)
    return Values(line, known)
