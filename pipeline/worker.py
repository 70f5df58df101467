"""Running a function over a stream in several processes: ``lichtstrom worker``."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from pipeline.errors import InvalidArgumentError, PipelineError
from pipeline.naming import StreamId, check_name
from pipeline.workers.board import Board
from pipeline.workers.function import Function, load
from pipeline.workers.process import Job, main

log = logging.getLogger(__name__)
_LOOK_S = 0.2
#: A process that keeps crashing is started again after this long, doubled each time up to a limit.
_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 30.0
#: How long a process that has said its last word may take to go.
_JOIN_S = 10.0


@dataclass(slots=True, kw_only=True)
class WorkerReport:
    """What the processes of one worker did, so far or altogether.

    Parameters
    ----------
    frames:
        Deliveries taken, repeated ones included.
    results, skipped, rejected, retried:
        What became of them; ``skipped``: the function returned nothing.
    processes:
        The same counts per process.
    crashes:
        Processes that died and were started again.
    finished:
        The group has finished the stream (else the worker was told to stop).
    """

    frames: int = 0
    results: int = 0
    skipped: int = 0
    rejected: int = 0
    retried: int = 0
    crashes: int = 0
    seconds: float = 0.0
    finished: bool = False
    processes: list[dict[str, int]] = field(default_factory=list)

    @property
    def rate_hz(self) -> float:
        """Frames per second since the worker began."""
        return self.frames / self.seconds if self.seconds else 0.0


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One of the processes, through all its lives."""

    index: int
    process: Any = None
    pipe: Connection | None = None
    counts: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    done: bool | None = None
    error: str = ""
    retriable: bool = False
    crashes: int = 0
    next_s: float = 0.0

    @property
    def total(self) -> dict[str, int]:
        """Counts of this process and of those it replaced."""
        names = self.before.keys() | self.counts.keys()
        return {n: self.before.get(n, 0) + self.counts.get(n, 0) for n in sorted(names)}


def run_worker(
    function: str | Function,
    stream: str,
    *,
    group: str,
    processes: int = 1,
    out: str | None = None,
    timeout_s: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[WorkerReport], None] | None = None,
    max_attempts: int = 3,
    store: str | None = None,
) -> WorkerReport:
    """Call ``function`` with each frame of a stream that this group has not done yet.

    Parameters
    ----------
    function:
        ``module:function``, ``file.py:function``, or a function that can be pickled.  It gets a
        frame and returns None, attributes (a dict), an array, or both as (array, attributes).
    stream:
        beamtime/detector/stream.
    out:
        Detector of the derived stream that the results go to, under the stream's own name.
    timeout_s:
        Silence after which to fail; None waits for the stream's end, however long.
    stop:
        Set it to stop: frames in hand are finished and committed.  Without it SIGTERM and Ctrl-C
        do that; a second Ctrl-C ends the processes at once.
    progress:
        Called about five times a second with the counts so far.
    max_attempts:
        How often a frame is tried before it goes to the dead letters.

    A process that crashes is started again, later each time; the frame it had in hand counts one
    attempt.  Blocks until the group has finished the stream.

    Raises
    ------
    PluginError
        There is no such function.
    StreamTimeoutError, PipelineError
        What ended the first process that failed.
    """
    if processes < 1 or processes > 1000:
        raise InvalidArgumentError("processes", f"{processes} is not 1 to 1000")
    if max_attempts < 1:
        raise InvalidArgumentError("max_attempts", f"{max_attempts} is less than 1")
    check_name("group", group)
    StreamId.parse(stream)
    load(function)
    job = Job(
        function=function,
        stream=stream,
        group=group,
        out=out,
        timeout_s=timeout_s,
        max_attempts=max_attempts,
        store=store,
    )
    fd, path = tempfile.mkstemp(prefix="lichtstrom-worker-")
    os.close(fd)
    with Board(path) as board, _signals(stop) as stopping:
        return _Runner(job, processes, board, stopping, progress).run()


class _Stopping:
    """How often we were asked to stop."""

    def __init__(self, event: threading.Event | None) -> None:
        self.event = event or threading.Event()
        self.count = 0

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        self.event.set()


