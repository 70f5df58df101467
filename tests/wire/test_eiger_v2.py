"""Messages of the stream V2, built by hand from the specification, and damaged at random."""

from __future__ import annotations

import contextlib
import json
import struct
from datetime import UTC, datetime
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs import decode
from pipeline.detectors.eiger import wire_v2
from pipeline.detectors.eiger.messages import End, Image, Start
from pipeline.errors import InvalidFrameError

RAW = struct.pack("<6H", 0, 1, 2, 3, 4, 65535)


def tag(number: int, value: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(number, value)


def grid(dims: Any = (2, 3), payload: Any = RAW, typed: int = 69) -> cbor2.CBORTag:
    return tag(40, [list(dims), tag(typed, payload)])


def packed(algorithm: Any, size: Any, payload: Any) -> cbor2.CBORTag:
    return grid(payload=tag(56500, [algorithm, size, payload]))


def image(data: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "image",
        "series_id": 7,
        "series_unique_id": "01GWZ1",
        "image_id": 4,
        "data": {"threshold_1": grid()} if data is None else data,
        **more,
    }


START: dict[str, Any] = {
    "type": "start",
    "series_id": 7,
    "series_unique_id": "01GWZ1",
    "arm_date": datetime(2023, 2, 14, 12, tzinfo=UTC),
    "channels": ["threshold_1", "threshold_2"],
    "count_time": 0.0099,
    "frame_time": 0.01,
    "detector_translation": [0.0, 0.0, -0.2],
    "goniometer": {
        "omega": {"start": 5.0, "increment": 0.1},
        "phi": {"start": 1.0, "increment": 0.0},
    },
    "image_size_x": 3,
    "image_size_y": 2,
    "incident_energy": 12400.0,
    "number_of_images": 30,
    "threshold_energy": {"threshold_1": 6200.0, "threshold_2": 9000.0},
    "user_data": {"sample": "A", 3: [1, None]},
    "pixel_mask": {
        "threshold_1": tag(40, [[2, 3], tag(70, struct.pack("<6I", 0, 0, 1, 0, 0, 2))]),
        "threshold_2": tag(40, [[2, 3], tag(70, bytes(24))]),
    },
    "countrate_correction_lookup_table": tag(70, struct.pack("<3I", 0, 1, 3)),
}


def parse(message: Any) -> Any:
    raw = message if isinstance(message, bytes) else cbor2.dumps(message)
    return wire_v2.parse(memoryview(raw))


#: An image as firmware sends it, byte by byte: tag 55799, a map of nine.
BY_HAND = b"".join(
    [
        b"\xd9\xd9\xf7\xa9",  # 0: self-described CBOR; 3: map of 9 pairs
        b"\x64type\x65image",  # 4
        b"\x69series_id\x07",  # 15
        b"\x70series_unique_id\x6601GWZ1",  # 26
        b"\x68image_id\x04",  # 50
        b"\x6bseries_date\xc0\x78\x1b2023-02-14T12:00:00.250000Z",  # tag 0, 27 letters
        b"\x6astart_time\x82\x1a\x00\x0f\x42\x40\x1a\x02\xfa\xf0\x80",  # [1000000, 50000000]
        b"\x69stop_time\x82\x1a\x00\x1e\x84\x80\x1a\x02\xfa\xf0\x80",  # [2000000, 50000000]
        b"\x64data\xa1\x6bthreshold_1",  # map of 1 pair
        b"\xd8\x28\x82\x82\x02\x03",  # tag 40, [[2, 3],
        b"\xd8\x45\xd9\xdc\xb4\x83\x65bslz4\x02",  # tag 69: tag 56500: ["bslz4", 2,
        b"\x58\x18" + struct.pack(">QI", 12, 8192) + RAW,  # 24 bytes: length, block size, pixels]
        b"\x69user_data\xa0",
    ]
)


def test_an_image_byte_by_byte():
    assert wire_v2.is_message(memoryview(BY_HAND))
    found = parse(BY_HAND)
    assert isinstance(found, Image)
    assert (found.series, found.unique, found.number) == (7, "01GWZ1", 4)
    assert found.epoch_ns == 1676376000_250_000_000
    assert (found.start_ns, found.attributes["stop_time_ns"]) == (20_000_000, 40_000_000)
    (pixels,) = found.pixels
    assert (pixels.channel, pixels.shape, pixels.dtype) == ("threshold_1", (2, 3), "uint16")
    read = decode(pixels.payload, encoding=pixels.encoding, shape=(2, 3), dtype="uint16")
    assert read.tobytes() == RAW


def test_a_start_tells_all():
    found = parse(tag(55799, START))
    assert isinstance(found, Start)
    assert (found.series, found.unique, found.shape) == (7, "01GWZ1", (2, 3))
    assert (found.channels, found.announced) == (("threshold_1", "threshold_2"), 30)
    assert {
        "arm_date": "2023-02-14T12:00:00+00:00",
        "exposure_s": 0.0099,
        "energy_eV": 12400.0,
        "detector_translation": [0.0, 0.0, -0.2],
        "threshold_energy": {"threshold_1": 6200.0, "threshold_2": 9000.0},
        "rotation_axis": "omega",
        "angle_increment_deg": 0.1,
    }.items() <= found.metadata.items()
    assert json.loads(str(found.metadata["user_data"])) == {"sample": "A", "3": [1, None]}
    assert found.problems == ()
    assert found.attachments["pixel_mask_threshold_1"].tolist() == [[0, 0, 1], [0, 0, 2]]
    assert found.attachments["countrate_table"].tolist() == [0, 1, 3]


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("key", sorted(set(START) - {"type", "series_id"}))
def test_any_field_of_a_start_may_be_absent_or_null(key, absent):
    message = {k: v for k, v in START.items() if k != key} if absent else {**START, key: None}
    assert isinstance(parse(message), Start)


@pytest.mark.parametrize("value", [None, "text", 5, [], {}, [[1]], True, b"x", -1.5])
@pytest.mark.parametrize("key", sorted(set(START) - {"type", "series_id"}))
def test_any_field_of_a_start_may_have_another_type(key, value):
    assert isinstance(parse({**START, key: value}), Start)


def test_dates_that_are_plain_text_are_dates():
    for text, wanted in (
        ("2023-02-14T12:00:00.250000Z", 1676376000_250_000_000),
        ("2023-02-14T13:00:00+01:00", 1676376000_000_000_000),
        ("2023-02-14 12:00:00", 1676376000_000_000_000),
        ("yesterday", None),
        (None, None),
        (17, None),
    ):
        assert parse(image(series_date=text)).epoch_ns == wanted


def test_times_that_are_no_ratio_are_left_out():
    for value in (None, 1.5, [1, 0], [1], [-1, 5], ["1", 5], [2**62, 1]):
        assert parse(image(start_time=value)).start_ns is None


@pytest.mark.parametrize(
    ("typed", "dtype"),
    [(64, "uint8"), (68, "uint8"), (69, "uint16"), (70, "uint32"), (71, "uint64"), (72, "int8"),
     (77, "int16"), (78, "int32"), (79, "int64"), (85, "float32"), (86, "float64")],
)  # fmt: skip
def test_each_type_of_pixels(typed, dtype):
    pixels = np.arange(6).astype(dtype).reshape(2, 3)
    (found,) = parse(image({"1": grid(payload=pixels.tobytes(), typed=typed)})).pixels
    assert (found.dtype, found.encoding, bytes(found.payload)) == (dtype, "raw", pixels.tobytes())


def test_channels_are_in_the_order_of_the_message():
    found = parse(image({"threshold_2": grid(), "threshold_1": grid()}))
    assert [pixels.channel for pixels in found.pixels] == ["threshold_2", "threshold_1"]


def test_lz4_has_the_framing_of_the_file_format():
    import lz4.block

    block = lz4.block.compress(RAW, store_size=False)
    framed = struct.pack(">QII", len(RAW), len(RAW), len(block)) + block
    (found,) = parse(image({"t": packed("lz4", 0, framed)})).pixels
    read = decode(found.payload, encoding=found.encoding, shape=(2, 3), dtype="uint16")
    assert read.tobytes() == RAW


def test_an_end_may_have_no_unique_id():
    assert parse({"type": "end", "series_id": 7}) == End(series=7, unique=None)


def test_user_data_that_is_text_stays_text():
    assert parse(image(user_data='{"a": 1}')).attributes["user_data"] == '{"a": 1}'


_LOOP: list[Any] = [1]
_LOOP.append(_LOOP)
_LAUGH: list[Any] = ["ha"]
for _ in range(40):
    _LAUGH = [_LAUGH] * 10
_BIG = 1 << 20_000

BAD: dict[str, Any] = {
    "nothing": b"",
    "cut short": BY_HAND[:-3],
    "no map": [1],
    "no type": {},
    "unknown type": {"type": "foo", "series_id": 1},
    "a type that cannot be printed": {"type": _BIG, "series_id": 1},
    "no series": {"type": "end"},
    "series that cannot be printed": {"type": "end", "series_id": _BIG},
    "negative series": {"type": "end", "series_id": -1},
    "no number": image(image_id=None),
    "number that is a text": image(image_id="4"),
    "number that cannot be printed": image(image_id=_BIG),
    "no data": image(data=5),
    "no channels": image(data={}),
    "too many channels": image(data={str(i): grid() for i in range(17)}),
    "pixels without axes": image({"t": tag(69, RAW)}),
    "three axes": image({"t": grid((1, 2, 3))}),
    "columns first": image({"t": tag(1040, [[2, 3], tag(69, RAW)])}),
    "big-endian": image({"t": grid(typed=65)}),
    "unknown tag": image({"t": grid(typed=87)}),
    "too short": image({"t": grid(payload=RAW[:-1])}),
    "terabytes": image({"t": grid((10**6, 10**6))}),
    "beyond counting": image({"t": grid((2**62, 2**62))}),
    "unknown compression": image({"t": packed("zip", 2, RAW)}),
    "compression is a list": image({"t": packed([], 2, RAW)}),
    "elements of another size": image({"t": packed("bslz4", 4, RAW)}),
    "without end": cbor2.dumps({**START, "x": _LOOP}, value_sharing=True),
    "endless user data": cbor2.dumps(image(user_data=_LOOP), value_sharing=True),
    "ten to the forty": cbor2.dumps(image(user_data=_LAUGH), value_sharing=True),
    "an array of 2**60": b"\xa1\x64type\x9b\x10" + bytes(7),
    "bytes of 2**60": b"\xa1\x64type\x5b\x10" + bytes(7),
    "ten thousand arrays in each other": b"\xa1\x64type" + b"\x81" * 10_000,
    "a date that is none": image(series_date=tag(0, "2023-99-99")),
    "a pattern that is none": image(user_data=tag(35, "(")),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    with pytest.raises(InvalidFrameError):
        parse(BAD[name])


def test_values_that_cannot_be_told_cost_no_message():
    odd = {
        "channels": [_BIG, 1],
        "threshold_energy": {1: _BIG, "a": float("nan"), "b": 5.0},
        "user_data": {b"k": _BIG, 1.5: tag(30, [_BIG, 7])},
        "goniometer": {_BIG: {"start": _BIG, "increment": 1}},
        "count_time": float("inf"),
        _BIG: 1,
    }
    found = parse({**START, **odd})
    assert isinstance(found, Start)
    assert found.metadata["threshold_eV"] == 5.0
    assert "exposure_s" not in found.metadata
    json.dumps(found.metadata)


def test_attachments_that_would_fill_the_memory_are_named():
    import lz4.block

    block = lz4.block.compress(bytes(400), store_size=False)
    framed = struct.pack(">QII", 2**28, 2**28, len(block)) + block
    bomb = tag(40, [[2**13, 2**13], tag(70, tag(56500, ["lz4", 0, framed]))])
    wrong = {
        "huge": tag(40, [[2**13, 2**13 + 1], tag(70, b"")]),
        "axes": tag(40, [[1] * 50, tag(70, bytes(4))]),
        "bomb": bomb,
    }
    found = parse({**START, "flatfield": wrong})
    assert isinstance(found, Start)
    assert len(found.problems) == 3
    assert not any(name.startswith("flatfield") for name in found.attachments)


WHOLE = cbor2.dumps(tag(55799, START))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


def read(raw: bytes) -> None:
    with contextlib.suppress(InvalidFrameError):
        wire_v2.parse(memoryview(raw))


@given(data=st.data(), message=st.sampled_from([WHOLE, BY_HAND]))
@settings(max_examples=500, deadline=None)
def test_random_damage_of_bytes_raises_nothing_else(data, message):
    bent = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(bent)))
        bent[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    read(bytes(bent[: data.draw(st.integers(0, len(bent)) | st.just(len(bent)))]))


@given(data=st.data(), value=VALUES, message=st.sampled_from([START, image(user_data={"a": 1})]))
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_raises_nothing_else(data, value, message):
    read(cbor2.dumps({**message, data.draw(st.sampled_from(sorted(message))): value}))
