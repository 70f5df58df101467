"""Frames on their way to becoming a segment: packed into one buffer, described by columns."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs.checksum import crc32c
from pipeline.frame import AttributeValue
from pipeline.records import Located, Segment
from pipeline.wire.columns import pack, unpack_row

Buffer1D = npt.NDArray[np.uint8]
Layout = tuple[tuple[int, ...], str, str, int]  # shape, dtype, encoding, module
#: A record may hold 900 kB; past this many bytes of columns a draft is closed. The rest is for
#: payloads inside the record and for what the attributes of the last frame may take.
MAX_COLUMNS_NBYTES = 750_000
ROW_NBYTES = 36
#: Guards the counts of drafts that share a buffer.
_SHARES = threading.Lock()


def digest_of(
    shape: tuple[int, ...], dtype: str, encoding: str, attributes: Mapping[str, AttributeValue]
) -> int:
    """Return the CRC-32C that tells whether two frames of one number say the same."""
    text = f"{shape}{dtype}{encoding}"
    if attributes:
        text += json.dumps(attributes, sort_keys=True)
    return crc32c(text.encode())


class BufferPool:
    """A bounded set of equal buffers, re-used: the publisher's memory, and its back-pressure.

    A frame larger than a buffer gets one of its own and counts as so many buffers as it is large,
    at most as all of them: then it is alone.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        self.nbytes = nbytes
        self._count = count
        self._left = count
        self._spare: list[Buffer1D] = []
        self._changed = threading.Condition()

    def _slots(self, nbytes: int) -> int:
        return min(self._count, max(1, -(-nbytes // self.nbytes)))

    def wait(self, timeout_s: float, nbytes: int) -> None:
        """Wait until there seems to be room."""
        slots = self._slots(nbytes)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= slots, timeout_s)

    @property
    def half_free(self) -> bool:
        """Whether those who take buffers are far ahead of those who fill them."""
        return self._left * 2 >= self._count

    def acquire(self, nbytes: int) -> Buffer1D | None:
        """Return a buffer of at least ``nbytes``, or None if there is no room."""
        slots = self._slots(nbytes)
        with self._changed:
            if self._left < slots:
                return None
            self._left -= slots
            if nbytes <= self.nbytes and self._spare:
                return self._spare.pop()
            # Unused buffers must not add to what a large frame takes.
            del self._spare[self._left :]
        return np.empty(max(nbytes, self.nbytes), np.uint8)

    def release(self, buffer: Buffer1D) -> None:
        """Give a buffer back."""
        with self._changed:
            self._left += self._slots(len(buffer))
            if len(buffer) == self.nbytes:
                self._spare.append(buffer)
            self._changed.notify()


@dataclass(slots=True, kw_only=True, eq=False)
class Draft:
    """Frames of one module and layout, rising numbers, payloads back to back in ``buffer``."""

    layout: Layout
    buffer: Buffer1D
    used: int = 0
    base: int = 0
    numbers: list[int] = field(default_factory=list)
    timestamps_ns: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    attributes: list[Mapping[str, AttributeValue]] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    attribute_nbytes: int = 0
    opened_s: float = 0.0
    #: How many drafts share the buffer; the last one gives it back.
    shares: list[int] = field(default_factory=lambda: [1])
    skipped: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    #: Set for what was taken under an earlier claim and waited in a spool.
    epoch: int | None = None
    #: The object that has the payloads already, among other things, and where in it they begin.
    blob: str = ""
    offsets: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers)

    def takes(self, layout: Layout, number: int, nbytes: int, attribute_nbytes: int) -> bool:
        """Whether one more frame fits."""
        record = (len(self.numbers) + 1) * ROW_NBYTES + self.attribute_nbytes + attribute_nbytes
        return (
            layout == self.layout
            and number > self.numbers[-1]
            and self.used + nbytes <= len(self.buffer)
            and record < MAX_COLUMNS_NBYTES
        )

    def add(
        self,
        payload: Buffer1D,
        *,
        number: int,
        timestamp_ns: int,
        attributes: Mapping[str, AttributeValue],
        digest: int,
        token: Any,
    ) -> int:
        """Copy one frame in; return its checksum."""
        end = self.used + len(payload)
        self.buffer[self.used : end] = payload
        # Of the copy: what is announced is what is stored, whatever the caller's buffer does.
        checksum = crc32c(self.buffer[self.used : end])
        self.used = end
        self.numbers.append(number)
        self.timestamps_ns.append(timestamp_ns)
        self.lengths.append(len(payload))
        self.checksums.append(checksum)
        self.digests.append(digest)
        self.attributes.append(attributes)
        self.tokens.append(token)
        return checksum

    def returned(self) -> bool:
        """Note that this draft does not need the buffer any more; True if it was the last."""
        with _SHARES:
            self.shares[0] -= 1
            return self.shares[0] == 0

    @property
    def payload(self) -> memoryview:
        """The bytes of all payloads."""
        return self.buffer[self.base : self.base + self.used].data

    def split(self, frames_per_chunk: int) -> list[Draft]:
        """Return drafts none of which crosses a chunk; they share the buffer."""
        chunks = [number // frames_per_chunk for number in self.numbers]
        cuts = [0, *(i for i in range(1, len(chunks)) if chunks[i] != chunks[i - 1]), len(chunks)]
        if len(cuts) == 2:
            return [self]
        self.shares[0] += len(cuts) - 2
        return [self._slice(a, b) for a, b in pairwise(cuts)]

    def _slice(self, first: int, last: int) -> Draft:
        return Draft(
            layout=self.layout,
            buffer=self.buffer,
            base=self.base + sum(self.lengths[:first]),
            used=sum(self.lengths[first:last]),
            shares=self.shares,
            epoch=self.epoch,
            opened_s=self.opened_s,
            **{name: getattr(self, name)[first:last] for name in _PER_FRAME},
        )

    def segment(
        self,
        *,
        stream_key: bytes,
        epoch: int,
        floor: int,
        ceil: int,
        blob: str,
        inline: bytes,
        member: str = "",
        generation: int = 0,
    ) -> Segment:
        """Return the record that announces this draft."""
        shape, dtype, encoding, module = self.layout
        columns, extra = pack(self.attributes)
        lengths = np.array(self.lengths, dtype=np.int64)
        return Segment(
            stream_key=stream_key,
            epoch=self.epoch if self.epoch is not None else epoch,
            module=module,
            floor=floor,
            ceil=ceil,
            shape=shape,
            dtype=dtype,
            encoding=encoding,
            blob=blob,
            inline=inline,
            numbers=np.array(self.numbers, dtype=np.int64),
            timestamps_ns=np.array(self.timestamps_ns, dtype=np.int64),
            offsets=np.array(self.offsets) if self.blob else np.cumsum(lengths) - lengths,
            lengths=lengths.astype(np.uint32),
            checksums=np.array(self.checksums, dtype=np.uint32),
            digests=np.array(self.digests, dtype=np.uint32),
            columns=columns,
            extra=tuple(extra),
            member=member,
            generation=generation,
            skipped=np.array(self.skipped, dtype=np.int64),
            rejected=np.array(self.rejected, dtype=np.int64),
        )


_PER_FRAME = (
    "numbers",
    "timestamps_ns",
    "lengths",
    "checksums",
    "digests",
    "attributes",
    "tokens",
)


def draft_of(segment: Segment, payload: memoryview) -> Draft:
    """Return the draft that a spooled segment was made from; ``payload`` is used, not copied."""
    count = len(segment)
    return Draft(
        layout=(segment.shape, segment.dtype, segment.encoding, segment.module),
        buffer=np.frombuffer(payload, dtype=np.uint8),
        used=len(payload),
        numbers=segment.numbers.tolist(),
        timestamps_ns=segment.timestamps_ns.tolist(),
        lengths=segment.lengths.tolist(),
        checksums=segment.checksums.tolist(),
        digests=segment.digests.tolist(),
        attributes=[unpack_row(segment.columns, segment.extra, row) for row in range(count)],
        tokens=[None] * count,
        skipped=segment.skipped.tolist(),
        rejected=segment.rejected.tolist(),
        epoch=segment.epoch,
    )


def known_frames(records: list[Located], module: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, length, checksum, digest) of a module's frames in ``records``."""
    for located in records:
        segment = located.value
        if isinstance(segment, Segment) and segment.module == module:
            yield from zip(
                segment.numbers.tolist(),
                segment.lengths.tolist(),
                segment.checksums.tolist(),
                segment.digests.tolist(),
                strict=True,
            )
