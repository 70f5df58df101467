"""What an expression computes with: columns with holes, and three-valued truth."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
#: True or False stand for a mask that is the same everywhere.
Mask = Bools | bool


@dataclass(frozen=True, slots=True)
class Values:
    """One value per frame (or one scalar for all), known or not.

    ``data`` is an array of int64, float64 or objects, or a scalar; where ``known`` is False it
    says nothing.
    """

    data: Any
    known: Mask = True

    def known_from(self, row: int) -> Mask:
        """Return the mask of the rows from ``row`` on."""
        return self.known if isinstance(self.known, bool) else self.known[row:]

    @property
    def is_object(self) -> bool:
        """Whether Python has to look at each value: text, lists, booleans, mixed kinds."""
        return isinstance(self.data, np.ndarray) and self.data.dtype == object


@dataclass(frozen=True, slots=True)
class Truth:
    """Yes, no or unknown for each frame; ``yes`` is False wherever it is not known."""

    yes: Mask
    known: Mask = True

    def both(self, other: Truth) -> Truth:
        """Return this and the other."""
        no = _or(_and(self.known, _not(self.yes)), _and(other.known, _not(other.yes)))
        return Truth(_and(self.yes, other.yes), _or(_and(self.known, other.known), no))

    def either(self, other: Truth) -> Truth:
        """Return this or the other."""
        yes = _or(self.yes, other.yes)
        return Truth(yes, _or(_and(self.known, other.known), yes))

    def negated(self) -> Truth:
        """Return its opposite; what is unknown stays so."""
        return Truth(_and(self.known, _not(self.yes)), self.known)


def _and(a: Mask, b: Mask) -> Mask:
    if a is True:
        return b
    if b is True:
        return a
    return False if a is False or b is False else np.logical_and(a, b)


def _or(a: Mask, b: Mask) -> Mask:
    if a is False:
        return b
    if b is False:
        return a
    return True if a is True or b is True else np.logical_or(a, b)


def _not(a: Mask) -> Mask:
    return (not a) if isinstance(a, bool) else np.logical_not(a)


def as_mask(value: Any) -> Mask:
    """Return a boolean scalar or array as a mask."""
    return value if isinstance(value, np.ndarray) else bool(value)


# -- comparing ------------------------------------------------------------------------------------

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "In": lambda a, b: a in b,
    "NotIn": lambda a, b: a not in b,
}


def compare(kind: str, left: Values, right: Values) -> Truth:
    """Compare; unknown where a side is, or where the two cannot be ordered (text and number)."""
    known = _and(left.known, right.known)
    by_hand = left.is_object or right.is_object or kind in ("In", "NotIn")
    if by_hand or isinstance(left.data, str) or isinstance(right.data, str):
        return _compare_objects(COMPARISONS[kind], left.data, right.data, known)
    yes = as_mask(COMPARISONS[kind](left.data, right.data))
    return Truth(_and(yes, known), known)


def _compare_objects(
    compare_one: Callable[[Any, Any], Any], left: Any, right: Any, known: Mask
) -> Truth:
    """Compare Python values one by one."""
    if not isinstance(left, np.ndarray) and not isinstance(right, np.ndarray):
        try:
            yes = bool(compare_one(left, right))
        except TypeError:
            return Truth(yes=False, known=False)
        return Truth(_and(yes, known), known)
    count = len(left) if isinstance(left, np.ndarray) else len(right)
    lefts = left.tolist() if isinstance(left, np.ndarray) else [left] * count
    rights = right.tolist() if isinstance(right, np.ndarray) else [right] * count
    found, sure = np.zeros(count, bool), np.ones(count, bool)
    for row, (a, b) in enumerate(zip(lefts, rights, strict=True)):
        try:
            found[row] = compare_one(a, b)
        except (TypeError, ValueError):
            sure[row] = False
    known = _and(known, sure)
    return Truth(_and(found & sure, known), known)


def contained(value: Values, wanted: tuple[Any, ...]) -> Truth:
    """Tell whether each value is one of ``wanted``, all of them constants."""
    if isinstance(value.data, np.ndarray) and not value.is_object:
        numbers = [item for item in wanted if not isinstance(item, str)]
        return Truth(_and(np.isin(value.data, numbers), value.known), value.known)
    if isinstance(value.data, np.ndarray):
        found = np.array([item in wanted for item in value.data.tolist()], bool)
        return Truth(_and(found, value.known), value.known)
    return Truth(_and(value.data in wanted, value.known), value.known)


def matched(value: Values, matches: Callable[[str], bool]) -> Truth:
    """Tell of each text whether it matches; unknown where it is no text."""
    if not isinstance(value.data, np.ndarray):
        if not isinstance(value.data, str):
            return Truth(yes=False, known=False)
        return Truth(_and(matches(value.data), value.known), value.known)
    if not value.is_object:
        return Truth(yes=False, known=False)
    texts = value.data.tolist()
    # Few texts and many frames is the usual case.
    answers = {text: matches(text) for text in {t for t in texts if isinstance(t, str)}}
    sure = np.array([isinstance(text, str) for text in texts], bool)
    yes = np.array([isinstance(t, str) and answers[t] for t in texts], bool)
    known = _and(value.known, sure)
    return Truth(_and(yes, known), known)


def truth_of(value: Values) -> Truth:
    """Return a value as yes or no: zero, empty text and null are no."""
    data = value.data
    if isinstance(data, np.ndarray):
        yes: Mask = np.array([bool(v) for v in data], bool) if value.is_object else data != 0
    else:
        yes = bool(data)
    return Truth(_and(yes, value.known), value.known)


# -- computing ------------------------------------------------------------------------------------

_MAX_INT = 2**62


def numeric(value: Values) -> Values | None:
    """Return the value as numbers, unknown where it is none; None if it is text for all frames."""
    data = value.data
    if isinstance(data, str):
        return None
    if not value.is_object:
        return value
    ok = np.array([isinstance(v, (int, float)) for v in data], bool)
    plain = np.array([float(v) if good else 0.0 for v, good in zip(data, ok, strict=True)], float)
    return Values(plain, _and(value.known, ok))


def arithmetic(kind: str, left: Values, right: Values) -> Values:
    """Compute ``left kind right``; unknown where it is not defined (division by zero)."""
    a, b = left.data, right.data
    known = _and(left.known, right.known)
    if kind in ("Div", "FloorDiv", "Mod"):
        known = (
            _and(known, as_mask(np.asarray(b) != 0))
            if isinstance(b, np.ndarray)
            else (known if b != 0 else False)
        )
    if kind == "Pow" or _may_overflow(kind, a, b):
        a = a.astype(float) if isinstance(a, np.ndarray) else _float(a)
    with np.errstate(all="ignore"):
        result = _OPERATIONS[kind](np.asarray(a), np.asarray(b))
    scalar = not isinstance(left.data, np.ndarray) and not isinstance(right.data, np.ndarray)
    return Values(result.item() if scalar else result, known)


_OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mult": np.multiply,
    "Div": np.true_divide,
    "FloorDiv": np.floor_divide,
    "Mod": np.mod,
    "Pow": np.float_power,
}


def _may_overflow(kind: str, a: Any, b: Any) -> bool:
    """Tell whether 64-bit integers may not hold the result: then floats must do."""
    sizes = []
    for value in (a, b):
        if isinstance(value, np.ndarray):
            if value.dtype.kind == "f":
                return False
            sizes.append(max(abs(int(value.max())), abs(int(value.min()))) if len(value) else 0)
        elif isinstance(value, float):
            return False
        else:
            sizes.append(abs(int(value)))
    largest = sizes[0] * sizes[1] if kind == "Mult" else sizes[0] + sizes[1]
    return largest > _MAX_INT


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
