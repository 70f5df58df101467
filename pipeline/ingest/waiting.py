"""Waiting for servers and for room: heard by a stop, seen in the report, told in the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pipeline.ingest.report import IngestReport
from pipeline.protocols import AdapterEvent, SourceFile, SourceFrame

log = logging.getLogger(__name__)
#: Seconds between two attempts to reach a server, and between two looks whether there is room.
RETRY_S, ROOM_S = 1.0, 0.01
#: Seconds between two words about one trouble, and how much of them must have been spent waiting.
_SAY_S, _WORTH_S = 10.0, 1.0
#: Seconds between two reports of progress.
_LOOK_S = 0.2


class StoppedError(Exception):
    """The user wants to stop while we wait for somebody."""


class Waiting:
    """How long an ingest run waits for whom; for one thread.

    Parameters
    ----------
    on_look:
        Called a few times a second meanwhile, to bring the report up to date.
    """

    def __init__(
        self, stop: threading.Event, report: IngestReport, on_look: Callable[[], None]
    ) -> None:
        self._stop = stop
        self._report = report
        self._on_look = on_look
        self._looked_s = 0.0
        #: When something was said last, and how long we had waited until then.
        self._said_s = -_SAY_S
        self._said_waited_s = 0.0

    def for_server(self, error: Exception) -> None:
        """Wait a moment for a server that is away; raises StoppedError."""
        if self._due():
            # its text: a log that is kept would keep the error's traceback, and a mapped file by it
            log.warning("waiting, the sources are kept or held back: %s", str(error))
        self._pause(RETRY_S, str(error))

    def for_room(self, reason: Exception) -> None:
        """Wait a moment for room in a queue or a spool; raises StoppedError."""
        waited_s = self._report.waited_s - self._said_waited_s
        if waited_s >= _WORTH_S and self._due():
            log.warning("the source is held back, waited %.1f s: %s", waited_s, reason)
            self._said_waited_s = self._report.waited_s
        self._pause(ROOM_S, str(reason))

    def over(self) -> None:
        """Note that things move."""
        self._report.waiting = ""

    def _due(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._said_s < _SAY_S:
            return False
        self._said_s = now_s
        return True

    def _pause(self, pause_s: float, reason: str) -> None:
        self._report.waiting = reason
        began_s = time.monotonic()
        if began_s - self._looked_s >= _LOOK_S:
            self._looked_s = began_s
            self._on_look()
        if self._stop.wait(pause_s):
            raise StoppedError
        self._report.waited_s += time.monotonic() - began_s


def told(event: AdapterEvent | None) -> str:
    """Return what was in hand when a stop came, for people."""
    match event:
        case SourceFrame():
            return f"frame {event.header.number} of {event.series}"
        case SourceFile():
            return f"{event.source or 'a file'} of {event.series}, or a part of it"
    return "nothing"
