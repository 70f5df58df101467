"""The encodings without HDF5's framing, images of cameras, and damage to any of them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import blosc
import numpy as np
import pytest
from codec_payloads import (
    SHAPE,
    b16_file,
    blosc_buffer,
    bslz4_block,
    chunk_of,
    jpeg_image,
    lz4_block,
    samples,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline import codecs
from pipeline.codecs import blocks
from pipeline.errors import DecodeError, InvalidFrameError

MAKERS = {"lz4-block": lz4_block, "bslz4-block": bslz4_block, "blosc": blosc_buffer}
SAMPLES = samples()


def decoded(payload: bytes, encoding: str, image: np.ndarray) -> np.ndarray:
    layout = {"encoding": encoding, "shape": image.shape, "dtype": image.dtype.name}
    codecs.check(payload, **layout)
    return codecs.decode(payload, **layout)


@pytest.mark.parametrize("encoding", sorted(MAKERS))
@given(
    image=arrays.arrays(
        st.sampled_from(["uint8", "int16", "uint32", "float32", "float64", "complex128"]),
        arrays.array_shapes(min_dims=1, max_dims=3, max_side=60),
    )
)
@settings(max_examples=40, deadline=None)
def test_blocks_of_any_shape_and_type_decode_to_their_image(
    encoding: str, image: np.ndarray
) -> None:
    found = decoded(MAKERS[encoding](image), encoding, image)
    assert found.tobytes() == image.tobytes()
    assert (found.shape, found.dtype) == (image.shape, image.dtype)


@pytest.mark.parametrize("encoding", sorted(MAKERS))
def test_images_of_several_blocks_and_colours_decode(encoding: str) -> None:
    image = np.random.default_rng(1).poisson(3, (300, 301, 3)).astype("uint16")
    assert np.array_equal(decoded(MAKERS[encoding](image), encoding, image), image)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8, 16])
def test_bitshuffles_default_block_is_the_one_its_encoder_takes(itemsize: int) -> None:
    image = np.zeros((300, 300), f"V{itemsize}").view(
        {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}[itemsize]
    )
    (block,) = struct.unpack_from(">I", chunk_of(image, "bslz4"), 8)
    assert blocks.bitshuffle_block(itemsize) == block


@pytest.mark.parametrize("cname", blosc.cnames)
@pytest.mark.parametrize("shuffle", [blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE])
def test_blosc_decodes_whatever_compressor_and_shuffle_the_buffer_names(
    cname: str, shuffle: int
) -> None:
    image = np.random.default_rng(1).poisson(3, (516, 700)).astype("uint16")
    payload = blosc_buffer(image, cname, shuffle)
    assert np.array_equal(decoded(payload, "blosc", image), image)


def test_blosc_of_noise_is_a_copy_and_decodes() -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 64), dtype="uint8")
    payload = blosc_buffer(image)
    assert len(payload) == image.nbytes + 16
    assert np.array_equal(decoded(payload, "blosc", image), image)


def _patched(payload: bytes, at: int, patch: bytes) -> bytes:
    return payload[:at] + patch + payload[at + len(patch) :]


@pytest.mark.parametrize(
    ("at", "patch", "message"),
    [
        (0, b"\5", "format version 5"),
        (3, b"\0", "elements of 0 bytes"),
        (4, b"\1\0\0\1", "announces 16777217 bytes of pixels"),
        (12, b"\0\0\0\1", "a buffer of 16777216 bytes"),
        (8, b"\0\0\0\0", "blocks of 0 bytes"),
        (8, b"\1\0\0\0", "too few for"),
        (8, b"\0\0\0\xff", "blocks of"),
        (2, b"\2", "are said to be copied"),
    ],
)
def test_a_blosc_header_that_cannot_be_is_told_before_decoding(
    at: int, patch: bytes, message: str
) -> None:
    payload = _patched(SAMPLES["blosc"][1], at, patch)
    layout = {"encoding": "blosc", "shape": SHAPE, "dtype": "int32"}
    with pytest.raises(InvalidFrameError, match=message):
        codecs.check(payload, **layout)
    with pytest.raises(DecodeError, match=message):
        codecs.decode(payload, **layout)


@pytest.mark.parametrize("encoding", [*sorted(MAKERS), "jpeg", "b16"])
@pytest.mark.parametrize("shape", [(37, 54), (20000, 20000)])
def test_another_size_than_announced_is_refused_at_once(
    encoding: str, shape: tuple[int, int]
) -> None:
    dtype, payload = SAMPLES[encoding]
    with pytest.raises(DecodeError):
        codecs.decode(payload, encoding=encoding, shape=shape, dtype=dtype)
    if encoding != "lz4-block" or shape[0] > 1000:
        with pytest.raises(InvalidFrameError):
            codecs.check(payload, encoding=encoding, shape=shape, dtype=dtype)


@pytest.mark.parametrize("encoding", sorted(SAMPLES))
def test_damage_is_an_error_or_an_image_and_never_the_end_of_the_process(encoding: str) -> None:
    program = Path(__file__).with_name("codec_damage.py")
    seed = time.time_ns() % 1_000_000
    done = subprocess.run(
        [sys.executable, str(program), encoding, str(seed), "400"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    assert found["decoded"] + found["refused"] == 400
    assert found["refused"] or encoding == "raw"
    # a CBF without its closing marker is refused from a detector, and read from an archive
    assert found["unseen"] == 0 or encoding == "cbf", "decode took what check refused"


def test_a_grey_and_a_coloured_jpeg_decode_to_what_pillow_saw() -> None:
    for shape, channels in (((40, 60), ()), ((40, 60), (3,))):
        rows = np.linspace(0, 250, shape[0])[:, None] * np.ones(shape)
        image = rows.astype("uint8")
        if channels:
            image = np.stack([image, image // 2, 255 - image], axis=-1)
        found = decoded(jpeg_image(image), "jpeg", image)
        assert np.abs(found.astype(int) - image).max() < 12


@pytest.mark.parametrize(
    "settings", [{"progressive": True}, {"optimize": True}, {"exif": b"x" * 99}]
)
def test_jpegs_of_other_kinds_decode(settings: dict[str, object]) -> None:
    image = np.full((16, 24), 77, "uint8")
    assert np.array_equal(decoded(jpeg_image(image, **settings), "jpeg", image), image)


def test_a_jpeg_may_be_padded_with_zeros() -> None:
    image = np.full((16, 24), 77, "uint8")
    assert np.array_equal(decoded(jpeg_image(image) + bytes(40), "jpeg", image), image)


def _jpeg() -> bytes:
    return jpeg_image(np.zeros((16, 24), "uint8"))


def _frame(rows: int, columns: int, precision: int = 8, colours: int = 1) -> bytes:
    head = struct.pack(">HBHHB", 8 + 3 * colours, precision, rows, columns, colours)
    return b"\xff\xd8\xff\xc0" + head + bytes(3 * colours) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x89PNG" + bytes(90), "does not begin"),
        (b"\xff\xd8", "cut short before"),
        (_jpeg()[:-30], "cut short|no end marker"),
        (_frame(65500, 65500), "are not read"),
        (_frame(0, 20), "are not read"),
        (_frame(16, 24, precision=12), "12 bits"),
        (_frame(16, 24, colours=4), "4 colours"),
        (b"\xff\xd8\xff\xc9" + bytes(40), "0xc9"),
        (b"\xff\xd8\xff\xe0\0\1" + bytes(40), "a segment of 1 bytes"),
        (b"\xff\xd8\xff\xe0\0\4" + bytes(40), "no marker"),
        (_jpeg()[:-2] + b"\xff\xda" * 100 + b"\xff\xd9", "scans"),
    ],
)
def test_a_jpeg_that_cannot_be_read_says_why(payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        codecs.decode(payload, encoding="jpeg", shape=(16, 24), dtype="uint8")


def test_a_b16_file_decodes_without_a_copy() -> None:
    image = np.arange(37 * 53, dtype="uint16").reshape(SHAPE)
    payload = b16_file(image)
    found = decoded(payload, "b16", image)
    assert np.array_equal(found, image)
    assert np.shares_memory(found, np.frombuffer(payload, np.uint8))
