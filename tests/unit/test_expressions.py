"""The select language: what it selects, what it refuses, and that nothing can be executed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ExpressionError
from pipeline.reading.expressions import compile_expression
from pipeline.reading.table import FrameTable
from pipeline.testing.memory_log import MemoryLog, make_start

ROWS = [
    {"omega": 0.5, "name": "a", "flag": True, "tags": ["x", "y"]},
    {"omega": 1.5, "name": "b", "flag": False, "tags": []},
    {"omega": 2.5, "name": "a"},
    {"name": "c", "mixed": 1},
    {"omega": 4.5, "mixed": "one", "my angle": 3},
]
BEGIN_NS = 1_700_000_000_000_000_000


def make_table(rows: list[dict[str, object]], chunk: int = 2) -> FrameTable:
    start = make_start(frames_per_chunk=chunk)
    log = MemoryLog(start)
    times = [BEGIN_NS + i * 1_000_000_000 for i in range(len(rows))]
    located = log.write(range(10, 10 + len(rows)), attributes=rows, timestamps_ns=times)
    table = FrameTable(start)
    table.update(located)
    return table


def selected(text: str, chunk: int = 2) -> list[int]:
    table = make_table(ROWS, chunk)
    return table.numbers[compile_expression(text).mask(table.view())].tolist()


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("omega > 1", [11, 12, 14]),
        ("omega > 1 and number < 14", [11, 12]),
        ("omega > 1 or number == 10", [10, 11, 12, 14]),
        ("0 < omega <= 1.5", [10, 11]),
        ("not omega > 1", [10]),
        ("omega != 1.5", [10, 12, 14]),
        ("not (omega == 1.5)", [10, 12, 14]),
        ("name == 'a'", [10, 12]),
        ("name != 'a'", [11, 13]),
        ("name in ['a', 'c']", [10, 12, 13]),
        ("name not in ('a', 'c')", [11]),
        ("number in [11, 13, 99]", [11, 13]),
        ("omega in [0.5, 'a']", [10]),
        ("flag", [10]),
        ("not flag", [11]),
        ("flag == True", [10]),
        ("'x' in tags", [10]),
        ("mixed == 1", [13]),
        ("mixed > 0", [13]),
        ("mixed == 'one'", [14]),
        ("attr('my angle') == 3", [14]),
        ("attr('nobody has this') == 3", []),
        ("omega * 2 + 1 > 5", [12, 14]),
        ("omega ** 2 < 3", [10, 11]),
        ("number % 2 == 0", [10, 12, 14]),
        ("number // 2 == 5", [10, 11]),
        ("1 / (omega - 0.5) > 0", [11, 12, 14]),
        ("number % (number - 10) == 0", [11, 12]),
        ("-omega < -2", [12, 14]),
        ("abs(omega - 2) < 1", [11, 12]),
        ("number * 9223372036854775807 > 0", [10, 11, 12, 13, 14]),
        ("number < 10 ** 30", [10, 11, 12, 13, 14]),
        ("omega > name", []),
        ("omega == name", []),
        ("module == 0", [10, 11, 12, 13, 14]),
        ("time < '2023-11-14T22:13:22'", [10, 11]),
        ("time >= '2023-11-14T23:13:22+01:00'", [12, 13, 14]),
        ("time == 1700000001", [11]),
        ("1700000001.5 < time", [12, 13, 14]),
        ("timestamp_ns == 1700000001000000000", [11]),
        ("time - 1700000000 < 1.5", [10, 11]),
        ("True", [10, 11, 12, 13, 14]),
        ("1 == 2", []),
        ("'a' < 'b'", [10, 11, 12, 13, 14]),
        ("(omega > 1) == 1", [11, 12, 14]),
        ("name + 1 > 0", []),
    ],
)
def test_an_expression_selects(text: str, numbers: list[int], chunk: int) -> None:
    assert selected(text, chunk) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "omega.real > 1",
        "[x for x in (1,)]",
        "lambda: 1",
        "(y := 3) > 1",
        "open('/etc/passwd')",
        "attr(name)",
        "attr('a', 'b')",
        "abs(*[1])",
        "eval('1')",
        "f'{omega}'",
        "omega[0]",
        "omega if flag else 1",
        "{'a': 1}",
        "await omega",
        "b'bytes' == name",
        "'a' * 1000000000",
        "omega ** 1e9",
        "omega ** omega",
        "2 ** 10 ** 10",
        "omega is None",
        "omega << 3",
        "omega @ omega",
        "~number",
        "...",
        "1j == omega",
        "name in [omega]",
        "time > 'yesterday'",
        "time > None",
        "omega >",
        "omega = 3",
        "omega; omega",
        "",
        "   ",
        "\x00",
        "a" * 5000,
        "(" * 300 + "1" + ")" * 300,
        "-" * 200 + "1",
        "not " * 200 + "flag",
        "1+" * 1500 + "1",
        "import os",
    ],
)
def test_what_is_not_allowed_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(text)


@pytest.mark.parametrize("thing", [None, 3, b"omega > 1", ["omega > 1"]])
def test_an_expression_is_text(thing: object) -> None:
    with pytest.raises(ExpressionError, match="is text"):
        compile_expression(thing)  # type: ignore[arg-type]


def test_an_error_names_the_column() -> None:
    with pytest.raises(ExpressionError, match="column 13"):
        compile_expression("omega > 1 + lambda: 1")


def test_an_unknown_attribute_is_named_with_the_nearest() -> None:
    expression = compile_expression("number > 3 and omgea > 1")
    with pytest.raises(ExpressionError, match=r"column 16.*'omgea'.*did you mean 'omega'"):
        expression.check_names(["omega", "phi"])


@given(st.text(alphabet="omegax01 .<>=!()[]'+-*/%,andortin\n", max_size=40))
def test_any_text_is_an_expression_or_an_expression_error(text: str) -> None:
    table = make_table(ROWS)
    try:
        expression = compile_expression(text)
    except ExpressionError:
        return
    assert expression.mask(table.view()).shape == (5,)


def test_an_attribute_that_changes_its_kind_is_still_one() -> None:
    table = make_table([{"v": 1}, {"v": 2.5}, {"v": "three"}, {"v": None}, {}], chunk=1)
    mask = compile_expression("v > 1 or v == 'three'").mask(table.view())
    assert mask.tolist() == [False, True, True, False, False]
