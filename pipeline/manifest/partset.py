"""The parts of one stream, seen as a log: search by number, next block by offset.

Writers that knew nothing of each other may have written parts that overlap, and a part may be
known to the catalogue while the one before it is not.  Taken in order, each part contributes the
offsets behind those already covered; one that begins behind a hole is left out, since what is
between is not in the manifest.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import BlobNotFoundError, WireError
from pipeline.manifest import index
from pipeline.manifest.part import Part
from pipeline.manifest.partfile import PartFile, Read, find_part, open_part
from pipeline.manifest.rows import decode_located, row_holds
from pipeline.protocols import BlobStore
from pipeline.records import NO_CEIL, NO_FLOOR, Located, ManifestRef, Segment

log = logging.getLogger(__name__)
#: Headers kept in memory, some 60 kB each.
_MAX_HEADERS = 64
#: Unpacked blocks kept for single lookups, some 200 kB each at most.
_MAX_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Span:
    """A part and the offsets per partition for which it is read."""

    part: Part
    starts: tuple[int, ...]
    stops: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a part; ``row`` is its entry in the index."""

    span: Span
    file: PartFile
    row: Any

    @property
    def partition(self) -> int:
        """The partition of all its records."""
        return int(self.row["partition"])

    @property
    def last_offset(self) -> int:
        """The offset of its last record."""
        return int(self.row["last_offset"])

    @property
    def first_number(self) -> int:
        """Its lowest frame number, -1 if it has marks only."""
        return int(self.row["first_number"])

    def read(self, read: Read) -> list[Located]:
        """Return its records as far as the span reaches."""
        start, stop = self.span.starts[self.partition], self.span.stops[self.partition]
        records = self.file.read(self.row, read)
        return [record for record in records if start <= record.offset < stop]


