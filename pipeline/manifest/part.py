"""One part of a manifest: what it is, and how it is put together from records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline import naming
from pipeline.codecs.checksum import crc32c
from pipeline.manifest import index
from pipeline.manifest.container import SYNC_NBYTES, block_bytes, header_bytes
from pipeline.manifest.rows import encode_located, row_schema
from pipeline.records import Located, Mark, Segment

#: A block is what one ranged read fetches: large enough for reading through (64 records are 64
#: frames at least), small enough to unpack for one frame (64 KiB take 0.3 ms).
BLOCK_RECORDS = 64
BLOCK_NBYTES = 64 * 1024
PART_ENTRY = "lichtstrom.part"
INDEX_ENTRY = "lichtstrom.index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a seal says about one part; the tuples have a value per partition.

    Parameters
    ----------
    key:
        Of the object, ``nbytes`` long.
    header_nbytes, header_sha256:
        Length and digest of what lies before the first block; the index is in there, and it has
        a checksum of each block, so the digest vouches for the whole part.
    starts, stops:
        The part holds the stream's records of these offsets, ``stops`` exclusive.
    first_numbers, last_numbers:
        Lowest and highest frame number, -1 without frames.
    """

    key: str
    epoch: int
    nonce: str
    part: int
    nbytes: int
    header_nbytes: int
    header_sha256: bytes
    records: int
    frames: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    first_numbers: tuple[int, ...]
    last_numbers: tuple[int, ...]

    def entry(self) -> dict[str, Any]:
        """Return the part as the seal's schema has it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class _OpenBlock:
    rows: list[bytes] = field(default_factory=list)
    nbytes: int = 0
    first_offset: int = 0
    last_offset: int = 0
    first_number: int = index.NO_NUMBER
    last_number: int = index.NO_NUMBER


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPart:
    """A part ready to be written: payloads first, then the part that points at them."""

    part: Part
    content: list[bytes]
    packed_key: str
    packed: list[bytes]


def packed_key(key: str) -> str:
    """Return the key of the object with the small payloads of the part ``key``."""
    return key.removesuffix(".avro") + ".bin"


class PartBuilder:
    """Collects records of all partitions and makes a part of them; holds it in memory.

    Parameters
    ----------
    prefix:
        What the keys of the stream's blobs begin with.
    starts:
        Per partition the first offset that this part covers.
    """

    def __init__(
        self, *, prefix: str, epoch: int, nonce: str, part: int, starts: Sequence[int]
    ) -> None:
        self.key = naming.part_key(prefix, epoch=epoch, nonce=nonce, part=part)
        self._names: dict[str, Any] = {"epoch": epoch, "nonce": nonce, "part": part}
        self._starts = tuple(starts)
        # Any 16 bytes that do not occur by chance; of the unique key, so that writing the same
        # part again writes the same bytes.
        self._sync = hashlib.sha256(self.key.encode()).digest()[:SYNC_NBYTES]
        self._open: dict[int, _OpenBlock] = {}
        self._blocks: list[bytes] = []
        self._rows: list[tuple[int, ...]] = []
        self._position = 0
        self._packed: list[bytes] = []
        self._packed_nbytes = 0
        self.frames = 0
        self.records = 0
        #: Bytes of all records and payloads taken so far, not compressed.
        self.nbytes = 0

    def add(self, found: Located) -> None:
        """Take one record; those of one partition come in the order of their offsets."""
        value = found.value
        if isinstance(value, Segment) and value.inline:
            value = self._pack(value)
        row = encode_located(found, value)
        block = self._open.setdefault(found.partition, _OpenBlock(first_offset=found.offset))
        block.rows.append(row)
        block.nbytes += len(row)
        block.last_offset = found.offset
        if isinstance(value, Segment) and len(value):
            _widen(block, int(value.numbers[0]), int(value.numbers[-1]))
            self.frames += len(value)
        self.records += 1
        self.nbytes += len(row)
        if block.nbytes >= BLOCK_NBYTES or len(block.rows) >= BLOCK_RECORDS:
            self._close(found.partition)

    def finish(self, stops: Sequence[int]) -> BuiltPart:
        """Return the part, which covers everything below ``stops``."""
        for partition in sorted(self._open):
            self._close(partition)
        blocks = np.array(self._rows, dtype=index.BLOCK)
        facts = {**self._names, "records": self.records, "frames": self.frames}
        spans = {"starts": self._starts, "stops": tuple(stops)}
        header = header_bytes(
            row_schema(),
            sync=self._sync,
            metadata={
                PART_ENTRY: json.dumps({**facts, **spans}).encode(),
                INDEX_ENTRY: index.pack(blocks),
            },
        )
        return BuiltPart(
            part=describe(self.key, header, self._position, {**facts, **spans}, blocks),
            content=[header, *self._blocks],
            packed_key=packed_key(self.key),
            packed=self._packed,
        )

    def _pack(self, segment: Segment) -> Segment:
        """Move the payloads of a record into the object beside the part."""
        base = self._packed_nbytes
        self._packed.append(segment.inline)
        self._packed_nbytes += len(segment.inline)
        self.nbytes += len(segment.inline)
        blob = packed_key(self.key)
        return replace(segment, inline=b"", blob=blob, offsets=segment.offsets + base)

    def _close(self, partition: int) -> None:
        block = self._open.pop(partition)
        data = block_bytes(block.rows, sync=self._sync)
        self._blocks.append(data)
        self._rows.append(
            (
                partition,
                len(block.rows),
                self._position,
                len(data),
                crc32c(data),
                block.first_offset,
                block.last_offset,
                block.first_number,
                block.last_number,
            )
        )
        self._position += len(data)


def describe(
    key: str, header: bytes | memoryview, body_nbytes: int, facts: Mapping[str, Any], blocks: Any
) -> Part:
    """Return what there is to know about a part from its header and index."""
    firsts, lasts = index.number_ranges(blocks, len(facts["starts"]))
    return Part(
        key=key,
        epoch=facts["epoch"],
        nonce=facts["nonce"],
        part=facts["part"],
        nbytes=len(header) + body_nbytes,
        header_nbytes=len(header),
        header_sha256=hashlib.sha256(header).digest(),
        records=facts["records"],
        frames=facts["frames"],
        starts=tuple(facts["starts"]),
        stops=tuple(facts["stops"]),
        first_numbers=tuple(firsts),
        last_numbers=tuple(lasts),
    )


def _widen(block: _OpenBlock, first: int, last: int) -> None:
    empty = block.first_number == index.NO_NUMBER
    block.first_number = first if empty else min(block.first_number, first)
    block.last_number = max(block.last_number, last)


class MarkFilter:
    """Says which marks a manifest keeps: those that merging and counting need.

    An idle writer sends a mark each second; one that says nothing new is left out.  Claims and
    closings stay, since a copy behind a newer epoch's mark loses to the newer writer's.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[int, int, int, str], tuple[int, int]] = {}

    def keep(self, found: Located) -> bool:
        """Return whether to keep a record; call it for all of a partition, in order."""
        value = found.value
        writer = (found.partition, value.epoch, value.module, value.member)
        said = self._said.get(writer)
        now = (value.floor, value.ceil)
        self._said[writer] = now
        if not isinstance(value, Mark) or value.kind != "idle":
            return True
        return bool(len(value.skipped) or len(value.rejected)) or now != said
