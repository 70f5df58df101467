"""The fault script: one function a fault, each on a rig of its own."""

from __future__ import annotations

import resource
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BrokerUnavailableError, SourceError, StoreUnavailableError
from pipeline.local.processes import wait_until
from pipeline.session import Session, connect
from pipeline.testing.conformance.bench import Bench, Server
from pipeline.testing.conformance.rig import Rig, Sent
from pipeline.testing.conformance.running import ProcessRun, ThreadRun
from pipeline.testing.conformance.verdict import Key, Series, problems, read_back

#: How long the kit waits for what must happen, seconds.
LIMIT_S = 60.0
#: How much the memory may grow by a message that lies about its size.
_GROWTH_NBYTES = 400 * 2**20
#: What the wall clock is off by, one after the other, seconds.
_JUMPS_S = (-3600.0, 3600.0)
#: Between two frames during an outage, seconds.
_PAUSE_S = 0.25
#: The beginning of a corpus entry's name, and the fault it belongs to.
_CORPORA = {
    "shape": "wrong_shape",
    "size": "absurd_sizes",
    "zero": "zero_byte_file",
    "growing": "growing_file",
}


class Case:
    """One rig, one adapter on it, and the list of what was sent."""

    def __init__(self, rig: Rig, fault: str, bench: Bench, folder: Path) -> None:
        self.rig = rig
        self.fault = fault
        self.bench = bench
        self.folder = folder
        self.breakable = fault in ("broker_down", "store_down")
        self.beamtime = f"k{secrets.token_hex(5)}"
        self.series: list[Series] = []
        self.run: ThreadRun | ProcessRun | None = None
        self.session: Session = connect(settings=bench.settings(breakable=self.breakable))

    # -- the adapter ----------------------------------------------------------------------------

    def start(self, *, as_process: bool = False, jumps_s: tuple[float, ...] = ()) -> None:
        """Start the adapter; returns when it hears the device."""
        options: dict[str, Any] = {
            "beamtime": self.beamtime,
            "detector": self.rig.adapter,
            "idle_end_s": getattr(self.rig, "idle_end_s", None),
        }
        if self.breakable and not self.rig.keeps:
            options["spool"] = str(self.folder / "spool")
        if as_process:
            self.run = ProcessRun(
                self.rig.adapter,
                self.rig.settings(),
                environment=self.bench.environment(breakable=self.breakable),
                options=options,
                log=self.folder / "adapter.log",
                jumps_s=jumps_s,
            )
        else:
            place = self.session.settings
            self.run = ThreadRun(
                self.rig.adapter, self.rig.settings(), place=place, options=options
            )
        self.rig.ready(LIMIT_S)

    def stop(self) -> None:
        """Stop the adapter; AssertionError if it had failed."""
        run, self.run = self.run, None
        if run is not None:
            alive = run.is_alive
            run.stop()
            if run.error is not None or not alive:
                raise AssertionError(f"the adapter ended by itself: {run.describe()}")

    # -- the device -----------------------------------------------------------------------------

    def begin(self, *, silently: bool = False) -> Series:
        """Start a series."""
        name = self.rig.begin_silently() if silently else self.rig.begin()
        self.series.append(Series(f"{len(self.series)} ({name})"))
        return self.series[-1]

    def frames(self, count: int, *, sure: bool = True) -> None:
        """Send frames of the running series."""
        self.series[-1].add(self.rig.frames(count), sure=sure)

    def lose(self, count: int) -> None:
        """Lose frames of the running series."""
        self.series[-1].unread.update(self.rig.lose(count))

    def end(self, how: str = "complete") -> None:
        """End the running series; it must be found so."""
        self.rig.end(how)
        self._must_be((how,))

    def end_silently(self, *states: str) -> None:
        """End it unheard; it may be found in these states."""
        self.rig.end_silently()
        self._must_be(states)

    def _must_be(self, states: tuple[str, ...]) -> None:
        own: Mapping[str, tuple[str, ...]] = getattr(self.rig, "states", {})
        self.series[-1].states = own.get(self.fault, states)

    def whole(self, count: int = 6) -> None:
        """Take one series from begin to end: only an adapter that survived publishes it."""
        self.begin()
        self.frames(count)
        self.end()

    # -- what is published ------------------------------------------------------------------------

    def published(self) -> list[set[Key]]:
        """Return, stream by stream, (number, module) of the frames that readers see."""
        found = []
        for summary in self.session.streams(f"{self.beamtime}/{self.rig.adapter}/*"):
            name = summary.name
            with self.session.stream(name.beamtime, name.detector, name.stream) as stream:
                table = stream.table()
                keys = zip(table.numbers.tolist(), table.modules.tolist(), strict=True)
                found.append(set(keys))
        return found

    def published_last(self) -> set[Key]:
        """Return those of the last series."""
        return set().union(*self.published()[len(self.series) - 1 :])

    def settle(self) -> None:
        """Wait until all that was sent in the last series is published."""
        wanted = set(self.series[-1].sure)
        self.wait(
            lambda: wanted <= self.published_last(), "all frames that were sent to be published"
        )

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; AssertionError with what the adapter says."""

        def came() -> bool:
            if self.run is not None and not self.run.is_alive:
                raise AssertionError(f"the adapter ended by itself: {self.run.describe()}")
            try:
                return condition()
            except (BrokerUnavailableError, StoreUnavailableError):
                return False

        if not wait_until(came, timeout_s=LIMIT_S):
            said = self.run.describe() if self.run is not None else "no adapter runs"
            raise AssertionError(f"waited {LIMIT_S:g} s for {what}; {said}")

    def conclude(self) -> None:
        """Wait for the ends, stop the adapter, compare; AssertionError with all that is wrong."""
        pattern = f"{self.beamtime}/{self.rig.adapter}/*"

        frames = sum(len(one.sure) for one in self.series)

        def over() -> bool:
            streams = self.session.streams(pattern)
            if len(streams) < len(self.series) or any(s.state == "open" for s in streams):
                return False
            # a new stream may be about to be opened for what is not published
            return sum(map(len, self.published())) >= frames

        failure = ""
        try:
            self.wait(over, f"the ends of {len(self.series)} series")
        except AssertionError as error:
            failure = str(error)
        else:
            self.stop()
        said = problems(
            self.series,
            read_back(self.session, self.beamtime, self.rig.adapter),
            tells_count=getattr(self.rig, "tells_count", True),
            may_split=self.fault in getattr(self.rig, "splits", {}),
        )
        if failure or said:
            lines = "\n  ".join([*said, *([failure] if failure else [])])
            raise AssertionError(f"{self.rig.adapter}, {self.fault}:\n  {lines}")

    def close(self) -> None:
        """End everything."""
        try:
            if isinstance(self.run, ProcessRun):
                self.run.kill()
            elif self.run is not None:
                self.run.stop()
        finally:
            self.session.close()


# -- the faults ---------------------------------------------------------------------------------


def nothing(case: Case) -> None:
    """Do nothing: every frame comes once, the series is complete."""
    case.start()
    case.whole(12)


def frames_lost(case: Case) -> None:
    """Lose frames on the way: the account names them."""
    case.start()
    case.begin()
    case.frames(4)
    case.lose(3)
    case.frames(4)
    case.end()


def missing_start(case: Case) -> None:
    """Keep the message of the start."""
    case.start()
    case.begin(silently=True)
    case.frames(6)
    case.end()
    case.settle()
    case.whole()


def missing_end(case: Case) -> None:
    """Keep the message of the end; the next series comes."""
    case.start()
    case.begin()
    case.frames(6)
    case.end_silently("lost", "timeout")
    case.whole()


def doubled_end(case: Case) -> None:
    """Send the message of the end twice."""
    case.start()
    case.whole()
    case.rig.end_again()
    case.whole()
    case.rig.end_again()


def abort(case: Case) -> None:
    """Abort, as a user does."""
    case.start()
    case.begin()
    case.frames(6)
    case.end("aborted")
    case.whole()


def back_to_back(case: Case) -> None:
    """Take two series without a pause."""
    case.start()
    case.whole()
    case.whole()


def reconnect(case: Case) -> None:
    """Pull the cable for a while; an adapter that gave up with SourceError is started again."""
    case.start()
    case.begin()
    case.frames(4)
    case.settle()
    case.rig.disconnect()
    if case.rig.keeps:
        case.frames(3)
    else:
        case.lose(3)
    run = case.run
    if isinstance(run, ThreadRun) and case.rig.keeps:
        # it may see at once, or never, that its directory is away
        wait_until(lambda: not run.is_alive, timeout_s=1.0)
    case.rig.reconnect()
    if run is not None and not run.is_alive and isinstance(run.error, SourceError):
        case.start()
    else:
        case.rig.ready(LIMIT_S)
    case.frames(4)
    case.end()


def restart(case: Case) -> None:
    """Switch the device off in the midst of a series: numbers and ids from scratch."""
    case.start()
    case.begin()
    case.frames(6)
    case.settle()
    case.rig.restart()
    case._must_be(("lost", "timeout", "aborted"))
    case.rig.ready(LIMIT_S)
    case.whole()


def kill(case: Case) -> None:
    """Kill the adapter in the midst of a series; a new one goes on."""
    case.start(as_process=True)
    series = case.begin()
    case.frames(8)
    case.wait(lambda: len(case.published_last()) >= 3, "3 frames to be published")
    case.frames(8)
    run, case.run = case.run, None
    if not isinstance(run, ProcessRun):
        raise TypeError("the adapter is in no process")
    run.kill()
    if not case.rig.keeps:
        series.doubt()
        series.confirm(case.published_last())
    case.frames(3, sure=case.rig.keeps)
    case.start(as_process=True)
    case.frames(8)
    case.end()


def hostile(case: Case) -> None:
    """Send bad messages of the rig's corpus; the series goes on."""
    corpus = {
        name: harm for name, harm in case.rig.hostile().items() if _corpus_of(name) == case.fault
    }
    if not corpus:
        raise AssertionError(
            f"the rig's corpus has nothing for {case.fault}: add it, or say in `unsupported` why"
        )
    case.start()
    series = case.begin()
    case.frames(2)
    before = _peak_nbytes()
    for harm in corpus.values():
        for what in harm() or ():
            if isinstance(what, Sent):
                series.add([what])
            else:
                series.unread.add(what)
        case.frames(2)
    case.end()
    case.settle()
    if _peak_nbytes() - before > _GROWTH_NBYTES:
        raise AssertionError(f"memory grew by more than {_GROWTH_NBYTES} bytes")
    case.whole()


