"""What can be played: an HDF5 file, a directory of images, a stream live or stored."""

from __future__ import annotations

import fnmatch
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.detectors.file_options import PATTERNS
from pipeline.detectors.files import FilesAdapter
from pipeline.detectors.h5index import opened
from pipeline.errors import InvalidFrameError, SourceError, StreamTimeoutError
from pipeline.frame import FrameHeader
from pipeline.protocols import AdapterEvent, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.replay.hdf5 import hdf5_events

if TYPE_CHECKING:
    from pipeline.stream import Frame, Stream

log = logging.getLogger(__name__)
#: The adapter takes a file that stayed the same between two looks.
_LOOK_S = 0.02
#: How long a file may take to be read, by network, before it is given up.
_PATIENCE_S = 30.0
#: A stream that is silent gives the player a turn this often.
_TURN_S = 0.5


def path_events(path: Path, dataset: str = "") -> Iterator[AdapterEvent]:
    """Yield what a file or a directory holds.

    Parameters
    ----------
    dataset:
        Path of the images in an HDF5 file; "": they are looked for.

    Raises SourceError.
    """
    if path.is_dir():
        return directory_events(path)
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file or directory")
    try:
        with opened(path):
            pass
    except InvalidFrameError as error:
        raise SourceError(f"{path}: neither HDF5 nor a directory of images: {error}") from error
    return hdf5_events(path, dataset)


def directory_events(path: Path) -> Iterator[AdapterEvent]:
    """Yield the images of a directory as ``lichtstrom adapter files`` would take them.

    What cannot be read is quarantined at once.  Raises SourceError where there are no images.
    """
    wanted = _count(path)
    adapter = FilesAdapter(watch=path, method="poll", poll_every_s=_LOOK_S, grace_s=0)
    series, found, last_s = "", 0, time.monotonic()
    try:
        for event in adapter.events(poll_s=_LOOK_S):
            if event is not None:
                found += not isinstance(event, SeriesBegin)
                if series and event.series != series:
                    yield SeriesEnd(series=series)
                series = event.series
                yield event
                last_s = time.monotonic()
            if found >= wanted or time.monotonic() - last_s > _PATIENCE_S:
                break
    finally:
        adapter.close()
    if not found:
        raise SourceError(f"{path}: no images in it that `lichtstrom adapter files` would take")
    if found < wanted:
        log.warning("files were not taken path=%s files=%d", path, wanted - found)
    yield SeriesEnd(series=series)


def _count(path: Path) -> int:
    """Return how many files the adapter would look at."""
    names = (name for _, _, names in os.walk(path) for name in names if not name.startswith("."))
    return sum(any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS) for name in names)


def stream_events(stream: Stream, timeout_s: float | None) -> Iterator[AdapterEvent | None]:
    """Yield the frames of a stream, module by module, to its end.

    Raises StreamTimeoutError when a live one gave nothing for ``timeout_s``.
    """
    info = stream.info
    name = str(stream.name)
    yield SeriesBegin(
        series=name,
        name=stream.name.stream,
        metadata=stream.metadata,
        modules=info.start.modules,
        rate_hz=info.start.rate_hz,
        expected=info.expected,
        attachments={key: stream.attachment(key) for key in info.attachments},
    )
    for whole in _patient(stream, timeout_s):
        if whole is None:
            yield None
            continue
        for module, frame in whole.modules.items():
            header = FrameHeader(
                number=frame.number,
                timestamp_ns=frame.timestamp_ns,
                shape=frame.shape,
                dtype=frame.dtype,
                encoding=frame.encoding,
                module=module,
                attributes=frame.attributes,
            )
            yield SourceFrame(series=name, header=header, payload=frame.payload, source=name)
    yield SeriesEnd(series=name, state=stream.state)


def _patient(stream: Stream, timeout_s: float | None) -> Iterator[Frame | None]:
    """Yield frames in order, None at least every half second of silence."""
    frames = stream.ordered(timeout_s=_TURN_S)
    last_s = time.monotonic()
    while True:
        try:
            for frame in frames:
                yield frame
                last_s = time.monotonic()
        except StreamTimeoutError:
            if timeout_s is not None and time.monotonic() - last_s >= timeout_s:
                raise
            yield None
        else:
            return


__all__ = ["directory_events", "path_events", "stream_events"]
