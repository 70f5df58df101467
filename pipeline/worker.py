"""Running a function over streams in several processes: ``lichtstrom worker``.

The runner is one member of the group for each stream; it hands frames to its processes one by one,
or many at once where each is little work, and settles them by what comes back.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.config import Settings
from pipeline.credentials import without_secrets
from pipeline.errors import InvalidArgumentError, PipelineError, PluginError
from pipeline.naming import StreamId, check_name, has_wildcards
from pipeline.session import connect
from pipeline.telemetry import logs, watchdog
from pipeline.telemetry.book import BOOK, Place
from pipeline.workers.child import Answer, Failure, Job
from pipeline.workers.function import Context, Function, load, version_of
from pipeline.workers.pool import Lost, Pool, Worker
from pipeline.workers.streams import Streams
from pipeline.workers.travel import pack
from pipeline.workers.work import Batch, Call, Counts, Plan, Work

log = logging.getLogger(__name__)
#: The longest sleep, and that while results wait for their confirmation.
_LOOK_S = 0.2
_BUSY_S = 0.01
_TELL_EVERY_S = 0.2


@dataclass(slots=True, kw_only=True)
class WorkerReport(Counts):
    """What the processes of one worker did, so far or altogether.

    Parameters
    ----------
    frames:
        Deliveries taken, repeated ones included.
    results, skipped, rejected, retried:
        What became of them; ``skipped``: the function returned nothing.
    crashes:
        Processes that died and were started again.
    finished:
        The group has finished the stream (else the worker was told to stop, or was idle).
    streams:
        The streams that the group has finished while we were at them.
    processes:
        How many frames each process has handled.
    """

    crashes: int = 0
    seconds: float = 0.0
    finished: bool = False
    streams: list[str] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)

    @property
    def rate_hz(self) -> float:
        """Frames per second since the worker began."""
        return self.frames / self.seconds if self.seconds else 0.0


def run_worker(
    function: str | Function,
    stream: str,
    *,
    group: str,
    processes: int = 1,
    threads: int = 1,
    out: str | Sequence[str] | None = None,
    start: int | str = "start",
    where: str | None = None,
    min_modules: int | None = None,
    deadline_s: float | None = None,
    chunk: int = 0,
    timeout_s: float | None = None,
    idle_exit_s: float | None = None,
    wait_s: float | None = 0.0,
    frame_limit_s: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[WorkerReport], None] | None = None,
    max_attempts: int = 3,
    store: str | None = None,
    state: Path | str | None = None,
    settings: Settings | None = None,
) -> WorkerReport:
    """Call ``function`` with each frame of a stream that this group has not done yet.

    Parameters
    ----------
    function:
        ``module:function``, ``file.py:function``, or a function that can be pickled.  It gets a
        frame and returns None, attributes (a dict), an array, or both as (array, attributes).  A
        class is made once in each process, with a :class:`~pipeline.workers.function.Context` if
        it takes an argument; its ``__call__`` gets the frames and its ``close`` is the end.
    stream:
        beamtime/detector/stream, or a shell pattern of that form: then new streams are followed.
    processes, threads:
        How many processes, and how many threads in each call the function.
    out:
        Detector of the derived stream that the results go to, under the stream's own name.  Of
        several, each gets one of the tuple that the function returns.
    start:
        Where a group without progress begins: ``start``, ``now``, a frame number or a time, as
        :meth:`Stream.reset` takes it.
    where:
        Only frames that this expression selects, as in :meth:`Stream.select`; the others are
        skipped without being read.
    min_modules, deadline_s:
        Of a detector with modules: how many are enough, and how long a frame waits for the others.
    chunk:
        Call the function with lists of so many frames, in frame order; the last of a stream may be
        shorter.  One worker of the group reads a stream then, and its processes get the chunks.
        One result goes under the first frame's number, a list of results under each.
    timeout_s:
        Silence after which to fail; None waits for the stream's end, however long.
    idle_exit_s:
        Silence after which to end without an error; waiting for the stream is none.
    wait_s:
        How long the stream may not exist yet; None: for ever.
    frame_limit_s:
        Seconds that a frame may take: longer, and its process is killed and the frame has failed.
    stop:
        Set it to stop: frames in hand are finished and committed.  Without it SIGTERM and Ctrl-C
        do that; a second Ctrl-C ends the processes at once.
    progress:
        Called about five times a second with the counts so far.
    max_attempts:
        How often a frame is tried before it goes to the dead letters.
    state:
        Without a broker: the file that keeps the group's progress on this machine.
    store, settings:
        As :func:`pipeline.connect` takes them.

    A process that crashes is started again, later each time; the frame it had in hand counts one
    attempt.  SIGTTIN and SIGTTOU (where there are such) add and remove a process.  Blocks until the
    group has finished the stream, with a pattern until it is stopped or idle.

    Raises
    ------
    PluginError
        There is no such function, or it cannot be made.
    StreamTimeoutError, PipelineError
        What ended the work on a stream.
    """
    _check(processes, threads, max_attempts, frame_limit_s)
    outs = [out] if isinstance(out, str) else list(out or ())
    if len(set(outs)) != len(outs):
        raise InvalidArgumentError("out", f"{outs}: each once")
    check_name("group", group)
    if not has_wildcards(stream):
        StreamId.parse(stream)
    found = load(function)
    if chunk and (start != "start" or where or min_modules or deadline_s or state):
        raise InvalidArgumentError("chunk", "goes with none of start, where, modules and state")
    begin = None if start in ("start", "now") else start
    options: dict[str, Any] = {"start": start if begin is None else "start"}
    if state is not None:
        options = {"state": state}
    options |= {"where": where, "min_modules": min_modules, "deadline_s": deadline_s}
    options["keep_filtered"] = bool(where and outs)
    plan = Plan(
        group=group,
        outs=outs,
        code=version_of(found),
        max_attempts=max_attempts,
        timeout_s=timeout_s,
        frame_limit_s=frame_limit_s,
        chunk=chunk,
        begin=begin,
        options=options,
    )
    with connect(store, settings=settings) as session, _signals(stop) as stopping:
        context = Context(
            stream=stream,
            group=group,
            process=0,
            processes=processes,
            settings=session.settings,
        )
        job = Job(
            function=function,
            context=context,
            threads=threads,
            outs=len(outs),
            environment=without_secrets(os.environ),
            logging=logs.current(),
        )
        pool = Pool(job, processes, limit_s=frame_limit_s)
        with _Wake() as wake:
            streams = Streams(session, stream, plan, wake.up, but_not=outs, wait_s=wait_s)
            runner = _Runner(pool, streams, wake, stopping, progress, idle_exit_s)
            meter = BOOK.watch(Place(group=group), pool, Pool.numbers)
            try:
                return runner.run()
            finally:
                meter.close()


def _check(processes: int, threads: int, max_attempts: int, frame_limit_s: float | None) -> None:
    if processes < 1 or processes > 1000:
        raise InvalidArgumentError("processes", f"{processes} is not 1 to 1000")
    if threads < 1 or threads > 1000:
        raise InvalidArgumentError("threads", f"{threads} is not 1 to 1000")
    if max_attempts < 1:
        raise InvalidArgumentError("max_attempts", f"{max_attempts} is less than 1")
    if frame_limit_s is not None and not 0 < frame_limit_s < 1e9:
        raise InvalidArgumentError("frame_limit_s", f"{frame_limit_s} is no time")


class _Stopping:
    """How often we were asked to stop, and by how many processes to grow."""

    def __init__(self, event: threading.Event | None) -> None:
        self.event = event or threading.Event()
        self.count = 0
        self.grow = 0

    def on_stop(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        self.event.set()

    def on_more(self, signum: int, frame: FrameType | None) -> None:
        self.grow += 1

    def on_fewer(self, signum: int, frame: FrameType | None) -> None:
        self.grow -= 1


@contextlib.contextmanager
def _signals(stop: threading.Event | None) -> Iterator[_Stopping]:
    """Listen to signals while the block runs; only in the main thread."""
    stopping = _Stopping(stop)
    handlers: dict[str, Callable[[int, FrameType | None], None]] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {"SIGTTIN": stopping.on_more, "SIGTTOU": stopping.on_fewer}
        if stop is None:
            handlers |= {"SIGINT": stopping.on_stop, "SIGTERM": stopping.on_stop}
    ours = {getattr(signal, n): h for n, h in handlers.items() if hasattr(signal, n)}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Wake:
    """Ends the runner's sleep when a stream has something to take; ``up`` is for any thread."""

    def __init__(self) -> None:
        self.ears, self._mouth = multiprocessing.Pipe(duplex=False)
        self._said = False

    def up(self) -> None:
        """Wake the runner."""
        if not self._said:
            self._said = True
            with contextlib.suppress(OSError):  # a member says goodbye after the runner has gone
                self._mouth.send_bytes(b".")

    def heard(self) -> None:
        """Take the call off the pipe: what comes from now on wakes anew."""
        while self.ears.poll():
            self.ears.recv_bytes()
        self._said = False

    def __enter__(self) -> _Wake:
        return self

    def __exit__(self, *_: object) -> None:
        self._mouth.close()
        self.ears.close()


