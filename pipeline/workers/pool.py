"""The processes of one worker: started, handed orders, listened to, started again when they die."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from pipeline.telemetry.book import Numbers
from pipeline.telemetry.processes import resident_nbytes
from pipeline.workers import child
from pipeline.workers.child import Answer, Broken, Job, Order, Ready, Waiting
from pipeline.workers.travel import Parcel

log = logging.getLogger(__name__)
#: A process that keeps dying is started again after this long, doubled each time up to a limit.
_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 30.0
#: How long a process that has been told to end may take for its ``close``.
_END_S = 10.0
#: What the first process imports for all of them, where they are forked from one.
_PRELOAD = ["pipeline.workers.child", "pipeline.blobs", "numpy"]


@dataclass(slots=True)
class Given:
    """An order in a process's hands."""

    work: Any
    frames: int
    calls: int
    #: Nothing else is given to its process meanwhile: a death is its own doing then.
    alone: bool
    begun_s: float | None = None


@dataclass(slots=True, frozen=True)
class Lost:
    """What a process had in hand when it died.

    Parameters
    ----------
    guilty:
        The one order that it was working on, if there is no doubt.
    others:
        Orders that were not begun, or of which nobody knows which one it was.
    """

    guilty: Any | None
    others: list[Any]
    reason: str


@dataclass(slots=True)
class Worker:
    """One of the processes, through all its lives."""

    index: int
    process: Any = None
    pipe: Connection | None = None
    ready: bool = False
    retiring: bool = False
    given: dict[int, Given] = field(default_factory=dict)
    frames: int = 0
    crashes: int = 0
    #: Deaths since it last finished anything: how long to wait before it is started again.
    in_a_row: int = 0
    next_s: float = 0.0


