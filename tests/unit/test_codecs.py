"""The registry of encodings: decode and check, on good and on hostile payloads."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import codecs
from pipeline.detectors.pilatus.sim_files import edf_file, tiff_file
from pipeline.errors import DecodeError, InvalidFrameError

SHAPE = (37, 53)  # odd, so that chunks have a tail of raw pixels
FILTERS = {
    "bslz4": hdf5plugin.Bitshuffle(),
    "bszstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "lz4": hdf5plugin.LZ4(),
    "gzip": {"compression": "gzip"},
    "zstd": hdf5plugin.Zstd(),
}


def image_of(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(3).poisson(9, shape).astype(dtype)


def chunk_of(array: np.ndarray, encoding: str) -> bytes:
    """What HDF5 stores for one image."""
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        chunks = (1, *array.shape)
        data = file.create_dataset("d", data=array[None], chunks=chunks, **FILTERS[encoding])
        return bytes(data.id.read_direct_chunk((0,) * len(chunks))[1])


def edf_of(array: np.ndarray) -> bytes:
    return edf_file(array, ["# Detector: x", "# 2024-01-01T00:00:00"])


def tiff_of(array: np.ndarray) -> bytes:
    return tiff_file(array, ["# Detector: x"])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "float32", "complex128"])
def test_raw_pixels_are_a_read_only_view_on_the_payload(dtype: str) -> None:
    image = image_of(dtype)
    payload = bytearray(image.tobytes())
    decoded = codecs.decode(payload, encoding="raw", shape=SHAPE, dtype=dtype)
    assert np.array_equal(decoded, image)
    assert decoded.dtype == image.dtype
    assert not decoded.flags.writeable
    assert np.shares_memory(decoded, np.frombuffer(payload, np.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "float64"])
@pytest.mark.parametrize("encoding", sorted(FILTERS))
def test_chunks_of_hdf5_files_decode_to_their_image(encoding: str, dtype: str) -> None:
    image = image_of(dtype)
    payload = chunk_of(image, encoding)
    codecs.check(payload, encoding=encoding, shape=SHAPE, dtype=dtype)
    for buffer in (payload, memoryview(payload), np.frombuffer(payload, np.uint8)):
        decoded = codecs.decode(buffer, encoding=encoding, shape=SHAPE, dtype=dtype)
        assert decoded.dtype == image.dtype
        assert decoded.flags.c_contiguous
        assert np.array_equal(decoded, image)


@pytest.mark.parametrize("encoding", sorted(FILTERS))
def test_a_chunk_of_several_blocks_decodes(encoding: str) -> None:
    image = image_of("uint16", (300, 301))
    payload = chunk_of(image, encoding)
    decoded = codecs.decode(payload, encoding=encoding, shape=image.shape, dtype="uint16")
    assert np.array_equal(decoded, image)


def payload_of(encoding: str) -> bytes:
    if encoding == "raw":
        return image_of("int32").tobytes()
    if encoding in FILTERS:
        return chunk_of(image_of("int32"), encoding)
    return {"tiff": tiff_of, "edf": edf_of}[encoding](image_of("int32"))


HOSTILE = sorted((*FILTERS, "raw", "tiff", "edf"))


@pytest.mark.parametrize("encoding", HOSTILE)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_decode_to_the_announced_size_or_raise(
    encoding: str, data: st.DataObject
) -> None:
    payload = bytearray(PAYLOADS[encoding])
    for _ in range(data.draw(st.integers(1, 4))):
        # mostly in the framing, which is at the front
        at = data.draw(st.integers(0, 40) | st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.just(len(payload)) | st.integers(0, len(payload))) :]
    try:
        decoded = codecs.decode(payload, encoding=encoding, shape=SHAPE, dtype="int32")
    except DecodeError:
        return
    assert (decoded.shape, decoded.dtype.name) == (SHAPE, "int32")


PAYLOADS = {encoding: payload_of(encoding) for encoding in HOSTILE}


OTHERS = [((37, 54), "int32"), (SHAPE, "int64"), ((), "int32")]


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype"),
    # only files say which axis is which
    [(name, (53, 37), "int32") for name in ("tiff", "edf")]
    + [(name, *layout) for name in HOSTILE for layout in OTHERS],
)
def test_another_layout_than_announced_is_refused(
    encoding: str, shape: tuple[int, ...], dtype: str
) -> None:
    for call, error in ((codecs.decode, DecodeError), (codecs.check, InvalidFrameError)):
        if encoding == "gzip" and call is codecs.check:
            continue  # a zlib stream does not say how long it is
        with pytest.raises(error):
            call(PAYLOADS[encoding], encoding=encoding, shape=shape, dtype=dtype)


@pytest.mark.parametrize("encoding", HOSTILE)
@pytest.mark.parametrize("keep", [0, 1, 4, 11, 20, 0.5, -1])
def test_a_payload_cut_short_is_refused(encoding: str, keep: float) -> None:
    payload = PAYLOADS[encoding]
    size = int(keep) if keep >= 1 or keep <= 0 else int(len(payload) * keep)
    cut = payload[: size if size >= 0 else len(payload) + size]
    with pytest.raises(DecodeError):
        codecs.decode(cut, encoding=encoding, shape=SHAPE, dtype="int32")


@pytest.mark.parametrize(
    ("encoding", "payload"),
    [
        pytest.param("bslz4", bytes(12) + PAYLOADS["bslz4"], id="12 bytes too many in front"),
        pytest.param("bslz4", PAYLOADS["bslz4"][12:], id="without the 12 bytes"),
        pytest.param("bslz4", PAYLOADS["bslz4"] + b"\0", id="one byte too many"),
        pytest.param(
            "bslz4", PAYLOADS["bslz4"][:8] + bytes(4) + PAYLOADS["bslz4"][12:], id="no block"
        ),
        pytest.param("bslz4", PAYLOADS["bslz4"][:8] + b"\0\0\0\x21" + bytes(99), id="odd block"),
        pytest.param("bslz4", PAYLOADS["bslz4"][:8] + b"\0\0\0\x20" + bytes(99), id="tiny blocks"),
        pytest.param("lz4", PAYLOADS["lz4"][:12] + b"\xff" * 4 + bytes(99), id="endless block"),
        pytest.param("lz4", PAYLOADS["lz4"][:8] + bytes(4) + bytes(99), id="lz4, no block"),
        pytest.param("gzip", zlib.compress(bytes(50_000_000)), id="zlib bomb"),
        pytest.param("gzip", zlib.compress(bytes(10)), id="too little in the stream"),
        pytest.param("gzip", b"\x1f\x8b" + bytes(50), id="a gzip file, not a zlib stream"),
        pytest.param("zstd", b"\x28\xb5\x2f\xfd\x00" + bytes(50), id="zstd without its size"),
        pytest.param("zstd", b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 50, id="zstd of exabytes"),
        pytest.param("tiff", b"II*\0" + b"\xff" * 400, id="tiff directory nowhere"),
        pytest.param("tiff", b"MM\0*" + bytes(400), id="tiff directory at 0"),
        pytest.param("tiff", b"GIF89a" + bytes(400), id="another kind of file"),
        pytest.param("edf", b"{ " + b"x" * 70000, id="edf header without end"),
        pytest.param("edf", b"{ Dim_1 = -3 ; Dim_2 = 4 ; }\n", id="edf of negative size"),
        pytest.param("edf", b"{ Dim_1 = 9999999999 ; }\n", id="edf of absurd size"),
        pytest.param(
            "edf", b"{\nDim_1 = 53 ;\nDim_2 = 37 ;\nDataType = Quad ;\n}\n", id="edf type"
        ),
    ],
)
def test_hostile_payloads_are_refused_by_decode(encoding: str, payload: bytes) -> None:
    with pytest.raises(DecodeError, match=r"(?i)" + encoding):
        codecs.decode(payload, encoding=encoding, shape=SHAPE, dtype="int32")


def test_a_frame_without_pixels_has_none_to_decode() -> None:
    with pytest.raises(DecodeError, match="no pixels"):
        codecs.decode(b"", encoding="none", shape=(), dtype="uint8")
    codecs.check(b"", encoding="none", shape=(), dtype="uint8")


@pytest.mark.parametrize(
    ("field", "payload", "encoding", "shape", "dtype"),
    [
        ("payload", b"x", "none", (), "uint8"),
        ("payload", b"", "raw", (2, 2), "uint8"),
        ("payload", b"", "cbf", (2, 2), "int32"),
        ("payload", b"12345", "raw", (2, 2), "uint8"),
        ("payload", b"not a file", "cbf", (2, 2), "int32"),
        ("payload", b"not a file", "tiff", (2, 2), "int32"),
        ("payload", b"not a file", "edf", (2, 2), "int32"),
        ("payload", np.zeros((4, 4), np.uint8)[:, ::2], "raw", (4, 2), "uint8"),
        ("encoding", b"1234", "webp", (2, 2), "uint8"),
        ("dtype", b"1234", "raw", (2, 2), "object"),
        ("shape", b"1234", "raw", (2, -2), "uint8"),
        ("shape", PAYLOADS["tiff"], "tiff", (2, 2), "int32"),
        ("dtype", PAYLOADS["tiff"], "tiff", SHAPE, "int16"),
        ("payload", PAYLOADS["tiff"][:-1], "tiff", SHAPE, "int32"),
        ("payload", PAYLOADS["edf"][:-1], "edf", SHAPE, "int32"),
    ],
)
def test_check_names_the_field_that_is_wrong(
    field: str, payload: bytes, encoding: str, shape: tuple[int, ...], dtype: str
) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        codecs.check(payload, encoding=encoding, shape=shape, dtype=dtype)
    assert caught.value.field == field


def test_an_unknown_encoding_is_named_with_those_known() -> None:
    with pytest.raises(DecodeError, match=r"'webp' is unknown.*bslz4"):
        codecs.decode(b"x", encoding="webp", shape=(1,), dtype="uint8")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"byteorder": ">"}, id="big-endian"),
        pytest.param({"rowsperstrip": 5}, id="several strips"),
        pytest.param({"tile": (16, 16)}, id="tiles"),
    ],
)
def test_other_tiff_flavours_decode(options: dict[str, object]) -> None:
    image = image_of("uint16")
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    payload = file.getvalue()
    codecs.check(payload, encoding="tiff", shape=SHAPE, dtype="uint16")
    decoded = codecs.decode(payload, encoding="tiff", shape=SHAPE, dtype="uint16")
    assert decoded.dtype == np.dtype("uint16")
    assert np.array_equal(decoded, image)


def test_a_big_endian_edf_file_decodes() -> None:
    text = "{\nByteOrder = HighByteFirst ;\nDataType = UnsignedShort ;\nDim_1 = 3 ;\nDim_2 = 2 ;\n"
    image = np.arange(6, dtype=">u2").reshape(2, 3)
    payload = text.encode().ljust(510) + b"}\n" + image.tobytes()
    decoded = codecs.decode(payload, encoding="edf", shape=(2, 3), dtype="uint16")
    assert np.array_equal(decoded, image)
    assert decoded.dtype.isnative


def test_an_edf_header_may_be_one_line_or_mostly_blanks() -> None:
    text = "{ DataType = SignedInteger ; Dim_1 = 3 ; Dim_2 = 2 ; ByteOrder = LowByteFirst ;"
    image = np.arange(6, dtype=np.int32).reshape(2, 3)
    payload = text.encode().ljust(60_000) + b"}\n" + image.tobytes()
    decoded = codecs.decode(payload, encoding="edf", shape=(2, 3), dtype="int32")
    assert np.array_equal(decoded, image)


def test_importing_the_registry_loads_no_decoder() -> None:
    code = (
        "import sys, pipeline.codecs;"
        "print(*{'h5py', 'hdf5plugin', 'tifffile', 'dectris', 'google_crc32c'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("encoding", ["bslz4", "bszstd", "lz4"])
@pytest.mark.parametrize(
    ("lengths", "problem"),
    [
        pytest.param((6, 0, 3), "block 1 of 3", id="a block of nothing between others"),
        pytest.param((0, 6, 3), "block 0 of 3", id="a block of nothing first"),
        pytest.param((3, 6, 0), "block 2 of 3", id="a block of nothing last"),
        pytest.param((3, 2**32 - 1, 3), "block 1 of 3", id="a length that would turn negative"),
        pytest.param((3, 2**31, 3), "block 1 of 3", id="a length beyond the payload"),
        pytest.param((3, 3, 4), "block 2 of 3", id="a last block beyond the end"),
        pytest.param((3, 3, 2), "1 bytes too many", id="a byte behind the last block"),
    ],
)
def test_blocks_must_be_something_and_end_where_the_payload_does(
    encoding: str, lengths: tuple[int, ...], problem: str
) -> None:
    payload = struct.pack(">QI", 96, 32)
    payload += b"".join(struct.pack(">I", n) + b"\1" * min(n, 9) for n in lengths)
    payload = payload[:33].ljust(33, b"\1")
    with pytest.raises(DecodeError, match=problem):
        codecs.decode(payload, encoding=encoding, shape=(4, 6), dtype="int32")
