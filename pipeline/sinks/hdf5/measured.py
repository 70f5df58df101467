"""What a sink tells of itself."""

from __future__ import annotations

import time
from collections import deque

from pipeline.naming import StreamId
from pipeline.records import Segment
from pipeline.sinks.hdf5.files import Files
from pipeline.telemetry.book import BOOK, Numbers, Place


class Measured:
    """The numbers of one writer of files; read in the thread that serves metrics."""

    def __init__(self, name: StreamId, files: Files) -> None:
        self._files = files
        place = Place(beamtime=name.beamtime, detector=name.detector, stream=name.stream)
        self._meter = BOOK.watch(place, self, Measured._numbers)
        self._latency = self._meter.stage("delivered_durable")
        #: When each record came that is not in the file for good, and its frames; oldest first.
        self._open: deque[tuple[float, int]] = deque()
        #: How many of them were written, to be made safe by the next checkpoint.
        self._written = 0
        self._waiting = 0
        self._nbytes = 0

    def came(self, segment: Segment) -> None:
        """Note a record that is to be written."""
        self._open.append((time.monotonic(), len(segment)))
        self._waiting += len(segment)
        self._nbytes += int(segment.lengths.sum())

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
