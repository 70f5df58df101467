"""Frames into HDF5 files: the writer alone, from topic and store to the file, a million frames."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.bench.children import Child, Line, resident_nbytes
from pipeline.bench.ground import GB, HEAT_NBYTES, Ground, heat
from pipeline.bench.rows import Row, row
from pipeline.config import Settings
from pipeline.frame import nbytes_of
from pipeline.records import Start, StreamInfo

#: Rows and columns, type and encoding of the writer's rows.
WRITER_ROWS: Mapping[str, tuple[tuple[int, int], str, str]] = {
    "sink.raw.1200kB": ((600, 1000), "uint16", "raw"),
    "sink.raw.11MB": ((2400, 2400), "uint16", "raw"),
    "sink.raw.16MB": ((2048, 2048), "uint32", "raw"),
    "sink.bslz4.11MB": ((2400, 2400), "uint16", "bslz4"),
    "sink.bslz4.16MB": ((2048, 2048), "uint32", "bslz4"),
    "sink.bslz4.300kB": ((300, 500), "uint16", "bslz4"),
}
#: Bytes of one run: (full, quick).
_VOLUME = (4 * GB, GB)
_CHECKPOINT_S = 0.5
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A frame as a sink sees it."""

    number: int
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    payload: memoryview
    timestamp_ns: int = 1_700_000_000 * 10**9
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def array(self) -> Any:
        """The pixels, decoded."""
        from pipeline.codecs import decode

        return decode(self.payload, encoding=self.encoding, shape=self.shape, dtype=self.dtype)


def writer_alone(ground: Ground, name: str) -> Row:
    """Measure the sink's writer against plain write() of the same bytes to one file."""
    shape, dtype, encoding = WRITER_ROWS[name]
    payloads = payloads_of(shape, dtype, encoding)
    mean_nbytes = sum(map(len, payloads)) / len(payloads)
    count = int(_VOLUME[ground.quick] / mean_nbytes)
    values, limits = [], []
    with ground.scratch() as folder:
        for _ in range(3 if ground.quick else 5):
            heat(folder, min(HEAT_NBYTES, int(count * mean_nbytes)))
            limits.append(count / _plain_s(folder / "plain", payloads, count))
            values.append(count / _sink_s(folder, payloads, count, shape, dtype, encoding))
    return row(
        name,
        values,
        limits,
        unit="frames/s",
        conditions=[
            f"{count} frames of {nbytes_of(shape, dtype) / 1e6:.2f} MB of pixels, payloads of"
            f" {mean_nbytes / 1e6:.2f} MB ({encoding}), written as they came",
            f"{median(values) * mean_nbytes / 1e6:.0f} MB/s, framing checked, one attribute a"
            f" frame, a checkpoint each {_CHECKPOINT_S} s and at the end; without fsync and finish",
            "page cache, whose memory was touched before each run",
            "limit: write() of the same payloads to one file, one thread",
        ],
    )


def payloads_of(shape: tuple[int, int], dtype: str, encoding: str) -> list[bytes]:
    """Return the payloads of four images of rings."""
    from pipeline.detectors.scene import ring_images

    images = ring_images(shape, count=4, dtype=dtype, mean=20.0)
    return [image.tobytes() if encoding == "raw" else _bitshuffled(image) for image in images]


def _bitshuffled(image: Any) -> bytes:
    import h5py
    import hdf5plugin

    with h5py.File("bench", "w", driver="core", backing_store=False) as file:
        chunk = hdf5plugin.Bitshuffle(cname="lz4")
        data = file.create_dataset("d", data=image, chunks=image.shape, **chunk)
        payload: bytes = data.id.read_direct_chunk((0, 0))[1]
    return payload


def _plain_s(path: Path, payloads: Sequence[bytes], count: int) -> float:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        begun_s = time.perf_counter()
        for number in range(count):
            os.write(descriptor, payloads[number % len(payloads)])
        return time.perf_counter() - begun_s
    finally:
        os.close(descriptor)
        path.unlink()


def _sink_s(
    folder: Path,
    payloads: Sequence[bytes],
    count: int,
    shape: tuple[int, ...],
    dtype: str,
    encoding: str,
    *,
    at: Callable[[int], None] = lambda _: None,
) -> float:
    """Return how long writing takes, opening and finishing left out."""
    from pipeline.sinks.hdf5 import Hdf5Sink

    with Hdf5Sink(folder / "sink", compression="as-is") as sink:
        sink.open(_info(count))
        begun_s = time.perf_counter()
        for number in range(count):
            payload = memoryview(payloads[number % len(payloads)])
            sink.write(
                Given(
                    number=number,
                    shape=shape,
                    dtype=dtype,
                    encoding=encoding,
                    payload=payload,
                    attributes={"omega": number / 10},
                ),
                (0, number),
            )
            sink.checkpoint([number + 1], every_s=_CHECKPOINT_S)
            at(number)
        sink.checkpoint([count])
        elapsed_s = time.perf_counter() - begun_s
        sink.abort()
    return elapsed_s


def _info(expected: int) -> StreamInfo:
    start = Start(
        stream_key=b"benchkey",
        beamtime="bench",
        detector="detector",
        stream="stream",
        created_ns=time.time_ns(),
        partitions=1,
        frames_per_chunk=16,
        offsets=(0,),
        expected=expected,
    )
    return StreamInfo(start=start)


