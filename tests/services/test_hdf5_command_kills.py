"""``lichtstrom sink hdf5`` killed again and again while a stream with gaps and copies grows."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the filters
import numpy as np
import pytest

from pipeline.session import connect

pytestmark = [pytest.mark.service, pytest.mark.timeout(900)]
#: LICHTSTROM_KILLS=100 for the long form.
KILLS = int(os.environ.get("LICHTSTROM_KILLS", "3"))
_SHAPE = (200, 250)


def image(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 9, _SHAPE).astype(np.uint16)


def publish(session: Any, beamtime: str, ready: threading.Event, done: threading.Event) -> None:
    """Publish until told to stop: gaps, and a second writer that repeats what the first one did."""
    number = 0
    for taken in range(2):
        out = session.publish(beamtime, "d", "s", frames_per_chunk=8, takeover=taken > 0)
        for again in range(max(0, number - 300) if taken else 0, number):
            if again % 11:
                out.write(image(again), number=again, attributes={"omega": again / 10})
        while not (done.wait(0.002) if taken else number > 300):
            number += 1
            if number % 11:
                out.write(image(number), number=number, attributes={"omega": number / 10})
        out.flush()
        ready.set()
        if taken:
            out.end("complete")
        else:
            out.abandon()


@pytest.mark.parametrize(
    "options",
    [[], ["--writers", "2"], ["--frames-per-file", "100"]],
    ids=["one file", "by partition", "by number"],
)
def test_killed_at_any_moment_the_files_lack_and_double_nothing(
    home_env: Path, beamtime: str, tmp_path: Path, options: list[str]
) -> None:
    dice = random.Random(len(options))
    ready, done = threading.Event(), threading.Event()
    with connect("file") as session:
        source = threading.Thread(target=publish, args=(session, beamtime, ready, done))
        source.start()
        try:
            assert ready.wait(60)
            for _ in range(KILLS):
                sink = _start(beamtime, tmp_path, options)
                time.sleep(dice.uniform(0.8, 3.0))
                os.killpg(sink.pid, signal.SIGKILL)
                sink.communicate()
        finally:
            done.set()
            source.join(60)
        sink = _start(beamtime, tmp_path, options)
        _, err = sink.communicate(timeout=120)
        assert sink.returncode == 0, err
        with session.stream(beamtime, "d", "s") as stream:
            numbers = np.unique(stream.table().numbers)
    check_whole(tmp_path, numbers)


def check_whole(directory: Path, numbers: Any) -> None:
    """Assert that the file has these frames, each at its place, and nothing is left beside it."""
    with h5py.File(directory / "d_s.h5") as file:
        places = file["entry/data/frame_number"][:]
        assert places.tolist() == list(range(numbers[0], numbers[-1] + 1))
        valid = file["entry/instrument/detector/frame_valid"][:] == 1
        assert places[valid].tolist() == numbers.tolist()
        for position in np.flatnonzero(valid):
            assert (file["entry/data/data"][position] == image(int(places[position]))).all()
        assert (file["entry/data/data"][0 :: max(1, len(places) // 50)].shape[1:]) == _SHAPE
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def test_writers_end_when_the_command_is_killed(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    with connect("file") as session, session.publish(beamtime, "d", "s") as out:
        out.write(image(1), number=1)
        out.flush()
        sink = _start(beamtime, tmp_path, ["--writers", "2"])
        try:
            _until(lambda: len(_children(sink.pid)) >= 2)
            writers = _children(sink.pid)
            sink.kill()
            sink.communicate()
            _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in writers))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(sink.pid, signal.SIGKILL)


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _start(beamtime: str, directory: Path, options: list[str]) -> subprocess.Popen[str]:
    command = ["sink", "hdf5", f"{beamtime}/d/s", "--out", str(directory), "--follow", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
