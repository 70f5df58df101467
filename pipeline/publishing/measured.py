"""What a publisher tells of itself: counts it has anyway, and latencies by the record."""

from __future__ import annotations

import time

from pipeline.naming import StreamId
from pipeline.publishing.draft import Draft
from pipeline.publishing.packer import Packer
from pipeline.publishing.spooling import Spooling
from pipeline.publishing.tally import Tally
from pipeline.publishing.window import Window
from pipeline.telemetry.book import BOOK, Numbers, Place
from pipeline.telemetry.traces import (
    PRODUCER,
    TRACING,
    Span,
    Tracer,
    parent_of,
    publish_id,
    trace_id,
    wall_ns,
)


class Measured:
    """The numbers of one publisher; read in the thread that serves metrics.

    ``limit_nbytes``: what its spool may take.
    """

    def __init__(
        self,
        name: StreamId,
        *,
        tally: Tally,
        spooling: Spooling,
        packer: Packer,
        limit_nbytes: int,
        is_result: bool,
    ) -> None:
        self._tally = tally
        self._spooling = spooling
        self._packer = packer
        self._limit_nbytes = limit_nbytes
        place = Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream)
        self._meter = BOOK.watch(place, self, Measured._numbers)
        stage = "result_acknowledged" if is_result else "source_acknowledged"
        self._latency = self._meter.stage(stage)
        self._nbytes = 0
        #: By module: lowest and highest number, and how many.
        self._spans: dict[int, list[int]] = {}

    def confirmed(self, drafts: list[Draft]) -> None:
        """Note what is safe; called by the window's thread, once for many frames.

        The first frame of a record counts for all of it: it waited longest.
        """
        now_s = time.monotonic()
        for draft in drafts:
            if draft.opened_s:
                self._latency.note(now_s - draft.opened_s, len(draft))
            self._nbytes += sum(draft.lengths)
            if TRACING.tracer is not None:
                self._trace(TRACING.tracer, draft)
            first, last = draft.numbers[0], draft.numbers[-1]
            span = self._spans.setdefault(draft.layout[3], [first, last, 0])
            span[0], span[1] = min(span[0], first), max(span[1], last)
            span[2] += len(draft)

    def _trace(self, tracer: Tracer, draft: Draft) -> None:
        opened = self._packer.opened
        if opened is None:
            return
        start = opened.info.start
        ended_ns = time.time_ns()
        begun_ns = wall_ns(draft.opened_s) if draft.opened_s else ended_ns
        for number in tracer.sampled(draft.numbers):
            name = f"{start.beamtime}/{start.detector}/{start.stream}"
            span = Span(
                "publish",
                PRODUCER,
                trace_id(start, number),
                publish_id(start.stream_key, number),
                parent_of(start, number),
                begun_ns,
                ended_ns,
                {"stream": name, "frame": number, "module": draft.layout[3]},
            )
            tracer.add(span)

    def _numbers(self) -> Numbers:
        window: Window | None = self._packer.opened.window if self._packer.opened else None
        draft = self._packer.draft
        queued = (window.pending if window is not None else 0) + (len(draft) if draft else 0)
        missing = sum(max(0, b - a + 1 - n) for a, b, n in list(self._spans.values()))
        return {
            "lichtstrom_publish_frames_total": self._tally.acknowledged,
            "lichtstrom_publish_bytes_total": self._nbytes,
            "lichtstrom_publish_refused_total": self._tally.refused,
            "lichtstrom_publish_repeated_total": self._tally.repeated,
            "lichtstrom_publish_retries_total": window.retries if window is not None else 0,
            "lichtstrom_publish_failures_total": bool(window is not None and window.failure),
            "lichtstrom_publish_queue_frames": queued,
            "lichtstrom_publish_missing_frames": missing,
            "lichtstrom_spool_frames": self._spooling.frames,
            "lichtstrom_spool_bytes": self._spooling.nbytes,
            "lichtstrom_spool_limit_bytes": self._limit_nbytes,
        }

    def close(self) -> None:
        """Keep the counts; may be called twice."""
        self._meter.close()
