"""A stream's records into its files, as they come: what is there already is not fetched again.

In the end the files are compared with the merged stream.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Protocol, Self

import numpy as np

from pipeline.errors import PipelineError
from pipeline.frame import nbytes_of
from pipeline.protocols import Cursor
from pipeline.reading.fetch import Block, Window
from pipeline.reading.frame import Frame
from pipeline.reading.table import FrameTable
from pipeline.records import Located, Segment
from pipeline.sinks.hdf5.files import Files
from pipeline.sinks.hdf5.measured import Measured
from pipeline.sinks.hdf5.prepare import Prepared
from pipeline.sinks.hdf5.share import Share
from pipeline.sinks.hdf5.sink import Hdf5Sink
from pipeline.sinks.letters import DeadLetters
from pipeline.stream import Stream

#: How often a stop is looked for while nothing comes, and the catalogue asked for the end.
_LOOK_S = 0.2
#: Between checkpoints: what a kill makes the next one write again, and how old readers' view is.
_CHECKPOINT_S = 0.5
#: A store that is away is asked again this long; the same frame can be written again.
_PATIENCE_S = 60.0
_RETRY_S = 1.0
#: Pixels that wait to be written, and records whose frames do.
_AHEAD_NBYTES = 64 * 1024 * 1024
_AHEAD_RECORDS = 64
#: Threads that fetch and check frames while others are written.
_THREADS = 2

Progress = Callable[[int], object]


class Feed(Protocol):
    """Where a stream's records come from, and who is told of those with damaged frames."""

    def begin(self, marker: Sequence[int]) -> Cursor:
        """Return the records from these offsets on."""
        ...

    def damaged(self, located: Located, number: int, reason: str) -> None:
        """Hear of a frame that cannot be written; called in the writer's thread."""
        ...

    def safe(self, marker: Sequence[int]) -> list[int]:
        """Return how far of ``marker`` a restart may begin: what was damaged is told of below."""
        ...


class LogFeed:
    """The stream's own log; ``letters`` are written for damaged frames."""

    def __init__(self, stream: Stream, letters: DeadLetters | None = None) -> None:
        self._stream = stream
        self._letters = letters

    def begin(self, marker: Sequence[int]) -> Cursor:
        """Return a cursor of the log."""
        return self._stream.log.cursor(marker)

    def damaged(self, located: Located, number: int, reason: str) -> None:
        """Write a dead letter; the file and the account say it, too."""
        if self._letters is not None:
            self._letters.send(number, reason)

    def safe(self, marker: Sequence[int]) -> list[int]:
        """Return ``marker``."""
        return list(marker)


def write_records(
    stream: Stream, files: Files, *, stop: Event, on_progress: Progress, feed: Feed
) -> bool:
    """Write all frames that go into ``files`` to the stream's end; False if it was stopped."""
    with Records(stream, files, stop, feed) as records:
        return records.write(on_progress) and settle(stream, files, stop, feed)


@dataclass(slots=True)
class _Waiting:
    """A frame on its way: ``ready`` None if it is there already; ``last`` of its record."""

    number: int
    ready: Future[Prepared] | None
    located: Located
    block: Block
    nbytes: int
    last: bool


