"""Workers: what handing frames over costs, how even the work is, how many members a group has."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.bench.children import Child, Line, Usage, resident_nbytes
from pipeline.bench.ground import HEAT_NBYTES, Ground, heat
from pipeline.bench.rows import Row, row
from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.local.commands import run
from pipeline.local.jars import ensure, read_lock
from pipeline.local.java import ensure_java
from pipeline.session import connect

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.worker import WorkerReport

_DETECTOR, _STREAM = "detector", "stream"
#: Bytes a frame, frames in full and quick.
_SIZES = {"64KiB": (65_536, 100_000, 60_000), "1200kB": (1_200_000, 6_000, 4_000)}
_SLEEP_S = 0.3
_BURST = 2000
#: A local broker asks for a sign of life each 300 ms, for quick tests: of a thousand members these
#: are 3,300 requests a second, of which two cores fall behind.
_CALM = ("consumer.heartbeat.interval.ms=3000", "consumer.session.timeout.ms=30000")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    settings: Settings
    beamtime: str
    group: str = "g"
    processes: int = 2
    members: int = 0
    #: Where a process of members writes down each frame that it has acknowledged.
    log: Path | None = None


def touch(frame: Any) -> None:
    """Have the payload read and checked, and do nothing."""
    frame.payload  # noqa: B018 -- fetched and checked


def sleep(frame: Any) -> dict[str, int]:
    """Take as much time as a small analysis, and no processor."""
    time.sleep(_SLEEP_S)
    return {"number": frame.number}


def throughput(ground: Ground, name: str) -> Row:
    """Measure a worker of two processes whose function does nothing, against a bare reader."""
    nbytes, many, few = _SIZES[name.rpartition(".")[2]]
    count = few if ground.quick else many
    worked, read, cost, bare = [], [], [], []
    with ground.beamtime() as beamtime:
        settings = ground.settings("file")
        heat(ground.home, min(HEAT_NBYTES, count * nbytes))
        _publish(settings, beamtime, count, nbytes // 2)
        for run in range(5):
            job = _Job(settings=settings, beamtime=beamtime, group=f"g{run}")
            with Child(_read, job) as child:
                facts = child.hear("done")
            read.append(count / facts["elapsed_s"])
            bare.append(facts["cpu_s"] / count * 1e6)
            with Child(_work, job) as child:
                facts = child.hear("done")
            worked.append(facts["rate_hz"])
            cost.append(facts["cpu_s"] / count * 1e6)
    return row(
        name,
        worked,
        read,
        unit="frames/s",
        conditions=[
            f"{count} frames of {nbytes} bytes, file: store, page cache, 8 partitions",
            "one worker, two processes, each payload read and checked, from the first frames to"
            " the last; limit: one process that reads the stream in order",
            f"the runner itself {median(cost):.1f} us of processor time a frame, joining and"
            f" ending included; the bare reader {median(bare):.1f} us",
        ],
    )


def _publish(settings: Settings, beamtime: str, count: int, pixels: int, chunk: int = 0) -> None:
    image = np.random.default_rng(0).integers(0, 1000, (1, pixels)).astype(np.uint16)
    with (
        connect(settings=settings) as session,
        session.publish(beamtime, _DETECTOR, _STREAM, frames_per_chunk=chunk or None) as out,
    ):
        for _ in range(count):
            out.write(image)


def _read(line: Line, job: _Job) -> None:
    with (
        connect(settings=job.settings) as session,
        session.stream(job.beamtime, _DETECTOR, _STREAM) as stream,
    ):
        usage, begun_s = Usage(), time.perf_counter()
        for frame in stream.ordered():
            frame.payload  # noqa: B018 -- fetched and checked
        line.say("done", elapsed_s=time.perf_counter() - begun_s, cpu_s=usage.facts()["cpu_s"])


def _work(line: Line, job: _Job) -> None:
    from pipeline.worker import run_worker

    marks: list[tuple[float, int]] = []

    def progress(report: WorkerReport) -> None:
        marks.append((time.perf_counter(), report.frames))

    usage = Usage()
    run_worker(
        touch,
        f"{job.beamtime}/{_DETECTOR}/{_STREAM}",
        group=job.group,
        processes=job.processes,
        timeout_s=60.0,
        settings=job.settings,
        progress=progress,
    )
    line.say("done", rate_hz=_rate(marks), cpu_s=usage.facts()["cpu_s"])


def _rate(marks: list[tuple[float, int]]) -> float:
    """Return frames per second between the first and the last look at which some had come."""
    busy = [at for at, following in pairwise(marks) if at[1] and following[1] > at[1]]
    busy += [at for earlier, at in pairwise(marks) if at[1] > earlier[1]][-1:]
    if len(busy) < 2 or busy[-1][0] <= busy[0][0]:
        raise PipelineError("too short to be measured: more frames are needed")
    return (busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0])


def balance(ground: Ground, name: str) -> Row:
    """Measure how long 40 processes take for 2,000 frames of 0.3 s each, against the ideal."""
    runners = 4 if name.endswith("4x10") else 1
    took = []
    with ground.beamtime() as beamtime:
        settings = ground.settings("file")
        _publish(settings, beamtime, _BURST, 64, chunk=1 if runners > 1 else 0)
        for run in range(1 if ground.quick else 3):
            job = _Job(
                settings=settings, beamtime=beamtime, group=f"g{run}", processes=40 // runners
            )
            begun_s = time.perf_counter()
            children = [Child(_sleep, job) for _ in range(runners)]
            frames = 0
            for child in children:
                with child:
                    frames += child.hear("done")["frames"]
            if frames != _BURST:
                raise PipelineError(f"{frames} deliveries for {_BURST} frames")
            took.append(time.perf_counter() - begun_s)
    ideal_s = _BURST * _SLEEP_S / 40
    return row(
        name,
        took,
        [ideal_s],
        unit="s",
        conditions=[
            f"{_BURST} small frames, {_SLEEP_S:g} s each by sleeping, results published",
            f"{runners} runner{'s' if runners > 1 else ''} of {40 // runners} processes, their"
            " start and end included; limit: the sleep alone",
        ],
    )


def _sleep(line: Line, job: _Job) -> None:
    from pipeline.worker import run_worker

    report = run_worker(
        sleep,
        f"{job.beamtime}/{_DETECTOR}/{_STREAM}",
        group=job.group,
        processes=job.processes,
        out="slept",
        timeout_s=60.0,
        settings=job.settings,
    )
    line.say("done", frames=report.frames)


def members(ground: Ground, name: str) -> Row:
    """Measure when a group's partitions are spread over all members, from the last join."""
    count = int(name.rpartition(".")[2])
    partitions, processes = (256, 4) if count <= 256 else (128, 5)
    frames = partitions * 4
    with ground.beamtime() as beamtime, connect(settings=ground.settings("file")) as session:
        session.create_beamtime(beamtime, _DETECTOR, partitions=partitions)
        _publish(session.settings, beamtime, frames, 8, chunk=1)
        if count > 256:
            _calm(ground, _group_id(session, beamtime))
        job = _Job(settings=session.settings, beamtime=beamtime, members=count // processes)
        children = [Child(_join, job) for _ in range(processes)]
        joined = [child.hear("joined") for child in children]
        last_s = max(float(fact["at_s"]) for fact in joined)
        taken_s = _balanced(session, beamtime, count, partitions) - last_s
        for child in children:
            child.go_on()
        done = 0
        for child in children:
            with child:
                done += child.hear("done")["frames"]
    if done != frames:
        raise PipelineError(f"{done} deliveries for {frames} frames")
    resident = sum(fact["resident"] for fact in joined) / count / 1e6
    return row(
        name,
        [max(0.0, taken_s)],
        [20.0],
        unit="s",
        conditions=[
            f"{count} members in {processes} processes, as the broker lists them, each with a"
            f" connection of its own, {resident:.1f} MB a member; {partitions} partitions",
            "from the last join until the broker calls the group stable and all partitions are"
            " given; limit: what is wanted of 200",
            f"then all {frames} frames were delivered once",
            "no limit of the broker was raised (group.consumer.max.size has none)"
            + (f"; the group's {', '.join(_CALM)}" if count > 256 else ""),
        ],
    )


def halved(ground: Ground, name: str) -> Row:
    """Kill half of 200 members in the middle of their work; count what was lost and done twice."""
    partitions, processes, frames = 256, 4, 20_000
    with (
        ground.beamtime() as beamtime,
        ground.scratch() as folder,
        connect(settings=ground.settings("file")) as session,
    ):
        session.create_beamtime(beamtime, _DETECTOR, partitions=partitions)
        _publish(session.settings, beamtime, frames, 8, chunk=1)
        jobs = [
            _Job(
                settings=session.settings,
                beamtime=beamtime,
                members=200 // processes,
                log=folder / str(index),
            )
            for index in range(processes)
        ]
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(Child(_join, job)) for job in jobs]
            for child in children:
                child.hear("joined")
            _balanced(session, beamtime, 200, partitions)
            for child in children:
                child.go_on()
            while _acknowledged(folder).size < frames // 4:
                threading.Event().wait(0.05)
            for child in children[::2]:
                child.kill()
            begun_s = time.monotonic()
            for child in children[1::2]:
                child.hear("done")
            took_s = time.monotonic() - begun_s
        numbers = _acknowledged(folder)
    lost = frames - np.unique(numbers).size
    if lost:
        raise PipelineError(f"{lost} of {frames} frames were acknowledged by nobody")
    return row(
        name,
        [float(numbers.size - frames)],
        [500.0],
        unit="frames twice",
        conditions=[
            f"200 members in {processes} processes, {frames} small frames of 50 ms each by"
            f" sleeping, {partitions} partitions; two of the processes, 100 members, killed"
            " (SIGKILL) after a quarter",
            f"none lost; the others were done {took_s:.1f} s after the kill, of which 10 s are the"
            " group's session timeout; limit: of each that was killed the frame in its hand, and"
            " those of the 0.2 s between two commits",
        ],
    )


