"""The stream's side of comparing a file with it: what its records say, and pixels as proof."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import BlobNotFoundError, ChecksumError, DecodeError, StreamOpenError
from pipeline.reading.frame import Frame
from pipeline.reading.table import Rows
from pipeline.sinks.hdf5.differences import Pixels, Progress, Wanted
from pipeline.sinks.hdf5.findings import Finding
from pipeline.stream import Stream

#: How a frame shows that its pixels cannot be had from the stream.
_LOST = (BlobNotFoundError, ChecksumError, DecodeError)
_STEP = 16
_NOTHING, _SAME, _ABSENT = range(3)


def wanted_of(stream: Stream) -> tuple[Wanted, Rows]:
    """Return what the records of an ended stream say, and the rows of its table that count.

    Raises StreamOpenError.
    """
    if stream.state == "open":
        raise StreamOpenError(stream.name, "a file is compared with it when it has ended")
    table, account, start = stream.table(), stream.account(), stream.start
    rows = table.merged().rows
    numbers = table.numbers[rows]
    forms, form_of = table.forms()
    known = [n for pair in account["missing"] for n in pair]
    known += [int(numbers[0]), int(numbers[-1])] if len(rows) else []
    wanted = Wanted(
        stream=str(stream.name),
        stream_key=start.stream_key.hex(),
        span=(min(known), max(known)) if known else None,
        modules=tuple(start.modules),
        numbers=numbers,
        module_of=table.modules[rows] if start.modules else np.zeros(len(rows), np.int64),
        timestamps_ns=table.timestamps_ns[rows],
        checksums=table.checksums[rows],
        forms=forms,
        form_of=form_of[rows],
    )
    return wanted, rows


class Proof:
    """Frames of a file that only the stream's pixels can prove: collected, then looked at."""

    def __init__(self, stream: Stream, wanted: Wanted, rows: Rows) -> None:
        self._stream = stream
        self._wanted = wanted
        self._rows = rows
        self._checksums = np.zeros(len(rows), np.uint32)
        #: Per frame what is to be proved, in which dataset of ``_sources`` and where.
        self._task = np.full(len(rows), _NOTHING, np.uint8)
        self._source = np.zeros(len(rows), np.uint32)
        self._position = np.zeros(len(rows), np.int64)
        self._sources: dict[tuple[str, str], int] = {}

    def add(self, pixels: Pixels) -> None:
        """Take a frame."""
        row, source = pixels.row, (pixels.file, pixels.dataset)
        self._task[row] = _ABSENT if pixels.checksum is None else _SAME
        self._checksums[row] = pixels.checksum or 0
        self._source[row] = self._sources.setdefault(source, len(self._sources))
        self._position[row] = pixels.position

    def differences(self, progress: Progress) -> Iterator[Finding]:
        """Read and decode these frames of the stream, and yield where the file has others.

        Raises StoreUnavailableError or StoreDeniedError.
        """
        places, sources = np.flatnonzero(self._task), list(self._sources)
        parts = self._stream.parts(self._rows[places])
        for done, (place, part) in enumerate(zip(places.tolist(), parts, strict=True)):
            if done % _STEP == 0:
                progress(done, len(places))
            if self._task[place] == _ABSENT:
                wrong = _unwritten(part)
            else:
                wrong = _other(part, int(self._checksums[place]))
            if wrong is not None:
                file, dataset = sources[int(self._source[place])]
                what, todo = f"{self._wanted.name_of(place)} {wrong[0]}", wrong[1]
                yield Finding(file, f"/{dataset}[{self._position[place]}]", what, todo)


def _unwritten(part: Frame) -> tuple[str, str] | None:
    """Return what is wrong with a file that says the frame could not be written."""
    try:
        part.payload if part.encoding == "none" else part.array  # noqa: B018 -- reads it
    except _LOST:
        return None
    return "is told to be damaged, and is not", "take it from the stream again"


def _other(part: Frame, checksum: int) -> tuple[str, str] | None:
    """Return what is wrong with a file whose pixels have this checksum."""
    try:
        pixels = part.array
    except _LOST as error:
        return f"cannot be compared: {error}", "see lichtstrom verify"
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    if crc32c(little) == checksum:
        return None
    return "has other pixels than in the stream", "take it from the stream again"
