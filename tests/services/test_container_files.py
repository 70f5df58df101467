"""HDF5 files with many images: stored as they are, read frame by frame, published once."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from pipeline.frame import FrameHeader
from pipeline.ingest import run
from pipeline.protocols import PlacedFrame, SeriesBegin, SeriesEnd, SourceFile
from pipeline.session import Session, connect

FRAMES, SHAPE = 1000, (32, 48)


def images(count: int = FRAMES) -> np.ndarray:
    made = np.random.default_rng(7).poisson(3, (count, *SHAPE)).astype(np.uint16)
    made[:, 0, 0] = np.arange(count)
    return made


def write_hdf5(path: Path, count: int = FRAMES) -> np.ndarray:
    data = images(count)
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "entry/data/data",
            data=data,
            chunks=(1, *SHAPE),
            compression=hdf5plugin.Bitshuffle(cname="lz4"),
        )
    return data


def placed(path: Path, first: int = 0) -> tuple[PlacedFrame, ...]:
    found = []
    with h5py.File(path) as file:
        dataset = file["entry/data/data"]
        for index in range(dataset.id.get_num_chunks()):
            chunk = dataset.id.get_chunk_info(index)
            header = FrameHeader(
                number=first + chunk.chunk_offset[0],
                timestamp_ns=10**18 + chunk.chunk_offset[0],
                shape=SHAPE,
                dtype="uint16",
                encoding="bslz4",
                attributes={"omega": (first + chunk.chunk_offset[0]) * 0.1},
            )
            found.append(PlacedFrame(header=header, offset=chunk.byte_offset, nbytes=chunk.size))
    return tuple(sorted(found, key=lambda frame: frame.header.number))


class FileAdapter:
    """Gives HDF5 files whole; keeps which of them may go."""

    name = "hdf5test"

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.released: list[Any] = []

    def events(self, *, poll_s: float) -> Iterator[Any]:
        yield SeriesBegin(series="f", name="f", run={"adapter": self.name, "files": "f"})
        first = 0
        for path in self.paths:
            frames = placed(path, first)
            first += len(frames)
            # A read-only map of the file, so that no byte of it is copied.
            payload = np.memmap(path, np.uint8, "r")
            yield SourceFile(series="f", payload=payload, frames=frames, token=str(path))
        yield SeriesEnd(series="f")

    def acknowledge(self, tokens: Any) -> None:
        self.released.extend(tokens)

    def check(self) -> Any:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as made:
        yield made


def publish(session: Session, beamtime: str, *paths: Path) -> tuple[Any, FileAdapter]:
    adapter = FileAdapter(*paths)
    return run(session, adapter, beamtime=beamtime, detector="d", stream="s"), adapter


#: An adapter that is killed when so many records of its file are on the topic.
DYING = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_container_files import FileAdapter, Path
from pipeline.ingest import run
from pipeline.publishing.window import Window
from pipeline.session import connect

submit, left = Window.submit, [int(sys.argv[3])]

def counted(window, draft, ticket):
    if not left[0]:
        assert window.wait_empty(30)
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    submit(window, draft, ticket)

Window.submit = counted
with connect() as session:
    run(session, FileAdapter(Path(sys.argv[4])), beamtime=sys.argv[2], detector="d", stream="s")
"""


def objects(session: Session, beamtime: str) -> list[Any]:
    info = session.stream(beamtime, "d", "s").info
    found = session.services.store.list(session.services.prefix(info))
    return [blob for blob in found if "/manifest/" not in blob.key]


def test_a_file_is_one_object_and_its_frames_are_read_in_every_way(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    path = tmp_path / "many.h5"
    data = write_hdf5(path)
    report, adapter = publish(session, beamtime, path)
    assert (report.frames, report.confirmed, report.not_flushed) == (FRAMES, FRAMES, 0)
    assert adapter.released == [str(path)]

    (blob,) = objects(session, beamtime)
    assert blob.key.endswith(".h5")
    stored = bytes(session.services.store.get(blob.key, 0, blob.nbytes))
    assert stored == path.read_bytes()
    with h5py.File(io.BytesIO(stored)) as file:
        assert np.array_equal(file["entry/data/data"][()], data)

    with session.stream(beamtime, "d", "s") as stream:
        check_readable(stream, data)
        seen = set()
        for delivery in stream.shared(group="g", timeout_s=20.0):
            assert np.array_equal(delivery.frame.array, data[delivery.frame.number])
            seen.add(delivery.frame.number)
            delivery.ack()
            if len(seen) == FRAMES:
                break
        assert stream.account()["complete"]

    target = tmp_path / "export"
    target.mkdir()
    from pipeline.blobs.file import FileStore
    from pipeline.export import export

    store = FileStore(target)
    with session.stream(beamtime, "d", "s") as stream:
        done = export([stream.info], session.services.store, store, names=session.services.names)
    copies = list(target.rglob("*.h5"))
    assert [copy.read_bytes() for copy in copies] == [stored]
    assert done.nbytes < len(stored) + 10**6
    with connect(target.as_uri()) as offline, offline.stream(beamtime, "d", "s") as stream:
        check_readable(stream, data)


@pytest.mark.parametrize("records", [0, 1])
def test_a_writer_killed_between_object_and_records_is_continued_with_the_rest(
    session: Session, beamtime: str, tmp_path: Path, records: int
) -> None:
    path = tmp_path / "many.h5"
    data = write_hdf5(path, 300)
    command = [sys.executable, "-c", DYING, __file__, beamtime, str(records), str(path)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    assert len(objects(session, beamtime)) == 1

    report, adapter = publish(session, beamtime, path)
    assert report.frames + report.skipped == 300
    assert bool(report.skipped) == bool(records)
    assert adapter.released == [str(path)]
    with session.stream(beamtime, "d", "s") as stream:
        account = stream.account()
        assert (account["received"], account["duplicate"], account["complete"]) == (300, [], True)
        check_readable(stream, data)
    stored = objects(session, beamtime)
    assert [found.nbytes for found in stored] == [path.stat().st_size] * 2

    again, adapter = publish(session, beamtime, path)
    assert (again.frames, again.skipped, adapter.released) == (0, 300, [str(path)])
    assert len(objects(session, beamtime)) == 2  # a file without news is not stored again


def test_a_second_file_goes_on_where_the_first_ended(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    data = np.concatenate([write_hdf5(first, 120), write_hdf5(second, 130)])
    report, adapter = publish(session, beamtime, first, second)
    assert (report.frames, adapter.released) == (250, [str(first), str(second)])
    assert {blob.nbytes for blob in objects(session, beamtime)} == {
        first.stat().st_size,
        second.stat().st_size,
    }
    with session.stream(beamtime, "d", "s") as stream:
        check_readable(stream, data)


def check_readable(stream: Any, data: np.ndarray) -> None:
    count = 0
    for frame in stream.ordered(timeout_s=20.0):
        assert np.array_equal(frame.array, data[frame.number])
        count += 1
    assert count == len(data)
    for number in (0, len(data) // 2 + 17, len(data) - 1):
        found = stream.frame(number)
        assert np.array_equal(found.array, data[number])
        assert found.attributes["omega"] == number * 0.1
    assert stream.latest().number == len(data) - 1
    numbers = [frame.number for frame in stream.select("omega > 5.05 and number < 60")]
    assert numbers == list(range(51, 60))
