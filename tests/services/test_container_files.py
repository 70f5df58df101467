"""HDF5 files with many images: stored as they are, read frame by frame, published once."""

from __future__ import annotations

import io
import json
import os
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
from pipeline.local.processes import wait_until
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
                attributes={"omega": chunk.chunk_offset[0] * 0.1},
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
    copies = [found for found in target.rglob("*.h5")]
    assert [copy.read_bytes() for copy in copies] == [stored]
    assert done.nbytes < len(stored) + 10**6
    with connect(target.as_uri()) as offline, offline.stream(beamtime, "d", "s") as stream:
        check_readable(stream, data)


def check_readable(stream: Any, data: np.ndarray) -> None:
    count = 0
    for frame in stream.ordered(timeout_s=20.0):
        assert np.array_equal(frame.array, data[frame.number])
        count += 1
    assert count == len(data)
    for number in (0, 517, len(data) - 1):
        found = stream.frame(number)
        assert np.array_equal(found.array, data[number])
        assert found.attributes["omega"] == number * 0.1
    assert stream.latest().number == len(data) - 1
    numbers = [frame.number for frame in stream.select("omega > 99 and number < 995")]
    assert numbers == list(range(991, 995)) or numbers == list(range(990, 995))
