"""What users hand to ``write``: bytes with a layout, or an error that names the field."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import codecs
from pipeline.config import PublishSettings
from pipeline.errors import InvalidArgumentError, InvalidFrameError, InvalidNameError
from pipeline.frame import DTYPES, Module
from pipeline.publisher import Publisher
from pipeline.publishing.inputs import LayoutChecks, integer, prepared
from pipeline.testing.memory_log import make_start

IMAGE = np.arange(6, dtype=np.uint16).reshape(2, 3)
RAW = {"encoding": "raw", "shape": (2, 3), "dtype": "uint16"}
HUGE = 10**6000


# -- what is accepted ---------------------------------------------------------------------------


@given(st.data())
def test_any_array_of_pixels_becomes_its_bytes_and_back(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(sorted(DTYPES))))
    order = data.draw(st.sampled_from("<>"))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=4))
    array = data.draw(hnp.arrays(dtype.newbyteorder(order), shape))
    views = [array, array.T, array[::-1] if shape else array, np.asfortranarray(array)]
    given_array = data.draw(st.sampled_from(views))
    payload, (found_shape, name, encoding) = prepared(given_array, None, None, None)
    assert (found_shape, name, encoding) == (given_array.shape, dtype.name, "raw")
    assert payload.dtype == np.uint8
    if found_shape:
        back = codecs.decode(payload, encoding=encoding, shape=found_shape, dtype=name)
        np.testing.assert_array_equal(back, given_array)


@pytest.mark.parametrize(
    "data",
    [
        IMAGE.tobytes(),
        bytearray(IMAGE.tobytes()),
        memoryview(IMAGE.tobytes()),
        memoryview(IMAGE),
        IMAGE.reshape(-1).view(np.uint8),
        IMAGE,
    ],
    ids=["bytes", "bytearray", "memoryview", "memoryview of pixels", "array of bytes", "array"],
)
def test_every_kind_of_buffer_is_taken(data: Any) -> None:
    known = {} if isinstance(data, np.ndarray) and data.ndim == 2 else RAW
    if isinstance(data, np.ndarray) and data.ndim == 1:
        data = data.data
    payload, layout = prepared(data, known.get("encoding"), known.get("shape"), known.get("dtype"))
    assert payload.tobytes() == IMAGE.tobytes()
    assert layout == ((2, 3), "uint16", "raw")


def test_a_frame_of_attributes_only_has_no_shape() -> None:
    for encoding, shape in ((None, None), ("none", None), ("none", ()), (None, ())):
        payload, layout = prepared(None, encoding, shape, None)
        assert not len(payload)
        assert layout == ((), "uint8", "none")
    assert prepared(b"", "none", None, None)[1] == ((), "uint8", "none")


@pytest.mark.parametrize("dtype", ["uint16", np.uint16, np.dtype("uint16"), np.dtype(">u2")])
def test_dtypes_may_be_given_as_numpy_has_them(dtype: Any) -> None:
    layout = prepared(IMAGE.tobytes(), "raw", (2, 3), dtype)[1]
    assert layout == ((2, 3), "uint16", "raw")


@pytest.mark.parametrize("shape", [(2, 3), [2, 3], (np.int64(2), np.uint8(3)), np.array([2, 3])])
def test_shapes_may_be_given_as_numpy_has_them(shape: Any) -> None:
    found = prepared(IMAGE.tobytes(), "raw", shape, "uint16")[1][0]
    assert found == (2, 3)
    assert {type(extent) for extent in found} == {int}


def test_what_is_said_of_an_array_may_be_said_again() -> None:
    assert prepared(IMAGE, "raw", (2, 3), "uint16")[1] == ((2, 3), "uint16", "raw")


def test_an_encoded_file_may_be_an_array_of_bytes() -> None:
    data = np.frombuffer(b"anything", np.uint8)
    assert prepared(data, "cbf", (2, 3), "int32")[1] == ((2, 3), "int32", "cbf")


# -- what is refused, by field ------------------------------------------------------------------

WRITES = {
    "a negative number": ("number", {"data": IMAGE, "number": -1}),
    "a number over 64 bits": ("number", {"data": IMAGE, "number": 2**63 - 1}),
    "a number of 6000 digits": ("number", {"data": IMAGE, "number": HUGE}),
    "a boolean number": ("number", {"data": IMAGE, "number": True}),
    "numpy's boolean number": ("number", {"data": IMAGE, "number": np.True_}),
    "a float number": ("number", {"data": IMAGE, "number": 1.0}),
    "a text number": ("number", {"data": IMAGE, "number": "1"}),
    "a negative time": ("timestamp_ns", {"data": IMAGE, "timestamp_ns": -1}),
    "a time of 6000 digits": ("timestamp_ns", {"data": IMAGE, "timestamp_ns": HUGE}),
    "seconds in place of ns": ("timestamp_ns", {"data": IMAGE, "timestamp_ns": time.time()}),
    "a boolean time": ("timestamp_ns", {"data": IMAGE, "timestamp_ns": False}),
    "a boolean module": ("module", {"data": IMAGE, "module": False}),
    "a module that is not there": ("module", {"data": IMAGE, "module": 3}),
    "a text module": ("module", {"data": IMAGE, "module": "0"}),
    "objects as pixels": ("dtype", {"data": np.array([[None]])}),
    "objects as a payload": ("dtype", {"data": np.array([None]), **RAW, "encoding": "cbf"}),
    "texts as pixels": ("dtype", {"data": np.array(["a"])}),
    "dates as pixels": ("dtype", {"data": np.array(["2026-01-01"], "datetime64[s]")}),
    "structures as pixels": ("dtype", {"data": np.zeros(2, [("a", int), ("b", float)])}),
    "bytes as pixels": ("dtype", {"data": np.array([b"a"])}),
    "pixels of 128 bits": ("dtype", {"data": np.zeros(2, np.longdouble)}),
    "no pixels": ("shape", {"data": np.zeros((0, 3), np.uint8)}),
    "nine axes": ("shape", {"data": np.zeros((1,) * 9, np.uint8)}),
    "a shape that is not the array's": ("shape", {"data": IMAGE, "shape": (3, 2)}),
    "a dtype that is not the array's": ("dtype", {"data": IMAGE, "dtype": "int16"}),
    "a list of pixels": ("payload", {"data": [[1, 2], [3, 4]]}),
    "a text": ("payload", {"data": "abc", **RAW}),
    "a number as data": ("payload", {"data": 5, **RAW}),
    "strided bytes": ("payload", {"data": memoryview(bytes(24))[::2], **RAW}),
    "a strided array under an encoding": (
        "payload",
        {"data": np.zeros(24, np.uint8)[::2], **RAW, "encoding": "cbf"},
    ),
    "a payload that is not there": ("payload", {"data": None, "encoding": "raw"}),
    "a shape of what is not there": ("payload", {"data": None, "shape": (2, 3)}),
    "bytes without an encoding": ("encoding", {"data": bytes(12)}),
    "bytes without a shape": ("shape", {"data": bytes(12), "encoding": "raw", "dtype": "uint16"}),
    "bytes without a dtype": ("dtype", {"data": bytes(12), "encoding": "raw", "shape": (2, 3)}),
    "an unknown encoding": ("encoding", {"data": bytes(12), **RAW, "encoding": "jpeg9"}),
    "an encoding of other letters": ("encoding", {"data": bytes(12), **RAW, "encoding": "RAW!"}),
    "an encoding that is no text": ("encoding", {"data": bytes(12), **RAW, "encoding": 5}),
    "an empty encoding": ("encoding", {"data": bytes(12), **RAW, "encoding": ""}),
    "an unknown dtype": ("dtype", {"data": bytes(12), **RAW, "dtype": "uint17"}),
    "an object dtype": ("dtype", {"data": bytes(12), **RAW, "dtype": "object"}),
    "a dtype that is a list": ("dtype", {"data": bytes(12), **RAW, "dtype": ["uint16"]}),
    "a dtype of Python's": ("dtype", {"data": bytes(12), **RAW, "dtype": int}),
    "a dtype of numpy's that is no pixel": ("dtype", {"data": bytes(12), **RAW, "dtype": np.str_}),
    "a shape that does not fit": ("payload", {"data": bytes(12), **RAW, "shape": (2, 4)}),
    "a shape of zero": ("shape", {"data": bytes(12), **RAW, "shape": (0, 3)}),
    "a negative shape": ("shape", {"data": bytes(12), **RAW, "shape": (-2, -3)}),
    "a shape of floats": ("shape", {"data": bytes(12), **RAW, "shape": (2.0, 3.0)}),
    "a shape of booleans": ("shape", {"data": bytes(12), **RAW, "shape": (True, 6)}),
    "a shape of lists": ("shape", {"data": bytes(12), **RAW, "shape": ([2], 3)}),
    "a shape of 6000 digits": ("shape", {"data": bytes(12), **RAW, "shape": (HUGE, 3)}),
    "a shape that is a number": ("shape", {"data": bytes(12), **RAW, "shape": 6}),
    "pixels under the encoding none": ("shape", {"data": b"", **RAW, "encoding": "none"}),
    "bytes under the encoding none": ("payload", {"data": b"x", "encoding": "none"}),
    "100 kB of attributes": ("attributes", {"data": IMAGE, "attributes": {"a": "x" * 100_000}}),
    "attributes that are no dict": ("attributes", {"data": IMAGE, "attributes": [("a", 1)]}),
    "an array as attribute": ("attributes", {"data": IMAGE, "attributes": {"a": IMAGE}}),
    "an attribute without name": ("attributes", {"data": IMAGE, "attributes": {"": 1}}),
    "an attribute over 64 bits": ("attributes", {"data": IMAGE, "attributes": {"a": 2**63}}),
} | {
    f"0 bytes under {encoding}": ("payload", {"data": b"", **RAW, "encoding": encoding})
    for encoding in sorted(codecs.ENCODINGS - {"none"})
}


class Nothing:
    """Services that nobody may ask for anything: bad input must not reach them."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"bad input got as far as services.{name}")


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(Nothing(), make_start(), PublishSettings())  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "arguments"), WRITES.values(), ids=WRITES.keys())
def test_bad_input_names_its_field_and_nothing_is_half_published(
    field: str, arguments: dict[str, Any], publisher: Publisher
) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        publisher.write(**arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 500
    position = publisher.position
    assert (position.queued, position.spooled, position.acknowledged) == (0, 0, 0)
    assert publisher._known.get(0, 0) is None
    assert publisher._next == 0


def test_with_several_modules_the_module_must_be_said() -> None:
    modules = tuple(Module(index=i, shape=(2, 3), position=(0, 3 * i)) for i in (0, 4))
    publisher = Publisher(Nothing(), make_start(modules=modules), PublishSettings())  # type: ignore[arg-type]
    for arguments, field, words in (
        ({}, "module", "[0, 4]"),
        ({"module": 1}, "module", "[0, 4]"),
        ({"module": True}, "module", "integer"),
        ({"module": 4, "shape": (6,)}, "shape", "(2, 3)"),
    ):
        with pytest.raises(InvalidFrameError) as caught:
            publisher.write(IMAGE if "shape" not in arguments else IMAGE.reshape(6), **arguments)
        assert caught.value.field == field
        assert words in str(caught.value)


def test_bad_arguments_of_the_other_calls_are_named(publisher: Publisher) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        publisher.flush(timeout_s=-1)
    assert caught.value.field == "timeout_s"
    with pytest.raises(InvalidArgumentError) as caught:
        publisher.end("open")
    assert caught.value.field == "state"
    with pytest.raises(InvalidArgumentError) as caught:
        publisher.end(expected=-1)
    assert caught.value.field == "expected"
    with pytest.raises(InvalidNameError) as name:
        publisher.attach("", IMAGE)
    assert name.value.field == "attachment"
    with pytest.raises(InvalidFrameError) as frame:
        publisher.attach("mask", np.array([None]))
    assert frame.value.field == "attachment"
    with pytest.raises(InvalidFrameError) as frame:
        publisher.update_metadata({"a": object()})  # type: ignore[dict-item]
    assert frame.value.field == "attributes"


# -- layouts that were checked before -----------------------------------------------------------


def check(checks: LayoutChecks, layout: Any, payload: bytes, **changes: Any) -> int:
    values: dict[str, Any] = {"number": 1, "timestamp_ns": 1, "attributes": {}, **changes}
    data = np.frombuffer(payload, np.uint8)
    return checks.digest(make_start(), layout, payload=data, **values)


def test_a_layout_that_was_checked_does_not_excuse_the_next_frame() -> None:
    checks, layout = LayoutChecks(), ((2, 3), "uint16", "raw", 0)
    check(checks, layout, bytes(12))
    for field, payload, changes in (
        ("payload", bytes(11), {}),
        ("number", bytes(12), {"number": -1}),
        ("timestamp_ns", bytes(12), {"timestamp_ns": 2**63}),
    ):
        with pytest.raises(InvalidFrameError) as caught:
            check(checks, layout, payload, **changes)
        assert caught.value.field == field
    check(checks, layout, bytes(12))


def test_the_digest_tells_shape_dtype_encoding_and_attributes_apart() -> None:
    checks = LayoutChecks()
    layouts = [((2, 3), "uint16", "raw", 0), ((3, 2), "uint16", "raw", 0)]
    layouts.append(((2, 3), "int16", "raw", 0))
    digests = [check(checks, layout, bytes(12)) for layout in layouts]
    digests += [check(checks, layouts[0], bytes(12), attributes=a) for a in ({"a": 1}, {"a": 2})]
    assert len(set(digests)) == len(digests)
    again = check(LayoutChecks(), layouts[0], bytes(12), number=9, timestamp_ns=9)
    assert again == digests[0]
    swapped = [{"a": 1, "b": 2}, {"b": 2, "a": 1}]
    assert len({check(checks, layouts[0], bytes(12), attributes=a) for a in swapped}) == 1


@pytest.mark.parametrize("value", [1, np.int8(1), np.uint64(1)])
def test_integers_may_be_numpys(value: Any) -> None:
    found = integer("number", value)
    assert (found, type(found)) == (1, int)
