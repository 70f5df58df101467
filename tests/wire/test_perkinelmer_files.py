"""Names, sidecars and HIS files of a PerkinElmer panel, built by hand from their description."""

from __future__ import annotations

import struct
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pipeline.detectors.perkinelmer import qtini, wire
from pipeline.errors import InvalidFrameError

OLD = rb"""
[metadata]
width=2048
height=2048
dataType=5
fileName=D:/data/x-00105-00001.tif
title=x-00105.tif
exposureTime=4
dateTime=@Variant(\0\0\0\x10\0%v\xf7\x2\xed-\x8d\xff)
dateString=2010.03.31 : 13:38:18.125
userComment1=
"""
NEW = OLD.replace(b"userComment1=\n", b"nPhases=1\ntimeStamp=1270060698.098\n")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("x-00012", wire.Name("x", 12)),
        ("x-100012", wire.Name("x", 100012)),
        ("x-00012.dark", wire.Name("x.dark", 12, dark=True)),
        ("x-00105-00001", wire.Name("x.00001", 105, (1,))),
        ("x-00105-00002-00001", wire.Name("x.00002.00001", 105, (2, 1))),
        ("scan-2014-00001", wire.Name("scan-2014", 1)),
        ("scan-det1-00001", wire.Name("scan-det1", 1)),
        ("x_00084_00001", wire.Name("x_00084", 1)),
        ("x_00084.dark", wire.Name("x.dark", 84, dark=True)),
        ("gainMap", wire.Name("gainMap", 0)),
        ("00012", wire.Name("00012", 0)),
        ("x-00012b", wire.Name("x-00012b", 0)),
        ("x-" + "9" * 40, wire.Name("x-" + "9" * 40, 0)),
    ],
)
def test_a_name_gives_prefix_number_and_further_counters(stem, name):
    assert wire.split_name(stem, digits=5) == name


@pytest.mark.parametrize(
    ("values", "meaning"),
    [
        ({"nPhases": "4"}, {"phase": 1}),
        ({"nPhases": "1"}, {"retake": 1}),
        ({"nPhases": "-1"}, {"ambiguous_counter": 1}),
        ({"title": "x-00105.tif", "fileName": "D:/x-00105-00001.tif"}, {"retake": 1}),
        ({"title": "x-00105-00001.tif", "fileName": "x-00105-00001.tif"}, {"ambiguous_counter": 1}),
        ({}, {"ambiguous_counter": 1}),
    ],
)
def test_a_second_counter_is_a_phase_a_retake_or_ambiguous(values, meaning):
    assert wire.meaning_of_suffix(wire.split_name("x-00105-00001", digits=5), values) == meaning


def test_a_sidecar_gives_typed_attributes():
    sidecar = wire.read_sidecar(OLD)
    assert (sidecar.whole, sidecar.is_more) == (True, False)
    assert sidecar.attributes == {
        "width": 2048,
        "height": 2048,
        "data_type": 5,
        "file_name": "D:/data/x-00105-00001.tif",
        "title": "x-00105.tif",
        "exposure_s": 4.0,
        "date_string": "2010.03.31 : 13:38:18.125",
        "user_comment1": "",
    }


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_line_ends_do_not_matter(end):
    text = OLD.replace(b"\n", end.encode())
    assert wire.read_sidecar(text).attributes == wire.read_sidecar(OLD).attributes


def test_time_is_the_unix_time_else_the_local_date_else_that_of_the_image():
    berlin = ZoneInfo("Europe/Berlin")
    new, old = wire.read_sidecar(NEW).values, wire.read_sidecar(OLD).values
    assert wire.time_of(new, "", berlin) == (1270060698_098_000_000, "timeStamp")
    # summer time began three days before
    assert wire.time_of(old, "", berlin) == (1270035498_125_000_000, "dateString")
    assert wire.time_of({}, "2010:03:31 13:38:18", berlin) == (
        1270035498_000_000_000,
        "DateTime",
    )
    assert wire.time_of({"timeStamp": "nan", "dateString": "?"}, "", berlin) == (None, "file")


