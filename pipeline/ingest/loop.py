"""What an ingest run does with each event of its adapter."""

from __future__ import annotations

import glob
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.codecs import byte_view
from pipeline.codecs.checksum import crc32c
from pipeline.errors import (
    InvalidFrameError,
    PipelineError,
    StreamExistsError,
    StreamNotFoundError,
    TopicMissingError,
    WriterActiveError,
)
from pipeline.frame import AttributeValue, FrameHeader
from pipeline.ingest.batches import FileBatch
from pipeline.ingest.report import IngestReport
from pipeline.ingest.runs import (
    Print,
    Published,
    RunStream,
    judge,
    new_run_id,
    next_name,
    run_stream,
)
from pipeline.ingest.sources import Shared, Source, found_sources
from pipeline.ingest.waiting import StoppedError
from pipeline.ingest.writers import AWAY, Session, Writer, Writers
from pipeline.naming import StreamId, quote_part
from pipeline.protocols import (
    AdapterEvent,
    DetectorAdapter,
    PlacedFrame,
    Quarantined,
    SeriesBegin,
    SeriesEnd,
    SourceFile,
    SourceFrame,
)

log = logging.getLogger(__name__)
#: Seconds between two rounds of housekeeping while frames come without pause.
_TICK_S = 0.05


@dataclass(slots=True, kw_only=True, eq=False)
class Ingest:
    """The state of one run; see :func:`pipeline.ingest.run`."""

    session: Session
    adapter: DetectorAdapter
    beamtime: str
    detector: str
    wanted: str | None
    keeps: bool
    on_disk: bool
    idle_s: float | None
    stop: threading.Event
    on_progress: Callable[[IngestReport], None] | None
    report: IngestReport
    writers: Writers = field(init=False)
    sources: dict[str, Source] = field(default_factory=dict)
    #: Streams that earlier runs left open, whose series has not shown up in this one.
    orphans: list[Source] = field(default_factory=list)
    is_silent: bool = False
    warned: set[StreamId] = field(default_factory=set)
    tick_s: float = 0.0

    # -- the loop -------------------------------------------------------------------------------

    def run(self, *, poll_s: float, streams: int | None, flush_timeout_s: float) -> IngestReport:
        """Take the adapter's events until it is time to stop; flush; return the report."""
        events = self.adapter.events(poll_s=poll_s)
        event: AdapterEvent | None = None
        try:
            self._adopt()
            for event in events:
                began_s = time.monotonic()
                self._handle(event)
                self._forgive(time.monotonic() - began_s)
                self._tick(event)
                if self.stop.is_set() or (streams and len(self.report.ended) >= streams):
                    break
            else:
                self._over()
        except StoppedError:
            log.warning("stopped while waiting, not published: %s", _told(event))
        except BaseException:
            self.report.not_flushed = self.writers.abandon()
            raise
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()
        self.report.not_flushed = self.writers.close(flush_timeout_s)
        self.report.confirmed = self.report.frames - self.report.not_flushed
        if self.on_progress is not None:
            self.on_progress(self.report)
        return self.report

    def _handle(self, event: AdapterEvent | None) -> None:
        match event:
            case SeriesBegin():
                self._begin(event)
            case SourceFrame():
                self._frame(event)
            case SourceFile():
                self._file(event)
            case Quarantined():
                self._quarantined(event)
            case SeriesEnd():
                self._series_end(event)

    def _tick(self, event: AdapterEvent | None) -> None:
        now_s = time.monotonic()
        if event is not None and now_s < self.tick_s:
            return
        for stream in self.writers.tick():
            self._ended(stream)
        self.look()
        if self.idle_s is not None:
            for source in list(self.sources.values()):
                begun = source.streams or source.notes
                if source.active and begun and now_s - source.touched_s >= self.idle_s:
                    self._series_end(SeriesEnd(series=source.begin.series))
        self._end_orphans(event, now_s)
        self.tick_s = time.monotonic() + _TICK_S

    def look(self) -> None:
        """Bring the report up to date, and show it."""
        self.report.confirmed = self.report.frames - self.writers.pending
        self.report.spooled = self.writers.spooled
        if self.on_progress is not None:
            self.on_progress(self.report)

    def _forgive(self, waited_s: float) -> None:
        """Not count as the source's silence what we spent on its last event."""
        for source in (*self.sources.values(), *self.orphans):
            source.touched_s += waited_s

    def _adopt(self) -> None:
        """Find what an earlier run has left open.

        Its files may all be gone (published and deleted) before its end was written.
        """
        owns = getattr(self.adapter, "owns", None)
        if owns is not None:
            for source in found_sources(self._catalogue(), self.wanted or ""):
                if not source.streams[-1].ended and owns(source.facts):
                    self.orphans.append(source)

    def _end_orphans(self, event: AdapterEvent | None, now_s: float) -> None:
        """End, after the usual silence, streams of which nothing is left to publish."""
        if event is None and not self.is_silent:
            # only now has the adapter looked at all that was there
            self.is_silent = True
            for source in self.orphans:
                source.touched_s = now_s
        idle_s = getattr(self.adapter, "idle_end_s", self.idle_s)
        if not self.is_silent or idle_s is None:
            return
        for source in [s for s in self.orphans if now_s - s.touched_s >= idle_s]:
            self.orphans.remove(source)
            self._end_orphan(source, SeriesEnd(series=source.begin.series))

    def _end_orphan(self, source: Source, event: SeriesEnd) -> None:
        try:
            self._end(source, event)
        except WriterActiveError as error:
            log.info("left to its writer: %s", error)

    def _over(self) -> None:
        """End what the adapter, whose source is over for good, has not ended."""
        for source in list(self.sources.values()):
            if source.active:
                self._series_end(SeriesEnd(series=source.begin.series))

    def on_confirmed(self, tokens: Sequence[Any]) -> None:
        """Let the adapter release the sources of frames that are safe."""
        self._release(tokens)

    def _release(self, tokens: Sequence[Any]) -> None:
        known = [
            token.token if isinstance(token, Shared) else token
            for token in tokens
            if token is not None and not (isinstance(token, Shared) and token.waits())
        ]
        known = [token for token in known if token is not None]
        if known:
            self.adapter.acknowledge(known)

    # -- series ---------------------------------------------------------------------------------

    def _begin(self, event: SeriesBegin) -> None:
        facts = {**event.run, "stream": self.wanted or ""}
        source = self.sources.get(event.series)
        if source is not None and source.is_of(facts, late=event.late):
            # once more: with metadata that was not known before, or after an end
            source.begin, source.active, source.touched_s = event, True, time.monotonic()
            if source.writer is not None:
                source.writer.attachments.update(event.attachments)
                if event.metadata:
                    self.writers.update_metadata(source.writer, event.metadata)
            return
        found = self._found(event, facts)
        self._end_former(event.series)
        self.sources[event.series] = found
        if event.rate_hz and not event.late and not found.streams:
            self._open(found, self._open_new(found))  # readers may wait for it already

    def _end_former(self, series: str) -> None:
        """End, as lost, what a new series of the device proves to be over."""
        exclusive = getattr(self.adapter, "exclusive", False)
        for source in list(self.sources.values()):
            if source.active and (exclusive or source.begin.series == series):
                self._series_end(SeriesEnd(series=source.begin.series, state="lost"))
        for source in self.orphans if exclusive else ():
            self._end_orphan(source, SeriesEnd(series=source.begin.series, state="lost"))
        if exclusive:
            self.orphans.clear()

    def _found(self, event: SeriesBegin, facts: dict[str, AttributeValue]) -> Source:
        """Look for streams that earlier runs have made of this source."""
        known = [source for source in self.orphans if source.is_of(facts, late=event.late)]
        if not known and event.run:
            found = found_sources(self._catalogue(), self.wanted or "")
            known = [source for source in found if source.is_of(facts, late=event.late)]
        if event.late:  # what has ended is another series of the same number
            known = [source for source in known if not source.streams[-1].ended]
        if not known:
            if event.late:
                facts["attached"] = new_run_id()
            return Source(event, facts, [], time.monotonic())
        if known[-1] in self.orphans:
            self.orphans.remove(known[-1])
        return Source(event, known[-1].facts, known[-1].streams, time.monotonic())

    def _catalogue(self) -> list[Any]:
        """Return summaries of all streams of the detector, none where it has none."""
        names = [glob.escape(quote_part(name)) for name in (self.beamtime, self.detector)]
        pattern = "/".join([*names, "*"])
        try:
            return list(self.writers.wait_for(lambda: self.session.streams(pattern)))
        except (TopicMissingError, StreamNotFoundError):
            return []
        except AWAY as error:
            log.warning("cannot look for earlier streams, frames are spooled: %s", error)
            return []

    def _series_end(self, event: SeriesEnd) -> None:
        source = self.sources.get(event.series)
        if source is None:
            return
        source.active = False
        last = source.streams[-1] if source.streams else None
        if last is None or (source.notes and last.ended):
            self._open_new(source)  # no frame, or nothing that could be read: an account says so
        elif last.ended:
            if self.writers.find(last) is None:
                self._ended(last)
                if event.token is not None and self._may_go(last):
                    self._release([event.token])
            return
        self._end(source, event)

    def _end(self, source: Source, event: SeriesEnd) -> None:
        """End the last stream of a source; later if that cannot be done now."""
        stream = source.streams[-1]
        try:
            writer = source.writer or self._open(source, stream)
            done = self.writers.end(writer, event)
        except StreamExistsError:
            stream.ended = done = True  # somebody else was faster
        source.writer = None
        if done:
            self._ended(stream)

    def _ended(self, stream: RunStream) -> None:
        name = str(stream.name)
        if name not in self.report.ended:
            self.report.ended.append(name)
            log.info("stream ended stream=%s", name)

    # -- frames ---------------------------------------------------------------------------------

    def _frame(self, event: SourceFrame) -> None:
        source = self._touched(event.series)
        header = event.header
        nbytes = byte_view(event.payload).nbytes
        entry = Print(crc32c(event.payload), nbytes, header.timestamp_ns)
        self._load(source)
        verdict, stream = judge(source.streams, header.number, header.module, entry)
        if verdict == "published" and stream is not None:
            self._skip(stream, event)
            return
        if verdict != "new":
            self._turn(source, f"{event.source or header.number}: {verdict}")
        self._publish(source, event, entry)

    def _touched(self, series: str) -> Source:
        """Return the source of something that has come."""
        if series not in self.sources:  # attached late: no begin was seen
            self._begin(SeriesBegin(series=series))
        source = self.sources[series]
        source.active, source.touched_s = True, time.monotonic()
        return source

    def _file(self, event: SourceFile) -> None:
        """Publish the frames of a file that are not published yet; one object for all of them."""
        source = self._touched(event.series)
        self._load(source)
        batch = FileBatch(event, Shared(event.token))
        for placed in event.frames:
            entry = batch.print_of(placed)
            if entry is None:
                self._not_taken(event, placed, "its bytes lie outside the file", batch.token)
                continue
            header = placed.header
            verdict, stream = judge(source.streams, header.number, header.module, entry)
            if verdict == "published" and stream is not None:
                self._skip_placed(stream, batch, placed, entry)
                continue
            if verdict != "new":
                self._publish_batch(source, batch)
                self._turn(source, f"{event.source or header.number}: {verdict}")
            batch.add(placed, entry)
        self._publish_batch(source, batch)
        self._release([batch.token])

    def _skip_placed(
        self, stream: RunStream, batch: FileBatch, placed: PlacedFrame, entry: Print
    ) -> None:
        """Leave out a frame that is published already; the file waits until it is safe."""
        key = (placed.header.number, placed.header.module)
        writer = self.writers.find(stream)
        if writer is not None and key in writer.unconfirmed:
            if writer.ending is None:
                self.writers.write_file(
                    writer, batch.file, [placed], [entry.checksum], batch.token.hold()
                )
            else:
                batch.token.hold()
        elif not self._may_go(stream):
            batch.token.hold()
        self.report.skipped += 1

    def _publish_batch(self, source: Source, batch: FileBatch) -> None:
        while batch.frames:
            try:
                stream, writer = self._writer(source)
                self.writers.write_file(
                    writer, batch.file, batch.frames, batch.checksums, batch.token
                )
            except StreamExistsError as error:
                self._taken_away(source, error)
            except InvalidFrameError as error:
                self._not_taken(batch.file, batch.drop(error.frame), str(error), batch.token)
            else:
                batch.token.hold()
                for placed, entry in batch.take():
                    self._count(stream, placed.header, entry)

    def _not_taken(self, file: SourceFile, placed: PlacedFrame, reason: str, token: Shared) -> None:
        """Name a frame of a file that is not one; the file is kept."""
        token.hold()
        where = f"{file.source}#{placed.header.number}"
        self._quarantined(Quarantined(series=file.series, source=where, reason=reason))

    def _load(self, source: Source) -> None:
        """Read back, once, what the streams of this source hold."""
        if source.streams and not source.streams[-1].ended and source.writer is None:
            # claimed first: what its former writer had in flight is then in the table, or void
            last = source.streams[-1]
            try:
                self._open(source, last)
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

    def _skip(self, stream: RunStream, event: SourceFrame) -> None:
        """Handle a frame that is published already: let go of its source when it is safe."""
        self.report.skipped += 1
        writer = self.writers.find(stream)
        key = (event.header.number, event.header.module)
        if writer is not None and key in writer.unconfirmed:
            if writer.ending is None:
                self.writers.write(writer, event)  # the publisher knows it; the token comes back
        elif self._may_go(stream):
            self._release([event.token])

    def _may_go(self, stream: RunStream) -> bool:
        """Tell whether what the stream has needs its sources no more."""
        if self.keeps or stream.on_disk:
            return True
        if stream.name not in self.warned:
            self.warned.add(stream.name)
            log.warning(
                "sources are kept, stream=%s was not published with durability=disk", stream.name
            )
        return False

    def _turn(self, source: Source, reason: str) -> None:
        """Go on in a new stream: nothing conflicts, nothing is skipped in silence."""
        old = source.streams[-1]
        if not old.ended:
            self._end(source, SeriesEnd(series=source.begin.series))
        stream = self._open_new(source)
        log.warning("new stream=%s after=%s because of %s", stream.name, old.name, reason)

    def _publish(self, source: Source, event: SourceFrame, entry: Print) -> None:
        while True:
            try:
                stream, writer = self._writer(source)
                self.writers.write(writer, event)
            except StreamExistsError as error:
                self._taken_away(source, error)
            except InvalidFrameError as error:
                note = Quarantined(series=event.series, source=event.source, reason=str(error))
                self._quarantined(note)
                return
            else:
                self._count(stream, event.header, entry)
                return

    def _writer(self, source: Source) -> tuple[RunStream, Writer]:
        """Return the stream that new frames of a source belong to, open."""
        if not source.streams:
            self._open_new(source)
        stream = source.streams[-1]
        return stream, source.writer or self._open(source, stream)

    def _taken_away(self, source: Source, error: StreamExistsError) -> None:
        """Go on in a new stream: somebody has ended the last one, or has its name."""
        if source.writer is not None and source.writer.unconfirmed:
            raise error  # what it was given is not published: start again and look
        log.warning("%s", error)
        source.writer, source.streams[-1].ended = None, True
        self._open_new(source)

    def _count(self, stream: RunStream, header: FrameHeader, entry: Print) -> None:
        if stream.frames is not None:
            stream.frames.add(header.number, header.module, entry)
        self.report.frames += 1
        self.report.nbytes += entry.nbytes

    def _quarantined(self, event: Quarantined) -> None:
        source = self._touched(event.series)
        if any(event.source in stream.quarantined for stream in source.streams):
            return  # an earlier run has said so
        self.report.quarantined += 1
        log.warning("quarantined source=%s reason=%s", event.source, event.reason)
        notes = source.writer.notes if source.writer is not None else source.notes
        notes.append(event)

    # -- streams --------------------------------------------------------------------------------

    def _open_new(self, source: Source) -> RunStream:
        """Choose a name that nobody has and add the stream; it is opened when it is used."""
        taken = {summary.name.stream for summary in self._catalogue()}
        taken.update(s.name.stream for other in self.sources.values() for s in other.streams)
        run_id = new_run_id()
        wanted = self.wanted or run_stream(source.begin.name, run_id)
        name = next_name(wanted, taken)
        if name != wanted:
            log.warning("stream %s exists: %s goes to %s", wanted, source.begin.series, name)
        stream = RunStream(
            name=StreamId(self.beamtime, self.detector, name),
            on_disk=self.on_disk,
            run_id=run_id,
            frames=Published(),
        )
        source.streams.append(stream)
        source.writer = None
        return stream

    def _open(self, source: Source, stream: RunStream) -> Writer:
        run = {**source.facts, "run_id": stream.run_id}
        run["durability"] = "disk" if stream.on_disk else "process"
        writer = Writer(stream=stream, begin=source.begin, run=run)
        self.writers.open(writer)
        writer.notes, source.notes = source.notes, []
        writer.attachments = dict(source.begin.attachments)
        source.writer = writer
        name = str(stream.name)
        if name not in self.report.streams:
            self.report.streams.append(name)
            log.info("stream opened stream=%s source=%s", name, source.begin.series)
        return writer


def _told(event: AdapterEvent | None) -> str:
    """Return what an event was, for people."""
    match event:
        case SourceFrame():
            return f"frame {event.header.number} of {event.series}"
        case SourceFile():
            return f"{event.source or 'a file'} of {event.series}, or a part of it"
    return "nothing"
