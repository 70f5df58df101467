"""The HDF5 sink killed at any moment, again and again: the file is that of an undisturbed one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_hdf5_sink import frame, make_info, pixels

from pipeline.errors import SinkError
from pipeline.sinks.hdf5 import Hdf5Sink, layout

#: LICHTSTROM_KILLS=100 for the long form; each kind of log has so many.
KILLS = int(os.environ.get("LICHTSTROM_KILLS", "12"))
_SMALL = (13, 11)


def log_of(kind: str, count: int) -> list[int]:
    """Frame numbers in the order of the log; the offset of a record is its place."""
    numbers = list(range(100, 100 + count))
    dice = random.Random(kind)
    if kind == "gaps and copies":
        numbers = [n for n in numbers if n % 7]
        numbers += dice.sample(numbers, len(numbers) // 5)
    if kind == "shuffled":
        dice.shuffle(numbers)
    return numbers


def write_all(directory: Path, kind: str, count: int, compression: Any, pause_s: float) -> None:
    """Write what is not in the file yet, as somebody does who reads the log from the marker on."""
    numbers = log_of(kind, count)
    with Hdf5Sink(directory, compression=compression) as sink:
        sink.open(make_info())
        begin = sink.marker[0]
        for offset in range(begin, len(numbers)):
            number = numbers[offset]
            sink.write(frame(number, omega=number / 10), (0, offset))
            if dice_says(offset):
                sink.checkpoint([offset + 1])
            if pause_s:
                time.sleep(pause_s)
        sink.checkpoint([len(numbers)])
        sink.finish({})


def dice_says(offset: int) -> bool:
    return offset % 3 == 0


def contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and "offset" not in name:
            value = node[()]
            found[name] = value.tobytes() if isinstance(value, np.ndarray) else value
            if isinstance(value, np.ndarray) and value.dtype.kind == "O":
                found[name] = value.tolist()

    with h5py.File(path) as file:
        file.visititems(note)
    return found


@pytest.mark.parametrize(
    ("kind", "compression"),
    [("rising", "bslz4"), ("gaps and copies", "as-is"), ("shuffled", "none")],
)
def test_kills_at_any_moment_leave_nothing_lost_doubled_or_wrong(
    tmp_path: Path, kind: str, compression: str
) -> None:
    count, dice = 400, random.Random(f"{kind} kills")
    write_all(tmp_path / "calm", kind, count, compression, 0.0)
    directory, final = tmp_path / "killed", tmp_path / "killed" / "pilatus_scan_7.h5"
    # forked: a child that first imports everything would be killed in that
    context = multiprocessing.get_context("fork")
    kills = 0
    while not final.exists():
        # slow at first, so that it is killed on its way; in the end it gets through
        pause_s = 0.0003 * KILLS if kills < KILLS else 0.0
        child = context.Process(
            target=write_all, args=(directory, kind, count, compression, pause_s)
        )
        child.start()
        child.join(dice.uniform(0.02, 0.2) if kills < KILLS else 60)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
            child.join(10)
    assert kills >= KILLS // 2
    calm, killed = contents(tmp_path / "calm" / "pilatus_scan_7.h5"), contents(final)
    for moving in ("entry/start_time", "entry/provenance/next_offset"):
        calm.pop(moving, None)
        killed.pop(moving, None)
    assert sorted(calm) == sorted(killed)
    assert {name: (calm[name], killed[name]) for name in calm if calm[name] != killed[name]} == {}
    assert [path.name for path in directory.iterdir()] == [final.name]


@pytest.mark.parametrize("moment", range(0, 40, 3))
def test_a_kill_while_the_file_is_finished_costs_a_copy_and_no_frame(
    tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed behind the n-th field that is written into the file at the end."""

    def dying(directory: Path) -> None:
        written = 0
        write_field = layout._write_field

        def count_down(target: Any, *arguments: Any) -> None:
            nonlocal written
            write_field(target, *arguments)
            written += 1
            if written > moment:
                target.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(layout, "_write_field", count_down)
        write_all(directory, "gaps and copies", 60, "bslz4", 0.0)

    child = multiprocessing.get_context("fork").Process(target=dying, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    write_all(tmp_path, "gaps and copies", 60, "bslz4", 0.0)
    with h5py.File(tmp_path / "pilatus_scan_7.h5") as file:
        numbers = file["entry/data/frame_number"][:]
        valid = file["entry/instrument/detector/frame_valid"][:]
        assert numbers[valid == 1].tolist() == sorted(set(log_of("gaps and copies", 60)))
        for position in np.flatnonzero(valid):
            np.testing.assert_array_equal(
                file["entry/data/data"][int(position)], pixels(int(numbers[position]))
            )
    assert [path.name for path in tmp_path.iterdir()] == ["pilatus_scan_7.h5"]


def test_a_stream_with_other_partitions_than_the_file_is_refused(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0), (0, 0))
        sink.checkpoint([1])
    other = make_info()
    object.__setattr__(other.start, "offsets", (0, 0))
    with Hdf5Sink(tmp_path) as sink, pytest.raises(SinkError, match="partitions"):
        sink.open(other)
    with Hdf5Sink(tmp_path) as sink:  # what was there is there still
        sink.open(make_info())
        assert sink.marker == [1]
        assert sink.counts.written == 1


def test_a_disk_that_is_full_when_it_goes_on_costs_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0), (0, 0))
        sink.checkpoint([1])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, Hdf5Sink(tmp_path) as sink:
        patched.setattr("pipeline.sinks.hdf5.sink.left_behind", full)
        with pytest.raises(SinkError, match="no room left"):
            sink.open(make_info())
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        assert sink.marker == [1]
        path = Path(sink.finish({}))
    assert list(tmp_path.iterdir()) == [path]


def test_attributes_of_a_file_that_is_gone_do_not_come_into_the_next(tmp_path: Path) -> None:
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0, omega=1.0), (0, 0))
        sink.checkpoint([1])
    (part,) = tmp_path.glob(".*.part")
    part.unlink()
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        sink.write(frame(0), (0, 0))
        path = Path(sink.finish({}))
    with h5py.File(path) as file:
        assert "omega" not in file["entry/instrument/detector"].get("attributes", ())
