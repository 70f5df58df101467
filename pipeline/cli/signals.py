"""Ctrl-C and SIGTERM: first finish what is queued, the second time give up at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import click

from pipeline.errors import PipelineError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Stop:
    """Whether the user wants to stop; ``event`` is set by the first signal."""

    event: threading.Event = field(default_factory=threading.Event)
    signum: int = 0
    #: Says what is lost when the second signal comes.
    left: Callable[[], str] = lambda: ""

    def exit_if_asked(self) -> None:
        """Leave with 130 or 143 if a signal ended the work and nothing was lost."""
        if self.signum:
            raise SystemExit(128 + self.signum)


@contextmanager
def stopping(left: Callable[[], str]) -> Iterator[Stop]:
    """Handle the signals while the block runs; only for the main thread.

    Parameters
    ----------
    left:
        Called on the second signal, from the handler: what was not flushed, in a few words.
    """
    stop = Stop(left=left)

    def handle(signum: int, _frame: FrameType | None) -> None:
        # os.write: the interrupted code may be writing to stderr itself.
        if stop.event.is_set():
            os.write(2, f"given up: {stop.left()}\n".encode())
            os._exit(1)
        stop.signum = signum
        stop.event.set()
        os.write(2, b"stopping: what is queued is finished first; again to give up at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    except PipelineError:
        if stop.event.is_set():
            click.echo(f"stopped, but not everything was finished: {stop.left()}", err=True)
        raise
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
