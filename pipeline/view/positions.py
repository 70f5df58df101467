"""The frames of a stream at one moment, from where their payloads are easiest to have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import StreamOpenError
from pipeline.manifest.stored import StoredLog
from pipeline.naming import stream_prefix_of
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.lazy import FramePositions
from pipeline.reading.live import LiveTable


@contextmanager
def frame_positions(
    live: LiveTable, fetcher: Fetcher, origin: Origin, *, so_far: bool
) -> Iterator[FramePositions]:
    """Give the frames for as long as nobody may change them.

    Raises
    ------
    StreamOpenError
        The stream may still grow, and ``so_far`` is not said.
    DecodeError
        It has no frames, or their numbers are too far apart.
    """
    with live.lock:
        info = live.refresh()
        if info.end_offsets is None and not so_far:
            raise StreamOpenError(
                origin.stream, "use so_far=True, chunks() or select(), or wait for its end"
            )
        if info.seal is None or not live.table.has_inline():
            yield FramePositions(live, fetcher, origin)
            return
    # the manifest has objects for what the topic has in its records: tasks stay small
    stored = StoredLog(fetcher.store, stream_prefix_of(info.seal.key))
    table = LiveTable(stored, origin.stream)
    try:
        with table.lock:
            table.refresh()
            yield FramePositions(table, fetcher, origin)
    finally:
        table.close()
        stored.close()