def _acknowledged(folder: Path) -> npt.NDArray[np.int64]:
    """Return the numbers that were acknowledged, as often as they were."""
    logs = [np.fromfile(path, np.int64) for path in folder.iterdir()]
    return np.concatenate([*logs, np.empty(0, np.int64)])


def _join(line: Line, job: _Job) -> None:
    counts: list[int] = []
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if job.log else None
    with connect(settings=job.settings) as session:

        def join(_: int) -> Any:
            stream = session.stream(job.beamtime, _DETECTOR, _STREAM)
            return stream.shared(job.group, timeout_s=None, ahead=False)

        shares = _all(join, range(job.members), threads=8)
        line.say("joined", at_s=time.time(), resident=resident_nbytes())
        line.wait()

        def take(share: Any) -> None:
            for delivery in share:
                if log is not None:
                    time.sleep(0.05)
                delivery.ack()
                counts.append(delivery.frame.number)
                if log is not None:
                    os.write(log, delivery.frame.number.to_bytes(8, "little"))

        _all(take, shares, threads=job.members)
    line.say("done", frames=len(counts))


def _all(function: Callable[[Any], Any], items: Iterable[Any], *, threads: int) -> list[Any]:
    """Call the function with each of the items; what one call raises is raised."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _group_id(session: Session, beamtime: str) -> str:
    with session.stream(beamtime, _DETECTOR, _STREAM) as stream:
        return session.services.names.group(beamtime, "g", stream.start.stream_key)


def _calm(ground: Ground, group: str) -> None:
    """Have a group's members show themselves seldom.

    By Kafka's own program, because librdkafka cannot set what belongs to a group.
    """
    java = ensure_java(timeout_s=60.0)
    class_path = os.pathsep.join(map(str, ensure(read_lock(), timeout_s=60.0)))
    argv = [java.path, "-cp", class_path, "kafka.admin.ConfigCommand"]
    argv += ["--bootstrap-server", ground.info.kafka.bootstrap, "--alter"]
    argv += ["--entity-type", "groups", "--entity-name", group, "--add-config", ",".join(_CALM)]
    run(argv, timeout_s=60.0)


def _balanced(session: Session, beamtime: str, members: int, partitions: int) -> float:
    """Return when the broker had the group stable, with all members and all partitions given."""
    admin = session.services.admin
    group = _group_id(session, beamtime)
    topic = session.services.names.topic(beamtime, _DETECTOR)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = admin.result(admin.client.describe_consumer_groups([group])[group])
        given = sum(
            entry.topic == topic
            for member in found.members
            for entry in member.assignment.topic_partitions
        )
        if (len(found.members), given) == (members, partitions) and "STABLE" in str(found.state):
            return time.time()
        threading.Event().wait(0.2)
    raise PipelineError(f"{len(found.members)} of {members} members, {given} partitions given")
