"""Byte-offset blocks: round trips, the edges of each width, and hostile bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.codecs import byte_offset
from pipeline.codecs.byte_offset import decode_byte_offset, encode_byte_offset
from pipeline.errors import DecodeError

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def reference_decode(block: bytes, count: int, bits: int = 32) -> list[int]:
    """The definition, one pixel after the other."""
    values: list[int] = []
    at = value = 0
    while at < len(block):
        delta = int.from_bytes(block[at : at + 1], "little", signed=True)
        at += 1
        for width, escape in ((2, -(2**7)), (4, -(2**15)), (8, -(2**31))):
            if delta != escape:
                break
            if at + width > len(block):
                raise DecodeError("cut")
            delta = int.from_bytes(block[at : at + width], "little", signed=True)
            at += width
        value += delta
        values.append((value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1))
    if len(values) != count:
        raise DecodeError("count")
    return values


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_integers_come_back(dtype: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(dtype, st.integers(0, 60)))
    decoded = decode_byte_offset(encode_byte_offset(array), array.size, dtype)
    assert decoded.dtype == np.dtype(dtype)
    assert np.array_equal(decoded, array)


# values whose bytes are 0x80 themselves: the likeliest to be taken for the start of a pixel
AWKWARD = [0, 1, -1, 127, -127, 128, -128, 32767, -32767, 32768, -32768, 0x8080, 0x808080, -0x7F80]


@given(st.lists(st.sampled_from(AWKWARD) | st.integers(-(2**31), 2**31 - 1), max_size=80))
@settings(max_examples=200, deadline=None)
def test_differences_with_0x80_inside_come_back(deltas: list[int]) -> None:
    array = np.cumsum(np.array(deltas, np.int64)).astype(np.int32)
    block = encode_byte_offset(array)
    assert decode_byte_offset(block, array.size).tolist() == array.tolist()
    assert reference_decode(block, array.size) == array.tolist()


@given(
    st.lists(
        st.sampled_from([b"\x80", b"\x00", b"\x00\x80", b"\x00\x00\x00\x80", b"\x7f", b"\x05"]),
        max_size=60,
    ).map(b"".join),
    st.integers(0, 60),
)
@example(b"\x80" * 45, 15)
@example(b"\x80\x00\x80\x00\x00\x00\x80" + bytes(8), 1)
@settings(max_examples=400, deadline=None)
def test_any_bytes_decode_as_the_definition_says_or_not_at_all(block: bytes, count: int) -> None:
    try:
        expected = reference_decode(block, count)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode_byte_offset(block, count)
    else:
        assert decode_byte_offset(block, count).tolist() == expected


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_may_end_anywhere(data: st.DataObject) -> None:
    deltas = data.draw(st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=60))
    array = np.cumsum(np.array(deltas, np.int64)).astype(np.int32)
    nbytes = data.draw(st.integers(1, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_offset, "_PIECE_NBYTES", nbytes)
        decoded = decode_byte_offset(encode_byte_offset(array), array.size)
    assert decoded.tolist() == array.tolist()


@pytest.mark.parametrize("scale", [2, 300, 3000, 2**20])
def test_images_of_every_brightness_come_back(scale: int) -> None:
    rng = np.random.default_rng(scale)
    array = rng.integers(0, scale, 700_000).astype(np.int32)
    array[::1000] = 2**20
    assert np.array_equal(decode_byte_offset(encode_byte_offset(array), array.size), array)


def test_a_wide_difference_is_encoded_in_steps_of_seven_and_fifteen_bytes() -> None:
    assert encode_byte_offset(np.array([127])) == b"\x7f"
    assert encode_byte_offset(np.array([128])) == b"\x80\x80\x00"
    assert encode_byte_offset(np.array([-128])) == b"\x80\x80\xff"
    assert encode_byte_offset(np.array([-32768])) == b"\x80\x00\x80\x00\x80\xff\xff"
    wide = encode_byte_offset(np.array([2**31]))
    assert wide == b"\x80\x00\x80\x00\x00\x00\x80\x00\x00\x00\x80\x00\x00\x00\x00"


def test_sums_wrap_as_integers_of_the_pixel_type_do() -> None:
    block = encode_byte_offset(np.array([2**31 - 1, 2**31, 2**31 + 1], np.int64))
    assert decode_byte_offset(block, 3, "int32").tolist() == [2**31 - 1, -(2**31), -(2**31) + 1]
    assert decode_byte_offset(block, 3, "uint32").tolist() == [2**31 - 1, 2**31, 2**31 + 1]


@pytest.mark.parametrize(
    ("block", "count"),
    [
        pytest.param(b"", 1, id="empty"),
        pytest.param(b"\x01\x02", 3, id="fewer pixels"),
        pytest.param(b"\x01\x02\x03", 2, id="more pixels"),
        pytest.param(b"\x01\x80\x00", 2, id="cut inside 16 bits"),
        pytest.param(b"\x01\x80\x00\x80\x00\x00\x00", 2, id="cut inside 32 bits"),
        pytest.param(b"\x80\x00\x80\x00\x00\x00\x80" + bytes(7), 1, id="cut inside 64 bits"),
        pytest.param(b"\x80" * 3000, 2000, id="nothing but escapes"),
        pytest.param(b"\x01\x02", 10**12, id="absurd count"),
        pytest.param(b"\x01\x02", -1, id="negative count"),
    ],
)
def test_a_block_that_does_not_hold_its_pixels_is_refused(block: bytes, count: int) -> None:
    with pytest.raises(DecodeError, match="byte offset"):
        decode_byte_offset(block, count)


def test_no_pixels_are_an_empty_array() -> None:
    assert decode_byte_offset(b"", 0).shape == (0,)
