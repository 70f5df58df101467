"""Parallel workers: each frame of a stream to one member of a group."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

from pipeline.errors import InvalidArgumentError, PipelineError
from pipeline.naming import check_name
from pipeline.reading.limits import check_timeout
from pipeline.services import Services
from pipeline.sharing.delivery import Delivery
from pipeline.stream import Stream

__all__ = ["Delivery", "Share", "SharedFrames", "open_shared"]


class Share(Protocol):
    """One membership in a group, whatever keeps its state."""

    def open(self) -> None:
        """Contact what keeps the state and join."""
        ...

    @property
    def silent_s(self) -> float:
        """Seconds since anything happened in the stream or the group."""
        ...

    def take(self, timeout_s: float | None) -> Delivery | None:
        """Return the next delivery, None when the group has finished the stream.

        Raises StreamTimeoutError when nothing came for ``timeout_s``.
        """
        ...

    def ready(self, limit: int) -> list[Delivery]:
        """Return what can be delivered now, at most ``limit``; does not wait.

        Raises what ended the membership.
        """
        ...

    @property
    def finished(self) -> bool:
        """Whether the whole group has finished the stream."""
        ...

    def close(self) -> None:
        """Keep what was settled and leave the group; may be called twice."""
        ...


class SharedFrames(Iterator[Delivery]):
    """The deliveries of one member; ends when the whole group has finished the stream.

    After StreamTimeoutError it can be iterated further.  Leaving the block, closing the stream or
    reaching the end leaves the group: frames that were delivered and not settled go to others.
    ``next`` may be called from several threads.
    """

    def __init__(self, share: Share, timeout_s: float | None) -> None:
        self.share = share
        self.timeout_s = timeout_s
        self._close = weakref.finalize(self, share.close)

    def __next__(self) -> Delivery:
        if not self._close.alive:
            raise StopIteration
        delivery = self.share.take(self.timeout_s)
        if delivery is None:
            self.close()
            raise StopIteration
        return delivery

    @property
    def silent_s(self) -> float:
        """Seconds since anything happened in the stream or the group."""
        return self.share.silent_s

    def ready(self, limit: int) -> list[Delivery]:
        """Return at most ``limit`` deliveries that need no waiting; none after the end, too."""
        return self.share.ready(limit) if self._close.alive else []

    @property
    def finished(self) -> bool:
        """Whether the whole group has finished the stream."""
        return self.share.finished

    def close(self) -> None:
        """Commit and leave the group; may be called twice."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_shared(
    services: Services | None,
    stream: Stream,
    *,
    group: str,
    timeout_s: float | None = 30.0,
    state: Path | str | None = None,
    start: str = "start",
    ahead: bool = True,
    wake: Callable[[], None] | None = None,
) -> SharedFrames:
    """Join a group and return an iterator over what it hands to this member.

    Parameters
    ----------
    services:
        Connections to the broker that keeps the group's progress; None for stored streams.
    group:
        Members of one group share the frames; groups know nothing of each other.
    timeout_s:
        Silence after which StreamTimeoutError is raised; None waits for ever.
    state:
        Without a broker: the SQLite file that keeps the group's progress on this machine.
    start:
        Where a group that has no progress yet begins: ``start`` or ``now``.
    ahead:
        Read payloads before they are asked for; False where another process reads them.
    wake:
        Called, from a thread of the member's, when there may be something to take.

    Raises
    ------
    InvalidNameError, InvalidArgumentError, BrokerUnavailableError
    FrameExpiredError
        The topic no longer holds what the group has not done.
    """
    check_name("group", group)
    limit_s = check_timeout(timeout_s)
    if start not in ("start", "now"):
        raise InvalidArgumentError("start", f"{start!r} is neither 'start' nor 'now'")
    share: Share
    if services is None:
        from pipeline.sharing.stored import StoredShare

        if state is None:
            raise PipelineError(
                f"{stream.name}: without a broker a group's progress is kept in a file on this"
                " machine: name it with state='...'"
            )
        share = StoredShare(stream, group=group, state=Path(state), ahead=ahead)
    else:
        from pipeline.sharing.member import KafkaShare

        share = KafkaShare(services, stream, group=group, start=start, ahead=ahead, wake=wake)
    try:
        share.open()
    except BaseException:
        share.close()
        raise
    return SharedFrames(share, limit_s)
