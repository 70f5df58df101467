"""The streams of an ingest run: named, opened, read back, gone on from."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import (
    PipelineError,
    StreamExistsError,
    StreamNotFoundError,
    TopicMissingError,
)
from pipeline.ingest import sharing
from pipeline.ingest.report import IngestReport
from pipeline.ingest.runs import Published, RunStream, new_run_id, next_name, run_stream
from pipeline.ingest.session import Session
from pipeline.ingest.sources import Source
from pipeline.ingest.writer import Writer
from pipeline.ingest.writers import AWAY, Writers
from pipeline.naming import StreamId, quote_part

log = logging.getLogger(__name__)
#: With a spool: how long a broker that was away is not asked for earlier streams again.
_BLIND_S = 30.0


@dataclass(slots=True, kw_only=True, eq=False)
class Streams:
    """Which stream a source is written to; for one thread.

    Parameters
    ----------
    beamtime:
        Says which beamtime a stream that begins now belongs to.
    follows:
        That changes: earlier streams may be those of other beamtimes.
    wanted:
        Name of the streams; None: the series' own names.
    keeps:
        The adapter leaves its sources where they are.
    on_disk:
        What is published survives the loss of power.
    """

    session: Session
    writers: Writers
    beamtime: Callable[[], str]
    follows: bool
    detector: str
    wanted: str | None
    keeps: bool
    on_disk: bool
    report: IngestReport
    _warned: set[StreamId] = field(default_factory=set)
    _blind_until_s: float = 0.0

    def earlier(self) -> list[Any]:
        """Return summaries of all streams of the detector in which its sources may be.

        As :meth:`_in`; where the beamtime changes, those of every beamtime.
        """
        return self._in("*" if self.follows else glob.escape(quote_part(self.beamtime())))

    def _in(self, beamtimes: str) -> list[Any]:
        """Return summaries of the detector's streams, none where it has none.

        With a spool a broker that is away is not asked each time: a device does not wait for it.
        """
        if time.monotonic() < self._blind_until_s:
            return []
        pattern = "/".join([beamtimes, glob.escape(quote_part(self.detector)), "*"])
        try:
            return list(self.writers.wait_for(lambda: self.session.streams(pattern)))
        except (TopicMissingError, StreamNotFoundError):
            return []
        except AWAY as error:
            log.warning("cannot look for earlier streams, frames are spooled: %s", error)
            self._blind_until_s = time.monotonic() + _BLIND_S
            return []

    def add(self, source: Source) -> RunStream:
        """Choose a name that nobody has and add the stream; it is opened when it is used."""
        beamtime = self.beamtime()
        known = self._in(glob.escape(quote_part(beamtime)))
        taken = {summary.name.stream for summary in known}
        taken.update(self.writers.names)
        taken.update(stream.name.stream for stream in source.streams)
        run_id = new_run_id()
        if source.begin.share and self._agrees(source, run_id):
            name = run_id = sharing.agreed_name(
                known, source, self.wanted or source.begin.name or "run"
            )
        else:
            wanted = self.wanted or run_stream(source.begin.name, run_id)
            name = next_name(wanted, taken)
            if name != wanted:
                log.warning("stream %s exists: %s goes to %s", wanted, source.begin.series, name)
        stream = RunStream(
            name=StreamId(beamtime, self.detector, name),
            on_disk=self.on_disk,
            run_id=run_id,
            frames=Published(),
        )
        source.streams.append(stream)
        source.writer = None
        return stream

    def _agrees(self, source: Source, run_id: str) -> bool:
        """Whether other processes can find the stream; if not, it is one of our own."""
        blind = time.monotonic() < self._blind_until_s
        if blind or any(stream.known for stream in source.streams):
            source.facts["apart"] = run_id
            log.warning("%s: no stream that others write too, our modules go apart", run_id)
            return False
        return True

    def open(self, source: Source, stream: RunStream) -> Writer:
        """Open a stream of a source; raises StreamExistsError if it is somebody else's."""
        run = {**source.facts, "run_id": stream.run_id}
        run["durability"] = "disk" if stream.on_disk else "process"
        writer = Writer(stream=stream, begin=source.begin, run=run)
        self.writers.open(writer)
        writer.notes, source.notes = source.notes, []
        kept = writer.out.info.attachments if writer.out.info is not None else {}
        given = source.begin.attachments
        writer.attachments = {name: given[name] for name in given if name not in kept}
        source.writer = writer
        name = str(stream.name)
        if name not in self.report.streams:
            self.report.streams.append(name)
            log.info("stream opened stream=%s source=%s", name, source.begin.series)
        return writer

    def writer(self, source: Source) -> tuple[RunStream, Writer]:
        """Return the stream that new frames of a source belong to, open.

        Raises StreamExistsError; then call :meth:`taken_away` and try again.
        """
        stream = source.streams[-1] if source.streams else self.add(source)
        return stream, source.writer or self.open(source, stream)

    def taken_away(self, source: Source, error: StreamExistsError) -> None:
        """Go on in a new stream: somebody has ended the last one, or has its name."""
        if source.writer is not None and source.writer.unconfirmed:
            raise error  # what it was given is not published: start again and look
        log.warning("%s", error)
        source.writer, source.streams[-1].ended = None, True
        self.add(source)

    def open_last(self, source: Source) -> None:
        """Open the last stream of a source, a new one if there is none or it is taken away."""
        while True:
            try:
                self.writer(source)
            except StreamExistsError as error:
                self.taken_away(source, error)
            else:
                return

    def load(self, source: Source) -> None:
        """Read back, once, what the streams of this source hold."""
        if source.streams and not source.streams[-1].ended and source.writer is None:
            # claimed first: what its former writer had in flight is then in the table, or void
            last = source.streams[-1]
            try:
                self.open(source, last)
            except StreamExistsError:
                last.ended = True
        for stream in source.streams:
            if stream.frames is None:
                stream.frames = self._read_back(stream.name)

    def _read_back(self, name: StreamId) -> Published:
        def read() -> Published:
            with self.session.stream(name.beamtime, name.detector, name.stream) as stream:
                return Published.from_table(stream.table())

        try:
            frames = self.writers.wait_for(read, always=True)
        except PipelineError as error:
            log.warning("stream cannot be read back, frames may come twice: %s", error)
            return Published()
        log.info("stream read back stream=%s frames=%d", name, len(frames))
        return frames

    def may_go(self, stream: RunStream) -> bool:
        """Tell whether what the stream has needs its sources no more."""
        if self.keeps or stream.on_disk:
            return True
        if stream.name not in self._warned:
            self._warned.add(stream.name)
            log.warning(
                "sources are kept, stream=%s was not published with durability=disk", stream.name
            )
        return False
