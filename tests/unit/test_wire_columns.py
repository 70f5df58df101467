"""Attributes as columns: any mix is read back, what cannot travel is refused by name."""

from __future__ import annotations

import enum
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidFrameError, WireError
from pipeline.frame import INT64_MAX, MAX_ATTRIBUTES_NBYTES
from pipeline.wire.columns import (
    attributes_nbytes,
    check_attributes,
    column_from_wire,
    column_to_wire,
    most_nbytes,
    pack,
    unpack_row,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SCALARS = st.one_of(
    st.integers(-INT64_MAX, INT64_MAX), st.floats(allow_nan=False), TEXT, st.booleans(), st.none()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["omega", "é", "note", "n", "x y"]), VALUES, max_size=5),
    max_size=12,
)


@given(ROWS)
def test_any_mix_of_attributes_is_read_back(rows: list[dict[str, object]]) -> None:
    columns, extra = pack([check_attributes(row) for row in rows])
    wired = [column_from_wire(column_to_wire(c), len(rows)) for c in columns]
    for index, row in enumerate(rows):
        found = unpack_row(wired, extra, index)
        assert found == row
        assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in row.items()}


@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_floats_are_read_back_bit_by_bit(values: list[float]) -> None:
    columns, extra = pack([{"v": v} for v in values])
    (column,) = (column_from_wire(column_to_wire(c), len(values)) for c in columns)
    assert not extra
    assert np.asarray(column.values).tobytes() == np.array(values).tobytes()


def test_values_of_one_kind_become_one_column_and_the_others_json() -> None:
    rows = [{"n": 1, "x": 1.5, "t": "a", "mixed": 1}, {"n": 2, "x": 2.5, "t": "b", "mixed": "2"}]
    columns, extra = pack(rows)
    assert [(c.name, c.kind, c.present) for c in columns] == [
        ("n", "int64", None),
        ("x", "float64", None),
        ("t", "text", None),
    ]
    assert [json.loads(text) for text in extra] == [{"mixed": 1}, {"mixed": "2"}]


def test_rare_attributes_do_not_make_a_column_each() -> None:
    # A thousand frames with a name of their own each once made a record of 9 MB.
    rows: list[dict[str, object]] = [{f"name {i}": i, "omega": 0.5} for i in range(1000)]
    columns, extra = pack(rows)
    assert [c.name for c in columns] == ["omega"]
    assert unpack_row(columns, extra, 7) == rows[7]
    assert sum(len(text) for text in extra) < 30_000
    columns, extra = pack([{"a": 1}, {}, {"a": 2}, {}])
    assert [c.name for c in columns] == ["a"]
    assert not extra


def test_booleans_and_nothing_stay_what_they_are() -> None:
    columns, extra = pack([{"shutter": True}, {"shutter": None}, {}])
    assert columns == ()
    assert [unpack_row(columns, extra, i) for i in range(3)] == [
        {"shutter": True},
        {"shutter": None},
        {},
    ]


def test_frames_without_attributes_cost_nothing() -> None:
    assert pack([]) == ((), [])
    assert pack([{}, {}]) == ((), [])


def test_numpy_scalars_and_enumerations_become_pythons() -> None:
    class Filter(enum.StrEnum):
        COPPER = "copper"

    class Old(str, enum.Enum):  # noqa: UP042 -- what older code has
        COPPER = "copper"

    class Position(enum.IntEnum):
        UPPER = 3

    checked = check_attributes(
        {
            "a": np.float32(0.5),
            "b": np.int8(-3),
            "c": np.bool_(True),
            "d": np.str_("x"),
            "e": Filter.COPPER,
            "f": Position.UPPER,
            "g": (1, 2),
            "h": Old.COPPER,
        }
    )
    assert checked == {
        "a": 0.5,
        "b": -3,
        "c": True,
        "d": "x",
        "e": "copper",
        "f": 3,
        "g": [1, 2],
        "h": "copper",
    }
    kinds = [float, int, bool, str, str, int, list, str]
    assert [type(v) for v in checked.values()] == kinds


def _deep() -> list[object]:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _endless() -> list[object]:
    endless: list[object] = []
    endless.append(endless)
    return endless


