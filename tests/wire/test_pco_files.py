"""PCO files, built by hand from the vendor's description of them."""

from __future__ import annotations

import struct
import zlib
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pipeline.codecs import b16
from pipeline.detectors.pco import wire
from pipeline.detectors.pco.compressed import first_pixels
from pipeline.errors import DecodeError, InvalidFrameError

# counter 00012345, 2026-11-23 14:05:09.876543
DIGITS = "0001234520261123140509876543"
BCD = [int(DIGITS[at : at + 2], 16) for at in range(0, 28, 2)]
TIME_NS = 1_795_442_709_876_543_000  # UTC


def pixels(values: list[int], *, shift: int = 0) -> np.ndarray:
    image = np.full((4, 20), 77 << shift, np.uint16)
    image[0, :14] = [value << shift for value in values]
    return image


def b16_file(image: np.ndarray, *, header: int = 1024, height: int | None = None) -> bytes:
    rows, columns = image.shape
    fields = struct.pack(
        "<4s5i", b"PCO-", header + image.nbytes, header, columns, height or rows, -1
    )
    return fields.ljust(header, b"\0") + image.tobytes()


def tiff_file(
    images: list[np.ndarray], *, big: bool = False, gap: int = 0, compression: int = 1
) -> bytes:
    """Return a TIFF with one strip a page, directories at the end."""
    out = bytearray(
        b"II" + (struct.pack("<HHHQ", 43, 8, 0, 0) if big else struct.pack("<HI", 42, 0))
    )
    link, places = (8 if big else 4), []
    for image in images:
        places.append(len(out))
        out += image.tobytes() + bytes(gap)
    for image, place in zip(images, places, strict=True):
        width = "<Q" if big else "<I"
        struct.pack_into(width, out, link, len(out))
        tags = [(256, image.shape[1]), (257, image.shape[0]), (258, 16), (259, compression)]
        tags += [(273, place), (277, 1), (279, image.nbytes), (339, 1)]
        out += struct.pack("<Q" if big else "<H", len(tags))
        for tag, value in tags:
            out += struct.pack("<HHQQ" if big else "<HHII", tag, 16 if big else 4, 1, value)
        link = len(out)
        out += bytes(8 if big else 4)
    return bytes(out)


def test_the_stamp_gives_counter_and_time_to_the_last_microsecond():
    stamp = wire.read_stamp(pixels(BCD))
    assert stamp == wire.Stamp(counter=12345, timestamp_ns=TIME_NS)


def test_the_stamp_is_read_in_the_cameras_time_zone():
    stamp = wire.read_stamp(pixels(BCD), timezone=ZoneInfo("Europe/Berlin"))
    assert stamp is not None
    assert stamp.timestamp_ns == TIME_NS - 3600 * 10**9


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_left_aligned_digits_are_found_by_themselves(shift):
    stamp = wire.read_stamp(pixels(BCD, shift=shift))
    assert stamp == wire.Stamp(counter=12345, timestamp_ns=TIME_NS)


def test_a_wrong_alignment_gives_no_stamp():
    assert wire.read_stamp(pixels(BCD, shift=2), shifts=(0,)) is None


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 0x1A), (3, 0xA0), (5, 0x1000), (6, 0x13), (7, 0x32), (8, 0x24), (9, 0x60), (4, 0x18)],
    ids=["nibble", "high nibble", "too large", "month", "day", "hour", "minute", "century"],
)
def test_what_is_no_digit_or_no_date_is_no_stamp(place, value):
    digits = list(BCD)
    digits[place] = value
    assert wire.read_stamp(pixels(digits)) is None


def test_noise_and_zeros_are_no_stamps():
    rng = np.random.default_rng(1)
    assert wire.read_stamp(np.zeros((2, 20), np.uint16)) is None
    assert wire.read_stamp(np.zeros((1, 8), np.uint16)) is None
    for _ in range(200):
        assert wire.read_stamp(rng.poisson(100, (1, 14)).astype(np.uint16)) is None


@pytest.mark.parametrize("header", [488, 1024, 24 + 37])
def test_a_b16_file_is_read_whatever_its_header_length(header):
    image = pixels(BCD)
    found = wire.read_b16(b16_file(image, header=header))
    assert (found.shape, found.offset, found.encoding) == ((4, 20), header, "b16")
    assert found.stamp is not None
    assert np.array_equal(b16.decode(b16_file(image, header=header)), image)


def test_both_images_of_a_double_shutter_are_one_frame():
    image = np.vstack([pixels(BCD), pixels(BCD)])
    found = b16.parse(b16_file(image, height=4))
    assert (found.shape, found.complete) == ((8, 20), True)


