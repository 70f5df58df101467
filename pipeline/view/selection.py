"""What stands in the brackets: which positions, and which part of each frame."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InvalidArgumentError, PositionError
from pipeline.nexus.tree import Int64s


@dataclass(frozen=True, slots=True)
class Selection:
    """Positions, and what of each.

    Parameters
    ----------
    places:
        Positions on the first axis, in the order asked for.
    single:
        It was an integer: the result has no such axis.
    rest:
        Index into the other axes.
    """

    places: Int64s
    single: bool
    rest: tuple[Any, ...]


def select(index: Any, shape: tuple[int, ...]) -> Selection:
    """Return what ``index`` selects of an array of at least one axis.

    Integers, slices, one Ellipsis, and one boolean or integer array or list.

    Raises
    ------
    PositionError
        An integer outside the array.
    InvalidArgumentError
        Anything else that cannot be one.
    """
    parts = _expanded(index if isinstance(index, tuple) else (index,), len(shape))
    checked = [_checked(part, extent) for part, extent in zip(parts, shape, strict=True)]
    if sum(isinstance(part, np.ndarray) for part in checked) > 1:
        raise InvalidArgumentError("index", "only one list or array can select at a time")
    first, rest = checked[0], tuple(checked[1:])
    if isinstance(first, slice):
        return Selection(np.arange(*first.indices(shape[0]), dtype=np.int64), False, rest)
    if isinstance(first, np.ndarray):
        return Selection(first, False, rest)
    return Selection(np.array([first], np.int64), True, rest)


def _expanded(parts: tuple[Any, ...], ndim: int) -> list[Any]:
    """Return one part for each axis."""
    at = [i for i, part in enumerate(parts) if part is Ellipsis]
    given = len(parts) - len(at)
    if len(at) > 1 or given > ndim:
        raise InvalidArgumentError("index", f"{given} indices into {ndim} axes, {len(at)} Ellipsis")
    begin = at[0] if at else len(parts)
    fill = [slice(None)] * (ndim - given)
    return [*parts[:begin], *fill, *parts[begin + 1 :]]


def _checked(part: Any, extent: int) -> Any:
    if isinstance(part, slice):
        return part
    if isinstance(part, list | tuple | np.ndarray) and np.ndim(part):
        return _positions(np.asarray(part), extent)
    if isinstance(part, bool | np.bool_ | str | bytes) or part is None:
        raise InvalidArgumentError("index", f"{part!r} selects nothing here; see docs/h5view.md")
    try:
        return _position(operator.index(part), extent)
    except TypeError as error:
        raise InvalidArgumentError("index", f"{part!r} is no integer, slice or list") from error


def _position(number: int, extent: int) -> int:
    if not -extent <= number < extent:
        raise PositionError(number, extent)
    return number % extent


def _positions(given: Any, extent: int) -> Int64s:
    if given.dtype == bool:
        if given.shape != (extent,):
            raise InvalidArgumentError(
                "index", f"a mask of shape {given.shape} for an axis of {extent}"
            )
        return np.flatnonzero(given).astype(np.int64)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InvalidArgumentError("index", f"{given.ndim}-dimensional list of {given.dtype}")
    wide = given.astype(np.int64)
    outside = (wide < -extent) | (wide >= extent)
    if outside.any():
        raise PositionError(int(wide[outside][0]), extent)
    places: Int64s = np.where(wide < 0, wide + extent, wide)
    return places
