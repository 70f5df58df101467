"""One worker process: a session, a member of the group, the user's function."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from pipeline.errors import PipelineError, StreamTimeoutError
from pipeline.naming import StreamId
from pipeline.publishing.claims import holder
from pipeline.session import Session, connect
from pipeline.shared import SharedFrames
from pipeline.sharing.delivery import Delivery
from pipeline.workers.board import Board
from pipeline.workers.function import Function, load, version_of
from pipeline.workers.results import Results

log = logging.getLogger(__name__)
#: How often the parent hears from us, and the longest we are deaf to a signal while idle.
_TELL_EVERY_S = 0.5
_IDLE_S = 0.1
#: While results wait for their confirmation.
_BUSY_S = 0.01
_FLUSH_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker process is to do."""

    function: str | Function
    stream: str
    group: str
    out: str | None
    timeout_s: float | None
    max_attempts: int
    store: str | None = None


class Stopped:
    """Set by SIGTERM and Ctrl-C: the frame in hand is finished, then the process ends."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def install(self) -> None:
        """Listen to the signals; the parent ends us at once on a second Ctrl-C."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.event.set()


def main(job: Job, slot: int, board: str, pipe: Connection) -> None:
    """Work until the group has finished; tell the parent by ``pipe`` (this runs in a child)."""
    stopped = Stopped()
    stopped.install()
    worker = Worker(job, slot, Board(board), pipe, stopped.event)
    try:
        finished = worker.run()
        pipe.send(("done", finished, worker.counts))
    except PipelineError as error:
        pipe.send(("failed", error.retriable, f"{type(error).__name__}: {error}", worker.counts))
        raise SystemExit(1) from None
    finally:
        pipe.close()


class Worker:
    """The loop of one process."""

    def __init__(
        self, job: Job, slot: int, board: Board, pipe: Connection, stop: threading.Event
    ) -> None:
        self._job = job
        self._slot = slot
        self._board = board
        self._pipe = pipe
        self._stop = stop
        self._told_s = time.monotonic()
        self.counts = dict.fromkeys(("frames", "results", "skipped", "rejected", "retried"), 0)
        self._results: Results | None = None

    def run(self) -> bool:
        """Return True when the group has finished the stream, False when told to stop."""
        job = self._job
        function = load(job.function)
        name = StreamId.parse(job.stream)
        with connect(job.store) as session:
            stream = session.stream(name.beamtime, name.detector, name.stream)
            if job.out is not None:
                self._results = self._open_results(session, stream, function)
            with stream.shared(job.group, timeout_s=_IDLE_S) as frames:  # type: ignore[attr-defined]  # a SharedFrames
                finished = self._loop(frames, function)
                if self._results is not None:
                    self._results.flush(_FLUSH_S)
            if self._results is not None:
                if finished:
                    self._results.end()
                else:
                    self._results.close()
            return finished

    def _open_results(self, session: Session, stream: Any, function: Function) -> Results:
        assert self._job.out is not None
        results = Results(
            session,
            stream,
            detector=self._job.out,
            group=self._job.group,
            member=f"{holder()}:{os.urandom(4).hex()}",
            code=version_of(function),
            leads=self._slot == 0,
        )
        results.open()
        return results

    def _loop(self, frames: SharedFrames, function: Function) -> bool:
        while not self._stop.is_set():
            self._tell()
            results = self._results
            frames.timeout_s = _BUSY_S if results is not None and results.pending else _IDLE_S
            try:
                delivery = next(frames)
            except StopIteration:
                return True
            except StreamTimeoutError:
                limit_s = self._job.timeout_s
                if limit_s is not None and frames.silent_s > limit_s:
                    raise StreamTimeoutError(self._job.stream, limit_s) from None
            else:
                self._handle(delivery, function)
            if results is not None:
                results.settle()
        return False

    def _handle(self, delivery: Delivery, function: Function) -> None:
        number = delivery.frame.number
        self.counts["frames"] += 1
        crashes = self._board.crashes(number)
        if crashes >= self._job.max_attempts:
            self._give_up(delivery, f"the process crashed {crashes} times on this frame")
            return
        self._board.begin(self._slot, number)
        try:
            result = function(delivery.frame)
            if self._results is None:
                delivery.ack()
                what = "skipped" if result is None else "results"
            else:
                what = self._results.take(delivery, result)
            self.counts[what] = self.counts.get(what, 0) + 1
        except PipelineError as error:
            if error.retriable:  # the store or the broker is away: not the frame's fault
                raise
            self._failed(delivery, error)
        except Exception as error:  # noqa: BLE001 -- the user's function may raise anything
            self._failed(delivery, error)
        finally:
            self._board.end(self._slot)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        """Try again, or give up; called in the handler, so that the traceback is kept."""
        if delivery.attempt >= self._job.max_attempts:
            self._give_up(delivery, f"{type(error).__name__}: {error}")
            return
        log.warning("frame %d: attempt %d: %r", delivery.frame.number, delivery.attempt, error)
        self.counts["retried"] += 1
        delivery.retry(delay_s=0.1 * 2.0 ** (delivery.attempt - 1))

    def _give_up(self, delivery: Delivery, reason: str) -> None:
        self.counts["rejected"] += 1
        log.error("frame %d is given up: %s", delivery.frame.number, reason)
        if self._results is not None:
            self._results.give_up(delivery, reason)
        else:
            delivery.reject(reason)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_s >= _TELL_EVERY_S:
            self._told_s = now
            try:
                self._pipe.send(("counts", dict(self.counts)))
            except OSError:  # the parent is gone
                self._stop.set()
