"""Every frame of a stream into its file: record by record, and the proof that it is there.

What was written before a restart is not fetched again: the file says how far the log is in it.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np

from pipeline.errors import PipelineError, SinkError, StreamOpenError, StreamTimeoutError
from pipeline.reading.fetch import Block, Window
from pipeline.reading.frame import Frame
from pipeline.reading.ranges import Ranges
from pipeline.reading.table import FrameTable
from pipeline.records import Located, Segment
from pipeline.sinks.hdf5.sink import Hdf5Sink, Prepared
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """What became of a stream."""

    path: str
    written: int
    invalid: Mapping[int, str]
    account: dict[str, Any]


def write_stream(
    stream: Stream, sink: Hdf5Sink, *, follow: bool, stop: Event, on_progress: Progress
) -> SinkReport | None:
    """Write every frame and finish the sink; None if it was stopped before.

    Raises
    ------
    StreamOpenError
        The stream may still grow and ``follow`` was not asked for.
    SinkError
        Frames of the account are not in the output.
    """
    if not follow and stream.state == "open":
        raise StreamOpenError(stream.name, "follow it to its end with --follow")
    sink.open(stream.info)
    if stream.start.modules:
        ended = _write_whole(stream, sink, stop, on_progress)
    else:
        with Records(stream, sink, stop) as records:
            ended = records.write(on_progress)
            if ended:
                settle(stream, sink, stop)
    if not ended:
        return None
    account: dict[str, Any] = dict(stream.account())
    _check(stream, sink, account)
    path = sink.finish(account)
    return SinkReport(
        path=path,
        written=sink.counts.written,
        invalid=dict(sink.counts.invalid),
        account=account,
    )


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
    """The records of a stream that are not in the sink's file yet, in the order of the log."""

    def __init__(self, stream: Stream, sink: Hdf5Sink, stop: Event) -> None:
        self._stream = stream
        self._sink = sink
        self._stop = stop
        self._ends = stream.log.info(refresh=True).end_offsets
        low = stream.log.bounds()[0]
        self._marker = [max(a, b) for a, b in zip(sink.marker, low, strict=True)]
        self._cursor = stream.log.cursor(self._marker)
        self._window = Window(stream.fetcher.prefetch_nbytes)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lichtstrom-sink")
        self._segments: deque[tuple[Located, Block]] = deque()
        self._frames: deque[_Waiting] = deque()
        self._nbytes = 0
        self._taken = 0

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
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
                self._put(self._frames.popleft())
                on_progress(self._sink.counts.written)
            elif not self._segments:
                self._marker = self._cursor.positions()
                if self._at_end():
                    return True
            self._sink.checkpoint(self._marker, every_s=_CHECKPOINT_S)
        self._sink.checkpoint(self._marker)
        return False

    def _take_in(self, records: list[Located]) -> None:
        for located in records:
            if self._ends is not None and located.offset >= self._ends[located.partition]:
                continue
            if isinstance(located.value, Segment) and len(located.value):
                block = self._stream.fetcher.open(located.value, self._stream.origin)
                self._taken += 1
                self._window.add(self._taken, block)
                self._segments.append((located, block))
        self._window.pump()

    def _prepare(self) -> None:
        """Have the next frames fetched and checked in the background, within bounds."""
        while self._segments and (not self._frames or self._nbytes < _AHEAD_NBYTES):
            located, block = self._segments.popleft()
            segment = block.segment
            numbers = segment.numbers.tolist()
            nbytes = int(np.prod(segment.shape, dtype=np.int64)) * np.dtype(segment.dtype).itemsize
            for row, number in enumerate(numbers):
                ready = None
                if not self._sink.is_written(number):
                    ready = self._begin(Frame(number, block, row))
                last = row == len(numbers) - 1
                self._frames.append(_Waiting(number, ready, located, block, nbytes, last))
                self._nbytes += nbytes

    def _begin(self, frame: Frame) -> Future[Prepared]:
        self._sink.expect(frame)  # here, so that it is the first in the log that decides
        return self._pool.submit(_patiently, self._sink, frame, self._stop)

    def _put(self, waiting: _Waiting) -> None:
        self._nbytes -= waiting.nbytes
        located, source = waiting.located, (waiting.located.partition, waiting.located.offset)
        ready = waiting.ready.result() if waiting.ready is not None else None
        if self._sink.is_written(waiting.number):
            self._sink.put_again(waiting.number, source)
        elif ready is not None:
            self._sink.put(ready, source)
        if waiting.last:
            self._window.release(waiting.block)
            self._window.pump()
            self._marker[located.partition] = located.offset + 1

    def _at_end(self) -> bool:
        if self._ends is None:
            self._ends = self._stream.log.info(refresh=True).end_offsets
        positions = self._cursor.positions()
        return self._ends is not None and all(
            p >= end for p, end in zip(positions, self._ends, strict=True)
        )


