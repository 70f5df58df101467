"""Every frame of a stream into a sink, and the proof that it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    PipelineError,
    SinkError,
    StreamOpenError,
    StreamTimeoutError,
)
from pipeline.reading.ranges import Ranges

if TYPE_CHECKING:
    from pipeline.sinks.hdf5 import Hdf5Sink
    from pipeline.stream import Frame, Stream

#: How often a stop is looked for while nothing comes.
_LOOK_S = 0.5
#: A store that is away is asked again this long; the same frame can be written again.
_PATIENCE_S = 60.0
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """What became of a stream."""

    path: str
    written: int
    invalid: Mapping[int, str]
    account: dict[str, Any]


def write_stream(
    stream: Stream,
    sink: Hdf5Sink,
    *,
    follow: bool,
    stop: Event,
    on_progress: Callable[[int], object],
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
    taken = Ranges()
    for frame in _frames(stream, stop):
        _write(sink, frame, stop)
        taken.add(frame.number, frame.number)
        on_progress(sink.counts.written)
    if stop.is_set():
        return None
    # What came below a floor that had been passed is not given in order.
    for frame in stream.frames():
        if frame.number not in taken:
            _write(sink, frame, stop)
            taken.add(frame.number, frame.number)
    account: dict[str, Any] = dict(stream.account())
    _check(stream, sink, account, taken)
    path = sink.finish(account)
    return SinkReport(
        path=path,
        written=sink.counts.written,
        invalid=dict(sink.counts.invalid),
        account=account,
    )


def _frames(stream: Stream, stop: Event) -> Iterator[Frame]:
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


def _write(sink: Hdf5Sink, frame: Frame, stop: Event) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            sink.write(frame)
        except PipelineError as error:
            if not error.retriable or time.monotonic() > deadline or stop.wait(_RETRY_S):
                raise
        else:
            return


def _check(stream: Stream, sink: Hdf5Sink, account: dict[str, Any], taken: Ranges) -> None:
    """Compare the frames in the output with the account, before it gets its name."""
    given = sum(last - first + 1 for first, last in taken.lists())
    bad = set(sink.counts.invalid)
    incomplete = sum(last - first + 1 for first, last in account["incomplete"])
    written = sink.counts.written
    if written + len(bad) != given or given != account["received"] + incomplete:
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
