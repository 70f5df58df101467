"""Copies of whole streams in another store, readable there with no broker; and references.

Keys are the same in all stores, so a copy is the same objects under the same names: payloads first,
then the parts of the manifest, the seal last.  Until the seal is there nobody lists the stream.

References (kerchunk) leave the payloads where they are and let zarr and xarray read them there.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import (
    BlobNotFoundError,
    ChecksumError,
    InvalidArgumentError,
    SinkError,
    StreamOpenError,
)
from pipeline.manifest.partfile import Read, open_part
from pipeline.manifest.seal import Sealed, load_seal
from pipeline.manifest.stored import discover
from pipeline.naming import Names
from pipeline.protocols import BlobStore, Durability
from pipeline.reading.sample import sample_of
from pipeline.records import Int64s, Segment, StreamInfo, UInt32s
from pipeline.wire.catalogue import stream_id

if TYPE_CHECKING:
    from pipeline.stream import Stream

log = logging.getLogger(__name__)
#: One ranged read of a copy; design, section 10: stores are at full speed with 8 MiB.
_READ_NBYTES = 8 << 20
#: Larger objects (foreign HDF5 files) wait in a temporary file, not in memory.
_IN_MEMORY_NBYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export has done so far.

    Parameters
    ----------
    streams:
        Streams whose seal is in the target now.
    objects, nbytes:
        Objects copied, and their bytes.
    skipped:
        Objects that were there already, with the same length.
    frames:
        Frames whose checksum was compared, copies counted.
    """

    streams: int = 0
    objects: int = 0
    nbytes: int = 0
    skipped: int = 0
    frames: int = 0


Progress = Callable[[ExportReport], None]


