"""The select language against a second, naive evaluator, and against hostile texts."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ExpressionError
from pipeline.reading.expressions import compile_expression
from pipeline.reading.matching import SegmentView
from pipeline.reading.table import FrameTable
from pipeline.testing.memory_log import MemoryLog, make_start

#: One value of a frame: None is unknown.
Row = dict[str, Any]
Value = Callable[[Row], Any]
#: A text, and what it means for one frame: True, False, or None where that is unknown.
Term = tuple[str, Value]

_COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_PATTERNS = ["a.*", ".*b", "[ab]+", "a|ab", "(a|b)?", r"\w\w", ""]


def name(text: str) -> Term:
    return text, lambda row: row.get(text)


def constant(value: Any) -> Term:
    return repr(value), lambda row: value


def arithmetic(sign: str, a: Term, b: Term) -> Term:
    def run(row: Row) -> Any:
        left, right = a[1](row), b[1](row)
        return None if left is None or right is None else _ARITHMETIC[sign](left, right)

    return f"({a[0]} {sign} {b[0]})", run


def compared(signs: list[str], terms: list[Term]) -> Term:
    def run(row: Row) -> Any:
        values = [term[1](row) for term in terms]
        answers = [
            None if a is None or b is None else _COMPARISONS[sign](a, b)
            for sign, a, b in zip(signs, values, values[1:], strict=False)
        ]
        return conjunction(answers)

    text = terms[0][0]
    for sign, term in zip(signs, terms[1:], strict=True):
        text += f" {sign} {term[0]}"
    return f"({text})", run


def conjunction(answers: list[Any]) -> Any:
    return False if False in answers else None if None in answers else True


def between(x: Term, low: Term, high: Term) -> Term:
    meaning = compared(["<=", "<="], [low, x, high])[1]
    return f"between({x[0]}, {low[0]}, {high[0]})", meaning


def member(x: Term, values: list[Any], negate: bool) -> Term:
    def run(row: Row) -> Any:
        value = x[1](row)
        return None if value is None else (value in values) is not negate

    return f"({x[0]} {'not ' * negate}in {values!r})", run


def matching(x: Term, pattern: str, negate: bool) -> Term:
    def run(row: Row) -> Any:
        value = x[1](row)
        if value is None:
            return None
        return (re.fullmatch(pattern, value) is not None) is not negate

    return f"{x[0]} {'not ' * negate}matches '{pattern}'", run


def both(word: str, a: Term, b: Term) -> Term:
    def run(row: Row) -> Any:
        answers = [a[1](row), b[1](row)]
        if word == "and":
            return conjunction(answers)
        return True if True in answers else None if None in answers else False

    return f"({a[0]} {word} {b[0]})", run


def opposite(a: Term) -> Term:
    def run(row: Row) -> Any:
        answer = a[1](row)
        return None if answer is None else not answer

    return f"not ({a[0]})", run


numbers = st.recursive(
    st.sampled_from(["number", "x", "y"]).map(name) | st.integers(-3, 9).map(constant),
    lambda inner: st.builds(arithmetic, st.sampled_from(list(_ARITHMETIC)), inner, inner),
    max_leaves=3,
)
texts = st.just(name("word")) | st.sampled_from(["a", "ab", "b"]).map(constant)
few = st.lists(st.integers(0, 5), max_size=3)


def chains(terms: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    signs = st.lists(st.sampled_from(list(_COMPARISONS)), min_size=1, max_size=2)
    return signs.flatmap(
        lambda s: st.builds(
            compared, st.just(s), st.lists(terms, min_size=len(s) + 1, max_size=len(s) + 1)
        )
    )


tests = st.recursive(
    chains(numbers)
    | chains(texts)
    | st.builds(between, numbers, numbers, numbers)
    | st.builds(member, numbers, few, st.booleans())
    | st.builds(matching, texts, st.sampled_from(_PATTERNS), st.booleans()),
    lambda inner: (
        st.builds(both, st.sampled_from(["and", "or"]), inner, inner) | inner.map(opposite)
    ),
    max_leaves=5,
)
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "x": st.integers(-3, 9),
            "y": st.floats(-3, 9, width=16),
            "word": st.sampled_from(["", "a", "ab", "b", "c"]),
        },
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(tests, rows)
def test_what_is_selected_is_what_a_naive_evaluator_selects(test: Term, given_rows: Any) -> None:
    text, meaning = test
    log = MemoryLog(make_start(frames_per_chunk=2))
    located = log.write(range(len(given_rows)), attributes=given_rows)
    table = FrameTable(log.start)
    table.update(located)
    expected = [meaning({"number": n, **row}) is True for n, row in enumerate(given_rows)]
    expression = compile_expression(text)
    assert expression.mask(table.view()).tolist() == expected, text
    # record by record, as groups do it
    by_record = [expression.mask(SegmentView(at.value)).tolist() for at in located]  # type: ignore[arg-type]  # segments all
    assert [one for record in by_record for one in record] == expected, text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("word matches 'ab'", ["ab"]),
        ("word matches'a.*'", ["ab"]),
        ("not word matches 'a.*'", ["b1"]),
        ("word not matches 'a.*'", ["b1"]),
        (r"word matches '\w\d'", ["b1"]),
        (r"word matches r'\w\d' or word == 'ab'", ["ab", "b1"]),
        ("(word) matches 'b1' and (word\n matches '.*')", ["b1"]),
        ("'ab' matches 'a.' and word == 'b1'", ["b1"]),
        ("'matches' == word", []),
        ("matches == 3", ["ab"]),
        ("matches matches '3'", []),
        ("'ä' != word and word matches 'ab'", ["ab"]),
        ("(word matches 'ab') == 1", ["ab"]),
    ],
)
def test_text_is_compared_with_patterns(text: str, words: list[str]) -> None:
    given = [{"word": "ab", "matches": 3}, {"word": "b1"}, {}, {"word": 7}]
    log = MemoryLog(make_start(frames_per_chunk=100))
    (located,) = log.write(range(4), attributes=given)
    mask = compile_expression(text).mask(SegmentView(located.value))  # type: ignore[arg-type]  # a segment
    found = [row["word"] for row, yes in zip(given, mask.tolist(), strict=True) if yes]
    assert found == words


def test_a_pattern_that_makes_other_engines_search_for_ages_is_answered_at_once() -> None:
    log = MemoryLog(make_start(frames_per_chunk=100))
    (located,) = log.write([0], attributes=[{"word": "a" * 20_000 + "b"}])
    expression = compile_expression("word matches '(a+)+$'")
    assert expression.mask(SegmentView(located.value)).tolist() == [False]  # type: ignore[arg-type]  # a segment


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("omega > 1 and word matches '('", 28, "no pattern of RE2: missing"),
        ("word matches '(a{1000}){1000}'", 14, "no pattern of RE2"),
        ("word matches '((a{100}){10}){10}' ", 14, "no pattern of RE2"),
        ("word matches 'a' 'b' + 3", 14, "only numbers and text|RE2|pattern"),
        ("word matches b'a'", 14, "only numbers and text"),
        ("word == 'ä' and omega.real > 1", 17, "Attribute is not allowed"),
        ("omega >\n", 8, "invalid syntax"),
        ("(omega > 1 and\n word.x)", 17, "Attribute is not allowed"),
        ("omega > 99999999999999999999999", 9, "integers go up to 18446744073709551615"),
        ("number in [1, -99999999999999999999999]", 16, "integers go up to"),
        ("x == 1" + "0" * 4000, None, "'x"),
        ("between(x, 1)", 1, "between wants three things"),
        ("between(x, 1, high=3)", 1, "between wants three things"),
        ("x in [" + "-" * 3000 + "x]", None, "'x"),
        (
            "x in [" + "-" * 3000 + "1] and open('/etc/passwd')",
            None,
            "cannot be read|can be called",
        ),
        ("(" * 100 + "x" + ")" * 100 + " > 1 and x.__class__", 211, "Attribute"),
        ("not " * 61 + "x", None, "nested more than 60 deep"),
        ("getattr(x, 'y')", 1, "can be called"),
        ("x[0] > (1).__class__", 1, "Subscript is not allowed"),
    ],
)
def test_a_refusal_points_at_the_place(text: str, column: int | None, words: str) -> None:
    with pytest.raises(ExpressionError, match=words) as failure:
        compile_expression(text)
    if column is not None:
        assert failure.value.column == column
        assert f"column {column}" in str(failure.value)


_WORDS = ["x", "word", "matches", "not", "and", "or", "in", "between", "(", ")", ",", "'a'", "r'b'"]
_WORDS += [
    "1",
    "-",
    "<",
    "==",
    "[",
    "]",
    "\n",
    "ä",
    "'ä'",
    ".",
    "abs",
    "attr",
    "time",
    "number",
    '"',
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=14))
def test_any_words_are_an_expression_or_refused_with_a_place_in_the_text(words: list[str]) -> None:
    text = " ".join(words)
    log = MemoryLog(make_start(frames_per_chunk=100))
    (located,) = log.write(range(3), attributes=[{"x": 1, "word": "a"}, {"x": 2.5}, {}])
    try:
        expression = compile_expression(text)
    except ExpressionError as error:
        column = error.column
    else:
        assert expression.mask(SegmentView(located.value)).shape == (3,)  # type: ignore[arg-type]  # a segment
        return
    assert column is None or 1 <= column <= len(text) + 2
