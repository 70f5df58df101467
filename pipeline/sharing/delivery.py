"""One frame in the hand of one member of a group."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Literal, Protocol

from pipeline.errors import AlreadyAcknowledgedError, InvalidArgumentError
from pipeline.reading.frame import Frame

Verdict = Literal["ack", "retry", "reject"]


class Settler(Protocol):
    """Who learns what became of a delivery; called once for each, from any thread."""

    def acknowledged(self, delivery: Delivery) -> None:
        """Note that the frame is done."""
        ...

    def retried(self, delivery: Delivery, delay_s: float) -> None:
        """Have the frame delivered again, not before ``delay_s`` seconds have passed."""
        ...

    def rejected(self, delivery: Delivery, reason: str, trace: str) -> None:
        """Note that the frame was given up."""
        ...


class Delivery:
    """A frame for this member alone, until it is settled by one of the three methods.

    A delivery whose member lost the frame (its partition went to another member) may still be
    settled; that has no effect but to be counted. Thread-safe.

    Attributes
    ----------
    frame:
        The frame.
    attempt:
        1 the first time, one more after each retry.
    """

    __slots__ = ("_lock", "_settler", "attempt", "frame", "ticket", "verdict")

    def __init__(self, frame: Frame, attempt: int, settler: Settler, ticket: object) -> None:
        self.frame = frame
        self.attempt = attempt
        #: What the settler needs to know it again.
        self.ticket = ticket
        self.verdict: Verdict | None = None
        self._settler = settler
        self._lock = threading.Lock()

    def ack(self) -> None:
        """Say that the frame is done: nobody of the group gets it again.

        Returns at once; progress is committed within a fraction of a second.
        Raises AlreadyAcknowledgedError when the delivery was settled before.
        """
        self._settle("ack")
        self._settler.acknowledged(self)

    def retry(self, delay_s: float = 0.0) -> None:
        """Have the frame delivered again, to any member, not before ``delay_s`` seconds.

        Raises AlreadyAcknowledgedError when the delivery was settled before.
        """
        if not 0 <= delay_s < 1e9:
            raise InvalidArgumentError("delay_s", f"{delay_s} is not a delay")
        self._settle("retry")
        self._settler.retried(self, delay_s)

    def reject(self, reason: str, *, trace: str | None = None) -> None:
        """Give the frame up: it goes to the dead letters with the reason.

        Parameters
        ----------
        trace:
            The traceback to keep; by default that of the ``except`` block we are in, if any.

        Raises AlreadyAcknowledgedError when the delivery was settled before.
        """
        if trace is None:
            trace = traceback.format_exc() if sys.exception() is not None else ""
        self._settle("reject")
        self._settler.rejected(self, str(reason), trace)

    def _settle(self, verdict: Verdict) -> None:
        with self._lock:
            if self.verdict is not None:
                raise AlreadyAcknowledgedError(
                    f"frame {self.frame.number} of {self.frame.stream} was settled before"
                    f" ({self.verdict})"
                )
            self.verdict = verdict

    def __repr__(self) -> str:
        return f"Delivery({self.frame!r}, attempt={self.attempt}, {self.verdict or 'open'})"
