"""The language of ``select``: Python-like, over numpy columns, and nothing can be executed.

Comparisons (also chained), ``and or not in``, ``between(x, low, high)`` (both included),
``name matches 'pattern'`` (the whole text, RE2), arithmetic, numbers, text, lists of constants; the
names ``number``, ``time``, ``timestamp_ns`` and ``module``; any other name is an attribute of the
frame, and ``attr("any name")`` one whose name is no Python word.  ``time`` compares with text in
ISO 8601 (UTC where it names no zone) or with seconds since 1970.

A frame that lacks an attribute is *unknown* in a comparison on it, under ``not`` as well, and
what is unknown is not selected.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from pipeline.errors import ExpressionError
from pipeline.reading.values import (
    COMPARISONS,
    Bools,
    Truth,
    Values,
    arithmetic,
    compare,
    contained,
    matched,
    numeric,
    truth_of,
)
from pipeline.reading.wording import Wording, compile_pattern
from pipeline.records import Int64s

MAX_LENGTH = 4096
MAX_DEPTH = 60
MAX_EXPONENT = 64
#: Integers beyond unsigned 64 bits are no numbers of a frame.
MAX_INTEGER = 2**64 - 1
#: Names that every frame has.
NAMES = ("number", "time", "timestamp_ns", "module")


class Columns(Protocol):
    """Frames as an expression sees them."""

    def __len__(self) -> int: ...
    def number(self) -> Int64s: ...  # noqa: D102 -- one value per frame
    def timestamp_ns(self) -> Int64s: ...  # noqa: D102 -- one value per frame
    def module(self) -> Int64s: ...  # noqa: D102 -- one value per frame
    def attribute(self, name: str) -> Values: ...  # noqa: D102 -- unknown where there is none


_Value = Callable[[Columns], Values]
_Test = Callable[[Columns], Truth]


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    ``names`` are the attributes it uses by bare name, with the column of the text where each
    stands first (from 1).
    """

    text: str
    names: dict[str, int]
    _test: _Test

    def mask(self, columns: Columns) -> Bools:
        """Return for each frame whether it is selected."""
        found = np.broadcast_to(np.asarray(self._test(columns).yes, bool), (len(columns),))
        return np.array(found) if not found.flags.writeable else found

    def check_names(self, known: Iterable[str]) -> None:
        """Raise ExpressionError for a bare name that no frame has, with the nearest known one."""
        names = list(known)
        for name, column in self.names.items():
            if name not in names:
                raise ExpressionError(_unknown(self.text, name, column, names), column=column)


def _unknown(text: str, name: str, column: int, names: list[str]) -> str:
    near = difflib.get_close_matches(name, [*names, *NAMES], n=1)
    known = ", ".join(sorted(names)[:20]) or "none"
    hint = f"did you mean {near[0]!r}?" if near else f"known attributes: {known}"
    return f"{text!r}, column {column}: no frame has an attribute {name!r}; {hint}"


