"""What a member of a group tells of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pipeline.naming import StreamId
from pipeline.sharing.buffer import Counts, Item
from pipeline.sharing.progress import Taken
from pipeline.telemetry.book import BOOK, Numbers, Place


class Measured:
    """The numbers of one membership; read in the thread that serves metrics.

    ``sizes``: returns how many frames wait, and how many are in somebody's hand.  ``lock``: held by
    who calls :meth:`delivered`.
    """

    def __init__(
        self,
        name: StreamId,
        group: str,
        counts: Counts,
        sizes: Callable[[], tuple[int, int]],
        lock: AbstractContextManager[Any],
    ) -> None:
        self._lock = lock
        self._counts = counts
        self._sizes = sizes
        place = Place(
            beamtime=name.beamtime, detector=name.detector, stream=name.stream, group=group
        )
        self._meter = BOOK.watch(place, self, Measured._numbers)
        self._latency = self._meter.stage("acknowledged_delivered")
        #: The record that the last frame was of, how many of it in a row, and how late the first.
        self._record: Taken | None = None
        self._frames = 0
        self._waited_s = 0.0

    def delivered(self, item: Item) -> None:
        """Note how long ago the broker appended the frame's record, by its clock and ours.

        Frames of one record that are handed out in a row are noted at once, with the first one's
        latency: a clock and a histogram for each would be a tenth of what a delivery costs
        (measured 2026-11-24).  The caller holds a lock.
        """
        if item.unit is None:  # a retry: it waited on purpose
            return
        for part in item.unit.parts.values():
            if part.taken is self._record:
                self._frames += 1
            else:
                self._settle()
                self._record, self._frames = part.taken, 1
                self._waited_s = time.time() - part.taken.appended_ms / 1000
            return

    def _settle(self) -> None:
        """Note the frames of the record that was handed out last."""
        frames, self._frames = self._frames, 0
        if frames and self._record is not None and self._record.appended_ms:
            self._latency.note(self._waited_s, frames)

    def _numbers(self) -> Numbers:
        counts = self._counts
        with self._lock:
            self._settle()
        queued, in_hand = self._sizes()
        return {
            "lichtstrom_group_delivered_total": counts.delivered,
            "lichtstrom_group_received_bytes_total": counts.received_nbytes,
            "lichtstrom_group_acknowledged_total": counts.acknowledged,
            "lichtstrom_group_retried_total": counts.retried,
            "lichtstrom_group_rejected_total": counts.rejected,
            "lichtstrom_group_void_total": counts.void,
            "lichtstrom_group_filtered_total": counts.filtered,
            "lichtstrom_group_incomplete_total": counts.incomplete,
            "lichtstrom_group_queue_frames": queued,
            "lichtstrom_group_in_hand_frames": in_hand,
        }

    def close(self) -> None:
        """Keep the counts; may be called twice."""
        self._meter.close()
