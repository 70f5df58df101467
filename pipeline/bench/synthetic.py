"""Streams made of records alone: millions of frames that share a few objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import PipelineError
from pipeline.kafka.producer import Acknowledged
from pipeline.naming import StreamId, new_nonce, new_stream_key, record_key
from pipeline.publishing import claims
from pipeline.publishing.draft import digest_of
from pipeline.records import Column, Segment, Start, StreamInfo
from pipeline.services import Services
from pipeline.wire import codec

SHAPE = (128, 256)
FRAME_NBYTES = 65536
PER_SEGMENT = 128
#: Frames of one shared object: 128 MiB.
_PER_OBJECT = 2048
_Layout = tuple[tuple[int, ...], str, str]
_PIXELS: _Layout = (SHAPE, "uint16", "raw")
_ATTRIBUTES: _Layout = ((), "uint8", "none")
_FLUSH_S = 120.0


@dataclass(kw_only=True)
class Pixels:
    """Objects that hold ``slots`` different frames; frame n shows slot n modulo that."""

    services: Services
    bucket: str
    slots: int

    def write(self) -> None:
        """Make the objects."""
        noise = np.random.default_rng(0).integers(0, 2**64, (_PER_OBJECT, 8192), np.uint64)
        for first in range(0, self.slots, _PER_OBJECT):
            noise[:, 0] = np.arange(first, first + _PER_OBJECT)
            self.checksums[first : first + _PER_OBJECT] = [crc32c(frame.data) for frame in noise]
            key = self.key(first)
            self.services.store.put(key, [noise], durability="process")

    @cached_property
    def checksums(self) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        """CRC-32C of each slot's frame."""
        return np.zeros(self.slots, np.uint32)

    def key(self, slot: int) -> str:
        """Return the key of the object that holds a slot."""
        return f"{self.bucket}/shared/{slot // _PER_OBJECT:04d}.bin"

    def offset(self, slot: int) -> int:
        """Return where a slot's frame begins in its object."""
        return slot % _PER_OBJECT * FRAME_NBYTES


def publish_records(
    services: Services, name: StreamId, count: int, pixels: Pixels | None, *, partitions: int = 8
) -> StreamInfo:
    """Start a stream and append the records of ``count`` frames; it stays open.

    Without ``pixels`` the frames have attributes only: ``omega``, ``exposure``.
    """
    claims.create_beamtime(services, name.beamtime, name.detector, partitions=partitions)
    start = Start(
        stream_key=new_stream_key(),
        beamtime=name.beamtime,
        detector=name.detector,
        stream=name.stream,
        created_ns=time.time_ns(),
        partitions=partitions,
        frames_per_chunk=PER_SEGMENT,
        offsets=(),
        writer=claims.holder(),
        nonce=new_nonce(),
    )
    info = claims.find_or_start(services, start)
    claim = claims.claim(services, info, 0)
    claims.resume(services, info, claim)
    topic = services.names.topic(name.beamtime, name.detector)
    sent = _Sent()
    for segment in _segments(info, claim.epoch, count, pixels):
        first = int(segment.numbers[0])
        key, partition = record_key(segment.stream_key, first), info.start.partition_of(first)
        services.producer.append(topic, partition, key, codec.encode(segment), sent.note)
        sent.expected += 1
    sent.wait()
    return info


def _segments(info: StreamInfo, epoch: int, count: int, pixels: Pixels | None) -> Iterator[Segment]:
    now_ns = time.time_ns()
    rows = np.arange(PER_SEGMENT)
    nbytes = FRAME_NBYTES if pixels is not None else 0
    layout = _PIXELS if pixels is not None else _ATTRIBUTES
    digest = digest_of(*layout, {})
    for first in range(0, count, PER_SEGMENT):
        numbers = first + rows[: count - first]
        here = len(numbers)
        slot = first % pixels.slots if pixels is not None else 0
        checksums = np.zeros(here, np.uint32)
        if pixels is not None:
            checksums = pixels.checksums[slot : slot + here]
        base = pixels.offset(slot) if pixels is not None else 0
        yield Segment(
            stream_key=info.start.stream_key,
            epoch=epoch,
            module=0,
            floor=first,
            ceil=int(numbers[-1]),
            shape=layout[0],
            dtype=layout[1],
            encoding=layout[2],
            blob=pixels.key(slot) if pixels is not None else "",
            inline=b"",
            numbers=numbers,
            timestamps_ns=now_ns + numbers * 1_000_000,
            offsets=base + rows[:here] * nbytes,
            lengths=np.full(here, nbytes, np.uint32),
            checksums=checksums,
            digests=np.full(here, digest, np.uint32),
            columns=() if pixels is not None else _columns(numbers),
        )


def _columns(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Column, ...]:
    return (
        Column(name="omega", kind="float64", values=(numbers * 0.1 % 360.0).astype(np.float64)),
        Column(name="exposure", kind="int64", values=numbers % 7),
    )


class _Sent:
    """Counts acknowledgements."""

    def __init__(self) -> None:
        self.expected = 0
        self._count = 0
        self._failure: PipelineError | None = None
        self._changed = threading.Condition()

    def note(self, outcome: Acknowledged | PipelineError) -> None:
        with self._changed:
            self._count += 1
            if isinstance(outcome, PipelineError):
                self._failure = self._failure or outcome
            self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._count == self.expected, _FLUSH_S):
                raise PipelineError(f"{self.expected - self._count} records not acknowledged")
            if self._failure is not None:
                raise self._failure
