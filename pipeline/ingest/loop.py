"""What an ingest run does with each event of its adapter."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.codecs import byte_view
from pipeline.codecs.checksum import crc32c
from pipeline.errors import InvalidFrameError, StreamExistsError, WriterActiveError
from pipeline.frame import FrameHeader
from pipeline.ingest import sharing
from pipeline.ingest.batches import FileBatch
from pipeline.ingest.cleaning import clean_begin, clean_end
from pipeline.ingest.register import Register
from pipeline.ingest.report import IngestReport
from pipeline.ingest.runs import Print, RunStream, judge
from pipeline.ingest.sources import Shared, Source
from pipeline.ingest.streams import Streams
from pipeline.ingest.waiting import StoppedError, told
from pipeline.ingest.writers import Writers
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
from pipeline.records import State
from pipeline.telemetry import watchdog

log = logging.getLogger(__name__)
#: Seconds between two rounds of housekeeping while frames come without pause.
_TICK_S = 0.05
#: So many things that could not be read are named for each stream: they stand in the catalogue.
_MAX_NOTES = 1000


@dataclass(slots=True, kw_only=True, eq=False)
class Ingest:
    """The state of one run; see :func:`pipeline.ingest.run`."""

    adapter: DetectorAdapter
    idle_s: float | None
    stop: threading.Event
    on_progress: Callable[[IngestReport], None] | None
    report: IngestReport
    writers: Writers = field(init=False)
    streams: Streams = field(init=False)
    register: Register = field(init=False)
    others: sharing.Others = field(init=False)
    is_silent: bool = False
    tick_s: float = 0.0

    # -- the loop -------------------------------------------------------------------------------

    def run(self, *, poll_s: float, streams: int | None, flush_timeout_s: float) -> IngestReport:
        """Take the adapter's events until it is time to stop; flush; return the report."""
        events = self.adapter.events(poll_s=poll_s)
        event: AdapterEvent | None = None
        try:
            owns = getattr(self.adapter, "owns", None)
            if owns is not None:
                self.register.adopt(owns, getattr(self.adapter, "share", sharing.whole))
            for event in events:
                began_s = time.monotonic()
                self._handle(event)
                self.register.forgive(time.monotonic() - began_s)
                self._tick(event)
                if self.stop.is_set() or (streams and len(self.report.ended) >= streams):
                    break
            else:
                self._over()
        except StoppedError:
            log.warning("stopped while waiting, not published: %s", told(event))
        except BaseException:
            self.report.not_flushed = self.writers.abandon()
            raise
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()
        self.report.not_flushed = self.writers.close(flush_timeout_s)
        self.report.confirmed = self.report.frames - self.report.not_flushed
        self.others.wait(self.stop)
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
        self.others.look()
        if self.idle_s is not None:
            for source in list(self.register):
                begun = source.streams or source.notes
                if source.active and begun and now_s - source.touched_s >= self.idle_s:
                    self._series_end(SeriesEnd(series=source.begin.series))
        self._end_orphans(event, now_s)
        self.tick_s = time.monotonic() + _TICK_S

    def look(self) -> None:
        """Bring the report up to date, show it, and say that the work goes on."""
        watchdog.beat(f"{self.report.confirmed} frames published")
        self.report.confirmed = self.report.frames - self.writers.pending
        self.report.spooled = self.writers.spooled
        if self.on_progress is not None:
            self.on_progress(self.report)

    def _over(self) -> None:
        """End what the adapter, whose source is over for good, has not ended."""
        for source in list(self.register):
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
        event, problems = clean_begin(event)
        former = self.register.get(event.series)
        source = self.register.known(event)
        if source is not None:
            self._end_former(former, source)
            self._begin_again(source, event)
        else:
            source = self.register.find(event)
            self._end_former(former, source)
            self.register.add(source)
            if event.rate_hz and not event.late and not source.streams:
                self.streams.open_last(source)  # readers may wait for it already
        self._tell(event.series, "start of the series", problems)

    def _begin_again(self, source: Source, event: SeriesBegin) -> None:
        """Go on, with metadata that was not known before, or after an end."""
        source.active, source.touched_s = True, time.monotonic()
        if not event.late:  # that one knows less
            source.begin = event
        if source.writer is not None:
            source.writer.attachments.update(event.attachments)
            source.writer.metadata.update(event.metadata)

    def _end_former(self, former: Source | None, begun: Source) -> None:
        """End, as lost, what the series that has begun proves to be over."""
        exclusive = getattr(self.adapter, "exclusive", False)
        for source in list(self.register):
            if source.active and source is not begun and (exclusive or source is former):
                self._end_series(source, SeriesEnd(series=source.begin.series, state="lost"))
        while exclusive and self.register.orphans:
            self._end_orphan(self.register.orphans.pop(), "lost")

    def _end_orphans(self, event: AdapterEvent | None, now_s: float) -> None:
        """End, after the usual silence, streams of which nothing is left to publish."""
        orphans = self.register.orphans
        if event is None and not self.is_silent:
            # only now has the adapter looked at all that was there
            self.is_silent = True
            for source in orphans:
                source.touched_s = now_s
        idle_s = getattr(self.adapter, "idle_end_s", self.idle_s)
        if not self.is_silent or idle_s is None:
            return
        for source in [s for s in orphans if now_s - s.touched_s >= idle_s]:
            orphans.remove(source)
            self._end_orphan(source, "complete")

    def _end_orphan(self, source: Source, state: State) -> None:
        try:
            self._end(source, SeriesEnd(series=source.begin.series, state=state))
        except WriterActiveError as error:
            log.info("left to its writer: %s", error)

    def _series_end(self, event: SeriesEnd) -> None:
        source = self.register.get(event.series)
        if source is None:
            return
        event, problems = clean_end(event)
        if source.streams and not source.streams[-1].ended:
            self._tell(event.series, "end of the series", problems)
        self._end_series(source, event)

    def _end_series(self, source: Source, event: SeriesEnd) -> None:
        source.active = False
        last = source.streams[-1] if source.streams else None
        if last is None or (source.notes and last.ended):
            self.streams.open_last(source)  # no frame, or nothing readable: an account says so
        elif last.ended:
            if self.writers.find(last) is None:
                self._ended(last)
                if event.token is not None and self.streams.may_go(last):
                    self._release([event.token])
            return
        self._end(source, event)

    def _end(self, source: Source, event: SeriesEnd) -> None:
        """End the last stream of a source; later if that cannot be done now."""
        stream = source.streams[-1]
        try:
            writer = source.writer or self.streams.open(source, stream)
            done = self.writers.end(writer, event)
        except StreamExistsError:
            stream.ended = done = True  # somebody else was faster
        source.writer = None
        if source.begin.share:
            self.others.add(stream.name)
        if done:
            self._ended(stream)

    def _ended(self, stream: RunStream) -> None:
        name = str(stream.name)
        stream.frames = None  # read back if something late comes
        if name not in self.report.ended:
            self.report.ended.append(name)
            log.info("stream ended stream=%s", name)

    # -- frames ---------------------------------------------------------------------------------

    def _frame(self, event: SourceFrame) -> None:
        source = self._touched(event.series)
        header = event.header
        view = byte_view(event.payload)
        entry = Print(crc32c(view), view.nbytes, header.timestamp_ns)
        self.streams.load(source)
        verdict, stream = judge(source.streams, header.number, header.module, entry)
        if verdict == "published" and stream is not None:
            self._skip(stream, event)
            return
        if verdict != "new":
            self._turn(source, f"{event.source or header.number}: {verdict}")
        self._publish(source, event, entry)

    def _touched(self, series: str) -> Source:
        """Return the source of something that has come."""
        source = self.register.get(series)
        if source is None:  # attached late: no begin was seen
            source = self.register.find(SeriesBegin(series=series))
            self._end_former(None, source)
            self.register.add(source)
        source.active, source.touched_s = True, time.monotonic()
        return source

    def _file(self, event: SourceFile) -> None:
        """Publish the frames of a file that are not published yet; one object for all of them."""
        source = self._touched(event.series)
        self.streams.load(source)
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
                self.streams.load(source)
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
        elif not self.streams.may_go(stream):
            batch.token.hold()
        self.report.skipped += 1

    def _publish_batch(self, source: Source, batch: FileBatch) -> None:
        while batch.frames:
            try:
                stream, writer = self.streams.writer(source)
                self.writers.write_file(
                    writer, batch.file, batch.frames, batch.checksums, batch.token
                )
            except StreamExistsError as error:
                self.streams.taken_away(source, error)
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

    def _skip(self, stream: RunStream, event: SourceFrame) -> None:
        """Handle a frame that is published already: let go of its source when it is safe."""
        self.report.skipped += 1
        writer = self.writers.find(stream)
        key = (event.header.number, event.header.module)
        if writer is not None and key in writer.unconfirmed:
            if writer.ending is None:
                self.writers.write(writer, event)  # the publisher knows it; the token comes back
        elif self.streams.may_go(stream):
            self._release([event.token])

    def _turn(self, source: Source, reason: str) -> None:
        """Go on in a new stream: nothing conflicts, nothing is skipped in silence."""
        old = source.streams[-1]
        if not old.ended:
            self._end(source, SeriesEnd(series=source.begin.series))
        stream = self.streams.add(source)
        log.warning("new stream=%s after=%s because of %s", stream.name, old.name, reason)

    def _publish(self, source: Source, event: SourceFrame, entry: Print) -> None:
        while True:
            try:
                stream, writer = self.streams.writer(source)
                self.writers.write(writer, event)
            except StreamExistsError as error:
                self.streams.taken_away(source, error)
            except InvalidFrameError as error:
                note = Quarantined(series=event.series, source=event.source, reason=str(error))
                self._quarantined(note)
                return
            else:
                self._count(stream, event.header, entry)
                return

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
        notes = source.writer.notes if source.writer is not None else source.notes
        named = len(notes) + (len(source.streams[-1].quarantined) if source.streams else 0)
        if named < _MAX_NOTES:
            log.warning("quarantined source=%s reason=%s", event.source, event.reason)
            notes.append(event)
        elif named == _MAX_NOTES:
            reason = f"more than {_MAX_NOTES} things could not be read, the others are not named"
            log.warning("quarantined source=%s and more: %s", event.source, reason)
            notes.append(replace(event, reason=reason))

    def _tell(self, series: str, what: str, problems: Sequence[str]) -> None:
        """Name what a device said that cannot be kept."""
        if problems:
            reason = "; ".join(problems)[:1000]
            self._quarantined(Quarantined(series=series, source=what, reason=reason))
