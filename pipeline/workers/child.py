"""One process of a worker: reads pixels, calls the user's function, says what came of it.

It knows nothing of groups and topics: the runner hands it frames without their pixels
(:mod:`pipeline.workers.travel`), and settles them by the answers.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pipeline.errors import InvalidFrameError, PipelineError, StreamTimeoutError
from pipeline.reading.fetch import Fetcher
from pipeline.reading.frame import Frame
from pipeline.session import connect
from pipeline.telemetry import logs
from pipeline.telemetry.logs import LogSettings
from pipeline.workers.function import Context, Function, Result, load, prepare, results_of
from pipeline.workers.travel import Parcel, unpack

log = logging.getLogger(__name__)
#: While the store is away: first and longest pause before a frame is tried again.
_PAUSE_S = 0.2
MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process needs to know for all of its frames."""

    function: str | Function
    context: Context
    threads: int = 1
    outs: int = 0
    #: The runner's environment: a process that is forked from a server has that server's.
    environment: dict[str, str]
    #: How the runner logs.
    logging: LogSettings | None = None


class Order(NamedTuple):
    """Work for a process: calls of the function, ``sizes[i]`` frames in call i."""

    batch: int
    parcel: Parcel
    sizes: list[int]
    #: Whether each call gets a list, however long.
    lists: bool


class Failure(NamedTuple):
    """The function raised, or returned what cannot be a result."""

    reason: str
    trace: str


class Answer(NamedTuple):
    """What came of an order: per call the results for each derived stream, or its failure."""

    batch: int
    outcomes: list[list[list[Result]] | Failure]
    seconds: float


class Ready(NamedTuple):
    """The function can be called."""


class Waiting(NamedTuple):
    """The store or the broker is away; what is in hand is being tried again."""

    reason: str


class Broken(NamedTuple):
    """The function cannot be made."""

    reason: str


def main(job: Job, pipe: Connection) -> None:
    """Work until the runner closes the pipe (this runs in a process of its own)."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the runner decides when we end
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(job.environment)
    if job.logging is not None:
        logs.set_up_logging(job.logging)
    child = Child(job, pipe)
    try:
        function, close = prepare(load(job.function), job.context)
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, PipelineError) and error.retriable:
            raise SystemExit(1) from error  # a service is away: made again, later each time
        log.debug("the function cannot be made", exc_info=True)
        child.say(Broken(f"{type(error).__name__}: {error}"))
        return
    try:
        with connect(settings=job.context.settings) as session:
            child.run(function, session.services.store, session.settings.read.prefetch_nbytes)
    finally:
        close()
        job.context.close()


class Child:
    """The threads of one process: one that listens, and those that call the function."""

    def __init__(self, job: Job, pipe: Connection) -> None:
        self._job = job
        self._pipe = pipe
        self._speaking = threading.Lock()
        self._orders: queue.SimpleQueue[tuple[Order, list[Frame]] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._in_hand = 0
        self._counting = threading.Lock()

    def say(self, message: object) -> None:
        """Send a message to the runner; without one there is nobody to work for."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            with self._speaking:
                self._pipe.send_bytes(data)
        except OSError:
            os._exit(1)

    def run(self, function: Function, store: Any, prefetch_nbytes: int) -> None:
        """Call the function until the pipe is closed."""
        fetcher = Fetcher(store, threads=2, prefetch_nbytes=prefetch_nbytes)
        listening = threading.Thread(target=_or_die, args=(self._listen, fetcher), daemon=True)
        others = [
            threading.Thread(target=_or_die, args=(self._work, function), daemon=True)
            for _ in range(self._job.threads - 1)
        ]
        for thread in (listening, *others):
            thread.start()
        self.say(Ready())
        self._work(function)
        for thread in others:
            thread.join()
        fetcher.close()

    def _listen(self, fetcher: Fetcher) -> None:
        """Take orders in while the function works, so that their pixels are read meanwhile."""
        try:
            while True:
                order: Order = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 -- our runner's
                self._count(1)
                self._orders.put((order, unpack(order.parcel, fetcher)))
        except (EOFError, OSError):
            if self._in_hand:  # the runner was killed: what we do is worth nothing any more
                os._exit(1)
        self._over.set()
        for _ in range(self._job.threads):
            self._orders.put(None)

    def _count(self, change: int) -> None:
        with self._counting:
            self._in_hand += change

    def _work(self, function: Function) -> None:
        while (found := self._orders.get()) is not None:
            order, frames = found
            begun_s = time.perf_counter()
            outcomes = []
            rest = iter(frames)
            for size in order.sizes:
                chunk = [next(rest) for _ in range(size)]
                outcomes.append(self._call(function, chunk, lists=order.lists))
            del frames, rest
            self._count(-1)
            self._answer(Answer(order.batch, outcomes, time.perf_counter() - begun_s))

    def _answer(self, answer: Answer) -> None:
        try:
            self.say(answer)
        except Exception as error:  # noqa: BLE001 -- objects may refuse to be pickled in any way
            # A value that cannot travel: which one is told call by call.
            outcomes = [_portable(outcome, error) for outcome in answer.outcomes]
            self.say(answer._replace(outcomes=outcomes))

    def _call(
        self, function: Function, frames: Sequence[Frame], *, lists: bool
    ) -> list[list[Result]] | Failure:
        """Return the results, or why there are none; a store that is away is waited for."""
        pause_s = _PAUSE_S
        while True:
            try:
                returned = function(frames if lists else frames[0])
                return results_of(returned, self._job.outs, chunk=len(frames) if lists else 0)
            except InvalidFrameError as error:
                return _failure(error)
            except PipelineError as error:
                away = error.retriable and not isinstance(error, StreamTimeoutError)
                if not away or self._over.is_set():
                    return _failure(error)
                self.say(Waiting(str(error)))
            except Exception as error:  # noqa: BLE001 -- the user's function may raise anything
                return _failure(error)
            self._over.wait(pause_s)
            pause_s = min(MAX_PAUSE_S, pause_s * 2)


def _or_die(body: Callable[[Any], None], argument: Any) -> None:
    """Run a thread; if anything escapes it, end the process: its runner would wait for ever."""
    try:
        body(argument)
    except BaseException:
        log.exception("a thread of a worker process ended")
        os._exit(1)


def _failure(error: Exception) -> Failure:
    return Failure(f"{type(error).__name__}: {error}"[:10_000], traceback.format_exc()[-100_000:])


def _portable(
    outcome: list[list[Result]] | Failure, error: Exception
) -> list[list[Result]] | Failure:
    try:
        pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 -- as above
        return Failure(f"InvalidFrameError: a result that cannot be kept: {error}", "")
    return outcome
