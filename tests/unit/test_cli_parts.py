"""Pieces of the command line: pictures, spots, signals, output."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from pipeline.cli.demo_check import _latency
from pipeline.cli.demo_parts import Stage, Stalled
from pipeline.cli.output import account_pairs, range_text, size_text, time_text
from pipeline.cli.picture import blocks, coloured, plane, png, shrunk
from pipeline.cli.signals import stopping
from pipeline.errors import PipelineError
from pipeline.spots import count, count_spots

_INT = np.int32


def _spots(places: list[tuple[int, int]], shape=(200, 300), background=4.0) -> np.ndarray:
    rng = np.random.default_rng(7)
    mean = np.full(shape, background)
    profile = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    for row, column in places:
        mean[row - 3 : row + 4, column - 3 : column + 4] += 800 * np.outer(profile, profile)
    return rng.poisson(mean).astype(_INT)


def test_spots_are_counted_and_gaps_are_not() -> None:
    places = [(20, 20), (50, 200), (150, 31), (100, 100), (100, 120)]
    image = _spots(places)
    assert count_spots(image) == len(places)
    image[60:80] = -1
    image[0, 0] = -2
    assert count_spots(image) == len(places)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((100, 100), _INT),
        np.full((100, 100), -1, _INT),
        np.full((100, 100), 1000, np.uint16),
        np.zeros((2, 2), _INT),
        np.zeros(5, _INT),
        np.random.default_rng(1).poisson(50, (300, 300)).astype(_INT),
    ],
)
def test_an_image_without_spots_has_none(image: np.ndarray) -> None:
    assert count_spots(image) == 0


def test_the_worker_function_gives_attributes() -> None:
    class Frame:
        array = _spots([(20, 20)])

    result = count(Frame())
    assert result["spots"] == 1
    assert result["maximum"] > 100


def test_a_picture_masks_what_was_not_measured() -> None:
    image = np.arange(100, dtype=_INT).reshape(10, 10)
    image[4] = -1
    rgb = coloured(image)
    assert rgb.shape == (10, 10, 3)
    assert len(np.unique(rgb[4], axis=0)) == 1
    assert rgb[9].sum() > rgb[0].sum()
    unsigned = image.astype(np.uint16)
    assert (coloured(unsigned)[4] == rgb[4]).all()
    floating = np.where(image < 0, np.nan, image)
    assert (coloured(floating)[4] == rgb[4]).all()


def test_a_picture_of_nothing_is_drawn() -> None:
    assert coloured(np.full((3, 3), -1, _INT)).shape == (3, 3, 3)
    assert coloured(np.zeros((3, 3), bool)).shape == (3, 3, 3)
    assert plane(np.zeros((4, 3, 2), complex)).shape == (3, 2)
    assert plane(np.zeros(5)).shape == (1, 5)


@pytest.mark.parametrize("dtype", ["int32", "uint16", "float32"])
def test_a_shrunk_image_keeps_spots_and_gaps(dtype: str) -> None:
    image = np.zeros((100, 90), dtype)
    image[51, 33] = 77
    mask = {"int32": -1, "uint16": 65535, "float32": np.nan}[dtype]
    image[:10] = mask
    small = shrunk(image, 10, 10)
    assert small.shape == (10, 9)
    assert small[5, 3] == 77
    assert np.array_equal(small[0], np.full(9, mask, dtype), equal_nan=dtype == "float32")
    assert shrunk(small, 50, 50) is small


def test_half_blocks_hold_two_rows_a_line() -> None:
    lines = blocks(np.zeros((5, 4, 3), np.uint8)).split("\n")
    assert len(lines) == 3
    assert all(line.count("\N{UPPER HALF BLOCK}") == 4 for line in lines)


def test_a_png_holds_the_pixels() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    data = png(rgb)
    at, found = 8, {}
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        found[kind] = body
        at += 12 + length
    assert struct.unpack(">IIBBBBB", found[b"IHDR"]) == (5, 7, 8, 2, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(7, 16)
    assert np.array_equal(lines[:, 1:].reshape(7, 5, 3), rgb)


def test_numbers_for_people() -> None:
    assert size_text(999) == "999 B"
    assert size_text(15_400_000) == "15.4 MB"
    assert time_text(None) == ""
    assert time_text(1_300_000_000_123_456_789) == "2011-03-13T07:06:40.123Z"
    assert range_text([[1, 1], [3, 5]]) == "1, 3-5"
    assert range_text([[n, n] for n in range(0, 40, 2)]).endswith("and 10 more ranges")
    pairs = account_pairs(
        {
            "received": 0,
            "missing": [[1, 2]],
            "late": [],
            "complete": False,
            "quarantined": [{"source": "a", "reason": "b"}],
        }
    )
    assert pairs == [
        ("received", 0), ("missing", "1-2"), ("complete", "no"), ("quarantined", "a: b"),
    ]  # fmt: skip


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_to_finish(number: int, status: int, capfd) -> None:
    with stopping(lambda: "nothing") as stop:
        stop.exit_if_asked()
        os.kill(os.getpid(), number)
        assert stop.event.wait(5)
    with pytest.raises(SystemExit) as exit_:
        stop.exit_if_asked()
    assert exit_.value.code == status
    assert "stopping" in capfd.readouterr().err


def test_a_failure_after_a_signal_says_what_is_left(capfd) -> None:
    with pytest.raises(PipelineError), stopping(lambda: "3 frames were not flushed"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise PipelineError("broker gone")
    assert "3 frames were not flushed" in capfd.readouterr().err


def test_the_second_signal_gives_up_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from pipeline.cli.signals import stopping\n"
        "with stopping(lambda: '7 frames were not flushed') as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    stop.event.wait(10)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1
    assert "given up: 7 frames were not flushed" in done.stderr


def test_a_part_of_the_demo_that_fails_is_told_with_its_last_words(tmp_path) -> None:
    stage = Stage(tmp_path / "demo")
    stage.prepare(keep=False)
    part = stage.start("bad", "show", "nonsense")
    try:
        part.process.wait(60)
        with pytest.raises(PipelineError, match="bad ended with exit status 2"):
            stage.running()
    finally:
        stage.stop()


def test_a_demo_that_does_not_move_is_ended() -> None:
    stalled = Stalled(0.0)
    stalled.check({"frames": 1})
    with pytest.raises(PipelineError, match="nothing has moved"):
        stalled.check({"frames": 1})


def test_latencies_are_percentiles_of_frames_that_came_through() -> None:
    found = _latency({1: 1_000_000_000, 2: 2_000_000_000, 3: 0}, {1: 1010, 2: 2030})
    assert found == {"p50": 20.0, "p99": 29.8}
    assert _latency({}, {}) == {}
