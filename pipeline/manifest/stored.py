"""A sealed stream read from its store alone: at home, at another site, long after."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.errors import (
    BlobNotFoundError,
    InvalidArgumentError,
    StreamNotFoundError,
    WireError,
)
from pipeline.manifest.cursor import StoredCursor
from pipeline.manifest.partset import PartSet
from pipeline.manifest.seal import Sealed, load_highest
from pipeline.naming import Names
from pipeline.protocols import BlobStore, Lookup
from pipeline.records import Located, StreamInfo

log = logging.getLogger(__name__)
#: Enough to hide the latency of a distant store; a seal is small.
_THREADS = 16
_STREAM_KEY = re.compile(r"[0-9a-f]{16}")


class StoredLog:
    """A :class:`pipeline.protocols.StreamLog` over the highest seal under ``prefix``.

    Nothing is read before the first call.  Kept in memory: the seal, the headers of at most 64
    parts, 16 decoded blocks; a cursor reads ahead 8 MiB more.  May be used by several threads.
    """

    def __init__(self, store: BlobStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._sealed: Sealed | None = None
        self._parts: PartSet | None = None

    def info(self, *, refresh: bool) -> StreamInfo:
        """Return what the seal says; with ``refresh`` a higher seal is looked for.

        Raises
        ------
        StreamNotFoundError
            The stream was never sealed.
        """
        if self._sealed is None or refresh:
            self._load()
        return self._seal().info

    def bounds(self) -> tuple[list[int], list[int]]:
        """Return per partition the first offset of the stream and the one behind its end."""
        info = self.info(refresh=False)
        return list(info.start.offsets), list(info.end_offsets or ())

    def cursor(self, start: Sequence[int] | None = None) -> StoredCursor:
        """Return a cursor at ``start``, by default at the stream's start."""
        starts, ends = self.bounds()
        if start is not None:
            if len(start) != len(starts):
                problem = f"{len(start)} offsets, the stream has {len(starts)} partitions"
                raise InvalidArgumentError("start", problem)
            starts = [max(*pair) for pair in zip(start, starts, strict=True)]
        return StoredCursor(self._part_set(), starts, ends)

    def find(self, number: int, *, timeout_s: float) -> Lookup:
        """Find the records of one frame: the index of a part, then one block."""
        partition = self.info(refresh=False).start.partition_of(number)
        records = self._part_set().find(partition, number)
        return Lookup(records=tuple(records), passed=True)

    def seek(self, number: int) -> list[int]:
        """Return start offsets such that no record of a frame >= ``number`` lies before them."""
        parts = self._part_set()
        return [parts.seek(partition, number) for partition in range(len(parts.starts))]

    def tail(self, *, timeout_s: float) -> list[Located]:
        """Return per partition its last segment."""
        parts = self._part_set()
        found = [parts.last_segment(partition) for partition in range(len(parts.starts))]
        return [record for record in found if record is not None]

    def close(self) -> None:
        """Let go of what was read; may be called twice."""
        self._parts = None

    def _load(self) -> None:
        sealed = load_highest(self._store, self._prefix)
        if self._sealed is None or sealed.key != self._sealed.key:
            self._sealed, self._parts = sealed, None

    def _seal(self) -> Sealed:
        if self._sealed is None:
            self._load()
        if self._sealed is None:
            raise StreamNotFoundError(self._prefix, where=self._store.url)
        return self._sealed

    def _part_set(self) -> PartSet:
        if self._parts is None:
            self._parts = self._seal().part_set(self._store)
        return self._parts


def discover(store: BlobStore, names: Names, beamtime: str | None = None) -> list[StreamInfo]:
    """Return the sealed streams of a store, oldest first; ``position`` counts them.

    What has no seal (half an export, a stream that runs) and what is not ours is left out; a seal
    that cannot be read is logged and left out.

    Raises
    ------
    StoreUnavailableError, StoreDeniedError
        The store cannot be listed.
    """
    buckets = [names.bucket(beamtime)] if beamtime is not None else store.folders("")
    ours = [bucket for bucket in buckets if names.beamtime_of_bucket(bucket) is not None]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="discover") as pool:
        detectors = [d for found in pool.map(lambda b: _below(store, f"{b}/"), ours) for d in found]
        folders = [f for found in pool.map(lambda d: _below(store, d), detectors) for f in found]
        streams = [f for f in folders if _STREAM_KEY.fullmatch(f.split("/")[-2])]
        infos = [info for info in pool.map(lambda f: _sealed(store, names, f), streams) if info]
    infos.sort(key=lambda info: (info.start.created_ns, info.start.stream_key))
    return [replace(info, position=position) for position, info in enumerate(infos)]


def _below(store: BlobStore, folder: str) -> list[str]:
    return [f"{folder}{name}/" for name in store.folders(folder)]


def _sealed(store: BlobStore, names: Names, prefix: str) -> StreamInfo | None:
    try:
        info = load_highest(store, prefix).info
    except StreamNotFoundError:
        return None
    except (WireError, BlobNotFoundError) as error:
        log.warning("stored stream cannot be read prefix=%s error=%s", prefix, error)
        return None
    start = info.start
    if names.stream_prefix(start.beamtime, start.detector, start.stream_key) != prefix:
        log.warning("stored stream lies where it does not belong prefix=%s", prefix)
        return None
    return info
