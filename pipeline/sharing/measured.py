"""What a member of a group tells of itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.naming import StreamId
from pipeline.sharing.buffer import Counts, Item
from pipeline.telemetry.book import BOOK, Numbers, Place


class Measured:
    """The numbers of one membership; read in the thread that serves metrics.

    ``sizes``: returns how many frames wait, and how many are in somebody's hand.
    """

    def __init__(
        self, name: StreamId, group: str, counts: Counts, sizes: Callable[[], tuple[int, int]]
    ) -> None:
        self._counts = counts
        self._sizes = sizes
        place = Place(
            beamtime=name.beamtime, detector=name.detector, stream=name.stream, group=group
        )
        self._meter = BOOK.watch(place, self, Measured._numbers)
        self._latency = self._meter.stage("acknowledged_delivered")

    def delivered(self, item: Item) -> None:
        """Note how long ago the broker appended the frame's record, by its clock and ours."""
        if item.unit is None:  # a retry: it waited on purpose
            return
        for part in item.unit.parts.values():
            if part.taken.appended_ms:
                self._latency.note(time.time() - part.taken.appended_ms / 1000)
            return

    def _numbers(self) -> Numbers:
        counts = self._counts
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
