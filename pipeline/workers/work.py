"""One stream that a worker is at: its membership in the group, its derived streams."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import GroupActiveError, InvalidFrameError, StreamTimeoutError
from pipeline.publishing.claims import holder
from pipeline.records import NO_FLOOR
from pipeline.session import Session
from pipeline.shared import Delivery, SharedFrames
from pipeline.sharing.chunked import ChunkedShare
from pipeline.stream import Stream
from pipeline.telemetry.book import BOOK, Numbers, Place
from pipeline.telemetry.traces import (
    CONSUMER,
    TRACING,
    Span,
    Tracer,
    publish_id,
    trace_id,
    work_id,
)
from pipeline.workers.child import Answer, Failure
from pipeline.workers.function import Result
from pipeline.workers.pace import Pace
from pipeline.workers.results import Results, Shared

log = logging.getLogger(__name__)
_FLUSH_S = 30.0
#: How long after a failure a frame is tried again, doubled with each attempt.
_RETRY_S = 0.1
_MAX_RETRY_S = 60.0


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of deliveries, repeated ones included; ``skipped``: nothing was returned."""

    frames: int = 0
    results: int = 0
    skipped: int = 0
    rejected: int = 0
    retried: int = 0

    def __add__(self, other: Counts) -> Counts:
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        names = [field.name for field in dataclasses.fields(self)]
        return Counts(**dict(zip(names, map(sum, zip(ours, theirs, strict=True)), strict=True)))


#: The frames that one call of the function gets.
Call = list[Delivery]