class Records:
    """The records of a stream that are not in the files yet, in the order of the log."""

    def __init__(self, stream: Stream, files: Files, stop: Event, feed: Feed) -> None:
        self._stream = stream
        self._files = files
        self._stop = stop
        self._feed = feed
        self._ends = stream.log.info(refresh=True).end_offsets
        low = stream.log.bounds()[0]
        self._marker = [max(a, b) for a, b in zip(files.marker, low, strict=True)]
        files.reached = self._marker
        self._cursor = feed.begin(self._marker)
        others = set(range(len(self._marker))).difference(files.partitions)
        if others:
            self._cursor.pause(sorted(others))
        self._window = Window(stream.fetcher.prefetch_nbytes)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lichtstrom-sink")
        self._segments: deque[tuple[Located, Block]] = deque()
        #: Rows of the first of them that have been begun.
        self._row = 0
        self._frames: deque[_Waiting] = deque()
        self._nbytes = 0
        self._taken = 0
        self._checkpoint_s = 0.0
        self._measured = Measured(stream, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._measured.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cursor.close()

    def write(self, on_progress: Progress) -> bool:
        """Write frames until the stream has ended; False if it was stopped before."""
        while not self._stop.is_set():
            idle = not self._frames and not self._segments
            if len(self._segments) < _AHEAD_RECORDS:
                self._take_in(self._cursor.poll(_LOOK_S if idle else 0))
            self._prepare()
            if self._frames:
                waiting = self._frames.popleft()
                self._put(waiting)
                if waiting.last:
                    on_progress(self._files.counts.written)
            elif not self._segments:
                self._marker = self._files.reached = self._cursor.positions()
                if self._at_end():
                    break
            self._checkpoint(_CHECKPOINT_S)
        self._checkpoint(0.0)
        return not self._stop.is_set()

    def _checkpoint(self, every_s: float) -> None:
        now = time.monotonic()
        if now - self._checkpoint_s >= every_s:
            self._checkpoint_s = now
            self._files.checkpoint(self._feed.safe(self._marker))
            self._measured.durable()

    def _take_in(self, records: list[Located]) -> None:
        for located in records:
            if self._ends is not None and located.offset >= self._ends[located.partition]:
                continue
            if isinstance(located.value, Segment) and len(located.value):
                block = self._stream.fetcher.open(located.value, self._stream.origin)
                self._taken += 1
                self._window.add(self._taken, block)
                self._segments.append((located, block))
                self._measured.came(located.value)
        self._window.pump()

    def _prepare(self) -> None:
        """Have the next frames fetched and checked in the background, within bounds."""
        # by the frame: a record of 8 MB may hold gigabytes of blank pixels
        while self._segments and (not self._frames or self._nbytes < _AHEAD_NBYTES):
            located, block = self._segments[0]
            segment = block.segment
            row, number = self._row, int(segment.numbers[self._row])
            nbytes = nbytes_of(segment.shape, segment.dtype)
            sink = self._files.sink(segment.module, number)
            ready = None
            if sink is not None and not sink.is_written(number):
                ready = self._begin(sink, Frame(number, block, row))
            last = row == len(segment) - 1
            self._frames.append(_Waiting(number, ready, located, block, nbytes, last))
            self._nbytes += nbytes
            self._row = 0 if last else row + 1
            if last:
                self._segments.popleft()

    def _begin(self, sink: Hdf5Sink, frame: Frame) -> Future[Prepared]:
        sink.expect(frame)  # here, so that it is the first in the log that decides
        return self._pool.submit(_patiently, sink, frame, self._stop)

    def _put(self, waiting: _Waiting) -> None:
        self._nbytes -= waiting.nbytes
        located, source = waiting.located, (waiting.located.partition, waiting.located.offset)
        ready = waiting.ready.result() if waiting.ready is not None else None
        sink = self._files.sink(waiting.block.segment.module, waiting.number)
        if sink is not None and sink.is_written(waiting.number):
            sink.put_again(waiting.number, source)
        elif sink is not None and ready is not None:
            sink.put(ready, source)
            if ready.reason:
                self._feed.damaged(located, waiting.number, ready.reason)
        if waiting.last:
            self._window.release(waiting.block)
            self._window.pump()
            self._marker[located.partition] = located.offset + 1
            self._measured.put()

    def _at_end(self) -> bool:
        if self._ends is None:
            self._ends = self._stream.log.info(refresh=True).end_offsets
        positions, ends = self._cursor.positions(), self._ends
        return ends is not None and all(positions[p] >= ends[p] for p in self._files.partitions)


def settle(stream: Stream, files: Files, stop: Event, feed: Feed) -> bool:
    """Compare the files with the merged stream, and write what is not in them as it should be.

    That is a frame whose first copy in the log lost to a newer writer's, and one that could not
    be had before the last restart: most often none.  False if it was stopped before the end.
    """
    table = stream.table()
    rows = table.merged().rows
    if not len(rows):
        return not stop.is_set()
    numbers, modules = table.numbers[rows], table.modules[rows]
    partitions, offsets = (column[rows] for column in table.sources())
    for share, found in files.every((int(numbers[0]), int(numbers[-1]))):
        alike = rows if share.module is None else rows[modules == share.module]
        sink = found
        if not share.is_whole and len(alike):
            sink = _alike(files, share, found, frame_of(stream, int(alike[0])))
        mine = share.holds(numbers, modules)
        right = sink.holds(numbers[mine], partitions[mine], offsets[mine])
        for row in rows[mine][~right].tolist():
            if stop.is_set():
                return False
            _settle_one(stream, table, sink, row, stop, feed)
    return not stop.is_set()


def _alike(files: Files, share: Share, sink: Hdf5Sink, first: Frame) -> Hdf5Sink:
    """Return the sink of a part, begun again if its first frame was unlike the stream's first.

    Each part takes shape and dtype from its own first frame, and in one image they must agree.
    """
    if sink.form not in (None, (tuple(first.shape), first.dtype)):
        sink = files.begin_again(share)
    sink.expect(first)
    return sink


def frame_of(stream: Stream, row: int) -> Frame:
    """Return a row of the stream's table as a frame; its payload is fetched when asked for."""
    table = stream.table()
    located, place = table.locate(row)
    segment = located.value
    assert isinstance(segment, Segment)
    block = stream.fetcher.open(
        segment,
        stream.origin,
        slice(place, place + 1),
        functools.partial(stream.reload, located),
    )
    return Frame(int(table.numbers[row]), block, place)


def _settle_one(
    stream: Stream, table: FrameTable, sink: Hdf5Sink, row: int, stop: Event, feed: Feed
) -> None:
    number = int(table.numbers[row])
    if sink.is_written(number) and _same_content(table, row, sink.source(number)):
        return
    located, _ = table.locate(row)
    frame = frame_of(stream, row)
    sink.expect(frame)
    ready = _patiently(sink, frame, stop)
    was_told = number in sink.counts.invalid
    sink.put(ready, (located.partition, located.offset))
    if ready.reason and not was_told:
        feed.damaged(located, number, ready.reason)


def _same_content(table: FrameTable, row: int, source: tuple[int, int]) -> bool:
    """Tell whether the copy at ``source`` is the same as the one that counts."""
    partitions, offsets = table.sources()
    same = (table.numbers == table.numbers[row]) & (table.modules == table.modules[row])
    copies = np.flatnonzero(same)
    for copy in copies.tolist():
        if (int(partitions[copy]), int(offsets[copy])) == source:
            return bool(
                table.checksums[copy] == table.checksums[row]
                and table.digests[copy] == table.digests[row]
            )
    return False


def _patiently(sink: Hdf5Sink, frame: Frame, stop: Event) -> Prepared:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return sink.prepare(frame)
        except PipelineError as error:
            if not error.retriable or time.monotonic() > deadline or stop.wait(_RETRY_S):
                raise