@contextlib.contextmanager
def _signals(stop: threading.Event | None) -> Iterator[_Stopping]:
    stopping = _Stopping(stop)
    ours = stop is None and threading.current_thread() is threading.main_thread()
    before = {}
    if ours:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stopping.on_signal)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Runner:
    """Starts the processes, listens to them, starts again those that crash."""

    def __init__(
        self,
        job: Job,
        processes: int,
        board: Board,
        stopping: _Stopping,
        progress: Callable[[WorkerReport], None] | None,
    ) -> None:
        self._job = job
        self._board = board
        self._stopping = stopping
        self._progress = progress
        self._slots = [_Slot(index=index) for index in range(processes)]
        self._context = multiprocessing.get_context("spawn")
        self._begun_s = time.monotonic()
        self._told = False

    def run(self) -> WorkerReport:
        try:
            for slot in self._slots:
                self._start(slot)
            while any(slot.done is None for slot in self._slots):
                self._listen()
                self._obey()
                if self._progress is not None:
                    self._progress(self._report())
        finally:
            self._end()
        error = next((slot.error for slot in self._slots if slot.error), "")
        if error:
            raise PipelineError(f"worker stopped: {error}")
        return self._report()

    def _start(self, slot: _Slot) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        slot.process = self._context.Process(
            target=main,
            args=(self._job, slot.index, self._board.path, theirs),
            name=f"worker-{slot.index}",
            daemon=True,
        )
        slot.pipe = ours
        slot.process.start()
        theirs.close()

    def _listen(self) -> None:
        pipes = {slot.pipe: slot for slot in self._slots if slot.pipe is not None}
        for ready in wait(list(pipes), _LOOK_S) if pipes else ():
            slot = pipes[ready]  # type: ignore[index]  # only pipes were given
            try:
                self._hear(slot, slot.pipe.recv())  # type: ignore[union-attr]  # it is ready
            except (EOFError, OSError):
                self._gone(slot)
        now = time.monotonic()
        for slot in self._slots:
            if slot.pipe is None and slot.done is None and now >= slot.next_s:
                if self._stopping.event.is_set():
                    slot.done = False
                else:
                    self._start(slot)
        if not pipes:
            self._stopping.event.wait(_LOOK_S)

    def _hear(self, slot: _Slot, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        slot.counts = rest[-1]
        if kind == "done":
            slot.done = bool(rest[0])
        elif kind == "failed":
            slot.retriable, slot.error = bool(rest[0]), str(rest[1])

    def _gone(self, slot: _Slot) -> None:
        """Find out why a process is gone, and whether another one is to take its place."""
        assert slot.pipe is not None
        slot.pipe.close()
        slot.pipe = None
        slot.process.join(_JOIN_S)
        code = slot.process.exitcode
        for name, count in slot.counts.items():
            slot.before[name] = slot.before.get(name, 0) + count
        slot.counts = {}
        if slot.done is not None:
            return
        if slot.error and not (slot.retriable and "StreamTimeoutError" not in slot.error):
            slot.done = False
            self._stopping.event.set()  # it would end the others likewise
            return
        slot.crashes += 1
        number = self._board.crashed(slot.index)
        pause_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** (slot.crashes - 1))
        slot.next_s = time.monotonic() + pause_s
        log.error(
            "worker process %d ended (exit %s%s%s), starting again in %.1f s",
            slot.index,
            code,
            f", frame {number} in hand" if number is not None else "",
            f": {slot.error}" if slot.error else "",
            pause_s,
        )
        slot.error = ""

    def _obey(self) -> None:
        if self._stopping.event.is_set() and not self._told:
            self._told = True
            for slot in self._slots:
                if slot.process is not None and slot.process.is_alive():
                    slot.process.terminate()  # SIGTERM: finish the frame in hand
        if self._stopping.count > 1:
            raise KeyboardInterrupt

    def _end(self) -> None:
        for slot in self._slots:
            if slot.process is None:
                continue
            if slot.done is None:
                slot.process.kill()
            slot.process.join(_JOIN_S)
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join(_JOIN_S)
            slot.process.close()
            if slot.pipe is not None:
                slot.pipe.close()

    def _report(self) -> WorkerReport:
        totals = [slot.total for slot in self._slots]
        names = ("frames", "results", "skipped", "rejected", "retried")
        return WorkerReport(
            **{name: sum(total.get(name, 0) for total in totals) for name in names},
            crashes=sum(slot.crashes for slot in self._slots),
            seconds=time.monotonic() - self._begun_s,
            finished=any(slot.done for slot in self._slots),
            processes=totals,
        )