@dataclass(slots=True)
class _Frames:
    """Where frames lie in one object, and what their checksums are."""

    numbers: list[Int64s] = field(default_factory=list)
    offsets: list[Int64s] = field(default_factory=list)
    lengths: list[UInt32s] = field(default_factory=list)
    checksums: list[UInt32s] = field(default_factory=list)

    def add(self, segment: Segment) -> None:
        self.numbers.append(segment.numbers)
        self.offsets.append(segment.offsets)
        self.lengths.append(segment.lengths)
        self.checksums.append(segment.checksums)

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (offset, length, checksum, number) of each frame with bytes, by offset."""
        offsets, numbers = np.concatenate(self.offsets), np.concatenate(self.numbers)
        lengths, checksums = np.concatenate(self.lengths), np.concatenate(self.checksums)
        order = np.argsort(offsets, kind="stable")
        order = order[lengths[order] > 0]
        yield from zip(
            offsets[order].tolist(),
            lengths[order].tolist(),
            checksums[order].tolist(),
            numbers[order].tolist(),
            strict=True,
        )


def export(
    infos: Iterable[StreamInfo],
    source: BlobStore,
    target: BlobStore,
    *,
    names: Names,
    progress: Progress | None = None,
    verify: bool = True,
    threads: int = 4,
    durability: Durability = "disk",
) -> ExportReport:
    """Copy sealed streams to another store; run it again to resume.

    Only what the manifests refer to is copied, each object once.  An object that is in the target
    with the same length is not copied again.  Memory: 40 MB a thread and one part of a manifest.

    Parameters
    ----------
    progress:
        Called after each object, from the calling thread.
    verify:
        Compare each frame with its checksum: as it is copied, or in the target if it was there.

    Raises
    ------
    StreamOpenError
        A stream was never sealed; those before it are exported.
    ChecksumError, BlobNotFoundError
        A frame is damaged or gone; the stream is not listed in the target.  ``verify=False``
        copies damaged frames as they are.
    """
    run = _Export(source, target, progress, verify=verify, threads=threads, durability=durability)
    for info in infos:
        run.stream(info, names)
    return run.report


class _Export:
    def __init__(
        self,
        source: BlobStore,
        target: BlobStore,
        progress: Progress | None,
        *,
        verify: bool,
        threads: int,
        durability: Durability,
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._verify = verify
        self._threads = threads
        self._durability: Durability = durability
        self.report = ExportReport()
        #: By beamtime: detector and stream of the target's samples, and their ids.
        self._samples: dict[str, dict[tuple[str, str], bytes]] = {}

    def stream(self, info: StreamInfo, names: Names) -> None:
        """Copy one stream."""
        if info.seal is None:
            raise StreamOpenError(stream_id(info), "only a sealed stream can be exported")
        sealed = load_seal(self._source, info.seal.key)
        self._refuse_beside_a_sample(sealed.info, names)
        self._target.create_bucket(names.bucket(sealed.info.start.beamtime))
        for objects in self._payloads(sealed):
            self._copy_all(objects)
        self._copy_all({part.key: _Frames() for part in sealed.parts})
        # Last of all: only now is the stream listed in the target.
        self._copy_all({sealed.key: _Frames()})
        self._count(ExportReport(streams=1))
        log.info("stream exported stream=%s target=%s", stream_id(info), self._target.url)

    def _refuse_beside_a_sample(self, info: StreamInfo, names: Names) -> None:
        """Raise InvalidArgumentError where a reader by name would find a sample or the whole."""
        start = info.start
        if start.beamtime not in self._samples:
            found = discover(self._target, names, start.beamtime)
            samples = [(i.start, i.start.stream_key) for i in found if sample_of(i.start)]
            self._samples[start.beamtime] = {(s.detector, s.stream): key for s, key in samples}
        there = self._samples[start.beamtime].get((start.detector, start.stream))
        if there not in (None, start.stream_key):
            raise InvalidArgumentError(
                "target",
                f"{self._target.url} has a sample of {stream_id(info)}: name another directory",
            )

    def _payloads(self, sealed: Sealed) -> Iterator[dict[str, _Frames]]:
        """Yield the objects that are referred to, a part of the manifest at a time."""
        yield {key: _Frames() for key in sealed.info.attachments.values()}
        for part in sealed.parts:
            file = open_part(self._source, part)
            read = _reader(self._source, part.key)
            objects: dict[str, _Frames] = {}
            for blocks in file.blocks.values():
                for block in blocks:
                    for record in file.read(block, read):
                        if isinstance(record.value, Segment) and record.value.blob:
                            objects.setdefault(record.value.blob, _Frames()).add(record.value)
            yield objects

    def _copy_all(self, objects: dict[str, _Frames]) -> None:
        """Copy objects in parallel; the first error ends it."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="export") as pool:
            waiting: set[Future[ExportReport]] = set()
            try:
                waiting.update(pool.submit(self._copy, *entry) for entry in objects.items())
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._count(future.result())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _copy(self, key: str, frames: _Frames) -> ExportReport:
        nbytes = self._source.size(key)
        if self._there(key, nbytes):
            found = self._check(key, frames, _reader(self._target, key), self._target)
            return ExportReport(skipped=1, frames=found)
        with _content(self._source, key, nbytes) as data:
            found = self._check(key, frames, _slicer(data), self._source)
            self._target.put(key, [data], durability=self._durability)
        return ExportReport(objects=1, nbytes=nbytes, frames=found)

    def _there(self, key: str, nbytes: int) -> bool:
        try:
            return self._target.size(key) == nbytes
        except BlobNotFoundError:
            return False

    def _check(self, key: str, frames: _Frames, read: Read, store: BlobStore) -> int:
        if not self._verify or not frames.numbers:
            return 0
        count = 0
        window, begin = memoryview(b""), 0
        rows = list(frames.rows())
        for at, (offset, length, expected, number) in enumerate(rows):
            if offset < begin or offset + length > begin + len(window):
                begin = offset
                window = read(begin, _window_nbytes(rows, at))
            found = crc32c(window[offset - begin : offset - begin + length])
            if found != expected:
                raise ChecksumError(
                    key, store=store.url, number=number, expected=expected, found=found
                )
            count += 1
        return count

    def _count(self, more: ExportReport) -> None:
        names = ExportReport.__slots__
        self.report = replace(
            self.report, **{n: getattr(self.report, n) + getattr(more, n) for n in names}
        )
        if self._progress is not None:
            self._progress(self.report)


