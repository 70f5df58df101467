"""Messages of the legacy stream, built by hand from the vendor's text, and damaged at random."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs import decode
from pipeline.detectors.eiger import wire_v1
from pipeline.detectors.eiger.messages import End, Image, Start
from pipeline.errors import InvalidFrameError

CONFIG = {
    "description": "Dectris Eiger 1M",
    "detector_number": "E-02-0000",
    "count_time": 0.0099,
    "frame_time": 0.01,
    "nimages": 10,
    "ntrigger": 3,
    "trigger_mode": "ints",
    "threshold_energy": 6200.0,
    "photon_energy": 12400.0,
    "detector_translation": [0.0, 0.0, 0.2],
    "omega_start": 5.0,
    "omega_increment": 0.1,
    "phi_start": 1.0,
    "phi_increment": 0.0,
    "x_pixels_in_detector": 3,
    "y_pixels_in_detector": 2,
}


def parts(*given: Any) -> list[memoryview]:
    """Text and mappings as JSON, bytes as they are."""
    return [memoryview(p if isinstance(p, bytes) else json.dumps(p).encode()) for p in given]


def head(**more: Any) -> dict[str, Any]:
    return {"htype": "dimage-1.0", "series": 7, "frame": 4, "hash": "abc", **more}


def layout(**more: Any) -> dict[str, Any]:
    # shape is [width, height]
    found = {"htype": "dimage_d-1.0", "shape": [3, 2], "type": "uint16", "encoding": "<"}
    return {**found, **more}


TIMES = {"htype": "dconfig-1.0", "start_time": 5, "stop_time": 905, "real_time": 899}
RAW = struct.pack("<6H", 0, 1, 2, 3, 4, 65535)


def test_a_start_without_detail_is_one_part():
    found = wire_v1.parse(parts({"htype": "dheader-1.0", "series": 3, "header_detail": "none"}))
    assert isinstance(found, Start)
    assert (found.series, found.unique, found.shape, dict(found.metadata)) == (3, None, None, {})


def test_a_start_tells_its_configuration_under_the_well_known_names():
    start = {"htype": "dheader-1.0", "series": 3, "header_detail": "basic"}
    found = wire_v1.parse(parts(start, CONFIG))
    assert isinstance(found, Start)
    assert (found.shape, found.announced, found.frame_time_s) == ((2, 3), 30, 0.01)
    assert {
        "exposure_s": 0.0099,
        "frame_time_s": 0.01,
        "threshold_eV": 6200.0,
        "energy_eV": 12400.0,
        "detector_serial": "E-02-0000",
        "rotation_axis": "omega",
        "start_angle_deg": 5.0,
        "angle_increment_deg": 0.1,
        "detector_translation": [0.0, 0.0, 0.2],
    }.items() <= found.metadata.items()


@pytest.mark.parametrize(
    ("mode", "announced"), [("ints", 30), ("exts", 30), ("inte", 3), ("exte", 3)]
)
def test_a_trigger_of_its_own_length_makes_one_image(mode, announced):
    start = {"htype": "dheader-1.0", "series": 3, "header_detail": "basic"}
    found = wire_v1.parse(parts(start, {**CONFIG, "trigger_mode": mode}))
    assert isinstance(found, Start)
    assert found.announced == announced


@pytest.mark.parametrize("prefix", ["d", ""])
@pytest.mark.parametrize("appendix", [(), (b"run 12, \xff",)])
def test_a_start_with_all_has_eight_parts_or_nine(prefix, appendix):
    flat = struct.pack("<6f", 1, 1, 1, 2, 2, 2)
    mask = struct.pack("<6I", 0, 0, 1, 0, 0, 2)
    table = struct.pack("<6f", 0, 1, 2, 0, 1.5, 3)
    found = wire_v1.parse(
        parts(
            {"htype": "dheader-1.0", "series": 3, "header_detail": "all"},
            CONFIG,
            {"htype": f"{prefix}flatfield-1.0", "shape": [3, 2], "type": "float32"},
            flat,
            {"htype": "dpixelmask-1.0", "shape": [3, 2], "type": "uint32"},
            mask,
            {"htype": "dcountrate_table-1.0", "shape": [2, 3], "type": "float32"},
            table,
            *appendix,
        )
    )
    assert isinstance(found, Start)
    assert found.problems == ()
    assert found.attachments["flatfield"].tolist() == [[1, 1, 1], [2, 2, 2]]
    assert found.attachments["pixel_mask"].tolist() == [[0, 0, 1], [0, 0, 2]]
    assert found.attachments["countrate_table"].tolist() == [[0, 1, 2], [0, 1.5, 3]]
    assert found.metadata.get("header_appendix") == ("run 12, �" if appendix else None)


def test_a_table_that_cannot_be_read_is_named_and_the_rest_is_read():
    found = wire_v1.parse(
        parts(
            {"htype": "dheader-1.0", "series": 3, "header_detail": "all"},
            CONFIG,
            {"htype": "dnew_table-1.0", "shape": [3, 2], "type": "float32"},
            bytes(24),
            {"htype": "dflatfield-1.0", "shape": [3, 2], "type": "float32"},
            bytes(23),
            {"htype": "dpixelmask-1.0", "shape": [3, 2], "type": "uint32"},
            bytes(24),
        )
    )
    assert isinstance(found, Start)
    assert list(found.attachments) == ["pixel_mask"]
    assert ["dnew_table" in found.problems[0], "23 bytes" in found.problems[1]] == [True, True]


def test_an_image_of_four_parts_or_five():
    found = wire_v1.parse(parts(head(), layout(size=12), RAW, TIMES, b"sample 3"))
    assert isinstance(found, Image)
    (pixels,) = found.pixels
    assert (found.series, found.number, found.start_ns, found.epoch_ns) == (7, 4, 5, None)
    assert (pixels.shape, pixels.dtype, pixels.encoding) == ((2, 3), "uint16", "raw")
    assert bytes(pixels.payload) == RAW
    assert found.attributes == {
        "start_time_ns": 5,
        "stop_time_ns": 905,
        "real_time_ns": 899,
        "hash": "abc",
        "image_appendix": "sample 3",
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_compressed_pixels_are_what_they_were(dtype):
    import lz4.block

    image = np.arange(6, dtype=dtype).reshape(2, 3)
    block = lz4.block.compress(image.tobytes(), store_size=False)
    bits = 8 * image.itemsize
    # fewer than 8 elements: bitshuffle copies them, behind 8 bytes of length and 4 of block size
    shuffled = struct.pack(">QI", image.nbytes, 8192) + image.tobytes()
    for encoding, payload, name in (
        ("lz4<", block, "lz4-block"),
        (f"bs{bits}-lz4<", shuffled, "bslz4"),
        (f"bs{bits}lz4", shuffled, "bslz4"),
        ("<", image.tobytes(), "raw"),
    ):
        data = layout(type=dtype, encoding=encoding, size=len(payload))
        found = wire_v1.parse(parts(head(), data, payload, TIMES))
        assert isinstance(found, Image)
        (pixels,) = found.pixels
        assert pixels.encoding == name
        read = decode(pixels.payload, encoding=name, shape=pixels.shape, dtype=dtype)
        assert read.tolist() == image.tolist()


def test_an_image_without_times_is_an_image():
    for times in ((), ({"htype": "dconfig-1.0", "start_time": None, "stop_time": -1},)):
        found = wire_v1.parse(parts(head(hash=None), layout(), RAW, *times))
        assert isinstance(found, Image)
        assert (found.start_ns, dict(found.attributes)) == (None, {})


def test_an_end_is_one_part():
    assert wire_v1.parse(parts({"htype": "dseries_end-1.0", "series": 7})) == End(series=7)


BAD = {
    "no parts": [],
    "empty part": parts(b""),
    "no JSON": parts(b"\xff\xfe{"),
    "a list": parts([1]),
    "deep": parts(b"[" * 100_000),
    "a number of 5000 digits": parts(b'{"series": ' + b"9" * 5000 + b"}"),
    "unknown type": parts({"htype": "dfoo-1.0", "series": 1}),
    "a type that is a list": parts({"htype": [], "series": 1}),
    "no series": parts({"htype": "dseries_end-1.0"}),
    "series true": parts({"htype": "dseries_end-1.0", "series": True}),
    "negative series": parts({"htype": "dseries_end-1.0", "series": -1}),
    "image of two parts": parts(head(), layout()),
    "no number": parts(head(frame=None), layout(), RAW, TIMES),
    "number beyond": parts(head(frame=10**4000), layout(), RAW, TIMES),
    "one axis": parts(head(), layout(shape=[6]), RAW, TIMES),
    "axes of text": parts(head(), layout(shape=["3", "2"]), RAW, TIMES),
    "terabytes": parts(head(), layout(shape=[10**6, 10**6]), RAW, TIMES),
    "no pixels": parts(head(), layout(shape=[0, 2]), b"", TIMES),
    "unknown dtype": parts(head(), layout(type="float32"), RAW, TIMES),
    "dtype is a map": parts(head(), layout(type={}), RAW, TIMES),
    "another size": parts(head(), layout(size=11), RAW, TIMES),
    "too short": parts(head(), layout(), RAW[:-1], TIMES),
    "big-endian": parts(head(), layout(encoding=">"), RAW, TIMES),
    "shuffled without LZ4": parts(head(), layout(encoding="bs16<"), RAW, TIMES),
    "elements of another size": parts(head(), layout(encoding="bs32-lz4<"), RAW, TIMES),
    "unknown encoding": parts(head(), layout(encoding="zip"), RAW, TIMES),
    "times that are no JSON": parts(head(), layout(), RAW, b"no"),
    "configuration is a list": parts({"htype": "dheader-1.0", "series": 1}, [1]),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    with pytest.raises(InvalidFrameError):
        wire_v1.parse(BAD[name])


def test_odd_values_of_a_configuration_are_left_out():
    odd = {"a": float("nan"), "b": {"c": 1}, "d": [[[[1]]]], "e": 10**30, "f" * 500: 1, "g": -3}
    found = wire_v1.parse(
        parts({"htype": "dheader-1.0", "series": 1, "header_detail": "basic"}, odd)
    )
    assert isinstance(found, Start)
    assert found.metadata["g"] == -3
    assert {"a", "b", "e"}.isdisjoint(found.metadata)
    assert max(map(len, found.metadata)) == 100


START = parts(
    {"htype": "dheader-1.0", "series": 3, "header_detail": "all"},
    CONFIG,
    {"htype": "dflatfield-1.0", "shape": [3, 2], "type": "float32"},
    bytes(24),
)
IMAGE = parts(head(), layout(size=12), RAW, TIMES, b"text")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


def read(message: list[memoryview]) -> None:
    with contextlib.suppress(InvalidFrameError):
        wire_v1.parse(message)


@given(data=st.data(), message=st.sampled_from([START, IMAGE]))
@settings(max_examples=300, deadline=None)
def test_random_damage_of_bytes_raises_nothing_else(data, message):
    bent = [bytearray(part) for part in message]
    for _ in range(data.draw(st.integers(1, 4))):
        part = bent[data.draw(st.integers(0, len(bent) - 1))]
        at = data.draw(st.integers(0, max(0, len(part) - 1)))
        part[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    read([memoryview(bytes(part)) for part in bent[: data.draw(st.integers(0, len(bent)))]])


@given(data=st.data(), message=st.sampled_from([START, IMAGE]), value=VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_raises_nothing_else(data, message, value):
    at = data.draw(st.sampled_from([i for i, part in enumerate(message) if part[:1] == b"{"]))
    fields = json.loads(bytes(message[at]))
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    read([*message[:at], *parts(fields), *message[at + 1 :]])
