"""One stream, several processes: each writes the files of its partitions, then there is a master.

HDF5 does one thing at a time in a process, whatever the threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Event
from typing import Any

from pipeline.config import Settings
from pipeline.errors import PipelineError, SinkError, StreamOpenError
from pipeline.naming import StreamId
from pipeline.session import Session, connect
from pipeline.sinks.hdf5.counts import SinkCounts
from pipeline.sinks.hdf5.files import Files, Options, check_master_free
from pipeline.sinks.hdf5.following import SinkReport, check_counts, finish_master, finish_parts
from pipeline.sinks.hdf5.records import LogFeed, Progress, write_records
from pipeline.sinks.letters import DeadLetters
from pipeline.stream import Stream
from pipeline.telemetry import logs
from pipeline.telemetry.book import BOOK, Histogram, Meter, Numbers, Place
from pipeline.telemetry.logs import LogSettings
from pipeline.telemetry.traces import TRACING, TraceSettings

#: In the name of the topic of dead letters.
GROUP = "hdf5"
#: How often a stop is looked for.
_LOOK_S = 0.2
#: How long writers may take to come to their end once they were told.
_LEAVE_S = 60.0
#: How often writers tell their numbers.
_TELL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    settings: Settings
    stream: StreamId
    directory: Path
    options: Options
    partitions: Sequence[int]
    stop: Any
    logging: LogSettings | None
    traces: TraceSettings | None


@dataclass(slots=True, weakref_slot=True)
class _Writer:
    process: Any
    connection: Connection
    partitions: Sequence[int]
    written: int = 0
    counts: SinkCounts | None = None
    failed: str = ""
    ended: bool = False
    numbers: Numbers = field(default_factory=dict)
    meter: Meter | None = None

    def told(self) -> Numbers:
        """Return its numbers as it told them last."""
        return self.numbers


def write_in_processes(
    session: Session,
    stream: Stream,
    directory: Path,
    options: Options,
    *,
    writers: int,
    follow: bool,
    stop: Event,
    on_progress: Progress,
) -> SinkReport | None:
    """Write a stream with ``writers`` processes; see :func:`.following.write_stream`."""
    if not follow and stream.state == "open":
        raise StreamOpenError(stream.name, "follow it to its end with --follow")
    options = replace(options, by_partition=True)
    check_master_free(directory, stream.info, options)
    partitions = range(stream.start.partitions)
    context = multiprocessing.get_context("spawn")
    ours = context.Event()
    shares = [partitions[index::writers] for index in range(min(writers, len(partitions)))]
    running = [
        _start(context, session, stream, directory, options, share, ours) for share in shares
    ]
    try:
        _watch(running, stop, ours, on_progress)
    finally:
        _leave(running, ours)
    if stop.is_set():
        return None
    counts = SinkCounts.merged(w.counts for w in running if w.counts is not None)
    account: dict[str, Any] = dict(stream.account())
    check_counts(stream, counts, account)
    return finish_master(stream, directory, options, counts, account)


def _start(
    context: Any,
    session: Session,
    stream: Stream,
    directory: Path,
    options: Options,
    partitions: Sequence[int],
    stop: Any,
) -> _Writer:
    connection, theirs = context.Pipe()
    job = _Job(
        settings=session.settings,
        stream=stream.name,
        directory=directory,
        options=replace(options, extras=()),  # for the master file alone
        partitions=partitions,
        stop=stop,
        logging=logs.current(),
        traces=TRACING.settings,
    )
    process = context.Process(target=_write, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    name, writer = stream.name, _Writer(process, connection, partitions)
    place = Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream)
    writer.meter = BOOK.watch(place, writer, _Writer.told)
    return writer


def _watch(running: Sequence[_Writer], stop: Event, ours: Any, on_progress: Progress) -> None:
    """Hear the writers to their end; the failure of one stops the others."""
    while open_ := [writer for writer in running if not writer.ended]:
        for ready in wait([writer.connection for writer in open_], _LOOK_S):
            (writer,) = (w for w in open_ if w.connection is ready)
            _hear(writer)
        on_progress(sum(writer.written for writer in running))
        if stop.is_set() or any(writer.failed for writer in running):
            ours.set()
    for writer in running:
        if writer.failed:
            raise SinkError(writer.failed)


def _hear(writer: _Writer) -> None:
    try:
        kind, value = writer.connection.recv()
    except (EOFError, ConnectionError):
        writer.ended = True
        if writer.counts is None and not writer.failed:
            name = ", ".join(map(str, writer.partitions))
            writer.failed = f"the writer of partitions {name} died; run it again, it goes on"
        return
    if kind == "written":
        writer.written = value
    elif kind == "told":
        writer.numbers, stages = value
        if writer.meter is not None:
            writer.meter.stages = stages
    elif kind == "done":
        writer.counts = value
        writer.written = value.written
    else:
        writer.failed = value


def _leave(running: Sequence[_Writer], stop: Any) -> None:
    stop.set()
    for writer in running:
        writer.process.join(_LEAVE_S)
        if writer.process.is_alive():
            writer.process.kill()
            writer.process.join()
        writer.connection.close()
        if writer.meter is not None:
            writer.meter.close()


def _write(job: _Job, connection: Connection) -> None:
    """Be one writer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if job.logging is not None:
        logs.set_up_logging(job.logging)
    TRACING.begin(job.traces)
    told = _Told(connection)
    try:
        counts = _write_share(job, told)
        told.tell()
        told.send(("done", counts))
    except PipelineError as error:
        told.send(("failed", str(error)))
    finally:
        TRACING.end()


class _Told:
    """The way to the parent, for the writer and the thread that tells its numbers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, message: tuple[str, Any]) -> None:
        """Tell the parent; waits while it has not heard what was said before."""
        with self._lock:
            self._connection.send(message)

    def tell(self) -> None:
        """Tell the numbers of this process: all of them are of its one stream."""
        numbers: dict[str, float] = {}
        stages: dict[str, Histogram] = {}
        for _, totals in BOOK.collect():
            for key, value in totals.values.items():
                numbers[key[0]] = numbers.get(key[0], 0.0) + value
            for stage, histogram in totals.stages.items():
                stages.setdefault(stage, Histogram()).add(histogram)
        self.send(("told", (numbers, stages)))

    def _run(self) -> None:
        pause = threading.Event()
        with suppress(OSError):  # the parent has gone
            while not pause.wait(_TELL_S):
                self.tell()


def _end_with_parent() -> None:
    """Leave when who started this process was killed: nobody else could stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # as after a kill, the next run goes on


def _write_share(job: _Job, told: _Told) -> SinkCounts:
    said = 0

    def progress(written: int) -> None:
        nonlocal said
        if written - said >= 100:
            said = written
            told.send(("written", written))

    with (
        connect(settings=job.settings) as session,
        session.stream(job.stream.beamtime, job.stream.detector, job.stream.stream) as stream,
        Files(job.directory, stream.info, job.options, partitions=job.partitions) as files,
    ):
        files.open()
        feed = LogFeed(stream, DeadLetters(session.services, stream.start, group=GROUP))
        if write_records(stream, files, stop=job.stop, on_progress=progress, feed=feed):
            finish_parts(stream, files, stream.account())
        return files.counts