def _window_nbytes(rows: Sequence[tuple[int, int, int, int]], at: int) -> int:
    """Return how much to read from frame ``at`` on: the frames that follow close, up to 8 MiB."""
    begin, length, _, _ = rows[at]
    end = begin + length
    for offset, more, _, _ in rows[at + 1 :]:
        if offset > end or offset + more - begin > _READ_NBYTES:
            break
        end = max(end, offset + more)
    return end - begin


def _reader(store: BlobStore, key: str) -> Read:
    return lambda offset, length: store.get(key, offset, length)


def _slicer(data: memoryview) -> Read:
    return lambda offset, length: data[offset : offset + length]


@contextmanager
def _content(store: BlobStore, key: str, nbytes: int) -> Iterator[memoryview]:
    """Give the whole object, in memory if it is small and else in a mapped temporary file."""
    if nbytes <= _IN_MEMORY_NBYTES:
        yield store.get(key, 0, nbytes)
        return
    with tempfile.TemporaryDirectory(prefix="lichtstrom-export-") as folder:
        path = Path(folder) / "object"
        with path.open("w+b") as file:
            for offset in range(0, nbytes, _READ_NBYTES):
                file.write(store.get(key, offset, min(_READ_NBYTES, nbytes - offset)))
            file.flush()
            # Not closed here: a store may still hold a view for a moment; it goes with the last.
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What :func:`write_references` wrote: frames, positions (missing frames too), JSON bytes."""

    path: str
    frames: int
    positions: int
    nbytes: int


def write_references(stream: Stream, path: Path, *, store_url: str) -> References:
    """Write kerchunk references (version 1, JSON) to the frames that are there now.

    xarray and zarr then read the stream where it lies: ``docs/h5view.md``.  A file of that name is
    replaced when the new one is complete.  Memory does not grow with the number of frames beyond
    what the stream's table takes.

    Parameters
    ----------
    store_url:
        Where the payloads are: ``file:///dir``, ``s3://`` or ``s3://bucket/prefix``.

    Raises
    ------
    DecodeError
        The frames (or modules) are not of one shape, type and encoding, or their numbers are too
        far apart.
    InvalidArgumentError
        Nobody else could read from such a store.
    SinkError
        The file cannot be written.
    """
    from pipeline.view.references import references

    prefix = _prefix(store_url)
    view = stream.h5()
    part = path.with_name(f".part-{path.name}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write('{"version": 1, "refs": {')
            separator = "\n"
            for key, value in references(view, lambda blob: prefix + blob):
                file.write(f"{separator}{json.dumps(key)}: {json.dumps(value)}")
                separator = ",\n"
            file.write("\n}}\n")
            nbytes = file.tell()
        part.replace(path)
    except OSError as error:
        raise SinkError(f"{path}: {os.strerror(error.errno or 0)}") from error
    finally:
        part.unlink(missing_ok=True)
    snapshot = view.snapshot
    return References(
        path=str(path),
        frames=len(snapshot.frames.numbers),
        positions=snapshot.count,
        nbytes=nbytes,
    )


def _prefix(store_url: str) -> str:
    """Return what stands before a blob's key in its URL, as fsspec reads URLs: nothing quoted."""
    parts = urlsplit(store_url)
    path = unquote(parts.path).strip("/")
    if parts.scheme == "file":
        return f"file:///{path}/"
    if parts.scheme == "s3":
        return "s3://" + "".join(f"{part}/" for part in (parts.netloc, path) if part)
    raise InvalidArgumentError("store_url", f"{store_url!r}: references need a file: or s3: store")


__all__ = ["ExportReport", "References", "export", "write_references"]
