"""Processes of a measurement: producer and consumer share nothing but broker and store."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from pipeline.errors import PipelineError

#: How long a step of a child may take before the measurement is given up.
STEP_S = 180.0
#: How long a child may take to leave once it has said all.
_LEAVE_S = 10.0

Message = dict[str, Any]


class Line:
    """The child's end: tells the parent how far it is, waits to be told to go on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, step: str, **facts: Any) -> None:
        """Report a step."""
        self._connection.send({"step": step, **facts})

    def wait(self) -> None:
        """Wait to be told to go on."""
        if not self._connection.poll(STEP_S):
            raise PipelineError("the bench did not go on")
        self._connection.recv()


class Child:
    """A process that runs ``role(line, job)``; ended with the block, whatever it does."""

    def __init__(self, role: Callable[[Line, Any], None], job: Any) -> None:
        # Spawned: a forked child would share the parent's threads' locks and its memory.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._name = role.__name__
        # Not a daemon: a worker has processes of its own.
        self._process = context.Process(target=_run, args=(role, job, theirs))
        self._process.start()
        theirs.close()

    def hear(self, *steps: str, timeout_s: float = STEP_S) -> Message:
        """Return the next message, which must be one of ``steps``.

        Raises PipelineError with the child's own error, or when it says nothing in time.
        """
        if not self._connection.poll(timeout_s):
            raise PipelineError(f"{self._name}: nothing heard in {timeout_s:g} s")
        try:
            message: Message = self._connection.recv()
        except EOFError:
            raise PipelineError(f"{self._name}: the process ended") from None
        if message["step"] not in steps:
            raise PipelineError(f"{self._name}: {message.get('text', message)}")
        return message

    def go_on(self) -> None:
        """Tell the child to go on."""
        self._connection.send("go on")

    def kill(self) -> None:
        """End the process as a crash would (SIGKILL)."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._process.join(_LEAVE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_LEAVE_S)
        self._process.close()
        self._connection.close()


def _run(role: Callable[[Line, Any], None], job: Any, connection: Connection) -> None:
    line = Line(connection)
    try:
        role(line, job)
    except PipelineError as error:
        line.say("failed", text=str(error))
    except Exception as error:  # noqa: BLE001 -- a bug is told to the parent, which reports the row
        line.say("failed", text=repr(error))
    finally:
        connection.close()


class Usage:
    """Processor time and wall time of this process since it was made."""

    def __init__(self) -> None:
        self._cpu_s = _cpu_s()
        self.begun_s = time.monotonic()

    def facts(self) -> Mapping[str, float]:
        """Return ``begun_s`` and ``done_s`` by the machine's monotonic clock, and ``cpu_s``."""
        return {
            "begun_s": self.begun_s,
            "done_s": time.monotonic(),
            "cpu_s": _cpu_s() - self._cpu_s,
        }


def _cpu_s() -> float:
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


def resident_nbytes() -> int:
    """Return how much memory this process occupies now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
