"""A cursor over the parts of a manifest: in order within each partition, read ahead by ranges."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from pipeline.manifest.partset import Block, PartSet
from pipeline.protocols import BlobStore
from pipeline.records import Located

#: One ranged read fetches the blocks that follow too: a reader wants them next.
WINDOW_NBYTES = 1 << 20
#: Windows held at once; readers of many partitions go back and forth between a few.
_MAX_WINDOWS = 8


class StoredCursor:
    """A :class:`pipeline.protocols.Cursor` over parts; holds 8 MiB of them at most.

    Parameters
    ----------
    ends:
        Per partition where to stop; what the parts cover is all there is.
    """

    def __init__(self, parts: PartSet, starts: Sequence[int], ends: Sequence[int]) -> None:
        self._parts = parts
        self._ends = list(ends)
        self._positions = list(starts)
        self._paused: set[int] = set()
        self._next: dict[int, Block | None] = {}
        self._windows = _Windows(parts.store)

    def poll(self, timeout_s: float) -> list[Located]:
        """Return the next records, those with the lowest frame numbers first.

        At the end nothing can come any more; it then waits like any log, so that no caller spins.
        """
        while True:
            block = self._choose()
            if block is None:
                if timeout_s > 0:
                    time.sleep(timeout_s)
                return []
            records = self._take(block)
            if records:
                return records

    def exhausted(self) -> bool:
        """Return whether every partition was read to its end."""
        return all(self._at_end(partition) for partition in range(len(self._ends)))

    def positions(self) -> list[int]:
        """Return per partition the offset below which everything has been returned."""
        for partition in range(len(self._ends)):
            self._at_end(partition)
        return list(self._positions)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop returning records of these partitions."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with paused partitions."""
        self._paused.difference_update(partitions)

    def close(self) -> None:
        """Let go of what was read ahead; may be called twice."""
        self._windows.clear()

    def _choose(self) -> Block | None:
        blocks = [
            block
            for partition in range(len(self._ends))
            if partition not in self._paused and (block := self._peek(partition)) is not None
        ]
        # The lowest number first keeps small what a reader must hold to put frames in order.
        return min(blocks, key=lambda b: b.first_number) if blocks else None

    def _at_end(self, partition: int) -> bool:
        return self._positions[partition] >= self._ends[partition] or not self._peek(partition)

    def _peek(self, partition: int) -> Block | None:
        if self._positions[partition] >= self._ends[partition]:
            return None
        if partition not in self._next:
            self._next[partition] = self._parts.next_block(partition, self._positions[partition])
        block = self._next[partition]
        if block is None or int(block.row["first_offset"]) >= self._ends[partition]:
            self._positions[partition] = self._ends[partition]
            return None
        return block

    def _take(self, block: Block) -> list[Located]:
        partition = block.partition
        position, end = self._positions[partition], self._ends[partition]
        window = self._windows.of(block.span.part.key, block.span.part.nbytes)
        records = [r for r in block.read(window) if position <= r.offset < end]
        self._positions[partition] = min(block.last_offset + 1, block.span.stops[partition], end)
        del self._next[partition]
        return records


class _Windows:
    """Ranges of objects, read ahead; the least used go first."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._held: OrderedDict[tuple[str, int], memoryview] = OrderedDict()

    def of(self, key: str, nbytes: int) -> _Window:
        return _Window(self, key, nbytes)

    def clear(self) -> None:
        self._held.clear()

    def read(self, key: str, offset: int, length: int, total: int) -> memoryview:
        for (held_key, begin), data in self._held.items():
            if held_key == key and begin <= offset and offset + length <= begin + len(data):
                self._held.move_to_end((held_key, begin))
                return data[offset - begin : offset - begin + length]
        ahead = max(length, min(WINDOW_NBYTES, total - offset))
        data = self._store.get(key, offset, ahead)
        self._held[(key, offset)] = data
        while len(self._held) > _MAX_WINDOWS:
            self._held.popitem(last=False)
        return data[:length]


class _Window:
    """Reads ranges of one object of ``nbytes``."""

    def __init__(self, windows: _Windows, key: str, nbytes: int) -> None:
        self._windows = windows
        self._key = key
        self._nbytes = nbytes

    def __call__(self, offset: int, length: int) -> memoryview:
        return self._windows.read(self._key, offset, length, self._nbytes)
