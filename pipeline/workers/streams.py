"""Which streams a worker is at: the one that was named, or those that match a pattern."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from pipeline.errors import (
    PipelineError,
    StreamNotFoundError,
    StreamTimeoutError,
    TopicMissingError,
    WriterSupersededError,
)
from pipeline.naming import StreamId, has_wildcards
from pipeline.session import Session
from pipeline.workers.work import Plan, Work

log = logging.getLogger(__name__)
#: How often new streams are looked for.
_LOOK_S = 0.5
#: Streams of a pattern that are worked on at once: each takes a connection and two threads.
_MAX_OPEN = 32
#: A stream whose broker or store is away is joined again after this long, doubled up to a limit.
_PAUSE_S = 0.5
_MAX_PAUSE_S = 10.0


class Streams:
    """Opens streams as they begin; not thread-safe.

    Parameters
    ----------
    pattern:
        beamtime/detector/stream, or a shell pattern of that form, which has no end.
    but_not:
        Detectors that a pattern leaves out: those of the results.
    wait_s:
        How long a stream that was named may be missing at the start; None: for ever.
    """

    def __init__(
        self,
        session: Session,
        pattern: str,
        plan: Plan,
        wake: Callable[[], None],
        *,
        but_not: Collection[str] = (),
        wait_s: float | None = 0.0,
    ) -> None:
        self._session = session
        self._pattern = pattern
        self._plan = plan
        self._wake = wake
        self._but_not = but_not
        self._wait_s = wait_s
        self._begun_s = time.monotonic()
        self._next_s = 0.0
        self._pause_s = _PAUSE_S
        #: Whether broker and store have answered once: at the start their absence is an error.
        self._begun = False
        self._full = False
        self._seen: set[bytes] = set()
        self._superseded: set[bytes] = set()
        self.open: list[Work] = []
        self.follows = has_wildcards(pattern)
        #: Streams that the group has finished, and why others were left.
        self.finished: list[str] = []
        self.errors: dict[str, PipelineError] = {}

    @property
    def over(self) -> bool:
        """Whether no stream is left to work on, and none will come."""
        return not self.follows and bool(self.finished) and not self.open

    @property
    def awaits(self) -> bool:
        """Whether the stream that was named has not come yet."""
        return not (self.follows or self.open or self.finished)

    def look(self) -> None:
        """Open what has come; blocks for some hundred milliseconds where something has."""
        now = time.monotonic()
        if now < self._next_s or len(self.open) >= _MAX_OPEN:
            return
        if not self.follows and (self.open or self.finished):
            return
        self._next_s = now + _LOOK_S
        if self.follows:
            self._follow()
            return
        try:
            self._open(StreamId.parse(self._pattern))
        except (StreamNotFoundError, TopicMissingError):
            if self._wait_s is not None and now >= self._begun_s + self._wait_s:
                raise
        except PipelineError as error:
            self._put_off(self._pattern, error)

    def _follow(self) -> None:
        """Open what is new, oldest first."""
        try:
            found = self._session.streams(self._pattern)
        except PipelineError as error:
            self._put_off(self._pattern, error)
            return
        for summary in found:
            key = summary.info.start.stream_key
            if key in self._seen or summary.name.detector in self._but_not:
                continue
            if len(self.open) >= _MAX_OPEN:
                self._tell_full()
                return
            self._seen.add(key)
            try:
                self._open(summary.name)
            except PipelineError as error:  # the others are not held up by it
                if self._put_off(str(summary.name), error):
                    self._seen.discard(key)

    def _tell_full(self) -> None:
        if not self._full:
            self._full = True
            log.warning(
                "at %d streams of %s; newer ones wait until one of them ends",
                _MAX_OPEN,
                self._pattern,
            )

    def _put_off(self, name: str, error: PipelineError) -> bool:
        """Try again later if a service is away that was there before; else it is an error."""
        if not (self._begun and error.retriable) or isinstance(error, StreamTimeoutError):
            self._failed(name, error)
            return False
        log.warning("%s: %s; tried again in %.1f s", name, error, self._pause_s)
        self._next_s = time.monotonic() + self._pause_s
        self._pause_s = min(_MAX_PAUSE_S, self._pause_s * 2)
        return True

    def _open(self, name: StreamId) -> None:
        stream = self._session.stream(name.beamtime, name.detector, name.stream)
        try:
            self.open.append(Work(self._session, stream, self._plan, self._wake))
        except BaseException:
            stream.close()
            raise
        self._begun = True
        self.errors.pop(str(name), None)
        log.info("working on %s", name)

    def _failed(self, name: str, error: PipelineError) -> None:
        """Note that a stream cannot be worked on: of a pattern, the others go on."""
        if not self.follows:
            raise error
        log.error("%s is left: %s", name, error)
        self.errors[name] = error

    def drop(self, work: Work, error: PipelineError) -> None:
        """Leave a stream that cannot be worked on; when a service is away, for a moment only.

        What of it is in hand has no effect any more: the group delivers it again.
        """
        self.open.remove(work)
        work.abandon()
        key = work.stream.start.stream_key
        if isinstance(error, WriterSupersededError) and key not in self._superseded:
            # A result that came late, for a frame that others had done, and the output has ended;
            # or a reset of the group began another one.  The next look tells, and the next error.
            self._superseded.add(key)
            self._seen.discard(key)
            log.info("%s is looked at again: %s", work.label, error)
        elif self._put_off(work.label, error):
            self._seen.discard(key)

    def leave(self, work: Work) -> None:
        """Leave a stream, because it is finished or we are to stop."""
        finished = work.finished
        work.close()
        self.open.remove(work)
        if finished:
            self.finished.append(work.label)