def million(ground: Ground, name: str) -> Row:
    """Measure whether the millionth frame of a file costs more than the first ones."""
    marks: list[float] = []
    step = _MILLION // 10

    def at(number: int) -> None:
        if (number + 1) % step == 0:
            marks.append(time.perf_counter())

    payload = [np.arange(64, dtype=np.uint16).tobytes()]
    with ground.scratch() as folder:
        marks.append(time.perf_counter())
        _sink_s(folder, payload, _MILLION, (8, 8), "uint16", "raw", at=at)
    costs = [(b - a) / step * 1e6 for a, b in pairwise(marks)]
    return row(
        name,
        [median(costs[-3:])],
        [median(costs[:3])],
        unit="us/frame",
        conditions=[
            "a million frames of 8 x 8 pixels into one file, raw; the last 300,000",
            "limit: the first 300,000",
            "each tenth: " + ", ".join(f"{cost:.1f}" for cost in costs),
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkJob:
    """Which stream goes where."""

    settings: Settings
    beamtime: str
    folder: Path


def through(ground: Ground, name: str) -> Row:
    """Measure a stored stream into a file, against reading it alone; ``memory`` in MB.

    A third process reads and writes the same bytes to a plain file, in one thread: what is left of
    the reader's rate there is what any program that writes them may expect.
    """
    shape, nbytes = (600, 1000), 1_200_000
    count = _VOLUME[ground.quick] // nbytes
    payloads = payloads_of(shape, "uint16", "raw")
    wrote: list[float] = []
    copied: list[float] = []
    read: list[float] = []
    grown: list[float] = []
    with ground.beamtime() as beamtime, ground.scratch() as folder:
        _publish(ground.settings("file"), beamtime, payloads, count, shape)
        job = SinkJob(settings=ground.settings("file"), beamtime=beamtime, folder=folder)
        for _ in range(5):
            for role, found in ((_read, read), (_copy, copied), (_write, wrote)):
                heat(folder, min(HEAT_NBYTES, count * nbytes))
                with Child(role, job) as child:
                    facts = child.hear("done")
                found.append(count / facts["elapsed_s"])
            grown.append(facts["resident"])
    conditions = [
        f"{count} frames of 1.2 MB, raw, from broker and file: store, 8 partitions",
        f"{median(wrote) * nbytes / 1e6:.0f} MB/s to the end of the stream, finish left out",
        f"resident memory of the writing process at most {max(grown) / 1e6:.0f} MB",
        "page cache, no fsync; limit: a process that reads every payload in order, CRC checked",
        f"one that also writes them to a plain file: {median(copied):.0f} frames/s,"
        f" {median(copied) / median(read):.2f} of the limit;"
        f" the sink is {median(wrote) / median(copied):.2f} of that",
    ]
    if name.startswith("memory"):
        return row(
            name,
            [nbytes / 1e6 for nbytes in grown],
            [300.0],
            unit="MB",
            conditions=[
                *conditions[:1],
                f"a backlog of {count * nbytes / 1e6:.0f} MB; limit: what is wanted",
            ],
        )
    return row(name, wrote, read, unit="frames/s", conditions=conditions)


def _publish(
    settings: Settings, beamtime: str, payloads: Sequence[bytes], count: int, shape: tuple[int, int]
) -> None:
    from pipeline.session import connect

    images = [np.frombuffer(payload, np.uint16).reshape(shape) for payload in payloads]
    with (
        connect(settings=settings) as session,
        session.publish(beamtime, "detector", "stream", expected=count) as out,
    ):
        for number in range(count):
            out.write(images[number % len(images)], number=number, attributes={"omega": 0.1})


def _read(line: Line, job: SinkJob) -> None:
    from pipeline.session import connect

    with (
        connect(settings=job.settings) as session,
        session.stream(job.beamtime, "detector", "stream") as stream,
    ):
        begun_s = time.perf_counter()
        for frame in stream.ordered():
            frame.payload  # noqa: B018 -- fetched and checked
        line.say("done", elapsed_s=time.perf_counter() - begun_s)


def _copy(line: Line, job: SinkJob) -> None:
    from pipeline.session import connect

    path = job.folder / "plain"
    with (
        connect(settings=job.settings) as session,
        session.stream(job.beamtime, "detector", "stream") as stream,
        path.open("wb", buffering=0) as file,
    ):
        begun_s = time.perf_counter()
        for frame in stream.ordered():
            file.write(frame.payload)
        line.say("done", elapsed_s=time.perf_counter() - begun_s, resident=0)
    path.unlink()


def _write(line: Line, job: SinkJob) -> None:
    from pipeline.session import connect
    from pipeline.sinks.hdf5.files import Files, Options
    from pipeline.sinks.hdf5.records import LogFeed, write_records

    most = 0

    def look(_: int) -> None:
        nonlocal most
        most = max(most, resident_nbytes())

    with (
        connect(settings=job.settings) as session,
        session.stream(job.beamtime, "detector", "stream") as stream,
        Files(job.folder, stream.info, Options(compression="as-is")) as files,
    ):
        files.open()
        begun_s = time.perf_counter()
        write_records(stream, files, stop=threading.Event(), on_progress=look, feed=LogFeed(stream))
        elapsed_s = time.perf_counter() - begun_s
        for sink in files.open_sinks.values():
            sink.abort()
        line.say("done", elapsed_s=elapsed_s, resident=most)
