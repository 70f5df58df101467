"""Headers of frames: what can be one, and which field is named when it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidFrameError
from pipeline.frame import DTYPES, INT64_MAX, FrameHeader, check_layout, check_number, nbytes_of

GOOD = {"number": 0, "timestamp_ns": 0, "shape": (2, 3), "dtype": "uint16", "encoding": "raw"}
HUGE = 10**6000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", -1),
        ("number", INT64_MAX),
        ("number", HUGE),
        ("number", -HUGE),
        ("number", True),
        ("number", 1.0),
        ("number", "1"),
        ("number", None),
        ("timestamp_ns", -1),
        ("timestamp_ns", INT64_MAX + 1),
        ("timestamp_ns", 1.5),
        ("module", -1),
        ("module", 2**15),
        ("module", False),
        ("shape", (0, 3)),
        ("shape", (-1, 3)),
        ("shape", (2**31, 1)),
        ("shape", (True, 3)),
        ("shape", (2.0, 3)),
        ("shape", ("2", 3)),
        ("shape", (1,) * 9),
        ("shape", (HUGE,)),
        ("shape", [2, 3]),
        ("shape", 6),
        ("shape", None),
        ("dtype", "object"),
        ("dtype", "float128"),
        ("dtype", "<u2"),
        ("dtype", ""),
        ("dtype", None),
        ("dtype", ["uint16"]),
        ("encoding", ""),
        ("encoding", "RAW"),
        ("encoding", "a" * 33),
        ("encoding", "a b"),
        ("encoding", None),
        ("encoding", 5),
        ("encoding", HUGE),
        ("dtype", HUGE),
    ],
    ids=lambda value: "huge" if isinstance(value, int) and abs(value) >= HUGE else None,
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        FrameHeader(**{**GOOD, field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, ValueError)


def test_pixels_cannot_have_the_encoding_none() -> None:
    with pytest.raises(InvalidFrameError) as caught:
        check_layout((2, 3), "uint16", "none")
    assert caught.value.field == "shape"
    check_layout((), "uint8", "none")


def test_the_largest_values_are_accepted() -> None:
    header = FrameHeader(
        number=INT64_MAX - 1,
        timestamp_ns=INT64_MAX,
        shape=(2**31 - 1,) * 8,
        dtype="complex128",
        encoding="a" * 32,
        module=2**15 - 1,
    )
    assert header.attributes == {}


def test_a_header_does_not_change() -> None:
    header = FrameHeader(**GOOD)
    with pytest.raises(AttributeError):
        header.number = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        header.attributes["a"] = 1  # type: ignore[index]


@given(st.integers())
def test_numbers_are_those_that_a_record_can_hold(number: int) -> None:
    if 0 <= number < INT64_MAX:
        check_number(number)
        return
    with pytest.raises(InvalidFrameError, match="number"):
        check_number(number)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (1, 2, 3)])
def test_sizes_are_numpys(dtype: str, shape: tuple[int, ...]) -> None:
    assert nbytes_of(shape, dtype) == np.empty(shape, dtype).nbytes
    check_layout(shape, dtype, "raw")