def _corpus_of(name: str) -> str:
    return next((fault for word, fault in _CORPORA.items() if name.startswith(word)), "hostile")


def _peak_nbytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def broker_down(case: Case) -> None:
    """Kill the broker; it comes back."""
    _outage(case, "broker")


def store_down(case: Case) -> None:
    """Kill the store; it comes back."""
    _outage(case, "store")


def _outage(case: Case, server: Server) -> None:
    case.start()
    case.begin()
    case.frames(4)
    case.settle()
    case.bench.break_down(server)
    since_s = time.monotonic()
    _go_on_until(case, lambda: time.monotonic() - since_s >= case.bench.outage_s)
    repairing = threading.Thread(target=case.bench.repair, name="repair")
    repairing.start()
    try:
        _go_on_until(case, lambda: not repairing.is_alive())
    finally:
        repairing.join()
    case.frames(4)
    case.end()


def _go_on_until(case: Case, over: Callable[[], bool]) -> None:
    """Send frames meanwhile: a device knows of no outage, and silence could be an end."""
    case.frames(2)
    while not wait_until(over, timeout_s=_PAUSE_S):
        case.frames(1)


def clock_jump(case: Case) -> None:
    """Let the adapter's wall clock jump back by an hour, then ahead by two."""
    case.start(as_process=True, jumps_s=_JUMPS_S)
    case.begin()
    case.frames(4)
    case.settle()
    for _ in _JUMPS_S:
        if not isinstance(case.run, ProcessRun):
            raise TypeError("the adapter is in no process")
        case.run.jump()
        case.frames(4)
        case.settle()
    case.end()
    case.whole()


