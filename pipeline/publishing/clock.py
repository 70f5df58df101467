"""A thread that does what is due: closing drafts after their linger, marks, draining a spool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pipeline.errors import PipelineError, of_ours

log = logging.getLogger(__name__)


class Clock:
    """Calls ``tick`` whenever it is due; ``tick`` returns the seconds until the next time.

    An error of ours ends it and is kept in ``failure`` for the owner to raise.
    """

    def __init__(self, tick: Callable[[], float], *, name: str) -> None:
        self._tick = tick
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failure: PipelineError | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once what is due."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause_s = self._tick()
            except Exception as error:  # noqa: BLE001 -- told to the owner
                self.failure = of_ours(error)
                log.error("publishing stopped: %s", self.failure)
                return
            self._wake.wait(pause_s)
            self._wake.clear()

    def close(self) -> None:
        """Stop and join; may be called twice."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(10.0)