BAD = {
    "an object": {"a": object()},
    "bytes": {"a": b"x"},
    "a complex number": {"a": 1j},
    "an array": {"a": np.zeros(3)},
    "a set": {"a": {1}},
    "keys that JSON has not": {"a": {(1, 2): 3}},
    "an integer over 64 bits": {"a": 2**63},
    "an integer of 6000 digits": {"a": 10**6000},
    "an integer of 6000 digits inside a list": {"a": [10**6000]},
    "a list without end": {"a": _endless()},
    "a list nested too deeply": {"a": _deep()},
    "half a surrogate pair": {"a": "\ud800"},
    "a name that is half a surrogate pair": {"\ud800": 1},
    "an empty name": {"": 1},
    "a name that is too long": {"x" * 201: 1},
    "a name that is no text": {5: 1},
    "100 kB of text": {"a": "x" * 100_000},
    "100 kB in characters of four bytes": {"a": "\U0001f600" * 20_000},
    "100 kB of JSON": {"a": list(range(30_000))},
    "100 kB of names": {f"{i:0100d}": 1 for i in range(1000)},
    "a list in place of a dict": [1],
    "a text in place of a dict": "omega",
    "a number in place of a dict": 5,
}


@pytest.mark.parametrize("attributes", BAD.values(), ids=BAD.keys())
def test_attributes_that_cannot_travel_are_refused(attributes: object) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        check_attributes(attributes)  # type: ignore[arg-type]
    assert caught.value.field == "attributes"
    assert len(str(caught.value)) < 300


@given(ROWS)
def test_attributes_take_no_more_than_the_most_they_can(rows: list[dict[str, object]]) -> None:
    columns, extra = pack(rows)
    wired = [column_to_wire(column) for column in columns]
    taken = sum(len(text.encode()) for text in extra)
    for column in wired:
        values, present = column["values"], column["present"]
        assert isinstance(values, bytes)
        assert isinstance(present, bytes)
        taken += len(str(column["name"]).encode()) + len(values) + len(present)
    # A column of n values that half of the frames have costs 9 bytes for each of all frames.
    assert taken <= sum(most_nbytes(row) for row in rows)


def test_the_most_that_is_allowed_is_accepted() -> None:
    most = {"a": "x" * (MAX_ATTRIBUTES_NBYTES - 1)}
    assert check_attributes(most) == most
    assert attributes_nbytes(most) == MAX_ATTRIBUTES_NBYTES
    assert math.isnan(check_attributes({"a": math.nan})["a"])  # type: ignore[arg-type]


# -- hostile columns ----------------------------------------------------------------------------


def _wire(**changes: object) -> dict[str, object]:
    (column,) = pack([{"t": "ab"}, {"t": "cd"}])[0]
    return {**column_to_wire(column), **changes}


HOSTILE = {
    "a kind that nobody knows": _wire(kind="float16"),
    "integers of another count": _wire(kind="int64", values=bytes(24)),
    "integers cut short": _wire(kind="int64", values=bytes(15)),
    "text without its ends": _wire(values=b"\0" * 7),
    "text ends that fall": _wire(values=np.array([4, 2], "<u4").tobytes() + b"ab"),
    "text that ends behind its bytes": _wire(values=np.array([1, 9], "<u4").tobytes() + b"ab"),
    "text that ends before its bytes": _wire(values=np.array([0, 1], "<u4").tobytes() + b"ab"),
    "text that is not UTF-8": _wire(values=np.array([1, 2], "<u4").tobytes() + b"\xff\xff"),
    "text cut inside a character": _wire(values=np.array([1, 2], "<u4").tobytes() + "é".encode()),
    "presence of another count": _wire(present=b"\1"),
}


@pytest.mark.parametrize("column", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_damaged_column_is_a_wire_error(column: dict[str, object]) -> None:
    with pytest.raises(WireError):
        column_from_wire(column, 2)


def test_any_byte_but_zero_means_present() -> None:
    column = column_from_wire(_wire(present=b"\x02\x00"), 2)
    assert column.present is not None
    assert column.present.tolist() == [True, False]
    assert [unpack_row([column], (), row) for row in range(2)] == [{"t": "ab"}, {}]


@given(st.sampled_from(["text", "int64", "float64"]), st.binary(max_size=40), st.integers(0, 4))
def test_any_bytes_are_a_column_or_a_wire_error(kind: str, values: bytes, count: int) -> None:
    wired = {"name": "a", "kind": kind, "values": values, "present": b""}
    try:
        column = column_from_wire(wired, count)
    except WireError:
        return
    assert len(column.values) == count
