"""What a group has not done of records that have left the topic: they come from the manifest."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import FrameExpiredError
from pipeline.manifest.cursor import StoredCursor
from pipeline.manifest.writer import known_parts
from pipeline.records import Located
from pipeline.stream import Stream


class Backlog:
    """Per partition the records between a group's offset and where the topic takes over.

    Used by one thread.
    """

    def __init__(self, stream: Stream, group: str) -> None:
        self._stream = stream
        self._group = group
        self._cursors: dict[int, StoredCursor] = {}
        self._ends: dict[int, int] = {}

    def __contains__(self, partition: int) -> bool:
        return partition in self._cursors

    @property
    def partitions(self) -> list[int]:
        """The partitions that have one."""
        return list(self._cursors)

    def begin(self, partition: int, offset: int, low: int) -> int:
        """Go on at ``offset``, where the topic begins at ``low``; return where it takes over.

        Raises FrameExpiredError where the manifest does not reach up to the topic.
        """
        parts = known_parts(self._stream.log.info(refresh=True), self._stream.store)
        check_reached(
            self._stream, self._group, {partition: offset}, {partition: low}, parts.covered
        )
        starts = list(parts.covered)
        starts[partition] = min(max(offset, parts.starts[partition]), parts.covered[partition])
        self.drop(partition)
        self._cursors[partition] = StoredCursor(parts, starts, parts.covered)
        self._ends[partition] = parts.covered[partition]
        return self._ends[partition]

    def poll(self, partition: int) -> tuple[list[Located], int | None]:
        """Return the next records and, when these were the last, the offset behind them."""
        cursor = self._cursors[partition]
        records = cursor.poll(0)
        if not cursor.exhausted():
            return records, None
        end = self._ends[partition]
        self.drop(partition)
        return records, end

    def drop(self, partition: int) -> None:
        """Forget a partition: it went to another member, or was read."""
        cursor = self._cursors.pop(partition, None)
        if cursor is not None:
            cursor.close()
        self._ends.pop(partition, None)


def check_reached(
    stream: Stream,
    group: str,
    at: dict[int, int],
    low: dict[int, int],
    covered: Sequence[int] | None = None,
) -> None:
    """Raise FrameExpiredError if what the topic lost of a group's work is in no part.

    Parameters
    ----------
    at, low:
        By partition where the group goes on, and where the topic begins.
    covered:
        How far the manifest reaches, if that is known; else it is looked up where it matters.
    """
    for partition, offset in at.items():
        if offset >= low[partition]:
            continue
        if covered is None:
            covered = known_parts(stream.log.info(refresh=True), stream.store).covered
        if covered[partition] < low[partition]:
            raise FrameExpiredError(
                stream.name,
                f"group {group} is at offset {offset} of partition {partition}, the topic begins"
                f" at {low[partition]}, and the manifest ends at {covered[partition]}:"
                f" `lichtstrom group reset` with --to a later number goes on behind them",
            )
