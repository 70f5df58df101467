"""What a sink tells of itself."""

from __future__ import annotations

import time
from collections import deque

from pipeline.records import Segment
from pipeline.sinks.hdf5.files import Files
from pipeline.stream import Stream
from pipeline.telemetry.book import BOOK, Numbers, Place
from pipeline.telemetry.traces import (
    CONSUMER,
    TRACING,
    Span,
    publish_id,
    sink_id,
    trace_id,
    wall_ns,
)


class Measured:
    """The numbers of one writer of files; read in the thread that serves metrics."""

    def __init__(self, stream: Stream, files: Files) -> None:
        self._files = files
        self._start = stream.start
        name = stream.name
        place = Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream)
        self._meter = BOOK.watch(place, self, Measured._numbers)
        self._latency = self._meter.stage("delivered_durable")
        #: When each record came that is not in the file for good, and its frames; oldest first.
        self._open: deque[tuple[float, int]] = deque()
        #: Of them the numbers that are traced, with the time they came; oldest first.
        self._traced: deque[tuple[float, int]] = deque()
        #: How many of them were written, to be made safe by the next checkpoint.
        self._written = 0
        self._waiting = 0
        self._nbytes = 0

    def came(self, segment: Segment) -> None:
        """Note a record that is to be written."""
        self._open.append((time.monotonic(), len(segment)))
        self._waiting += len(segment)
        self._nbytes += int(segment.lengths.sum())
        if TRACING.tracer is not None:
            came_s = self._open[-1][0]
            numbers = TRACING.tracer.sampled(segment.numbers.tolist())
            self._traced.extend((came_s, number) for number in numbers)

    def put(self) -> None:
        """Note that all frames of the oldest record that was not written are."""
        self._waiting -= self._open[self._written][1]
        self._written += 1

    def durable(self) -> None:
        """Note that what was written is in the file for good."""
        now_s = time.monotonic()
        for _ in range(self._written):
            came_s, frames = self._open.popleft()
            self._latency.note(now_s - came_s, frames)
        self._written = 0
        if self._traced:
            self._trace(self._open[0][0] if self._open else now_s)

    def _trace(self, before_s: float) -> None:
        """Tell of the traced frames that came before what is still open."""
        ended_ns = time.time_ns()
        while self._traced and self._traced[0][0] < before_s:
            came_s, number = self._traced.popleft()
            start, place = self._start, self._meter.place
            span = Span(
                "sink",
                CONSUMER,
                trace_id(start, number),
                sink_id(start.stream_key, number, "hdf5"),
                publish_id(start.stream_key, number),
                wall_ns(came_s),
                ended_ns,
                {"stream": f"{place.beamtime}/{place.detector}/{place.stream}", "frame": number},
            )
            if TRACING.tracer is not None:
                TRACING.tracer.add(span)

    def _numbers(self) -> Numbers:
        counts = self._files.counts
        try:
            age_s = time.monotonic() - self._open[0][0]
        except IndexError:  # all is safe
            age_s = 0.0
        return {
            "lichtstrom_sink_frames_total": counts.written,
            "lichtstrom_sink_bytes_total": self._nbytes,
            "lichtstrom_sink_duplicates_total": counts.duplicate,
            "lichtstrom_sink_invalid_total": counts.refused,
            "lichtstrom_sink_waiting_frames": self._waiting,
            "lichtstrom_sink_checkpoint_age_seconds": age_s,
        }

    def close(self) -> None:
        """Keep the counts; may be called twice."""
        self._meter.close()
