"""CBF files: the variants seen, and a corpus of hostile ones named by what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import codecs
from pipeline.codecs import cbf
from pipeline.codecs.byte_offset import encode_byte_offset
from pipeline.detectors.pilatus.sim_files import cbf_file
from pipeline.errors import DecodeError, InvalidFrameError

IMAGE = np.random.default_rng(1).integers(-2, 40_000, (31, 17)).astype(np.int32)
HEADER = ["# Detector: PILATUS 100K, S/N 01-0001", "# 2024-01-01T10:00:00.123"]
BLOCK = encode_byte_offset(IMAGE)
FILE = cbf_file(IMAGE.shape, BLOCK, HEADER, "x")
PADDING = bytes(4095)
MARKER = b"\x0c\x1a\x04\xd5"


def replaced(old: bytes, new: bytes) -> bytes:
    assert FILE.count(old) == 1, old
    return FILE.replace(old, new)


def without(line_start: bytes) -> bytes:
    lines = FILE.split(b"\r\n")
    kept = [line for line in lines if not line.startswith(line_start)]
    assert len(kept) < len(lines)
    return b"\r\n".join(kept)


def test_a_file_tells_what_it_holds() -> None:
    image = cbf.parse(FILE)
    assert (image.width, image.height, image.dtype) == (17, 31, "int32")
    assert image.header_text.splitlines() == HEADER
    assert image.convention == "PILATUS_1.2"
    assert FILE[image.binary_offset - 4 : image.binary_offset] == MARKER
    assert image.binary_size == len(BLOCK)
    assert image.padding == 4095
    assert image.complete
    assert cbf.matches_md5(FILE, image)
    assert not cbf.matches_md5(FILE, dataclasses.replace(image, md5=bytes(16)))


# -- what was seen in real files -----------------------------------------------------------------

TEMPLATE = b";\r\n" + b"loop_\r\n_diffrn_scan_axis.axis_id\r\n  GONIOMETER_PHI 0.0\r\n" * 120
SECTION = b"--CIF-BINARY-FORMAT-SECTION--\r\n"
VARIANTS = {
    "a CIF template of 7 kB before the image": replaced(
        b";\r\n\r\n_array_data.data", TEMPLATE + b"\r\n_array_data.data"
    ),
    "a text of 40 kB": replaced(b";\r\n\r\n_array_data.data", TEMPLATE * 6 + b"_array_data.data"),
    "no Content-MD5": without(b"Content-MD5"),
    "an empty Content-MD5": FILE.replace(
        b"Content-MD5: " + FILE.split(b"Content-MD5: ")[1].split(b"\r")[0], b"Content-MD5: "
    ),
    "no line end before the closing marker": replaced(
        b"\r\n--CIF-BINARY-FORMAT-SECTION----", b"--CIF-BINARY-FORMAT-SECTION----"
    ),
    "ending in a bare semicolon": FILE[: -len(b"\r\n\r\n")],
    "a padding of one byte": replaced(PADDING, b"\0").replace(b"Padding: 4095", b"Padding: 1"),
    "less padding than announced": replaced(PADDING, b""),
    "more padding than announced": replaced(b"Padding: 4095", b"Padding: 4000"),
    "no padding field": without(b"X-Binary-Size-Padding"),
    "a third dimension": replaced(
        b"X-Binary-Size-Padding", b"X-Binary-Size-Third-Dimension: 1\r\nX-Binary-Size-Padding"
    ),
    "no header_contents": cbf_file(IMAGE.shape, BLOCK, [], "x").replace(
        b"_array_data.header_contents\r\n;\r\n;\r\n", b""
    ),
    "an empty header_contents": cbf_file(IMAGE.shape, BLOCK, [], "x"),
    "line feeds alone": b"".join(
        (FILE.split(MARKER)[0].replace(b"\r\n", b"\n"), MARKER, FILE.split(MARKER, 1)[1])
    ),
    "SLS_1.0": replaced(b"PILATUS_1.2", b"SLS_1.0"),
    "fields in lower case": FILE.replace(b"X-Binary-Size", b"x-binary-size"),
    "no number of elements": without(b"X-Binary-Number"),
    "no element type": without(b"X-Binary-Element-Type"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_seen_in_real_files_are_read(name: str) -> None:
    payload = VARIANTS[name]
    image = cbf.parse(payload)
    assert image.complete
    assert np.array_equal(cbf.decode(payload), IMAGE)
    codecs.check(payload, encoding="cbf", shape=IMAGE.shape, dtype="int32")


def test_a_text_that_ends_past_16_kb_is_found() -> None:
    assert cbf.parse(VARIANTS["a text of 40 kB"]).binary_offset > 16 << 10


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("signed 16-bit integer", "int16"),
        ("unsigned 16-bit integer", "uint16"),
        ("unsigned 32-bit integer", "uint32"),
        ("signed 64-bit integer", "int64"),
    ],
)
def test_other_element_types_are_read(name: str, dtype: str) -> None:
    image = (np.arange(12).reshape(3, 4) * 1000).astype(dtype)
    payload = cbf_file((3, 4), encode_byte_offset(image), [], "x").replace(
        b"signed 32-bit integer", name.encode()
    )
    decoded = codecs.decode(payload, encoding="cbf", shape=(3, 4), dtype=dtype)
    assert decoded.dtype == np.dtype(dtype)
    assert np.array_equal(decoded, image)


# -- hostile files -------------------------------------------------------------------------------

SIZE = b"X-Binary-Size: %d\r" % len(BLOCK)
HOSTILE = {
    "zero length": b"",
    "one byte": b"#",
    "another kind of file": b"II*\0" + bytes(5000),
    "zeros": bytes(20_000),
    "no marker": FILE.replace(MARKER, b"\0\0\0\0"),
    "text only": FILE[:300],
    "marker only": MARKER,
    "section only": SECTION + MARKER,
    "marker before the section": MARKER + FILE[: FILE.index(SECTION)],
    "no size": without(b"X-Binary-Size:"),
    "no width": without(b"X-Binary-Size-Fastest"),
    "no height": without(b"X-Binary-Size-Second"),
    "size too small": replaced(SIZE, b"X-Binary-Size: %d\r" % (len(BLOCK) - 3)),
    "size too large": replaced(SIZE, b"X-Binary-Size: %d\r" % (len(BLOCK) + 3)),
    "size past the end": replaced(SIZE, b"X-Binary-Size: 999999999\r"),
    "size of zero": replaced(SIZE, b"X-Binary-Size: 0\r"),
    "negative size": replaced(SIZE, b"X-Binary-Size: -5\r"),
    "size of many digits": replaced(SIZE, b"X-Binary-Size: " + b"9" * 400 + b"\r"),
    "size is a word": replaced(SIZE, b"X-Binary-Size: many\r"),
    "size in other digits": replaced(SIZE, b"X-Binary-Size: \xb2\xb3\r"),
    "absurd width": replaced(b"Fastest-Dimension: 17", b"Fastest-Dimension: 999999999999"),
    "zero width": replaced(b"Fastest-Dimension: 17", b"Fastest-Dimension: 0"),
    "width off by one": replaced(b"Fastest-Dimension: 17", b"Fastest-Dimension: 18"),
    "more elements": replaced(b"Elements: 527", b"Elements: 528"),
    "three dimensions": replaced(
        b"X-Binary-Size-Padding", b"X-Binary-Size-Third-Dimension: 7\r\nX-Binary-Size-Padding"
    ),
    "absurd padding": replaced(b"Padding: 4095", b"Padding: 888888888888"),
    "floating point": replaced(b"signed 32-bit integer", b"signed 32-bit real IEEE"),
    "type of 128 bits": replaced(b"signed 32-bit integer", b"signed 128-bit integer"),
    "big-endian": replaced(b"LITTLE_ENDIAN", b"BIG_ENDIAN"),
    "packed": replaced(b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED"),
    "no compression": without(b"     conversions"),
    "MD5 of the wrong length": FILE.replace(b"Content-MD5: ", b"Content-MD5: QUJD\r\nX-Old: "),
    "MD5 not base64": FILE.replace(b"Content-MD5: ", b"Content-MD5: (none)\r\nX-Old: "),
    "truncated in the image": FILE[: FILE.index(MARKER) + 100],
    "endless text": b"###CBF: VERSION 1.5\r\n" + SECTION + b"X-Filler: 1\r\n" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        cbf.decode(HOSTILE[name])
    with pytest.raises(DecodeError):
        codecs.decode(HOSTILE[name], encoding="cbf", shape=IMAGE.shape, dtype="int32")


CUTS = [1, 100, 1000, FILE.index(MARKER) + 4, FILE.index(MARKER) + 500, -4200, -100, -20, -6]


@pytest.mark.parametrize("keep", CUTS)
def test_a_file_cut_short_is_not_published(keep: int) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        codecs.check(FILE[:keep], encoding="cbf", shape=IMAGE.shape, dtype="int32")
    assert caught.value.field == "payload"


def test_a_file_without_its_closing_marker_is_not_complete_but_has_its_pixels() -> None:
    cut = FILE[:-100]
    assert not cbf.parse(cut).complete
    assert np.array_equal(cbf.decode(cut), IMAGE)


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_decode_to_their_announced_size_or_raise(data: st.DataObject) -> None:
    payload = bytearray(FILE)
    front = FILE.index(MARKER)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(front - 500, front + 50) | st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.just(len(payload)) | st.integers(0, len(payload))) :]
    try:
        image = cbf.parse(payload)
        pixels = cbf.decode(payload)
    except DecodeError:
        return
    assert pixels.shape == (image.height, image.width)
    assert pixels.dtype.name == image.dtype


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_between_section_and_block_is_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(DecodeError):
        cbf.parse(SECTION + text + MARKER + BLOCK)
