"""The writer behind a task of the HDF5 connector: records come in by a socket, files come out.

A task of several has the partitions that Kafka Connect gives it, and writes a part for each; the
last one to finish makes the master file.  A task alone writes what ``lichtstrom sink hdf5`` writes.
Where each partition is to be read from stands in the files.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import h5py

from pipeline.connectors import messages
from pipeline.connectors.feeding import FedRecords
from pipeline.connectors.messages import Ask, Question, RawRecord
from pipeline.errors import (
    InvalidArgumentError,
    PipelineError,
    SinkBusyError,
    SinkError,
    SinkRefusedError,
    WireError,
    of_ours,
)
from pipeline.kafka.groups import first_offsets
from pipeline.naming import StreamId
from pipeline.session import Session
from pipeline.sinks.hdf5.attributes import text_of
from pipeline.sinks.hdf5.chunks import Compression
from pipeline.sinks.hdf5.files import Files, Options, master_path
from pipeline.sinks.hdf5.flavours import LayoutKind
from pipeline.sinks.hdf5.following import (
    finish,
    finish_parts,
    finish_together,
    lowest_number,
)
from pipeline.sinks.hdf5.mapping import load_mapping
from pipeline.sinks.hdf5.prepare import Check
from pipeline.sinks.hdf5.records import write_records
from pipeline.stream import Stream

log = logging.getLogger(__name__)

#: A batch waits so long for room; the task gives it again then, and is still alive to its broker.
_ROOM_S = 5.0
#: How often is looked whether the other writers are done.
_LOOK_S = 1.0
_CHOICES: Mapping[str, Sequence[str]] = {
    "layout": get_args(LayoutKind),
    "compression": get_args(Compression),
    "check": get_args(Check),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a connector was asked for."""

    stream: StreamId
    directory: Path
    options: Options

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Return the job of a connector's settings; raises InvalidArgumentError, naming one."""
        for each, known in _CHOICES.items():
            if settings.get(each) not in known:
                raise InvalidArgumentError(each, f"{settings.get(each)!r}: {', '.join(known)}")
        directory = Path(settings.get("out.dir", ""))
        if not directory.is_absolute():
            raise InvalidArgumentError("out.dir", f"{str(directory)!r}: an absolute path is needed")
        mapping = settings.get("map", "")
        tasks = _count(settings, "tasks.max")
        given: dict[str, Any] = {each: settings[each] for each in _CHOICES}
        options = Options(
            **given,
            overwrite=settings.get("overwrite") == "true",
            frames_per_file=_count(settings, "frames.per.file"),
            by_partition=tasks > 1,
            extras=[load_mapping(Path(mapping))] if mapping else (),
        )
        name = StreamId.parse(settings.get("stream", ""))
        return cls(stream=name, directory=directory, options=options)


def _count(settings: Mapping[str, str], name: str) -> int:
    try:
        return int(settings.get(name, ""))
    except ValueError as error:
        raise InvalidArgumentError(name, f"{settings.get(name)!r} is no whole number") from error