class Pool:
    """Not thread-safe.

    Parameters
    ----------
    limit_s:
        Seconds that an order may take; a process that takes longer is killed.
    """

    def __init__(self, job: Job, processes: int, *, limit_s: float | None = None) -> None:
        self._job = job
        self._limit_s = limit_s
        self._orders = itertools.count()
        self._context = _context()
        self.wanted = processes
        self.workers: list[Worker] = []
        self._made = itertools.count()
        self.broken = ""

    @property
    def crashes(self) -> int:
        """Processes that died and were started again."""
        return sum(worker.crashes for worker in self.workers)

    @property
    def ready(self) -> bool:
        """Whether any process can be given work."""
        return any(worker.ready for worker in self.workers)

    @property
    def in_hand(self) -> int:
        """Frames that the processes have."""
        return sum(g.frames for worker in self.workers for g in worker.given.values())

    def numbers(self) -> Numbers:
        """Return the processes as metrics; for any thread."""
        workers = list(self.workers)
        pids = [w.process.pid for w in workers if w.process is not None]
        return {
            "lichtstrom_worker_crashes_total": sum(w.crashes for w in workers),
            ("lichtstrom_worker_processes", "wanted"): self.wanted,
            ("lichtstrom_worker_processes", "ready"): sum(w.ready for w in workers),
            ("lichtstrom_worker_processes", "busy"): sum(bool(w.given) for w in workers),
            "lichtstrom_worker_resident_bytes": resident_nbytes([os.getpid(), *pids]),
            **{
                ("lichtstrom_worker_process_frames_total", str(w.index)): float(w.frames)
                for w in workers
            },
        }

    # -- processes --------------------------------------------------------------------------------

    def scale(self, processes: int) -> None:
        """Have so many processes from now on; those that are too many finish what they have."""
        self.wanted = max(1, processes)

    def tend(self, *, stopping: bool = False) -> None:
        """Start what is to be started, end what is not wanted any more."""
        now = time.monotonic()
        staying = [worker for worker in self.workers if not worker.retiring]
        for worker in staying[self.wanted :]:
            worker.retiring = True
        if not stopping:
            for _ in range(self.wanted - len(staying)):
                self.workers.append(Worker(next(self._made)))
        for worker in self.workers:
            if worker.pipe is None:
                if not (worker.retiring or stopping) and now >= worker.next_s:
                    self._start(worker)
            elif worker.retiring and not worker.given:
                worker.pipe.close()
                worker.pipe = None

    def _start(self, worker: Worker) -> None:
        ours, theirs = self._context.Pipe()
        context = replace(self._job.context, process=worker.index)
        job = replace(self._job, context=context)
        process = self._context.Process(
            target=child.main, args=(job, theirs), name=f"worker-{worker.index}"
        )
        try:
            process.start()
        except (OSError, EOFError) as error:  # the server that processes are forked from was killed
            ours.close()
            self._later(worker)
            log.error("process %d could not be started: %r; tried again", worker.index, error)
        else:
            worker.process, worker.pipe, worker.ready = process, ours, False
        finally:
            theirs.close()

    def _later(self, worker: Worker) -> float:
        """Have the process started again after a pause that grows; return its length."""
        worker.in_a_row += 1
        pause_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2.0 ** (worker.in_a_row - 1))
        worker.next_s = time.monotonic() + pause_s
        return pause_s

    # -- orders -----------------------------------------------------------------------------------

    def free(self, *, ahead: bool) -> Iterator[Worker]:
        """Yield the processes that can be given an order, the idlest first.

        ``ahead``: also those that are busy and have none waiting.
        """
        lanes = self._job.threads
        room = lanes + 1 if ahead else lanes
        able = [
            worker
            for worker in self.workers
            if worker.ready and not worker.retiring and len(worker.given) < room
            if not any(given.alone for given in worker.given.values())
        ]
        return iter(sorted(able, key=lambda w: len(w.given)))

    def idle(self) -> Worker | None:
        """Return a process with nothing at all in hand."""
        return next((w for w in self.free(ahead=False) if not w.given), None)

    def give(
        self,
        worker: Worker,
        work: Any,
        parcel: Parcel,
        sizes: Sequence[int],
        *,
        lists: bool,
        alone: bool = False,
    ) -> None:
        """Hand an order over; ``work`` comes back with its answer, or when the process dies."""
        number = next(self._orders)
        running = sum(given.begun_s is not None for given in worker.given.values())
        begun_s = time.monotonic() if running < self._job.threads else None
        worker.given[number] = Given(work, sum(sizes), len(sizes), alone, begun_s)
        order = Order(number, parcel, list(sizes), lists)
        assert worker.pipe is not None
        try:
            worker.pipe.send_bytes(pickle.dumps(order, pickle.HIGHEST_PROTOCOL))
        except OSError:
            log.debug("process %d is gone: its end is noticed next", worker.index)

    # -- listening --------------------------------------------------------------------------------

    def listen(
        self, timeout_s: float, others: Sequence[Connection] = ()
    ) -> Iterator[tuple[Any, Answer] | Lost]:
        """Yield what came of orders; wait at most ``timeout_s`` for something to happen.

        ``others``: also return when one of these has something to read.
        """
        pipes = {worker.pipe: worker for worker in self.workers if worker.pipe is not None}
        # A pipe tells of a death only when nobody has its other end, and a process may have
        # started others, which inherit it.
        ends = {worker.process.sentinel: worker for worker in pipes.values()}
        found = wait([*pipes, *ends, *others], timeout_s)
        for worker in pipes.values():
            if worker.pipe in found or worker.process.sentinel in found:
                yield from self._hear(worker)
        yield from self._too_long()

    def _hear(self, worker: Worker) -> Iterator[tuple[Any, Answer] | Lost]:
        try:
            while worker.pipe is not None and worker.pipe.poll():
                data = worker.pipe.recv_bytes()
                try:
                    message = pickle.loads(data)  # noqa: S301 -- our own process
                except Exception as error:  # noqa: BLE001 -- values of classes unknown here
                    worker.process.kill()
                    yield self._gone(worker, f"its answer cannot be read here: {error!r}")
                    return
                if isinstance(message, Answer):
                    yield self._done(worker, message)
                elif isinstance(message, Ready):
                    worker.ready = True
                elif isinstance(message, Broken):
                    self.broken = message.reason
                elif isinstance(message, Waiting):
                    log.warning("process %d waits: %s", worker.index, message.reason)
                    self._begin_anew(worker)
        except (EOFError, OSError):
            yield self._gone(worker)
        else:
            if worker.pipe is not None and worker.process.exitcode is not None:
                yield self._gone(worker)

    def _done(self, worker: Worker, answer: Answer) -> tuple[Any, Answer]:
        given = worker.given.pop(answer.batch)
        worker.frames += given.frames
        worker.in_a_row = 0
        following = next((g for g in worker.given.values() if g.begun_s is None), None)
        if following is not None:
            following.begun_s = time.monotonic()
        return given.work, answer

    def _begin_anew(self, worker: Worker) -> None:
        """Give the function its time again: it waits for the store."""
        for given in worker.given.values():
            if given.begun_s is not None:
                given.begun_s = time.monotonic() + child.MAX_PAUSE_S

    def _gone(self, worker: Worker, reason: str = "", guilty: Given | None = None) -> Lost:
        """Note that a process died; say what it had in hand."""
        assert worker.pipe is not None
        worker.pipe.close()
        worker.pipe, worker.ready = None, False
        worker.process.join(_END_S)
        worker.process.kill()  # no effect on one that has ended, as almost all have
        worker.process.join()
        code = worker.process.exitcode
        worker.process.close()
        worker.process = None
        reason = reason or f"its process ended (exit {code})"
        given, worker.given = list(worker.given.values()), {}
        worker.crashes += 1
        pause_s = self._later(worker)
        begun = [g for g in given if g.begun_s is not None]
        if guilty is None and len(begun) == 1 and begun[0].calls == 1:
            guilty = begun[0]
        log.error(
            "process %d with %d frames in hand: %s; started again in %.1f s",
            worker.index,
            sum(g.frames for g in given),
            reason,
            pause_s,
        )
        others = [g.work for g in given if g is not guilty]
        return Lost(guilty.work if guilty else None, others, reason)

    def _too_long(self) -> Iterator[Lost]:
        """Kill the processes whose frame takes longer than it may."""
        if self._limit_s is None:
            return
        now = time.monotonic()
        for worker in self.workers:
            for given in worker.given.values():
                if given.begun_s is None or now - given.begun_s <= self._limit_s:
                    continue
                if worker.pipe is None or worker.pipe.poll():  # it has answered meanwhile
                    continue
                worker.process.kill()
                alone = given if given.calls == 1 else None
                yield self._gone(worker, f"it took longer than {self._limit_s:g} s", alone)
                break

    # -- ending -----------------------------------------------------------------------------------

    def close(self, *, kill: bool = False) -> None:
        """End the processes: what they have in hand is finished, or with ``kill`` lost."""
        for worker in self.workers:
            if worker.pipe is not None:
                worker.pipe.close()
                worker.pipe = None
        deadline = time.monotonic() + _END_S
        for worker in self.workers:
            if worker.process is None:
                continue
            if kill:
                worker.process.kill()
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                log.error("process %d did not end: killed", worker.index)
                worker.process.kill()
                worker.process.join()
            worker.process.close()
            worker.process = None


def _context() -> Any:
    """Return how processes are started: forked from one that has all imports, where that exists."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context
