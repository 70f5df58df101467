"""Every frame of a stream into its files, and the proof that it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from pipeline.errors import SinkError, StreamOpenError
from pipeline.reading.ranges import Ranges
from pipeline.sinks.hdf5.counts import SinkCounts
from pipeline.sinks.hdf5.files import Files, Options, master_path, part_paths
from pipeline.sinks.hdf5.master import write_master
from pipeline.sinks.hdf5.records import LogFeed, Progress, frame_of, write_records
from pipeline.sinks.hdf5.share import Share
from pipeline.sinks.hdf5.sink import WHOLE, Hdf5Sink, stem
from pipeline.sinks.letters import DeadLetters
from pipeline.stream import Stream


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
    letters: DeadLetters | None = None,
) -> SinkReport | None:
    """Write every frame of a stream and finish its files; None if it was stopped before.

    ``letters``: who is told of frames that cannot be written, besides file and account.

    Raises
    ------
    StreamOpenError
        The stream may still grow and ``follow`` was not asked for.
    SinkError
        The files cannot be written, or frames of the account are not in them.
    """
    if not follow and stream.state == "open":
        raise StreamOpenError(stream.name, "follow it to its end with --follow")
    while True:
        with Files(directory, stream.info, options) as files:
            files.open(lowest_number(stream, options))
            feed = LogFeed(stream, letters)
            if not write_records(stream, files, stop=stop, on_progress=on_progress, feed=feed):
                return None
            if is_fitting(stream, files):
                return finish(stream, files, directory)


def lowest_number(stream: Stream, options: Options) -> int | None:
    """Return the lowest number of a stream as far as it is known, where the files depend on it.

    Reads the records of the stream up to now.
    """
    if options.layout != "dectris" or not len(stream.table()):
        return None
    return span_of(stream, stream.account())[0]


def is_fitting(stream: Stream, files: Files) -> bool:
    """Tell whether the first part is full: the lowest number may have come after others."""
    lowest = lowest_number(stream, files.options)
    return lowest is None or files.begins_with(lowest)


def finish(stream: Stream, files: Files, directory: Path) -> SinkReport:
    """Complete the files of a stream whose every frame they were given.

    Raises SinkError where they have to be opened and written again: see :func:`is_fitting`.
    """
    account: dict[str, Any] = dict(stream.account())
    counts = files.counts
    check_counts(stream, counts, account)
    if not files.is_plain:
        if not is_fitting(stream, files):
            raise SinkError(
                f"{stream.name}: its lowest frame came after others, so that the first file would"
                " be shorter than the next one: they are begun again when it is run again"
            )
        finish_parts(stream, files, account)
        return finish_master(stream, directory, files.options, counts, account)
    path = files.open_sinks[WHOLE].finish(account)
    return _report(path, [], counts, account)


def finish_together(
    stream: Stream, directory: Path, options: Options, account: Mapping[str, Any]
) -> SinkReport | None:
    """Write the master file of parts that several writers finish; None while one is missing.

    Each of them calls this when it is done: the last one finds all.  Raises SinkBusyError while
    another one writes it.
    """
    account = dict(account)
    with Files(directory, stream.info, options) as files:
        if len(stream.table()):
            if not files.are_complete(span_of(stream, account)):
                return None
            files.open()
        counts = files.counts
    check_counts(stream, counts, account)
    return finish_master(stream, directory, options, counts, account)


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


def finish_parts(stream: Stream, files: Files, account: Mapping[str, Any]) -> None:
    """Complete the files that hold a share of an ended stream."""
    if len(stream.table()):
        files.finish_parts(account, span_of(stream, account), frame_of(stream, 0))


def span_of(stream: Stream, account: Mapping[str, Any]) -> tuple[int, int]:
    """Return the lowest and the highest number of a stream that is known to exist."""
    numbers = stream.table().numbers
    ends = [n for pair in account["missing"] for n in pair]
    return (
        min([int(numbers.min()), *ends]),
        max([int(numbers.max()), *ends]),
    )


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