class PartSet:
    """The records that a stream's parts hold.  May be used by several threads.

    Parameters
    ----------
    starts:
        Per partition the offset where the stream begins.
    """

    def __init__(self, store: BlobStore, starts: Sequence[int]) -> None:
        self.store = store
        self.spans: list[Span] = []
        #: Per partition the offset below which everything is in the parts.
        self.covered: list[int] = list(starts)
        self.starts = tuple(starts)
        self._files: OrderedDict[str, PartFile] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, int], list[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def frames(self) -> int:
        """Frames in all parts, copies counted."""
        return sum(span.part.frames for span in self.spans)

    def add(self, part: Part) -> bool:
        """Take the next part; return False if it adds nothing or begins behind a hole."""
        if len(part.starts) != len(self.covered):
            raise WireError(
                f"part of {len(part.starts)} partitions, the stream has {len(self.covered)}",
                where=part.key,
            )
        pairs = list(zip(part.starts, part.stops, self.covered, strict=True))
        if any(start > covered for start, _, covered in pairs):
            log.warning("manifest part begins behind a hole, not used key=%s", part.key)
            return False
        if all(stop <= covered for _, stop, covered in pairs):
            return False
        starts = tuple(self.covered)
        self.covered = [max(stop, covered) for _, stop, covered in pairs]
        self.spans.append(Span(part, starts, tuple(self.covered)))
        return True

    def add_refs(self, refs: Iterable[ManifestRef]) -> None:
        """Take the parts that the catalogue names; what cannot be read covers nothing."""
        known = {span.part.key for span in self.spans}
        for ref in refs:
            if ref.key in known or ref.part < 0:
                continue
            try:
                file = find_part(self.store, ref.key)
                added = self.add(file.part)
            except (BlobNotFoundError, WireError) as error:
                log.warning("manifest part cannot be read key=%s error=%s", ref.key, error)
                continue
            if added:
                self._remember(file)

    def next_block(self, partition: int, offset: int) -> Block | None:
        """Return the block with the first record at or behind ``offset``, None at the end."""
        for span in self.spans:
            start, stop = span.starts[partition], span.stops[partition]
            if stop <= offset or start == stop:
                continue
            file = self._file(span.part)
            rows = file.blocks.get(partition)
            if rows is None:
                continue
            at = int(np.searchsorted(rows["last_offset"], max(start, offset)))
            if at < len(rows) and rows[at]["first_offset"] < stop:
                return Block(span, file, rows[at])
        return None

    def find(self, partition: int, number: int) -> list[Located]:
        """Return the segments that hold frame ``number``, in log order."""
        found: list[Located] = []
        for span in self.spans:
            part = span.part
            first, last = part.first_numbers[partition], part.last_numbers[partition]
            if first == index.NO_NUMBER or not first <= number <= last:
                continue
            file = self._file(part)
            rows = file.blocks[partition]
            hit = (rows["first_number"] <= number) & (rows["last_number"] >= number)
            for row in rows[hit]:
                rows_of_block = self._cached(Block(span, file, row))
                found += _decoded(span, [r for r in rows_of_block if row_holds(r, number)])
        return found

    def seek(self, partition: int, number: int) -> int:
        """Return an offset before which no record of a frame >= ``number`` lies."""
        for span in self.spans:
            if span.part.last_numbers[partition] < number:
                continue
            rows = self._file(span.part).blocks[partition]
            rows = rows[(rows["last_number"] >= number) & (rows["last_number"] != index.NO_NUMBER)]
            if len(rows) and rows[0]["first_offset"] < span.stops[partition]:
                return max(int(rows[0]["first_offset"]), span.starts[partition])
        return self.covered[partition]

    def last_segment(self, partition: int) -> Located | None:
        """Return the last segment with frames of a partition, None if it has none."""
        for span in reversed(self.spans):
            if span.part.last_numbers[partition] == index.NO_NUMBER:
                continue
            for block in self._backwards(span, partition):
                for row in reversed(self._cached(block)):
                    for record in _decoded(span, [row]):
                        if isinstance(record.value, Segment) and len(record.value):
                            return record
        return None

    def progress(self, partition: int, module: int) -> tuple[int, int]:
        """Return the highest floor and ceil that a module's writers had shown at the end."""
        for span in reversed(self.spans):
            for block in self._backwards(span, partition, marks=True):
                records = _decoded(span, self._cached(block))
                ours = [r.value for r in records if r.value.module == module]
                if ours:
                    return max(v.floor for v in ours), max(v.ceil for v in ours)
        return NO_FLOOR, NO_CEIL

    def _backwards(self, span: Span, partition: int, *, marks: bool = False) -> Iterator[Block]:
        file = self._file(span.part)
        rows = file.blocks.get(partition)
        if rows is None:
            return
        if not marks:
            rows = rows[rows["last_number"] != index.NO_NUMBER]
        for row in rows[::-1]:
            yield Block(span, file, row)

    def _file(self, part: Part) -> PartFile:
        with self._lock:
            if part.key in self._files:
                self._files.move_to_end(part.key)
                return self._files[part.key]
        file = open_part(self.store, part)
        self._remember(file)
        return file

    def _remember(self, file: PartFile) -> None:
        with self._lock:
            self._files[file.part.key] = file
            while len(self._files) > _MAX_HEADERS:
                self._files.popitem(last=False)

    def _cached(self, block: Block) -> list[dict[str, Any]]:
        key = (block.span.part.key, int(block.row["position"]))
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        part = block.span.part
        rows = block.file.rows(
            block.row, lambda offset, nbytes: self.store.get(part.key, offset, nbytes)
        )
        with self._lock:
            self._blocks[key] = rows
            while len(self._blocks) > _MAX_BLOCKS:
                self._blocks.popitem(last=False)
        return rows


def _decoded(span: Span, rows: list[dict[str, Any]]) -> list[Located]:
    """Return the records of those rows that the span includes."""
    records = decode_located(rows, where=span.part.key)
    return [r for r in records if span.starts[r.partition] <= r.offset < span.stops[r.partition]]
