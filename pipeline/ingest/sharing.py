"""Streams that several adapter processes write together, each some modules of a device.

The processes do not talk to each other: the catalogue is where they agree.  The first that sees a
run begin starts the stream; the others find it by its facts, by its time, and by having no writer
for their modules.  Two that look at once choose the same name, of which the first start wins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.errors import PipelineError, WriterActiveError
from pipeline.frame import AttributeValue
from pipeline.ingest.runs import RunStream, next_name
from pipeline.ingest.session import Session
from pipeline.ingest.sources import Source, found_sources
from pipeline.naming import StreamId
from pipeline.records import ModuleState, StreamInfo

log = logging.getLogger(__name__)
#: Stands in the run of a stream that several processes write.
FACT = "shared"
#: Indices of the modules that this process writes of a stream of so many; none: it is not shared.
Share = Callable[[int], tuple[int, ...]]
#: Clocks of the processes' machines differ less than this.
_CLOCKS_NS = 1_000_000_000
_LOOK_EVERY_S = 1.0


def whole(_: int) -> tuple[int, ...]:
    """Return that nothing is shared."""
    return ()


def agreed_name(summaries: Iterable[Any], source: Source, wanted: str) -> str:
    """Return the name of the stream that all processes take for the run that begins now.

    That is the oldest stream with the facts of ``source``, started after the run before was over,
    whose modules of ours had no writer yet; else the next name, which others then find.

    Raises WriterActiveError when another process of this machine writes our modules.
    """
    known = sorted(summaries, key=lambda summary: summary.info.position)
    for summary in known:
        start = summary.info.start
        if any(start.run.get(key) != value for key, value in source.facts.items()):
            continue
        if "apart" in start.run or start.created_ns < source.begin.after_ns - _CLOCKS_NS:
            continue
        holder = _holder(summary.info, source.begin.share)
        if not holder:
            return str(start.stream)
        if RunStream(name=summary.name, holder=holder).writer_is_alive:
            raise WriterActiveError(summary.name, holder=holder, age_s=0.0)
    return next_name(wanted, [summary.name.stream for summary in known])


def left_behind(
    summaries: Iterable[Any],
    wanted: str,
    owns: Callable[[Mapping[str, AttributeValue]], Any],
    share: Share,
) -> list[Source]:
    """Return the open streams in which modules of ours have not ended, each as a source."""
    left = []
    for summary in summaries:
        info = summary.info
        if info.state != "open" or FACT not in info.start.run:
            continue
        ours = tuple(
            m for m in share(len(info.start.module_indices)) if _state(info, m).end is None
        )
        for source in found_sources([summary], wanted) if ours else ():
            if owns(source.facts):
                source.begin = replace(source.begin, share=ours)
                source.streams[0].holder = _holder(info, ours)
                left.append(source)
    return left


class Others:
    """Streams of which our modules have ended and other processes' have not.  For one thread.

    Each of them is ended, as lost, when the others have had their time and write no more.
    """

    def __init__(self, session: Session, wait_s: float) -> None:
        self._session, self._wait_s = session, wait_s
        self._due_s: dict[StreamId, float] = {}
        self._look_s = 0.0

    def add(self, name: StreamId) -> None:
        """Watch a stream."""
        self._due_s[name] = time.monotonic() + self._wait_s

    def look(self) -> None:
        """End what is due; blocks for a second at most every second, longer without a broker."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        for name in [name for name, due_s in self._due_s.items() if now_s >= due_s]:
            self._end(name)
        self._look_s = time.monotonic() + _LOOK_EVERY_S

    def _end(self, name: StreamId) -> None:
        try:
            if self._is_open(name):
                self._session.end(name.beamtime, name.detector, name.stream)
                log.warning(
                    "stream ended as lost stream=%s: after %g s not all of its modules had ended;"
                    " does a process for each of them run?",
                    name,
                    self._wait_s,
                )
        except PipelineError as error:
            # a writer that is alive, a server that is away, another one that was faster
            log.info("end of stream waits stream=%s reason=%s", name, error)
        else:
            del self._due_s[name]

    def _is_open(self, name: StreamId) -> bool:
        found = [s for s in self._session.streams(f"{name.beamtime}/*/*") if s.name == name]
        return bool(found) and found[0].info.state == "open"

    def wait(self, stop: threading.Event) -> None:
        """Wait until no stream is left that others write, twice their time at most."""
        deadline_s = time.monotonic() + 2 * self._wait_s
        while self._due_s and time.monotonic() < deadline_s and not stop.wait(_LOOK_EVERY_S / 4):
            for name in list(self._due_s):
                try:
                    if not self._is_open(name):
                        del self._due_s[name]
                except PipelineError as error:
                    log.info("%s", error)
            self.look()


def _state(info: StreamInfo, module: int) -> ModuleState:
    return info.modules.get(module, ModuleState())


def _holder(info: StreamInfo, modules: Iterable[int]) -> str:
    """Return who writes these modules: another process may be alive and write others."""
    claims = [_state(info, module).claim for module in modules]
    return next((claim.holder for claim in claims if claim is not None), "")
