"""Every frame of a stream into its file: record by record, and the proof that it is there.

What was written before a restart is not fetched again: the file says how far the log is in it.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Self

import numpy as np

from pipeline.errors import PipelineError, SinkError, StreamOpenError
from pipeline.frame import nbytes_of
from pipeline.reading.fetch import Block, Window
from pipeline.reading.frame import Frame
from pipeline.reading.ranges import Ranges
from pipeline.reading.table import FrameTable
from pipeline.records import Located, Segment
from pipeline.sinks.hdf5.counts import SinkCounts
from pipeline.sinks.hdf5.files import Files, Options, master_path, part_paths
from pipeline.sinks.hdf5.master import write_master
from pipeline.sinks.hdf5.prepare import Prepared
from pipeline.sinks.hdf5.share import Share
from pipeline.sinks.hdf5.sink import WHOLE, Hdf5Sink, stem
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
    """What became of a stream.

    ``path`` is the file to open; ``parts`` are those that it refers to.
    """

    path: str
    parts: list[str]
    written: int
    invalid: Mapping[int, str]
    account: dict[str, Any]


def write_stream(
    stream: Stream,
    directory: Path,
    options: Options,
    *,
    follow: bool,
    stop: Event,
    on_progress: Progress,
) -> SinkReport | None:
    """Write every frame of a stream and finish its files; None if it was stopped before.

    Raises
    ------
    StreamOpenError
        The stream may still grow and ``follow`` was not asked for.
    SinkError
        The files cannot be written, or frames of the account are not in them.
    """
    if not follow and stream.state == "open":
        raise StreamOpenError(stream.name, "follow it to its end with --follow")
    with Files(directory, stream.info, options) as files:
        files.open()
        if not write_records(stream, files, stop=stop, on_progress=on_progress):
            return None
        account: dict[str, Any] = dict(stream.account())
        counts = files.counts
        check_counts(stream, counts, account)
        if not files.is_plain:
            finish_parts(stream, files, account)
            return finish_master(stream, directory, options, counts, account)
        path = files.open_sinks[WHOLE].finish(account)
    return _report(path, [], counts, account)


def finish_master(
    stream: Stream,
    directory: Path,
    options: Options,
    counts: SinkCounts,
    account: dict[str, Any],
) -> SinkReport:
    """Write the master file of a stream whose parts are all there; without frames a plain one."""
    info = stream.info
    if not len(stream.table()):
        name = master_path(directory, info, options).stem
        share = Share(suffix=name.removeprefix(stem(info.start)))
        with Hdf5Sink(
            directory, overwrite=options.overwrite, layout=options.layout, share=share
        ) as sink:
            sink.open(info)
            return _report(sink.finish(account), [], counts, account)
    span = span_of(stream, account)
    path = write_master(
        directory, info, options, account, span=span, invalid=sorted(counts.invalid)
    )
    parts = [str(part) for part in part_paths(directory, info, options, span)]
    return _report(path, parts, counts, account)


def _report(path: str, parts: list[str], counts: SinkCounts, account: dict[str, Any]) -> SinkReport:
    return SinkReport(
        path=path,
        parts=parts,
        written=counts.written,
        invalid=dict(counts.invalid),
        account=account,
    )


def write_records(stream: Stream, files: Files, *, stop: Event, on_progress: Progress) -> bool:
    """Write all frames that go into ``files`` to the stream's end; False if it was stopped."""
    with Records(stream, files, stop) as records:
        return records.write(on_progress) and settle(stream, files, stop)


def finish_parts(stream: Stream, files: Files, account: Mapping[str, Any]) -> None:
    """Complete the files that hold a share of an ended stream."""
    table = stream.table()
    if len(table):
        located, row = table.locate(0)
        assert isinstance(located.value, Segment)
        block = stream.fetcher.open(located.value, stream.origin)
        example = Frame(int(table.numbers[0]), block, row)
        files.finish_parts(account, span_of(stream, account), example)


def span_of(stream: Stream, account: Mapping[str, Any]) -> tuple[int, int]:
    """Return the lowest and the highest number of a stream that is known to exist."""
    numbers = stream.table().numbers
    ends = [n for pair in account["missing"] for n in pair]
    return (
        min([int(numbers.min()), *ends]),
        max([int(numbers.max()), *ends]),
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
    """The records of a stream that are not in the files yet, in the order of the log."""

    def __init__(self, stream: Stream, files: Files, stop: Event) -> None:
        self._stream = stream
        self._files = files
        self._stop = stop
        self._ends = stream.log.info(refresh=True).end_offsets
        low = stream.log.bounds()[0]
        self._marker = [max(a, b) for a, b in zip(files.marker, low, strict=True)]
        files.reached = self._marker
        self._cursor = stream.log.cursor(self._marker)
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

    def __enter__(self) -> Self:
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
            self._files.checkpoint(self._marker)

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
        if waiting.last:
            self._window.release(waiting.block)
            self._window.pump()
            self._marker[located.partition] = located.offset + 1

    def _at_end(self) -> bool:
        if self._ends is None:
            self._ends = self._stream.log.info(refresh=True).end_offsets
        positions, ends = self._cursor.positions(), self._ends
        return ends is not None and all(positions[p] >= ends[p] for p in self._files.partitions)


def settle(stream: Stream, files: Files, stop: Event) -> bool:
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
    for share, sink in files.every((int(numbers[0]), int(numbers[-1]))):
        mine = share.holds(numbers, modules)
        right = sink.holds(numbers[mine], partitions[mine], offsets[mine])
        for row in rows[mine][~right].tolist():
            if stop.is_set():
                return False
            _settle_one(stream, table, sink, row, stop)
    return not stop.is_set()


def _settle_one(stream: Stream, table: FrameTable, sink: Hdf5Sink, row: int, stop: Event) -> None:
    number = int(table.numbers[row])
    if sink.is_written(number) and _same_content(table, row, sink.source(number)):
        return
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


def check_counts(stream: Stream, counts: SinkCounts, account: dict[str, Any]) -> None:
    """Compare the frames in the files with the stream, before users see them.

    Numbers that could not be written become ``corrupt`` in ``account``.  Raises SinkError.
    """
    there = len(stream.table().merged().rows)
    if counts.written + counts.refused != there:
        raise SinkError(
            f"{stream.name}: {counts.written} frames are in the file and {counts.refused} cannot"
            f" be written, but the stream has {there}; the file was not finished, run it again"
        )
    if not counts.invalid:
        return
    # Nobody had read these payloads before: what the sink could not read is damaged.
    damaged = Ranges()
    for number in sorted(counts.invalid):
        if not any(first <= number <= last for first, last in account["incomplete"]):
            damaged.add(number, number)
    account["corrupt"] = damaged.lists()
    account["received"] -= sum(last - first + 1 for first, last in account["corrupt"])
    account["complete"] = False