def test_the_section_counts_wherever_it_stands():
    more = b"[integrated]\r\nx\\1\\value=3\r\n" * 3
    for content in (more + NEW, NEW + more):
        sidecar = wire.read_sidecar(content)
        assert sidecar.attributes == wire.read_sidecar(NEW).attributes
        assert sidecar.is_more


@pytest.mark.parametrize("content", [b"", b"[metadata]\n", NEW[:-1], b"[other]\nx=1\n", b"\0" * 99])
def test_a_sidecar_that_is_not_whole_says_so(content):
    assert not wire.read_sidecar(content).whole


def test_attributes_stay_small():
    many = b"[metadata]\n" + b"".join(b"key%d=%s\n" % (n, b"v" * 900) for n in range(100))
    sidecar = wire.read_sidecar(many + b"long=" + b"x" * 5000 + b"\n")
    assert sidecar.is_more
    assert sum(len(k) + len(str(v)) for k, v in sidecar.attributes.items()) < 8192


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("7", 7),
        ("-7.5e-3", -0.0075),
        ("true", True),
        ("", ""),
        (r'"a, \"b\"\r\n\xe4!"', 'a, "b"\r\nä!'),
        (r"@Variant(\0\0)", None),
        (r'"@Variant(\0, \0)"', None),
        ("@@home", "@home"),
        ("100%(x)s", "100%(x)s"),
        ("1e999", "1e999"),
        ("9" * 30, 1e30),
        ("1_000", "1_000"),
    ],
)
def test_a_value_is_read_as_qt_wrote_it(raw, value):
    assert qtini.value_of(raw) == value


def test_of_a_key_given_twice_the_last_counts_and_keys_are_unescaped():
    text = "[metadata]\na=1\na=2\nwith%20blank=3\nnormalization\\size=0\n"
    assert qtini.section(text, "metadata")[0] == {
        "a": "2",
        "with blank": "3",
        "normalization\\size": "0",
    }


def his(frames: int = 3, kind: int = 4, nbytes: int = 2, **change: int) -> bytes:
    """Columns 3 to 12, rows 5 to 8."""
    size = 100 + frames * 40 * nbytes
    head = struct.pack("<HHHIH", 0x7000, 68, 100, change.get("size", size), 32)
    head += struct.pack("<HHHHHH", 3, 5, 12, 8, change.get("count", frames), 0)
    head += struct.pack("<dH", 66600.0, change.get("kind", kind))
    return head.ljust(100, b"\0") + bytes(frames * 40 * nbytes)


@pytest.mark.parametrize(
    ("kind", "nbytes", "dtype"), [(4, 2, "uint16"), (32, 4, "uint32"), (2, 8, "float64")]
)
def test_a_his_file_says_where_its_frames_are(kind, nbytes, dtype):
    found = wire.read_his(his(kind=kind, nbytes=nbytes))
    assert (found.shape, found.dtype, found.offset, found.count) == ((4, 10), dtype, 100, 3)
    assert found.attributes["integration_s"] == pytest.approx(0.0666)


@pytest.mark.parametrize(
    "content",
    [b"", his()[:99], his()[:-1], his() + b"x", his(size=0), his(count=4), his(kind=7)],
    ids=["empty", "head", "cut", "longer", "size", "count", "type"],
)
def test_a_his_file_that_is_not_whole_is_refused(content):
    with pytest.raises(InvalidFrameError):
        wire.read_his(content)


def test_random_damage_never_ends_in_anything_but_a_refusal():
    rng = np.random.default_rng(3)
    for _ in range(300):
        damaged = bytearray(his())
        for place in rng.integers(0, 100, 3):
            damaged[place] = rng.integers(0, 256)
        try:
            wire.read_his(bytes(damaged))
        except InvalidFrameError:
            continue
    for _ in range(100):
        wire.read_sidecar(rng.integers(0, 256, 500, np.uint8).tobytes())
