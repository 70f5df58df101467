"""A stream's log in memory: the fake that passes the suite of the real ones, and builders."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import ClosedError
from pipeline.frame import Module
from pipeline.protocols import Lookup
from pipeline.reading.merge import Floors
from pipeline.records import (
    NO_CEIL,
    NO_FLOOR,
    End,
    Located,
    Mark,
    ModuleState,
    Segment,
    Start,
    State,
    StreamInfo,
)
from pipeline.wire.columns import pack

STREAM_KEY = bytes(range(8))


def make_start(
    *,
    partitions: int = 1,
    frames_per_chunk: int = 1,
    modules: tuple[Module, ...] = (),
    expected: int | None = None,
    **other: Any,
) -> Start:
    """Return the start record of a stream ``test/detector/scan_1``."""
    return Start(
        **{
            "stream_key": STREAM_KEY,
            "beamtime": "test",
            "detector": "detector",
            "stream": "scan_1",
            "created_ns": 1,
            "partitions": partitions,
            "frames_per_chunk": frames_per_chunk,
            "offsets": (0,) * partitions,
            "modules": modules,
            "expected": expected,
            **other,
        }
    )


def make_segment(
    numbers: Sequence[int],
    *,
    payloads: Sequence[bytes] | None = None,
    attributes: Sequence[Mapping[str, Any]] | None = None,
    blob: str = "",
    floor: int = NO_FLOOR,
    ceil: int | None = None,
    epoch: int = 1,
    module: int = 0,
    shape: tuple[int, ...] | None = None,
    dtype: str = "uint8",
    encoding: str | None = None,
    timestamps_ns: Sequence[int] | None = None,
    digests: Sequence[int] | None = None,
    stream_key: bytes = STREAM_KEY,
    **other: Any,
) -> Segment:
    """Return a segment; without ``payloads`` its frames have no pixels.

    Payloads travel in the record unless ``blob`` names the object that holds them back to back.
    """
    data = list(payloads) if payloads is not None else [b""] * len(numbers)
    lengths = np.array([len(p) for p in data], np.uint32)
    columns, extra = pack(attributes or [])
    if shape is None:
        shape = (len(data[0]),) if payloads is not None and data else ()
    ends = np.cumsum(lengths, dtype=np.int64)
    return Segment(
        stream_key=stream_key,
        epoch=epoch,
        module=module,
        floor=floor,
        ceil=max(numbers, default=NO_CEIL) if ceil is None else ceil,
        shape=shape,
        dtype=dtype,
        encoding=encoding or ("none" if shape == () else "raw"),
        blob=blob,
        inline=b"" if blob else b"".join(data),
        numbers=np.array(numbers, np.int64),
        timestamps_ns=np.array(timestamps_ns or [n * 1_000_000 for n in numbers], np.int64),
        offsets=ends - lengths,
        lengths=lengths,
        checksums=np.array([crc32c(p) for p in data], np.uint32),
        digests=np.array(digests or [7] * len(numbers), np.uint32),
        columns=columns,
        extra=tuple(extra),
        **other,
    )


def make_mark(
    kind: str = "idle",
    *,
    floor: int = NO_FLOOR,
    ceil: int = NO_CEIL,
    epoch: int = 1,
    module: int = 0,
    **other: Any,
) -> Mark:
    """Return a mark of a writer."""
    return Mark(
        **{
            "stream_key": STREAM_KEY,
            "epoch": epoch,
            "module": module,
            "floor": floor,
            "ceil": ceil,
            "nonce": "00000000",
            "kind": kind,
            **other,
        }
    )


class MemoryLog:
    """A :class:`pipeline.protocols.StreamLog` whose records are appended by the test.

    Everything may be called from several threads; waiting cursors wake up at once.
    """

    def __init__(self, start: Start | None = None, *, clock_ms: int = 0) -> None:
        self._info = StreamInfo(start=start or make_start())
        self._changed = threading.Condition()
        self._partitions: list[list[Located]] = [[] for _ in range(self.start.partitions)]
        self._clock_ms = clock_ms
        self._closed = False
        #: How often ``info`` was asked to look: readers must not do so without need.
        self.looks = 0

    @property
    def start(self) -> Start:
        """The stream's start record."""
        return self._info.start

    # -- writing ----------------------------------------------------------------------------------

    def append(self, partition: int, value: Segment | Mark) -> Located:
        """Add one record at the end of a partition."""
        with self._changed:
            records = self._partitions[partition]
            self._clock_ms += 1
            located = Located(
                partition=partition,
                offset=len(records),
                timestamp_ms=self._clock_ms,
                value=value,
            )
            records.append(located)
            self._changed.notify_all()
        return located

    def write(self, numbers: Sequence[int], **fields: Any) -> list[Located]:
        """Add segments of ``numbers``, cut where chunks end; fields as in :func:`make_segment`.

        Sequences of one value per frame (payloads, attributes, ...) are cut with them.
        """
        runs: list[list[int]] = []
        chunk = self.start.frames_per_chunk
        for row, number in enumerate(numbers):
            if runs and numbers[runs[-1][-1]] // chunk == number // chunk:
                runs[-1].append(row)
            else:
                runs.append([row])
        per_frame = ("payloads", "attributes", "timestamps_ns", "digests")
        found = []
        for rows in runs:
            cut: dict[str, Any] = {
                k: [v[r] for r in rows] if k in per_frame and v is not None else v
                for k, v in fields.items()
            }
            segment = make_segment([numbers[r] for r in rows], **cut)
            found.append(self.append(self.start.partition_of(numbers[rows[0]]), segment))
        return found

    def mark(self, kind: str = "idle", **fields: Any) -> None:
        """Add a mark to every partition."""
        for partition in range(self.start.partitions):
            self.append(partition, make_mark(kind, **fields))

    def end(
        self, state: State = "complete", *, expected: int | None = None, account: Any = None
    ) -> None:
        """End all modules of the stream here."""
        with self._changed:
            offsets = tuple(len(records) for records in self._partitions)
            modules = {}
            for module in self.start.module_indices:
                end = End(
                    stream_key=self.start.stream_key,
                    module=module,
                    epoch=1,
                    nonce="00000000",
                    state=state,
                    offsets=offsets,
                    expected=expected,
                    account=json.loads(json.dumps(account or {})),
                )
                modules[module] = ModuleState(end=end)
            self._info = replace(self._info, modules=modules)
            self._changed.notify_all()

    def change(self, **fields: Any) -> None:
        """Change what the catalogue says (attachments, metadata, quarantined, ...)."""
        with self._changed:
            self._info = replace(self._info, **fields)

    # -- reading ----------------------------------------------------------------------------------

    def info(self, *, refresh: bool) -> StreamInfo:
        """Return what the catalogue says."""
        self._check()
        self.looks += refresh
        return self._info

    def bounds(self) -> tuple[list[int], list[int]]:
        """Return per partition the first and the next offset."""
        self._check()
        ends = self._info.end_offsets
        high = [len(p) for p in self._partitions] if ends is None else list(ends)
        return list(self.start.offsets), high

    def cursor(self, start: Sequence[int] | None = None) -> MemoryCursor:
        """Return a cursor at ``start``."""
        self._check()
        return MemoryCursor(self._partitions, self._changed, start or self.start.offsets)

    def find(self, number: int, *, timeout_s: float) -> Lookup:
        """Find the records of one frame."""
        self._check()
        floors = Floors(self.start)
        found = []
        with self._changed:
            for located in self._partitions[self.start.partition_of(number)]:
                floors.observe(located)
                if isinstance(located.value, Segment) and number in located.value.numbers:
                    found.append(located)
        return Lookup(records=tuple(found), passed=floors.passed(number))

    def seek(self, number: int) -> list[int]:
        """Return offsets before which no record of a frame >= ``number`` lies."""
        self._check()
        offsets = []
        with self._changed:
            for records in self._partitions:
                hit = (r.offset for r in records if r.value.ceil >= number and _reaches(r, number))
                offsets.append(next(hit, len(records)))
        return offsets

    def tail(self, *, timeout_s: float) -> list[Located]:
        """Return the last segment of each partition."""
        self._check()
        with self._changed:
            last = [next(filter(_has_frames, reversed(p)), None) for p in self._partitions]
        return [located for located in last if located is not None]

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the log is closed")


