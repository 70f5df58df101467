"""NTNDArray structures built by hand, field by field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline import codecs
from pipeline.detectors.areadetector import wire
from pipeline.detectors.areadetector.numbering import Numbering
from pipeline.detectors.areadetector.sim_payloads import CODECS, encode
from pipeline.errors import InvalidFrameError

NOW_NS = 1_790_000_000 * 10**9
PIXELS = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)


def extent(size: int, **more: Any) -> dict[str, Any]:
    return {"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} | more


def update(**changed: Any) -> dict[str, Any]:
    return {
        "value": PIXELS.reshape(-1),
        "codec": {"name": "", "parameters": None},
        "compressedSize": PIXELS.nbytes,
        "uncompressedSize": PIXELS.nbytes,
        "uniqueId": 7,
        "dataTimeStamp": {"secondsPastEpoch": 1_790_000_000, "nanoseconds": 5, "userTag": 0},
        "dimension": [extent(64), extent(48)],
        "attribute": [{"name": "ColorMode", "value": 0}, {"name": "Gain", "value": 2.5}],
    } | changed


def parse(**changed: Any) -> wire.Image:
    image = wire.parse_image(update(**changed), now_ns=NOW_NS)
    assert image is not None
    return image


def test_dimensions_come_x_first_and_leave_as_rows_and_columns():
    image = parse()
    assert (image.shape, image.dtype, image.encoding) == ((48, 64), "uint16", "raw")
    assert bytes(image.payload) == PIXELS.tobytes()
    assert image.timestamp_ns == NOW_NS + 5
    assert image.attributes == {"gain": 2.5}


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec not in ("", "jpeg")])
def test_every_codec_has_an_encoding_that_gives_the_pixels_back(codec):
    value, pixels, name = encode(PIXELS, codec)
    image = parse(value=value, codec={"name": name, "parameters": 6}, compressedSize=value.nbytes)
    found = codecs.decode(
        image.payload, encoding=image.encoding, shape=image.shape, dtype=image.dtype
    )
    assert np.array_equal(found, pixels)


def test_a_time_that_has_the_epics_epoch_twice_is_put_right():
    late = {"secondsPastEpoch": 1_790_000_000 + 631_152_000, "nanoseconds": 5}
    assert parse(dataTimeStamp=late).timestamp_ns == NOW_NS + 5


def test_an_empty_array_is_no_image():
    nothing = update(value=np.zeros(0, np.uint8), dimension=[])
    assert wire.parse_image(nothing, now_ns=NOW_NS) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"value": PIXELS.reshape(-1)[:-1]},
        {"value": "text"},
        {"dimension": [extent(64)] * 9},
        {"dimension": [extent(0), extent(48)]},
        {"dimension": [extent(2**31 - 1), extent(2**31 - 1)]},
        {"dimension": [None, None]},
        {"uniqueId": None},
        {"codec": {"name": "zstd9", "parameters": 6}},
        {"codec": {"name": "lz4", "parameters": 6}},
        {"value": np.zeros(9, np.uint8), "codec": {"name": "lz4", "parameters": None}},
        {
            "value": np.zeros(9, np.uint8),
            "codec": {"name": "lz4", "parameters": 6},
            "compressedSize": 10,
        },
        {
            "value": np.zeros(9, np.uint8),
            "codec": {"name": "lz4", "parameters": 6},
            "compressedSize": 9,
            "uncompressedSize": 2**40,
        },
    ],
)
def test_a_structure_that_contradicts_itself_is_refused(changed):
    with pytest.raises(InvalidFrameError):
        wire.parse_image(update(**changed), now_ns=NOW_NS)


def test_attributes_are_bounded_and_typed():
    attributes = [{"name": f"a{i}", "value": "x" * 10_000} for i in range(300)]
    odd: list[Any] = [None, {"name": 3, "value": 1}, {"name": "nan", "value": float("nan")}]
    image = parse(attribute=[*odd, *attributes])
    assert sum(len(str(value)) for value in image.attributes.values()) <= 32 * 1024
    assert image.skipped > 0


@pytest.mark.parametrize(
    ("value", "activity"),
    [
        (1, "busy"),
        (0, "idle"),
        ({"index": 1, "choices": ["Idle", "Acquire"]}, "busy"),
        ({"index": 0, "choices": ["Idle", "Acquire"]}, "idle"),
        ({"index": 2, "choices": ["Idle", "Acquire", "Aborted"]}, "aborted"),
        ({"index": 1, "choices": ["Done", "Acquiring"]}, "busy"),
    ],
)
def test_the_state_is_read_from_numbers_and_words(value, activity):
    assert wire.parse_activity({"value": value}) == activity


def test_numbers_turn_over_repeat_and_start_again():
    numbering = Numbering()
    numbers = []
    for place, unique_id in enumerate((2**31 - 2, 2**31 - 1, -(2**31), -(2**31) + 2)):
        verdict, number = numbering.judge(unique_id, place)
        assert verdict == "new"
        numbering.note(number, place)
        numbers.append(number)
    assert numbers == [2**31 - 2, 2**31 - 1, 2**31, 2**31 + 2]
    assert numbering.missing == 1
    assert numbering.judge(-(2**31) + 2, 3)[0] == "repeat"
    assert numbering.judge(1, 4) == ("restart", 1)
