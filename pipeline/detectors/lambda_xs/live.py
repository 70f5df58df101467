"""Runs of a Lambda from xspd: frames by ZeroMQ, begin and end by what the server says of itself.

There are no messages for begin and end: a run begins when the server is busy, or with a frame when
none was open, and ends when all frames are here, or when the server is ready and silent.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.detectors.lambda_xs.liverun import LiveRun
from pipeline.detectors.lambda_xs.wire import (
    DTYPES,
    STATUS,
    Head,
    HeaderParser,
    bytes4,
    encoding_of,
)
from pipeline.detectors.lambda_xs.xspd import Port, Setup, Xspd
from pipeline.detectors.zeromq import Receiver
from pipeline.errors import InvalidArgumentError, InvalidFrameError, SourceError
from pipeline.frame import AttributeValue, FrameHeader, Module
from pipeline.protocols import AdapterEvent, Quarantined, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.records import State

log = logging.getLogger(__name__)
#: A server that is ready has sent all it has after so many seconds of silence.
_SETTLE_S = 1.0
#: A run that lasted so much of its announced time has ended by itself.
_NEARLY = 0.95
#: Reasons of damaged messages that are told by name; past it they are only counted.
_MAX_TOLD = 20
#: Messages that are taken at once; fewer have emptied the queue.
_AT_ONCE = 100
#: Who comes back so soon has let nothing wait.
_SOON_S = 0.01


class LiveSource:
    """Subscribes to the data ports of one server.  Not for use from several threads.

    Parameters
    ----------
    ports:
        Which of the server's ports, counted from 0; none for all.
    shared:
        The same, in one stream with the other ports, which other processes read.
    header:
        Reads the header of a message.
    queue:
        Messages that may wait in memory, per port; past it the server drops them untold, and the
        account names them.
    poll_every_s:
        Seconds between two questions to the server.
    lost_after_s:
        How long the server may be away before an open run is over.
    """

    name = "lambda"
    exclusive = True

    def __init__(
        self,
        xspd: Xspd,
        *,
        ports: Sequence[int] = (),
        shared: Sequence[int] = (),
        header: HeaderParser = bytes4,
        queue: int = 1000,
        poll_every_s: float = 0.5,
        lost_after_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if poll_every_s <= 0 or lost_after_s < 0 or queue < 1:
            raise InvalidArgumentError("poll_every_s", "poll_every_s and queue must be positive")
        self.idle_end_s: float | None = None
        self._xspd = xspd
        self._chosen, self._shared = tuple(shared or ports), bool(shared)
        #: All ports of the server, read here or not.
        self._all: list[Port] = []
        #: The run of now has not begun before this.
        self._after_ns = self._asked_ns = 0
        #: Busy says nothing of a new run: the server has not been ready since the last one.
        self._spent = False
        self._header = header
        self._queue, self._poll_every_s, self._lost_after_s = queue, poll_every_s, lost_after_s
        self._clock = clock
        self._ports: list[Port] = []
        self._run: LiveRun | None = None
        self._receiver: Receiver | None = None
        self._status = ""
        self._heard_s = clock()
        self._asked_s = -poll_every_s
        #: When the messages at hand came; whether they did not wait before.
        self._came_s, self._is_fresh = clock(), True
        self._joined_late = False

    # -- the adapter ----------------------------------------------------------------------------

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; raises SourceError when the server is not there at the start."""
        self._ports = self._own_ports()
        self._look(first=True)
        # its first frames have gone by already; asked first, for a run may begin with our coming
        self._joined_late = self._status == "busy"
        self._after_ns = 0 if self._joined_late else self._asked_ns
        receiver = Receiver([port.address for port in self._ports], kind="sub", queue=self._queue)
        self._receiver = receiver
        empty_s = self._clock()
        while True:
            asked_s = self._clock()
            messages = receiver.receive(min(poll_s, self._poll_every_s), limit=_AT_ONCE)
            self._came_s = self._clock()
            self._is_fresh = asked_s - empty_s < _SOON_S
            empty_s = self._came_s if len(messages) < _AT_ONCE else -math.inf
            for index, parts in messages:
                yield from self._message(index, parts)
            if self._clock() - self._asked_s >= self._poll_every_s:
                self._look()
                waits = self._run is None and not (self._joined_late or self._spent)
                if self._status == "busy" and waits:
                    yield self._begin()
            if not messages:
                if self._status == "ready":
                    self._after_ns = self._asked_ns
                yield from self._silence()
                yield None

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Do nothing: the server keeps no frames."""

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a run with these facts would come from this server and these ports."""
        facts = [self._facts(shared=shared) for shared in {False, self._shared}]
        return any(all(run.get(key) == f[key] for key in f) for f in facts)

    def share(self, count: int) -> tuple[int, ...]:
        """Return which modules of a stream of so many are ours; none where nothing is shared."""
        if not self._shared:
            return ()
        self._own_ports()
        counters = max(1, count // len(self._all))
        return tuple(port * counters + c for port in self._chosen for c in range(counters))

    def check(self) -> Mapping[str, AttributeValue]:
        """Ask the server what it is, and in which state."""
        ports = self._own_ports()
        setup = self._xspd.setup()
        return {
            "xspd": self._xspd.version(),
            "device": self._xspd.device_id,
            "detector": self._xspd.detector,
            "status": self._xspd.status(),
            "ports": ", ".join(f"{p.ref} {p.address} {p.shape[1]}x{p.shape[0]}" for p in ports),
            "compressor": setup.compressor,
            "n_frames": setup.n_frames,
        }

    def close(self) -> None:
        """Leave the ports; may be called twice."""
        if self._receiver is not None:
            self._receiver.close()

    def _own_ports(self) -> list[Port]:
        ports = self._xspd.ports()
        if any(index >= len(ports) or index < 0 for index in self._chosen):
            name = "share" if self._shared else "ports"
            raise InvalidArgumentError(name, f"the server has ports 0 to {len(ports) - 1}")
        self._all = ports
        return [ports[index] for index in self._chosen] if self._chosen else ports

    def _facts(self, *, shared: bool) -> dict[str, AttributeValue]:
        return {
            "adapter": self.name,
            "endpoint": self._xspd.device.endpoint,
            "ports": "all" if shared else ",".join(map(str, self._chosen)),
        }

    # -- runs -----------------------------------------------------------------------------------

    def _look(self, *, first: bool = False) -> None:
        """Ask the server how it is; what it cannot answer is asked again later."""
        before, self._asked_s, self._asked_ns = self._status, self._clock(), time.time_ns()
        try:
            self._status = self._xspd.status()
        except SourceError as error:
            if first:
                raise
            log.log(logging.DEBUG if self._status == "away" else logging.WARNING, "%s", error)
            self._status = "away"
            return
        if before == "away":
            log.warning("%s answers again", self._xspd.device.endpoint)
        self._heard_s = self._asked_s
        self._spent &= self._status == "busy"

    def _begin(self, *, whole: bool = False) -> SeriesBegin:
        """Begin a run.

        One that is joined late is continued in the stream of who read it before, if its numbers
        are ``whole``: else nobody knows which 256 they belong to, and it is a stream of its own.
        """
        try:
            setup = self._xspd.setup()
        except SourceError as error:
            log.warning("the settings of this run are not known: %s", error)
            setup = Setup()
        now_s, late = self._clock(), self._joined_late
        self._joined_late = False
        # who has not heard its begin cannot say which frames of the others are of the same time
        shared = self._shared and (whole or not late)
        ports = self._all if shared else self._ports
        places = self._chosen if shared else tuple(range(len(ports)))
        run = self._run = LiveRun(f"run {time.time_ns()}", setup, now_s, now_s, places=places)
        told: dict[str, AttributeValue] = {
            **setup.metadata,
            "ports": [port.ref for port in ports],
            "source_interface": "xspd",
        }
        if late:
            told["joined_late"] = True
        facts = self._facts(shared=shared)
        if not (shared or (late and whole)):
            facts["begun"] = run.key
        modules = self._modules(ports, setup)
        return SeriesBegin(
            series=run.key,
            metadata=told,
            run=facts,
            modules=modules,
            share=self.share(max(1, len(modules))) if shared else (),
            after_ns=self._after_ns,
            rate_hz=1 / setup.period_s if setup.period_s else None,
            late=late and whole,
        )

    def _modules(self, ports: Sequence[Port], setup: Setup) -> tuple[Module, ...]:
        """Return ports, and the two counters of each below each other; none for a single one."""
        if len(ports) * setup.counters < 2:
            return ()
        height = max(port.position[0] + port.shape[0] for port in ports)
        return tuple(
            Module(
                index=index * setup.counters + counter,
                shape=port.shape,
                position=(port.position[0] + counter * height, port.position[1]),
                rotation_deg=port.rotation_deg,
            )
            for index, port in enumerate(ports)
            for counter in range(setup.counters)
        )

    def _over(self, run: LiveRun, state: State, expected: int | None) -> Iterator[AdapterEvent]:
        self._run, self._spent = None, self._status == "busy"
        self._after_ns = time.time_ns() - round((self._clock() - run.touched_s) * 1e9)
        # of a stream that is shared each process tells its own
        of = "".join(f"_{number}" for number in self._chosen) if self._shared else ""
        told = (("repeated", run.repeated), ("bad_messages", run.bad))
        metadata: dict[str, AttributeValue] = {f"{name}{of}": n for name, n in told if n}
        yield SeriesEnd(series=run.key, state=state, expected=expected, metadata=metadata)

    def _silence(self) -> Iterator[AdapterEvent]:
        """End a run whose server is ready and silent, or gone, or says nothing for too long."""
        run, now_s = self._run, self._clock()
        if run is None:
            return
        if self._status == "away":
            if now_s - self._heard_s >= self._lost_after_s:
                yield from self._over(run, "lost", None)
            return
        quiet_s = now_s - run.touched_s
        if self._status != "busy" and quiet_s >= _SETTLE_S and self._asked_s > run.touched_s:
            yield from self._over(run, *self._verdict(run))
        elif self.idle_end_s is not None and quiet_s >= self.idle_end_s:
            yield from self._over(run, "timeout", None)

    def _verdict(self, run: LiveRun) -> tuple[State, int | None]:
        """Say how a run ended of which not every frame came: by itself, or stopped."""
        wanted, period_s = run.setup.n_frames, run.setup.period_s
        if wanted is None or run.highest + 1 >= wanted:
            return "complete", wanted
        lasted_s = self._heard_s - run.begun_s
        by_itself = run.setup.free_running and period_s and lasted_s >= _NEARLY * wanted * period_s
        return ("complete", wanted) if by_itself else ("aborted", None)

    # -- messages -------------------------------------------------------------------------------

    def _message(self, index: int, parts: list[memoryview]) -> Iterator[AdapterEvent]:
        head = None
        with contextlib.suppress(InvalidFrameError, ValueError, IndexError):
            head = self._header(parts[1]) if len(parts) == 3 else None
        if self._run is not None and head is not None and self._began_anew(self._run, index, head):
            yield from self._over(self._run, "aborted", None)
        if self._run is None:
            self._look()
            yield self._begin(whole=head is not None and not head.wrap)
        run = self._run
        if run is None:
            return
        run.touched_s = self._clock()
        try:
            frame = self._frame(run, index, head, parts)
        except InvalidFrameError as error:
            run.bad += 1
            if run.bad <= _MAX_TOLD:
                source = f"message {run.bad} of {self._ports[index].ref}"
                yield Quarantined(series=run.key, source=source, reason=str(error))
            return
        if frame is not None:
            yield frame
        wanted = run.setup.n_frames
        if wanted is not None and len(run.complete) == len(self._ports) * run.setup.counters:
            yield from self._over(run, "complete", wanted)

    def _began_anew(self, run: LiveRun, index: int, head: Head) -> bool:
        """Tell whether a number 0 is that of a new run, begun before anybody asked the server.

        It would come after so many lost frames that there was no time to make them.
        """
        key = (index, head.counter)
        last = run.numbers[key].last if key in run.numbers else None
        since_s, period_s = run.heard_s.get(key), run.setup.period_s
        if head.number or not last or since_s is None:
            return False
        if not head.wrap:
            return True
        ahead = (head.number - last) % head.wrap
        if ahead <= 1 or period_s is None or not run.setup.free_running:
            return False
        return (self._came_s - since_s) / period_s < ahead / 2

    def _frame(
        self, run: LiveRun, index: int, head: Head | None, parts: list[memoryview]
    ) -> SourceFrame | None:
        """Return the frame of a message; None for one that came before or has no pixels."""
        if head is None:
            raise InvalidFrameError("message", f"{len(parts)} parts that cannot be read")
        if head.counter >= run.setup.counters:
            raise InvalidFrameError("counter", f"{head.counter} of {run.setup.counters}")
        port, key = self._ports[index], (index, head.counter)
        number = run.number(key, head, self._came_s, fresh=self._is_fresh)
        if number is None:
            return None
        if run.setup.n_frames is not None and number >= run.setup.n_frames - 1:
            run.complete.add(key)
        if head.status >= 2:
            run.bad += 1
            reason = STATUS.get(head.status, str(head.status))
            log.warning("%s: frame %d has status %s", port.ref, number, reason)
            return None
        attributes: dict[str, AttributeValue] = {}
        if number != head.number:
            attributes["device_number"] = head.number
        if head.status:
            attributes["status"] = STATUS[head.status]
        header = FrameHeader(
            number=number,
            timestamp_ns=time.time_ns(),
            shape=port.shape,
            dtype=DTYPES.get(run.setup.bit_depth, "uint16"),
            encoding=encoding_of(run.setup.compressor),
            module=run.places[index] * run.setup.counters + head.counter,
            attributes=attributes,
        )
        source = f"frame {number} of {port.ref}"
        return SourceFrame(series=run.key, header=header, payload=parts[2], source=source)
