"""Packing frames into drafts, within bounded memory."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import PublishSettings
from pipeline.errors import QueueFullError, SpoolError
from pipeline.frame import AttributeValue
from pipeline.naming import StreamId
from pipeline.publishing.draft import BufferPool, Draft, Layout
from pipeline.publishing.opening import Opened
from pipeline.publishing.spooling import Spooling
from pipeline.publishing.tally import Tally
from pipeline.wire.columns import most_nbytes

log = logging.getLogger(__name__)
#: Weight of the newest interval in the average that tells slow sources from fast ones.
_SMOOTHING = 0.2


class Packer:
    """Fills drafts and hands them to the window, or to the spool; caller holds the lock.

    A segment closes at the first of: its size, its linger, the end of a partition chunk, a change
    of layout, ``dispatch``.  A source slower than the linger waits for nothing.
    """

    def __init__(
        self,
        name: StreamId,
        settings: PublishSettings,
        spooling: Spooling,
        tally: Tally,
        *,
        check: Callable[[], None],
        unlocked: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._name = name
        self._settings = settings
        self._spooling = spooling
        self._tally = tally
        self._check = check
        self._unlocked = unlocked
        nbytes = max(1, settings.segment_nbytes)
        self._pool = BufferPool(max(2, settings.queue_nbytes // nbytes), nbytes)
        self._interval_s = 1.0
        self._last_s = 0.0
        self._ticket = 0
        #: Since when the queue has been full, or nearly.
        self._full_since_s: float | None = None
        self._frames_per_chunk = 1
        self.draft: Draft | None = None
        self.opened: Opened | None = None

    def adopt(self, opened: Opened) -> None:
        """Send to this window from now on."""
        self.opened = opened
        self._frames_per_chunk = opened.info.start.frames_per_chunk

    @property
    def direct(self) -> Opened | None:
        """The stream to send to; None while frames go to the spool."""
        return None if self._spooling.active else self.opened

    def add(
        self,
        layout: Layout,
        payload: npt.NDArray[np.uint8],
        *,
        number: int,
        timestamp_ns: int,
        attributes: Mapping[str, AttributeValue],
        digest: int,
        token: Any,
    ) -> int:
        """Copy one frame in; return its checksum. Waits while there is no room."""
        now = time.monotonic()
        self._interval_s += _SMOOTHING * (now - self._last_s - self._interval_s)
        self._last_s = now
        attribute_nbytes = most_nbytes(attributes) if attributes else 0
        draft = self.draft
        if draft is not None and not (
            draft.takes(layout, number, len(payload), attribute_nbytes)
            and self._same_chunk(draft.numbers[-1], number)
        ):
            self.dispatch()
            draft = None
        if draft is None:
            draft = self._begin(layout, number, len(payload))
        checksum = draft.add(
            payload,
            number=number,
            timestamp_ns=timestamp_ns,
            attributes=attributes,
            digest=digest,
            token=token,
        )
        draft.attribute_nbytes += attribute_nbytes
        if self._interval_s > self._settings.linger_s / 2 or draft.used >= len(draft.buffer):
            with contextlib.suppress(SpoolError):  # this frame was taken: the next one is told
                self.dispatch()
        return checksum

    def _same_chunk(self, a: int, b: int) -> bool:
        # What goes to the spool is cut when it comes back: fewer files, and it catches up sooner.
        return a // self._frames_per_chunk == b // self._frames_per_chunk or self._spooling.active

    def _begin(self, layout: Layout, number: int, nbytes: int) -> Draft:
        buffer = self._buffer(nbytes)
        self.draft = Draft(layout=layout, buffer=buffer, opened_s=time.monotonic())
        if (opened := self.direct) is not None:
            self._ticket = opened.window.open(layout[3], number)
        return self.draft

    def _buffer(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Wait for room: refuse, spool or block when there is none, as the settings say.

        A queue that was full and did not become half empty within ``spool_after_s`` is one that
        the source fills faster than the store takes it, or that does not move at all.

        The lock is given up while it waits, so that marks go on and ``flush`` and ``close`` of
        another thread keep their limits; no other frame gets in between.
        """
        began_s, complain_s = time.monotonic(), 10.0
        while True:
            if self._spooling.active:
                return self._spooling.buffer(max(nbytes, self._pool.nbytes))
            if self._spools_now():
                continue
            if (buffer := self._pool.acquire(nbytes)) is not None:
                return buffer
            if self._full_since_s is None:
                self._full_since_s = time.monotonic()
            waited_s = time.monotonic() - began_s
            if self._settings.when_full == "refuse":
                self._tally.refused += 1
                raise QueueFullError(
                    f"{self._name}: the queue is full, the frame was not taken: {self._trouble()}"
                )
            if waited_s > complain_s:
                log.warning("%s: waiting for %.0f s: %s", self._name, waited_s, self._trouble())
                complain_s *= 2
            with self._unlocked():
                self._pool.wait(0.1, nbytes)
            self._check()

    def _spools_now(self) -> bool:
        """Begin to spool if the queue has been full for too long and there is a spool."""
        if self._full_since_s is None or self._pool.half_free:
            self._full_since_s = None
            return False
        full_s = time.monotonic() - self._full_since_s
        if not self._spooling.possible or full_s <= self._settings.spool_after_s:
            return False
        self._full_since_s = None
        log.warning("%s: spooling: %s", self._name, self._trouble())
        self._spooling.begin()
        return True

    def _trouble(self) -> str:
        trouble = self.opened.window.trouble if self.opened is not None else ""
        return trouble or "store and broker take frames more slowly than they come"

    def dispatch(self) -> None:
        """Send the open draft on its way, if there is one.

        Raises SpoolError when the spool does not take it; then it stays open, and full.
        """
        draft = self.draft
        if draft is None:
            return
        if (opened := self.direct) is not None:
            self.draft = None
            opened.window.submit(draft, self._ticket)
            return
        module = draft.layout[3]
        epoch = self.opened.epoch(module) if self.opened is not None else 0
        self._spooling.put(draft, epoch=epoch)
        self.draft = None
        self.release(draft)

    def admit(self, draft: Draft) -> None:
        """Send a draft that was read from the spool."""
        assert self.opened is not None
        window = self.opened.window
        for part in draft.split(self._frames_per_chunk):
            module = part.layout[3]
            ticket = window.open(module, part.numbers[0])
            window.submit(part, ticket)

    def admit_open(self) -> None:
        """Send the open draft, which the spool did not take, directly after what was in there."""
        draft, self.draft = self.draft, None
        if draft is not None:
            self._spooling.part_with_buffer()
            draft.buffer = draft.buffer[:]  # a view: not the pool's to take
            self.admit(draft)

    def lingering_s(self) -> float | None:
        """Return how long the open draft may still wait; None if there is none."""
        if self.draft is None:
            return None
        return self.draft.opened_s + self._settings.linger_s - time.monotonic()

    def release(self, draft: Draft) -> None:
        """Take a draft's buffer back; called from any thread."""
        if not draft.blob and draft.returned():
            self._give_back(draft.buffer)

    def _give_back(self, buffer: npt.NDArray[np.uint8]) -> None:
        if not self._spooling.owns(buffer):
            self._pool.release(buffer)