@dataclass(slots=True)
class Batch:
    """Calls that one process was given at once."""

    work: Work
    calls: list[Call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done with each stream."""

    group: str
    outs: Sequence[str] = ()
    code: str = ""
    max_attempts: int = 3
    timeout_s: float | None = None
    frame_limit_s: float | None = None
    #: A number or a time where a group without progress begins; None: as ``options`` say.
    begin: int | str | None = None
    #: Frames that a call gets as a list, in order; 0: one frame, in any order.
    chunk: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Work:
    """Takes frames of one stream and settles them; not thread-safe.

    Joining blocks for some hundred milliseconds; nothing else does, but for a queue of results that
    is full.
    """

    def __init__(
        self, session: Session, stream: Stream, plan: Plan, wake: Callable[[], None]
    ) -> None:
        self.stream = stream
        self._plan = plan
        self.counts = Counts()
        self.pace = Pace(plan.frame_limit_s)
        #: Deliveries that are neither settled nor on their way into a derived stream.
        self.in_hand = 0
        self._gone = False
        #: Calls whose process died while it had others in hand, too: each is tried alone.
        self.suspects: list[Call] = []
        if plan.begin is not None:
            self._begin_at(session, plan.begin)
        self._results = [self._derived(session, out) for out in plan.outs]
        self._meter = BOOK.watch(_place(stream, plan.group), self, Work._numbers)
        self._took = self._meter.stage("work")
        try:
            for results in self._results:
                results.open()
            self._frames = self._join(session, wake)
        except BaseException:
            for results in self._results:
                results.abandon()
            self._meter.close()
            raise

    def _join(self, session: Session, wake: Callable[[], None]) -> SharedFrames | ChunkedShare:
        plan, stream = self._plan, self.stream
        if not plan.chunk:
            frames = stream.shared(
                plan.group, timeout_s=plan.timeout_s, ahead=False, wake=wake, **plan.options
            )
            assert isinstance(frames, SharedFrames)
            return frames
        name = "/".join(map(glob.escape, str(stream.name).split("/")))
        # Turns of its own: another member of the group may be at another stream, and would hold
        # this one's turn without reading it.
        group = f"{plan.group}-{stream.start.stream_key.hex()}"
        topic = session.services.names.turns(stream.name.beamtime, group)
        session.services.admin.create_topic(topic, partitions=1)
        turns = session.follow_ordered(group, name, timeout_s=None)
        share = ChunkedShare(
            session.services, stream, turns, group=plan.group, count=plan.chunk, wake=wake
        )
        try:
            share.open()
        except BaseException:
            share.close()
            raise
        return share

    def _begin_at(self, session: Session, to: int | str) -> None:
        """Set where the group begins, unless it has begun."""
        services, start = session.services, self.stream.start
        group_id = services.names.group(start.beamtime, self._plan.group, start.stream_key)
        topic = services.names.topic(start.beamtime, start.detector)
        found = services.admin.committed(group_id, topic, start.partitions)
        if all(entry.offset < 0 for entry in found):
            with contextlib.suppress(GroupActiveError):  # another worker has begun just now
                self.stream.reset(self._plan.group, to=to)

    def _derived(self, session: Session, detector: str) -> Results:
        return Results(
            session,
            self.stream,
            detector=detector,
            group=self._plan.group,
            member=f"{holder()}:{os.urandom(4).hex()}",
            code=self._plan.code,
            known_floor=self._floor if self._plan.chunk else None,
        )

    def _floor(self) -> int:
        """Return below which number all frames are done, of a stream that is read in order."""
        frames = getattr(self, "_frames", None)
        return frames.floor if isinstance(frames, ChunkedShare) else NO_FLOOR

    # -- taking -----------------------------------------------------------------------------------

    def take(self, limit: int) -> list[Call]:
        """Return calls that can be made now, at most ``limit``.

        Raises StreamTimeoutError after a silence that is too long, and what ended the membership.
        """
        if isinstance(self._frames, ChunkedShare):
            calls = self._frames.ready(max(1, limit // self._plan.chunk))
        else:
            calls = [[delivery] for delivery in self._frames.ready(limit)]
        frames = sum(map(len, calls))
        self.counts.frames += frames
        self.in_hand += frames
        limit_s = self._plan.timeout_s
        if not (calls or self.in_hand) and limit_s is not None and self.silent_s > limit_s:
            raise StreamTimeoutError(self.stream.name, limit_s)
        return calls

    @property
    def finished(self) -> bool:
        """Whether the group has finished the stream."""
        return self._frames.finished

    @property
    def silent_s(self) -> float:
        """Seconds since anything happened in the stream or the group."""
        return self._frames.silent_s

    @property
    def pending(self) -> int:
        """Results that are not confirmed yet."""
        return sum(results.pending for results in self._results)

    def _numbers(self) -> Numbers:
        return {
            "lichtstrom_worker_results_total": self.counts.results,
            "lichtstrom_worker_skipped_total": self.counts.skipped,
            "lichtstrom_worker_pending_results": self.pending,
        }

    # -- settling ---------------------------------------------------------------------------------

    def settle(self, calls: list[Call], answer: Answer) -> None:
        """Publish results, acknowledge, try again or give up."""
        if self._gone:
            return
        nbytes = sum(delivery.frame.nbytes for call in calls for delivery in call)
        frames = sum(map(len, calls))
        self.pace.took(frames, answer.seconds, nbytes)
        self._took.note(answer.seconds / frames, frames)
        if TRACING.tracer is not None:
            self._trace(TRACING.tracer, calls, answer)
        for call, outcome in zip(calls, answer.outcomes, strict=True):
            if isinstance(outcome, Failure):
                self.failed(call, outcome)
            else:
                self._good(call, outcome)
        self.tick()

    def _trace(self, tracer: Tracer, calls: list[Call], answer: Answer) -> None:
        ended_ns, start = time.time_ns(), self.stream.start
        for call, outcome in zip(calls, answer.outcomes, strict=True):
            error = outcome.reason if isinstance(outcome, Failure) else ""
            for number in tracer.sampled(delivery.frame.number for delivery in call):
                span = Span(
                    "work",
                    CONSUMER,
                    trace_id(start, number),
                    # a result follows the one attempt that succeeded
                    os.urandom(8) if error else work_id(start.stream_key, number, self._plan.group),
                    publish_id(start.stream_key, number),
                    ended_ns - int(answer.seconds * 1e9),
                    ended_ns,
                    {"stream": self.label, "frame": number, "group": self._plan.group},
                    error,
                )
                tracer.add(span)

    def _good(self, call: Call, outs: list[list[Result]]) -> None:
        self.in_hand -= len(call)
        if not self._results:
            for delivery, result in zip(call, outs[0], strict=True):
                self._count("skipped" if result is None else "results")
                delivery.ack()
            return
        for at, delivery in enumerate(call):
            token = delivery if len(outs) == 1 else Shared(delivery, len(outs))
            try:
                what = [r.take(token, out[at]) for r, out in zip(self._results, outs, strict=True)]
            except InvalidFrameError as error:
                self.in_hand += 1
                self.failed([delivery], Failure(f"{type(error).__name__}: {error}", ""))
            else:
                self._count(next((w for w in what if w != "skipped"), "skipped"))

    def failed(self, call: Call, failure: Failure) -> None:
        """Try the frames again, later each time, or give them up."""
        if self._gone:
            return
        self.in_hand -= len(call)
        for delivery in call:
            number, attempt = delivery.frame.number, delivery.attempt
            if attempt >= self._plan.max_attempts:
                self.counts.rejected += 1
                log.error("frame %d is given up: %s", number, failure.reason, extra=self._about)
                for results in self._results:
                    results.give_up(number)
                delivery.reject(failure.reason, trace=failure.trace)
            else:
                log.warning(
                    "frame %d: attempt %d: %s", number, attempt, failure.reason, extra=self._about
                )
                self.counts.retried += 1
                delivery.retry(delay_s=min(_MAX_RETRY_S, _RETRY_S * 2.0 ** (attempt - 1)))

    def _count(self, what: str) -> None:
        if what == "results":
            self.counts.results += 1
        elif what == "skipped":
            self.counts.skipped += 1

    def tick(self) -> None:
        """Acknowledge what is safe by now; say what the selection left out."""
        for results in self._results:
            results.settle()
        if not self._results or isinstance(self._frames, ChunkedShare):
            return
        filtered = self._frames.take_filtered()
        if filtered is not None:
            for results in self._results:
                results.skip(filtered.numbers.tolist())
            filtered.ack()

    # -- ending -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the group; when it has finished the stream, end the derived streams."""
        finished = self.finished
        # An answer that comes later is for a frame that others have done.
        self._gone = True
        try:
            for results in self._results:
                results.flush(_FLUSH_S)
        finally:
            self._frames.close()
            self._meter.close()
        for results in self._results:
            if finished:
                results.end()
            else:
                results.close()
        self.stream.close()

    def abandon(self) -> None:
        """Leave the group at once; what is not settled goes to others, or comes back later."""
        self._gone = True
        self._meter.close()
        self._frames.close()
        for results in self._results:
            results.abandon()
        self.stream.close()

    @property
    def in_chunks(self) -> bool:
        """Whether each call gets a list of frames."""
        return self._plan.chunk > 0

    @property
    def _about(self) -> dict[str, str]:
        return {"stream": self.label, "group": self._plan.group}

    @property
    def label(self) -> str:
        """The stream's name, for messages."""
        return str(self.stream.name)


def _place(stream: Stream, group: str) -> Place:
    name = stream.name
    return Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream, group=group)