def _has_frames(located: Located) -> bool:
    return isinstance(located.value, Segment) and len(located.value) > 0


def _reaches(located: Located, number: int) -> bool:
    return isinstance(located.value, Segment) and bool((located.value.numbers >= number).any())


class MemoryCursor:
    """A :class:`pipeline.protocols.Cursor` over the lists of a :class:`MemoryLog`."""

    #: Records returned at once, small enough that readers see several batches.
    batch = 100

    def __init__(
        self, partitions: list[list[Located]], changed: threading.Condition, start: Sequence[int]
    ) -> None:
        self._partitions = partitions
        self._changed = changed
        self._positions = list(start)
        self._paused: set[int] = set()
        self._turn = 0
        self.closed = False

    def poll(self, timeout_s: float) -> list[Located]:
        """Return the next records."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self.closed:
                    raise ClosedError("the cursor is closed")
                found = self._take()
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(left)

    def _take(self) -> list[Located]:
        found: list[Located] = []
        count = len(self._partitions)
        for step in range(count):  # another partition first each time, as brokers do
            partition = (self._turn + step) % count
            if partition not in self._paused:
                position = self._positions[partition]
                records = self._partitions[partition][position : position + self.batch]
                self._positions[partition] += len(records)
                found += records
        self._turn += 1
        return found

    def positions(self) -> list[int]:
        """Return the next offset of each partition."""
        return list(self._positions)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop returning records of these partitions."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with paused partitions."""
        self._paused.difference_update(partitions)

    def close(self) -> None:
        """Refuse further polls."""
        self.closed = True