class TaskWriter:
    """Writes the partitions of a task in a thread of its own: fed by :attr:`records`."""

    def __init__(self, session: Session, job: Job, partitions: Sequence[int]) -> None:
        self.failure: PipelineError | None = None
        #: The finished file, empty before.
        self.done = ""
        self._partitions = partitions
        self._job = job
        self._stop = threading.Event()
        self._parts_are_complete = False
        with ExitStack() as opened:
            name = job.stream
            self._stream: Stream = opened.enter_context(
                session.stream(name.beamtime, name.detector, name.stream)
            )
            info = self._stream.info
            services = session.services
            topic = services.names.topic(name.beamtime, name.detector)
            self.records = FedRecords(
                topic,
                info,
                services.schemas.resolve,
                first_held=partial(first_offsets, services.admin, topic, info.start.partitions),
            )
            self._files = opened.enter_context(
                Files(job.directory, info, job.options, partitions=partitions)
            )
            if (there := finished_file(job, self._stream)) is not None:
                self.done = str(there)
                self.records.begin(info.end_offsets or info.start.offsets)
                self.records.pass_over()
            else:
                self._files.open(lowest_number(self._stream, job.options))
                self.records.begin(self._files.marker)
            self._opened = opened.pop_all()
        self._thread = threading.Thread(target=self._run, name=f"partitions {partitions}")
        if not self.done:
            self._thread.start()

    @property
    def marker(self) -> dict[int, int]:
        """Per partition of this task the offset below which everything is in the files."""
        is_complete = self._parts_are_complete or self.done
        found = self.records.positions() if is_complete else self._files.marker
        return {partition: found[partition] for partition in self._partitions}

    def _run(self) -> None:
        try:
            self.done = self._write()
        except Exception as error:
            self.failure = of_ours(error)
            if self.failure is not error:
                log.exception("writer failed partitions=%s", self._partitions)

    def _write(self) -> str:
        """Write to the stream's end; returns the finished file, nothing if stopped before."""
        stream, files, stop = self._stream, self._files, self._stop
        if not write_records(
            stream, files, stop=stop, on_progress=lambda _: None, feed=self.records
        ):
            return ""
        while not self.records.settled(_LOOK_S):
            if stop.is_set():
                return ""
        self.records.pass_over()
        if not (self._job.options.by_partition and stream.start.partitions > 1):
            return finish(stream, files, self._job.directory).path
        account = stream.account()
        finish_parts(stream, files, account)
        files.suspend()  # of partitions without frames
        self._parts_are_complete = True
        while not stop.is_set():
            if (path := self._finished_together(account)) is not None:
                return path
            stop.wait(_LOOK_S)
        return ""

    def _finished_together(self, account: Mapping[str, Any]) -> str | None:
        job = self._job
        if (there := finished_file(job, self._stream)) is not None:
            return str(there)
        try:
            report = finish_together(self._stream, job.directory, job.options, account)
        except SinkBusyError:
            return None
        except SinkRefusedError:
            # another task was faster
            if (there := finished_file(job, self._stream)) is None:
                raise
            return str(there)
        return None if report is None else report.path

    def close(self) -> None:
        """Bring what was written to the files and let go of them."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._opened.close()


def finished_file(job: Job, stream: Stream) -> Path | None:
    """Return the file that users open if it is there, and of this stream."""
    path = master_path(job.directory, stream.info, job.options)
    try:
        with h5py.File(path, locking=False) as file:
            key = file["entry/provenance"].attrs["stream_key"]
    except (OSError, KeyError):
        return None
    return path if text_of(key) == stream.start.stream_key.hex() else None


class Task:
    """Answers the questions of one task of Kafka Connect."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._job: Job | None = None
        self._count = 0
        self._writer: TaskWriter | None = None

    def serve(self, connection: socket.socket) -> None:
        """Answer until the other side goes, or this one cannot go on; then let go of the files."""
        try:
            with connection.makefile("rb") as questions:
                while (question := messages.read_question(questions)) is not None:
                    connection.sendall(self._answer(question))
        except PipelineError as error:
            log.warning("writer ends error=%s", error)
            connection.sendall(messages.failed(str(error), retriable=is_retriable(error)))
        finally:
            self._close()

    def _answer(self, question: Question) -> bytes:
        if question.kind is Ask.HELLO:
            return self._hello(question)
        is_full = False
        if question.kind is Ask.OPEN:
            self._open(question.partitions)
        elif question.kind is Ask.RECORDS:
            is_full = not self._feed(question.records)
        elif question.kind is Ask.REPORTED and self._writer is not None:
            for partition, offset in question.places:
                self._writer.records.reported(partition, offset)
        elif question.kind is Ask.CLOSE:
            self._close()
        return self._state(is_full=is_full)

    def _hello(self, question: Question) -> bytes:
        if question.version != messages.VERSION:
            raise WireError(
                f"the connector speaks version {question.version}, this lichtstrom"
                f" {messages.VERSION}: install the connector of this version"
            )
        self._job = Job.of(question.settings or {})
        name = self._job.stream
        with self._session.stream(name.beamtime, name.detector, name.stream) as stream:
            self._count = stream.start.partitions
            path = master_path(self._job.directory, stream.info, self._job.options)
        return messages.ready(str(path))

    def _open(self, partitions: Sequence[int]) -> None:
        if self._job is None:
            raise WireError("HELLO comes first")
        self._close()
        # a topic may have got partitions since the stream began
        mine = [p for p in partitions if 0 <= p < self._count]
        if not self._job.options.by_partition and len(mine) < self._count:
            raise SinkBusyError(
                f"a task alone needs all {self._count} partitions, it has {sorted(partitions)}"
            )
        if mine:
            self._writer = TaskWriter(self._session, self._job, mine)

    def _feed(self, records: Sequence[RawRecord]) -> bool:
        if self._writer is None:
            return True
        deadline = time.monotonic() + _ROOM_S
        return all(
            self._writer.records.feed(record, max(0.0, deadline - time.monotonic()))
            for record in records
            if 0 <= record.partition < self._count
        )

    def _state(self, *, is_full: bool) -> bytes:
        writer = self._writer
        if writer is None:
            return messages.state({}, [], is_full=is_full, done="")
        if writer.failure is not None:
            raise writer.failure
        troubles = writer.records.take_troubles()
        return messages.state(writer.marker, troubles, is_full=is_full, done=writer.done)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def is_retriable(error: PipelineError) -> bool:
    """Tell whether a task should try again by itself: a full disk gets room some time."""
    return error.retriable or (
        isinstance(error, SinkError) and not isinstance(error, SinkRefusedError)
    )
