"""A stored stream into an HDF5 file by Kafka Connect, beside the sink without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.bench.children import Child, Line
from pipeline.bench.ground import GB, HEAT_NBYTES, Ground, heat
from pipeline.bench.rows import Row, row
from pipeline.bench.sinking import SinkJob, payloads_of
from pipeline.errors import PipelineError, PluginError, RuntimeUnavailableError

if TYPE_CHECKING:
    from pipeline.connectors.rest import ConnectRest

#: Rows and columns, type and encoding.
CONNECT_ROWS: Mapping[str, tuple[tuple[int, int], str, str]] = {
    "connect.raw.1200kB": ((600, 1000), "uint16", "raw"),
    "connect.bslz4.90kB": ((220, 500), "uint16", "bslz4"),
}
#: Bytes of one run: (full, quick).
_VOLUME = (3 * GB, GB)
_LIMIT_S = 300.0
_LOOK_S, _CHECK_S = 0.01, 0.5


def connected(ground: Ground, name: str) -> Row:
    """Measure a task of the HDF5 connector against the sink, by turns; skipped without plugins."""
    from pipeline.local import down, up

    with TemporaryDirectory(prefix="bench-", dir=ground.home) as folder:
        home = Path(folder)
        try:
            info = up(home, connect=True, progress=ground.tell)
            _require(info.connect.url if info.connect is not None else "")
        except (RuntimeUnavailableError, PluginError) as error:
            down(home)
            ground.tell(f"{name} skipped: {error}")
            return Row(id=name, conditions=f"skipped: {error}")
        try:
            return _measured(
                Ground(home=home, info=info, quick=ground.quick, tell=ground.tell), name
            )
        finally:
            down(home)


def _require(url: str) -> None:
    from pipeline.connectors.hdf5_config import CLASS
    from pipeline.connectors.rest import ConnectRest

    with ConnectRest(url) as rest:
        rest.require_plugin(CLASS)


def _measured(ground: Ground, name: str) -> Row:
    shape, dtype, encoding = CONNECT_ROWS[name]
    payloads = payloads_of(shape, dtype, encoding)
    mean_nbytes = sum(map(len, payloads)) / len(payloads)
    count = int(_VOLUME[ground.quick] / mean_nbytes)
    connect: list[float] = []
    sink: list[float] = []
    with ground.beamtime() as beamtime:
        _publish(ground, beamtime, payloads, count, CONNECT_ROWS[name])
        for _ in range(3 if ground.quick else 5):
            for found, run in ((sink, _by_sink), (connect, _by_connect)):
                with ground.scratch() as folder:
                    heat(folder, min(HEAT_NBYTES, int(count * mean_nbytes)))
                    found.append(count / run(ground, beamtime, folder))
    return row(
        name,
        connect,
        sink,
        unit="frames/s",
        conditions=[
            f"{count} frames, payloads of {mean_nbytes / 1e6:.2f} MB ({encoding}), from broker and"
            " file: store, 8 partitions, one task",
            f"{median(connect) * mean_nbytes / 1e6:.0f} MB/s from the first frame in the file to"
            " the finished file, fsync included, the start of the task left out",
            "page cache, whose memory was touched before each run",
            "limit: the same by lichtstrom sink hdf5, by turns",
        ],
    )


def _publish(
    ground: Ground,
    beamtime: str,
    payloads: list[bytes],
    count: int,
    frame: tuple[tuple[int, int], str, str],
) -> None:
    from pipeline.session import connect

    shape, dtype, encoding = frame
    with (
        connect(settings=ground.settings("file")) as session,
        session.publish(beamtime, "detector", "stream", expected=count) as out,
    ):
        for number in range(count):
            out.write(
                payloads[number % len(payloads)],
                number=number,
                shape=shape,
                dtype=dtype,
                encoding=encoding,
                attributes={"omega": 0.1},
            )


def _by_sink(ground: Ground, beamtime: str, folder: Path) -> float:
    job = SinkJob(settings=ground.settings("file"), beamtime=beamtime, folder=folder)
    with Child(_write, job) as child:
        elapsed_s = _watched(folder, lambda: None)
        child.hear("done")
    return elapsed_s


def _write(line: Line, job: SinkJob) -> None:
    from pipeline.session import connect
    from pipeline.sinks.hdf5.files import Options
    from pipeline.sinks.hdf5.following import write_stream

    with (
        connect(settings=job.settings) as session,
        session.stream(job.beamtime, "detector", "stream") as stream,
    ):
        write_stream(
            stream,
            job.folder,
            Options(compression="as-is"),
            follow=False,
            stop=threading.Event(),
            on_progress=lambda _: None,
        )
    line.say("done")


def _by_connect(ground: Ground, beamtime: str, folder: Path) -> float:
    from pipeline.connectors.hdf5_config import connector_config
    from pipeline.connectors.rest import ConnectRest
    from pipeline.kafka.admin import Admin
    from pipeline.naming import Names, StreamId
    from pipeline.sinks.hdf5.files import Options

    assert ground.info.connect is not None
    config = connector_config(
        StreamId(beamtime, "detector", "stream"),
        folder,
        Options(compression="as-is"),
        names=Names(),
        name=folder.name,
        tasks=1,
        replication=1,
    )
    with (
        closing(Admin(ground.settings("file").kafka)) as admin,
        ConnectRest(ground.info.connect.url) as rest,
    ):
        admin.create_topic(config["errors.deadletterqueue.topic.name"], partitions=1)
        rest.create(folder.name, config)
        try:
            return _watched(folder, lambda: _look(rest, folder.name))
        finally:
            rest.remove(folder.name)


def _look(rest: ConnectRest, name: str) -> None:
    status = rest.status(name)
    if status is not None and status.failure:
        raise PipelineError(status.failure)


def _watched(folder: Path, check: Callable[[], None]) -> float:
    """Return the time from the first frame of a file to its end; ``check`` raises if none comes."""
    now_s = time.monotonic()
    begun_s, checked_s, deadline_s = None, now_s, now_s + _LIMIT_S
    while not list(folder.glob("*.h5")):
        now_s = time.monotonic()
        if begun_s is None and any(part.stat().st_size for part in folder.glob(".*.part")):
            begun_s = now_s
        if now_s > deadline_s:
            raise PipelineError(f"no file after {_LIMIT_S:g} s")
        if now_s - checked_s > _CHECK_S:
            checked_s = now_s
            check()
        time.sleep(_LOOK_S)
    if begun_s is None:
        raise PipelineError("the file was there before it was looked for")
    return time.monotonic() - begun_s