def compile_expression(text: str) -> Expression:
    """Return the expression that ``text`` is.

    Raises
    ------
    ExpressionError
        It does not parse, is too long or too deep, or uses what is not allowed; says where.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"an expression is text, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"{len(text)} characters, at most {MAX_LENGTH} are allowed")
    stripped = text.strip()
    if not stripped:
        raise ExpressionError("the expression is empty; try 'number >= 0'")
    wording = Wording(stripped)
    try:
        tree = ast.parse(wording.python, mode="eval")
    except SyntaxError as error:
        column = wording.column(error)
        text = f"{stripped!r}, column {column}: {error.msg}"
        raise ExpressionError(text, column=column) from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"{stripped!r:.200}: cannot be read ({error})") from error
    compiler = _Compiler(wording)
    test = compiler.test(tree.body, 0)
    return Expression(stripped, compiler.names, test)


class _Compiler:
    """Turns allowed syntax into closures over columns; everything else is refused."""

    def __init__(self, wording: Wording) -> None:
        self._wording = wording
        self.names: dict[str, int] = {}

    def fail(self, node: ast.AST, problem: str) -> ExpressionError:
        column = self._wording.place(node) + 1
        text = f"{self._wording.text!r}, column {column}: {problem}"
        return ExpressionError(text, column=column)

    # -- yes or no --------------------------------------------------------------------------------

    def test(self, node: ast.expr, depth: int) -> _Test:
        self._check_depth(node, depth)
        if isinstance(node, ast.BoolOp):
            return self._bool(node, [self.test(n, depth + 1) for n in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.test(node.operand, depth + 1)
            return lambda columns: inner(columns).negated()
        if isinstance(node, ast.Compare):
            return self._chain(node, depth)
        if isinstance(node, ast.Call) and _called(node) == "between":
            return self._between(node, depth)
        value = self.value(node, depth)
        return lambda columns: truth_of(value(columns))

    def _check_depth(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.fail(node, f"nested more than {MAX_DEPTH} deep")

    @staticmethod
    def _bool(node: ast.BoolOp, tests: list[_Test]) -> _Test:
        combine = Truth.both if isinstance(node.op, ast.And) else Truth.either

        def run(columns: Columns) -> Truth:
            found = tests[0](columns)
            for test in tests[1:]:
                found = combine(found, test(columns))
            return found

        return run

    def _between(self, node: ast.Call, depth: int) -> _Test:
        if len(node.args) != 3 or node.keywords:
            raise self.fail(node, "between wants three things: between(omega, 10, 20)")
        value, low, high = node.args
        links = [
            self._compare(low, ast.LtE(), value, depth),
            self._compare(value, ast.LtE(), high, depth),
        ]
        return self._bool(ast.BoolOp(op=ast.And(), values=[]), links)

    def _chain(self, node: ast.Compare, depth: int) -> _Test:
        operands = [node.left, *node.comparators]
        links = [
            self._compare(a, op, b, depth)
            for a, op, b in zip(operands, node.ops, operands[1:], strict=False)
        ]
        if len(links) == 1:
            return links[0]
        return self._bool(ast.BoolOp(op=ast.And(), values=[]), links)

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> _Test:
        kind = type(op).__name__
        if kind not in COMPARISONS:
            raise self.fail(left, "'is' is not known here: use == and !=")
        if isinstance(op, (ast.In, ast.NotIn)):
            negate = isinstance(op, ast.NotIn)
            if isinstance(right, (ast.List, ast.Tuple, ast.Set)):
                return self._member(left, right, negate, depth)
            if self._wording.is_pattern(left, right):
                return self._matches(left, right, negate, depth)
        moment = self._moment(left, right)
        if moment is not None:
            a, b = moment
        else:
            a, b = self.value(left, depth + 1), self.value(right, depth + 1)
        return lambda columns: compare(kind, a(columns), b(columns))

    def _member(
        self, left: ast.expr, right: ast.List | ast.Tuple | ast.Set, negate: bool, depth: int
    ) -> _Test:
        if _is_time(left):
            wanted = tuple(self._instant(item) for item in right.elts)
            value: _Value = _timestamp
        else:
            wanted = tuple(self._constant(item) for item in right.elts)
            value = self.value(left, depth + 1)
        if negate:
            return lambda columns: contained(value(columns), wanted).negated()
        return lambda columns: contained(value(columns), wanted)

    def _matches(self, left: ast.expr, right: ast.expr, negate: bool, depth: int) -> _Test:
        pattern = self._constant(right)
        if not isinstance(pattern, str):
            raise self.fail(right, "matches wants a pattern in quotes: name matches 'scan_.*'")
        try:
            matches = compile_pattern(pattern)
        except ValueError as error:
            raise self.fail(right, f"{pattern!r:.60} is no pattern of RE2: {error}") from error
        value = self.value(left, depth + 1)
        if negate:
            return lambda columns: matched(value(columns), matches).negated()
        return lambda columns: matched(value(columns), matches)

    def _moment(self, left: ast.expr, right: ast.expr) -> tuple[_Value, _Value] | None:
        """Compare ``time`` with a constant in whole nanoseconds: floats are too coarse for it."""
        if _is_time(left) and isinstance(right, (ast.Constant, ast.UnaryOp)):
            return _timestamp, _always(self._instant(right))
        if _is_time(right) and isinstance(left, (ast.Constant, ast.UnaryOp)):
            return _always(self._instant(left)), _timestamp
        return None

    def _instant(self, node: ast.expr) -> int:
        value = self._constant(node)
        try:
            if isinstance(value, str):
                moment = datetime.fromisoformat(value)
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
                since = moment - datetime(1970, 1, 1, tzinfo=UTC)
                seconds = since.days * 86400 + since.seconds
                return seconds * 1_000_000_000 + since.microseconds * 1000
            instant: int = round(value * 1_000_000_000)
            return instant
        except (ValueError, TypeError, OverflowError) as error:
            hint = "time is written like '2026-11-22T10:30:00' (UTC) or as seconds since 1970"
            raise self.fail(node, f"{value!r} is no time; {hint}") from error

    # -- values -----------------------------------------------------------------------------------

    def value(self, node: ast.expr, depth: int) -> _Value:
        self._check_depth(node, depth)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Constant):
            return _always(self._constant(node))
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inner = self._number(node.operand, depth + 1)
            sign = _always(-1 if isinstance(node.op, ast.USub) else 1)
            return lambda columns: arithmetic("Mult", inner(columns), sign(columns))
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, depth)
        if isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            test = self.test(node, depth + 1)
            return lambda columns: _as_values(test(columns))
        raise self.fail(node, f"{type(node).__name__} is not allowed in an expression")

    def _name(self, node: ast.Name) -> _Value:
        name = node.id
        if name in NAMES:
            return _BUILT_IN[name]
        self.names.setdefault(name, self._wording.place(node) + 1)
        return lambda columns: columns.attribute(name)

    def _constant(self, node: ast.expr) -> Any:
        negative, inner = False, node
        while isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub):
            negative, inner = not negative, inner.operand
        value = inner.value if isinstance(inner, ast.Constant) else ...
        if value is None or isinstance(value, (bool, int, float, str)):
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise self.fail(inner, f"integers go up to {MAX_INTEGER} here")
            if not negative and inner is node:
                return value
            if isinstance(value, (int, float)):
                return -value if negative else value
        raise self.fail(node, "only numbers and text may stand here")

    def _call(self, node: ast.Call, depth: int) -> _Value:
        called = _called(node)
        if called == "between":
            test = self._between(node, depth)
            return lambda columns: _as_values(test(columns))
        if called not in ("attr", "abs") or len(node.args) != 1 or node.keywords:
            raise self.fail(
                node, 'only attr("name"), abs(x) and between(x, low, high) can be called'
            )
        if called == "attr":
            name = self._constant(node.args[0])
            if not isinstance(name, str):
                raise self.fail(node.args[0], 'attr wants a name in quotes: attr("my name")')
            return lambda columns: columns.attribute(name)
        inner = self._number(node.args[0], depth + 1)
        return lambda columns: _absolute(inner(columns))

    def _arithmetic(self, node: ast.BinOp, depth: int) -> _Value:
        kind = type(node.op).__name__
        if kind not in ("Add", "Sub", "Mult", "Div", "FloorDiv", "Mod", "Pow"):
            raise self.fail(node, "of the operators + - * / // % and ** are known")
        if kind == "Pow":
            exponent = self._constant(node.right)
            if not isinstance(exponent, (int, float)) or abs(exponent) > MAX_EXPONENT:
                raise self.fail(node.right, f"exponents are numbers up to {MAX_EXPONENT}")
        left, right = self._number(node.left, depth + 1), self._number(node.right, depth + 1)
        return lambda columns: arithmetic(kind, left(columns), right(columns))

    def _number(self, node: ast.expr, depth: int) -> _Value:
        """Return the value of an operand of arithmetic: text cannot be one."""
        if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float)):
            raise self.fail(node, "only numbers can be computed with")
        value = self.value(node, depth)
        return lambda columns: numeric(value(columns)) or Values(0, known=False)


def _is_time(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "time"


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _always(value: Any) -> _Value:
    found = Values(value)
    return lambda _: found


def _as_values(truth: Truth) -> Values:
    yes = truth.yes.astype(np.int64) if isinstance(truth.yes, np.ndarray) else int(truth.yes)
    return Values(yes, truth.known)


def _absolute(value: Values) -> Values:
    return Values(abs(value.data), value.known)


def _timestamp(columns: Columns) -> Values:
    return Values(columns.timestamp_ns())


_BUILT_IN: dict[str, _Value] = {
    "number": lambda columns: Values(columns.number()),
    "module": lambda columns: Values(columns.module()),
    "timestamp_ns": _timestamp,
    "time": lambda columns: Values(columns.timestamp_ns() / 1e9),
}