#: Every fault by its name.
SCRIPT: Mapping[str, Callable[[Case], None]] = {
    "nothing": nothing,
    "frames_lost": frames_lost,
    "missing_start": missing_start,
    "missing_end": missing_end,
    "doubled_end": doubled_end,
    "abort": abort,
    "back_to_back": back_to_back,
    "reconnect": reconnect,
    "restart": restart,
    "kill": kill,
    "hostile": hostile,
    "wrong_shape": hostile,
    "absurd_sizes": hostile,
    "zero_byte_file": hostile,
    "growing_file": hostile,
    "clock_jump": clock_jump,
    "store_down": store_down,
    "broker_down": broker_down,
}
#: Only files can be empty or grow.
_OF_FILES = ("zero_byte_file", "growing_file")


def reason_to_skip(rig: Rig | type[Rig], fault: str) -> str:
    """Return why a fault cannot happen with this rig; empty if it can."""
    unknown = sorted(set(rig.unsupported) - set(SCRIPT))
    if unknown:
        raise LookupError(f"unsupported names unknown faults {unknown}; known: {', '.join(SCRIPT)}")
    if fault in _OF_FILES and not rig.keeps:
        return rig.unsupported.get(fault, "the source gives no files")
    return rig.unsupported.get(fault, "")


def check(make: Callable[[Path], Rig], fault: str, bench: Bench, folder: Path) -> str:
    """Take one rig through one fault.

    Parameters
    ----------
    make:
        The rig's class: called with an empty folder.
    fault:
        One of ``FAULTS``.
    folder:
        Empty; may be removed afterwards.

    Returns the reason when the rig says that the fault cannot happen, else an empty text.
    AssertionError tells all that was wrong.  Takes seconds; no wait is longer than 60 s.
    """
    (folder / "rig").mkdir()
    rig = make(folder / "rig")
    try:
        reason = reason_to_skip(rig, fault)
        if reason:
            return reason
        case = Case(rig, fault, bench, folder)
        try:
            SCRIPT[fault](case)
            case.conclude()
        finally:
            case.close()
    finally:
        rig.close()
    return ""