def test_a_b16_file_that_grows_is_not_complete():
    content = b16_file(pixels(BCD))
    assert not b16.parse(content[:-2]).complete
    for end in (0, 3, 23, 100, len(content) - 1):
        with pytest.raises(InvalidFrameError):
            wire.read_b16(content[:end])
    with pytest.raises(InvalidFrameError):
        wire.read_b16(content + b"x")


@pytest.mark.parametrize(
    "fields",
    [
        (b"BM--", 200, 100, 5, 10, -1),
        (b"PCO-", -1, 1024, 20, 4, -1),
        (b"PCO-", 2**31 - 1, 1024, 2**31 - 1, 2**31 - 1, -1),
        (b"PCO-", 1024, 1024, 0, 0, -1),
        (b"PCO-", 184, -8, 20, 4, -1),
        (b"PCO-", 24 + 161, 24, 20, 4, -1),
    ],
    ids=["magic", "negative", "huge", "empty", "header below 0", "odd length"],
)
def test_a_hostile_b16_header_is_refused(fields):
    with pytest.raises(DecodeError):
        b16.parse(struct.pack("<4s5i", *fields).ljust(1024, b"\0"))


@pytest.mark.parametrize("big", [False, True], ids=["classic", "bigtiff"])
def test_pages_of_a_tiff_are_ranges_of_its_bytes(big):
    images = [pixels(BCD), pixels([1, *BCD[1:]]) + 1]
    images[1][0, :14] -= 1
    content = tiff_file(images, big=big)
    found, _ = wire.read_tiff(content)
    assert [image.page for image in found] == [0, 1]
    for image, wanted in zip(found, images, strict=True):
        assert image.problem == ""
        assert image.stamp is not None
        assert content[image.offset : image.offset + image.nbytes] == wanted.tobytes()


def test_a_compressed_page_says_so_and_is_no_range():
    found, _ = wire.read_tiff(tiff_file([pixels(BCD), pixels(BCD)], compression=5))
    assert found[0].offset is None
    assert "compress" in found[0].problem


def lzw(content: bytes) -> bytes:
    """Return TIFF's LZW of some bytes, as literal codes of 9 bits: clear, bytes, end."""
    bits = "".join(f"{code:09b}" for code in (256, *content, 257))
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("compression", [5, 8])
def test_the_stamp_of_a_compressed_image_is_found(compression, predictor):
    row = pixels(BCD)[0]
    stored = np.diff(row, prepend=np.uint16(0)) if predictor == 2 else row
    packed = lzw(stored.tobytes()) if compression == 5 else zlib.compress(stored.tobytes())
    found = first_pixels(packed, compression=compression, predictor=predictor, count=14)
    assert found is not None
    assert wire.read_stamp(found) == wire.Stamp(counter=12345, timestamp_ns=TIME_NS)
    for end in range(len(packed)):
        first_pixels(packed[:end], compression=compression, predictor=predictor, count=14)


def test_repeated_bytes_in_lzw_are_found_in_its_table():
    # clear, 7, then the entry that this code itself completes: 7 7, and once more
    bits = "".join(f"{code:09b}" for code in (256, 7, 258, 259)).ljust(40, "0")
    content = int(bits, 2).to_bytes(5, "big")
    found = first_pixels(content, compression=5, predictor=1, count=3)
    assert found is not None
    assert found.tolist() == [0x0707] * 3


def test_every_cut_of_a_tiff_is_refused():
    content = tiff_file([pixels(BCD), pixels(BCD)])
    for end in range(0, len(content), 7):
        with pytest.raises(InvalidFrameError):
            wire.read_tiff(content[:end])


def test_directories_in_a_loop_are_refused():
    content = bytearray(tiff_file([pixels(BCD), pixels(BCD)]))
    first = struct.unpack_from("<I", content, 4)[0]
    content[-4:] = struct.pack("<I", first)
    with pytest.raises(InvalidFrameError, match="loop"):
        wire.read_tiff(bytes(content))


def test_random_damage_never_ends_in_anything_but_a_refusal():
    rng = np.random.default_rng(2)
    for big in (False, True):
        content = tiff_file([pixels(BCD), pixels(BCD)], big=big)
        for _ in range(300):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                damaged[place] = rng.integers(0, 256)
            try:
                wire.read_tiff(bytes(damaged))
            except InvalidFrameError:
                continue


def test_an_image_of_zeros_is_empty():
    zeros = np.zeros((4, 20), np.uint16)
    assert wire.read_b16(b16_file(zeros)).empty
    zeros[3, 19] = 1
    assert not wire.read_b16(b16_file(zeros)).empty
