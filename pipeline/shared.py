"""Parallel workers: each frame of a stream to one member of a group."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

from pipeline.errors import InvalidArgumentError, PipelineError
from pipeline.naming import check_name
from pipeline.reading.expressions import Expression, compile_expression
from pipeline.reading.limits import check_timeout
from pipeline.reading.matching import RecordFilter
from pipeline.services import Services
from pipeline.sharing.delivery import Delivery
from pipeline.sharing.filtered import Filtered
from pipeline.stream import Stream

__all__ = ["Delivery", "Filtered", "Share", "SharedFrames", "open_shared"]


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

    def take_filtered(self) -> Filtered | None:
        """Return what was filtered out since the last call, None if nothing was; never waits."""
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

    def take_filtered(self) -> Filtered | None:
        """Return the frames that ``where`` left out since the last call; None if there are none.

        Only with ``keep_filtered=True``.  They count as done when the returned object's ``ack`` is
        called, and the group does not finish before: who keeps a derived stream publishes
        ``numbers`` as skipped and then calls it.  Never waits; may be called from any thread.
        """
        return self.share.take_filtered()

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
    where: str | Expression | None = None,
    keep_filtered: bool = False,
    min_modules: int | None = None,
    deadline_s: float | None = None,
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
    where:
        Deliver only the frames that this expression selects, as in :meth:`Stream.select`; of the
        others nothing is read, and they count as done.  All members of a group give the same one.
        A frame of a detector with modules is selected if one of its modules is.
    keep_filtered:
        Have what ``where`` leaves out count as done only when it was fetched by
        :meth:`SharedFrames.take_filtered` and settled.  At most 65,536 frames wait so, then
        reading waits.
    min_modules, deadline_s:
        As for :meth:`Stream.ordered`: how many modules are enough for ``frame.array``, and how long
        a live frame waits for the others.  All frames are delivered; those without all modules
        are counted (``share.counts.incomplete``).

    Raises
    ------
    ExpressionError
        ``where`` does not parse.
    InvalidNameError, InvalidArgumentError, BrokerUnavailableError
    FrameExpiredError
        Neither topic nor manifest holds what the group has not done.
    """
    check_name("group", group)
    limit_s = check_timeout(timeout_s)
    if start not in ("start", "now"):
        raise InvalidArgumentError("start", f"{start!r} is neither 'start' nor 'now'")
    least = None if min_modules is None else stream.origin_of(min_modules).least
    wait_s = check_timeout(deadline_s, "deadline_s")
    chosen = compile_expression(where) if isinstance(where, str) else where
    picked = RecordFilter(chosen) if chosen is not None else None
    share: Share
    if services is None:
        from pipeline.sharing.stored import StoredShare

        if state is None:
            raise PipelineError(
                f"{stream.name}: without a broker a group's progress is kept in a file on this"
                " machine: name it with state='...'"
            )
        share = StoredShare(
            stream,
            group=group,
            state=Path(state),
            ahead=ahead,
            where=picked,
            keep_filtered=keep_filtered,
            min_modules=least,
        )
    else:
        from pipeline.sharing.member import KafkaShare

        share = KafkaShare(
            services,
            stream,
            group=group,
            start=start,
            ahead=ahead,
            wake=wake,
            where=picked,
            keep_filtered=keep_filtered,
            min_modules=least,
            deadline_s=wait_s,
        )
    try:
        share.open()
    except BaseException:
        share.close()
        raise
    return SharedFrames(share, limit_s)
