"""Frames that left their log behind: what another process needs to read them, and nothing more."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import FrameExpiredError
from pipeline.protocols import BlobStore
from pipeline.reading.feed import FrameFeed
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.frame import Frame
from pipeline.reading.live import LiveTable
from pipeline.reading.table import Rows
from pipeline.records import Int64s, Located, Segment


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenFrames:
    """Some frames of a stream, by where they lie; it can be pickled.

    With it go the store's settings (its keys, too), and per frame some 70 bytes of what its record
    says; the payload only where it lies in a record and nowhere else.  No broker is needed to read
    the frames.  Unpickled elsewhere, it opens the store once a process.

    Parameters
    ----------
    numbers:
        The frame of each row; one row per number and module, in this order.
    records, within:
        Of each row: which of ``segments`` it is from, and where in there.
    """

    store: BlobStore
    origin: Origin
    threads: int
    prefetch_nbytes: int
    numbers: Int64s
    records: Int64s
    within: Int64s
    segments: tuple[Located, ...]

    # -- what a FrameFeed asks for ----------------------------------------------------------------

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Nothing to lock: nothing changes."""
        return nullcontext()

    @property
    def table(self) -> FrozenFrames:
        """Itself."""
        return self

    def locate(self, row: int) -> tuple[Located, int]:
        """Return the record of a row, and the row within it."""
        return self.segments[int(self.records[row])], int(self.within[row])

    def reload(self, located: Located) -> Segment:
        """Raise FrameExpiredError: payloads in records were taken along."""
        raise FrameExpiredError(self.origin.stream, "a payload was not taken along")

    # -- reading ----------------------------------------------------------------------------------

    def read(self, wanted: Int64s) -> Generator[Frame, None, None]:
        """Yield those frames whose number is wanted, in order, reading ahead.

        They can be read until the generator is exhausted or closed.
        """
        fetcher = Fetcher(self.store, threads=self.threads, prefetch_nbytes=self.prefetch_nbytes)
        try:
            rows = np.flatnonzero(np.isin(self.numbers, wanted))
            yield from FrameFeed(self, rows, fetcher, self.origin, ahead=True)
        finally:
            fetcher.close()


def freeze(
    live: LiveTable, fetcher: Fetcher, origin: Origin, parts: Sequence[Rows], *, attributes: bool
) -> Iterator[FrozenFrames]:
    """Yield for each of some sets of rows (merged, in order) its frames; hold the table's lock.

    Parameters
    ----------
    attributes:
        Whether the frames' attributes go with them.
    """
    table = live.table
    for rows in parts:
        records, within = table.places(rows)
        kept, which = np.unique(records, return_inverse=True)
        segments, places = [], np.empty(len(rows), np.int64)
        for at, record in enumerate(kept.tolist()):
            mine = which == at
            located = table.records[record]
            segments.append(_cut(live, located, within[mine], attributes=attributes))
            places[mine] = np.arange(int(mine.sum()))
        yield FrozenFrames(
            store=fetcher.store,
            origin=origin,
            threads=fetcher.threads,
            prefetch_nbytes=fetcher.prefetch_nbytes,
            numbers=table.numbers[rows].copy(),
            records=which.astype(np.int64),
            within=places,
            segments=tuple(segments),
        )


def _cut(live: LiveTable, located: Located, rows: Int64s, *, attributes: bool) -> Located:
    """Return a record with some of its rows only."""
    segment = located.value
    assert isinstance(segment, Segment)  # only segments have rows
    if not segment.blob and not segment.inline and segment.lengths[rows].any():
        segment = live.reload(located)
    cut = {
        name: getattr(segment, name)[rows].copy()
        for name in ("numbers", "timestamps_ns", "offsets", "lengths", "checksums", "digests")
    }
    inline = segment.inline
    if inline:
        ends = cut["offsets"] + cut["lengths"]
        begin, end = int(cut["offsets"].min()), int(ends.max())
        inline, cut["offsets"] = inline[begin:end], cut["offsets"] - begin
    none = np.empty(0, np.int64)
    segment = replace(segment, **cut, inline=inline, skipped=none, rejected=none)
    return replace(located, value=_with_attributes(segment, rows, keep=attributes))


def _with_attributes(segment: Segment, rows: Int64s, *, keep: bool) -> Segment:
    """Return the segment with the attributes of these rows, or with none."""
    if not keep:
        return replace(segment, columns=(), extra=())
    chosen = rows.tolist()
    columns = tuple(
        replace(
            column,
            values=tuple(column.values[row] for row in chosen)
            if isinstance(column.values, tuple)
            else column.values[rows].copy(),
            present=None if column.present is None else column.present[rows].copy(),
        )
        for column in segment.columns
    )
    extra = tuple(segment.extra[row] for row in chosen) if segment.extra else ()
    return replace(segment, columns=columns, extra=extra)