def settle(stream: Stream, sink: Hdf5Sink, stop: Event) -> None:
    """Compare the file with the merged stream, and write what is not in it as it should be.

    That is a frame whose first copy in the log lost to a newer writer's, and one that could not
    be had before the last restart: most often none.
    """
    table = stream.table()
    rows = table.merged().rows
    partitions, offsets = table.sources()
    right = sink.holds(table.numbers[rows], partitions[rows], offsets[rows])
    for row in rows[~right].tolist():
        if stop.is_set():
            return
        number = int(table.numbers[row])
        if sink.is_written(number) and _same_content(table, row, sink.source(number)):
            continue
        located, place = table.locate(row)
        segment = located.value
        assert isinstance(segment, Segment)
        block = stream.fetcher.open(
            segment,
            stream.origin,
            slice(place, place + 1),
            functools.partial(stream.reload, located),
        )
        frame = Frame(number, block, place)
        sink.expect(frame)
        sink.put(_patiently(sink, frame, stop), (located.partition, located.offset))


def _same_content(table: FrameTable, row: int, source: tuple[int, int]) -> bool:
    """Tell whether the copy at ``source`` is the same as the one that counts."""
    partitions, offsets = table.sources()
    copies = np.flatnonzero(table.numbers == table.numbers[row])
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


def _write_whole(stream: Stream, sink: Hdf5Sink, stop: Event, on_progress: Progress) -> bool:
    """Write a stream of several modules as assembled frames; False if it was stopped."""
    for frame in _ordered(stream, stop):
        _write_frame(sink, frame, stop)
        on_progress(sink.counts.written)
        sink.checkpoint(every_s=_CHECKPOINT_S)
    if stop.is_set():
        sink.checkpoint()
        return False
    # What came below a floor that had been passed is not given in order.
    for frame in stream.frames():
        _write_frame(sink, frame, stop)
    return True


def _write_frame(sink: Hdf5Sink, frame: Frame, stop: Event) -> None:
    if not sink.is_written(frame.number):
        sink.expect(frame)
        sink.put(_patiently(sink, frame, stop))


def _ordered(stream: Stream, stop: Event) -> Iterator[Frame]:
    """Yield frames in order to the stream's end, or until ``stop``; silence is no error."""
    frames = stream.ordered(timeout_s=_LOOK_S)
    while not stop.is_set():
        try:
            frame = next(frames)
        except StopIteration:
            return
        except StreamTimeoutError:
            continue
        yield frame


def _check(stream: Stream, sink: Hdf5Sink, account: dict[str, Any]) -> None:
    """Compare the frames in the output with the account, before it gets its name."""
    incomplete = sum(last - first + 1 for first, last in account["incomplete"])
    written, bad = sink.counts.written, set(sink.counts.invalid)
    if written + len(bad) != account["received"] + incomplete:
        raise SinkError(
            f"{stream.name}: {written} frames are in the file and {len(bad)} cannot be written,"
            f" but the account has {account['received']} (and {incomplete} incomplete);"
            " the file was not finished, run it again"
        )
    if not bad:
        return
    # Nobody had read these payloads before: what the sink could not read is damaged.
    damaged = Ranges()
    for number in sorted(bad):
        if not any(first <= number <= last for first, last in account["incomplete"]):
            damaged.add(number, number)
    account["corrupt"] = damaged.lists()
    account["received"] -= sum(last - first + 1 for first, last in account["corrupt"])
    account["complete"] = False