class _Runner:
    """Brings streams and processes together."""

    def __init__(
        self,
        pool: Pool,
        streams: Streams,
        wake: _Wake,
        stopping: _Stopping,
        progress: Callable[[WorkerReport], None] | None,
        idle_exit_s: float | None,
    ) -> None:
        self._pool = pool
        self._streams = streams
        self._wake = wake
        self._stopping = stopping
        self._progress = progress
        self._idle_exit_s = idle_exit_s
        self._begun_s = self._active_s = time.monotonic()
        self._told_s = 0.0
        self._before = Counts()

    def run(self) -> WorkerReport:
        finished = False
        try:
            while not (finished := self._streams.over) and not self._is_over():
                self._turn(stopping=self._stopping.event.is_set())
            finished = finished or self._streams.over
        except BaseException:
            self._pool.close(kill=True)
            for work in self._streams.open:
                with contextlib.suppress(PipelineError):  # what has failed is told already
                    work.abandon()
            raise
        self._pool.close()
        for work in list(self._streams.open):
            self._leave(work)
        for name, error in self._streams.errors.items():
            raise PipelineError(f"{name} could not be worked on: {error}") from error
        return self._report(finished=finished)

    def _is_over(self) -> bool:
        """Whether we were told to stop, or are idle, and nothing is in hand."""
        if self._stopping.count > 1:
            raise KeyboardInterrupt
        busy = self._pool.in_hand or any(work.in_hand for work in self._streams.open)
        if busy or self._streams.awaits or not self._pool.ready:
            self._active_s = time.monotonic()
        if self._stopping.event.is_set():
            return not self._pool.in_hand
        silent_s = time.monotonic() - self._active_s
        return self._idle_exit_s is not None and silent_s > self._idle_exit_s

    def _turn(self, *, stopping: bool) -> None:
        """Hand out what can be handed out, then listen for a moment."""
        watchdog.beat()
        if self._stopping.grow:
            grow, self._stopping.grow = self._stopping.grow, 0
            self._pool.scale(self._pool.wanted + grow)
            log.info("%d processes from now on", self._pool.wanted)
        self._pool.tend(stopping=stopping)
        if not stopping:
            self._streams.look()
            self._hand_out()
        pending = any(work.pending for work in self._streams.open)
        for found in self._pool.listen(_BUSY_S if pending else _LOOK_S, [self._wake.ears]):
            self._take_back(found)
        self._wake.heard()
        if self._pool.broken:
            raise PluginError(self._pool.broken)
        for work in list(self._streams.open):
            with self._dropping(work):
                work.tick()
                if work.finished:
                    self._leave(work)
        self._tell()

    @contextlib.contextmanager
    def _dropping(self, work: Work) -> Iterator[None]:
        """Leave a stream whose work fails; the others go on."""
        try:
            yield
        except PipelineError as error:
            if work not in self._streams.open:  # left before, or failing over its end
                raise
            self._before += work.counts
            self._streams.drop(work, error)

    def _leave(self, work: Work) -> None:
        self._streams.leave(work)
        self._before += work.counts

    def _hand_out(self) -> None:
        """Give each stream its turn, until no process is free or no stream has anything."""
        for work in self._streams.open:
            self._try_alone(work)
        if any(work.suspects for work in self._streams.open):
            return  # until a process has nothing else in hand
        for work in sorted(self._streams.open, key=lambda work: work.counts.frames):
            for worker in self._pool.free(ahead=work.pace.ahead):
                calls: list[Call] = []
                with self._dropping(work):
                    calls = work.take(work.pace.frames)
                if not calls:
                    break
                self._give(worker, work, calls)

    def _try_alone(self, work: Work) -> None:
        """Find out which of the frames that died together kills a process."""
        while work.suspects and (worker := self._pool.idle()) is not None:
            self._give(worker, work, [work.suspects.pop()], alone=True)

    def _give(self, worker: Worker, work: Work, calls: list[Call], *, alone: bool = False) -> None:
        self._active_s = time.monotonic()
        parcel = pack([delivery.frame for call in calls for delivery in call])
        sizes = [len(call) for call in calls]
        self._pool.give(
            worker, Batch(work, calls), parcel, sizes, lists=work.in_chunks, alone=alone
        )

    def _take_back(self, found: tuple[Batch, Answer] | Lost) -> None:
        if isinstance(found, tuple):
            batch, answer = found
            with self._dropping(batch.work):
                batch.work.settle(batch.calls, answer)
            return
        for batch in found.others:
            batch.work.suspects += batch.calls
        if found.guilty is not None:
            (call,) = found.guilty.calls
            with self._dropping(found.guilty.work):
                found.guilty.work.failed(call, Failure(f"WorkerDied: {found.reason}", ""))

    def _tell(self) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._told_s >= _TELL_EVERY_S:
            self._told_s = now
            self._progress(self._report(finished=False))

    def _report(self, *, finished: bool) -> WorkerReport:
        counts = sum((work.counts for work in self._streams.open), self._before)
        return WorkerReport(
            frames=counts.frames,
            results=counts.results,
            skipped=counts.skipped,
            rejected=counts.rejected,
            retried=counts.retried,
            crashes=self._pool.crashes,
            seconds=time.monotonic() - self._begun_s,
            finished=finished,
            streams=list(self._streams.finished),
            processes=[worker.frames for worker in self._pool.workers],
        )
