"""Frames that wait to be handed out, lowest number first, their payloads read ahead."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from pipeline.reading.fetch import Block, Fetcher, Window
from pipeline.reading.frame import Frame
from pipeline.sharing.assemble import Unit
from pipeline.sharing.progress import PartitionProgress, Taken, finish

#: Frames that may wait before no more are read: some thousand rows are a megabyte or two.
_MAX_FRAMES = 2000


@dataclass(slots=True, eq=False)
class Counts:
    """What a member did.

    ``void``: settled after the frame had gone to another member; ``filtered``: not delivered, by
    the group's expression; ``incomplete``: delivered without all their modules.
    """

    delivered: int = 0
    acknowledged: int = 0
    retried: int = 0
    rejected: int = 0
    void: int = 0
    filtered: int = 0
    incomplete: int = 0
    #: Payload bytes of the records that were taken in.
    received_nbytes: int = 0


@dataclass(slots=True, eq=False)
class Held:
    """A partition that is ours."""

    progress: PartitionProgress
    #: Deliveries that are in somebody's hand.
    in_hand: int = 0
    #: Nothing more is handed out of it: it is about to go.
    closing: bool = False
    #: It went to another member; what is still in hand has no effect.
    void: bool = False


@dataclass(slots=True, eq=False)
class Item:
    """A frame on its way to a member's hand: new (``unit``) or tried before (``frame``)."""

    number: int
    attempt: int
    held: Held
    unit: Unit | None = None
    frame: Frame | None = None
    taken: Taken | None = None

    def finish(self) -> None:
        """Flag the frame as done."""
        if self.unit is not None:
            self.unit.finish()
        if self.taken is not None:
            finish(self.taken, 0)


class Buffer:
    """Not thread-safe: the caller holds a lock.

    ``ahead``: payloads are read before they are asked for.
    """

    def __init__(self, fetcher: Fetcher, *, ahead: bool = True) -> None:
        self._limit_nbytes = fetcher.prefetch_nbytes
        self._window = Window(fetcher.prefetch_nbytes) if ahead else None
        self._heap: list[tuple[int, int, Item]] = []
        self._count = itertools.count()
        self._uses: dict[Block, int] = {}
        self._inline_nbytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def full(self) -> bool:
        """Whether no more should be read for now."""
        return len(self._heap) >= _MAX_FRAMES or self._inline_nbytes >= self._limit_nbytes

    @property
    def low(self) -> bool:
        """Whether reading should go on."""
        return len(self._heap) < _MAX_FRAMES // 2 and self._inline_nbytes <= self._limit_nbytes // 2

    def put(self, item: Item) -> None:
        """Take a frame in."""
        heapq.heappush(self._heap, (item.number, next(self._count), item))
        for part in item.unit.parts.values() if item.unit else ():
            uses = self._uses.get(part.block, 0)
            self._uses[part.block] = uses + 1
            if not uses:
                self._inline_nbytes += len(part.block.segment.inline)
                if self._window is not None:
                    self._window.add(item.number, part.block)

    def take(self) -> Item | None:
        """Return the next frame that is still ours to give."""
        while self._heap:
            item = heapq.heappop(self._heap)[2]
            self._release(item)
            if not (item.held.closing or item.held.void):
                return item
        return None

    def drop(self, held: Held) -> None:
        """Forget the frames of a partition that goes."""
        for _, _, item in self._heap:
            if item.held is held:
                self._release(item)
        self._heap = [entry for entry in self._heap if entry[2].held is not held]
        heapq.heapify(self._heap)

    def pump(self) -> None:
        """Begin to read as much ahead as there is room for."""
        if self._window is not None:
            self._window.pump()

    def _release(self, item: Item) -> None:
        for part in item.unit.parts.values() if item.unit else ():
            self._uses[part.block] -= 1
            if not self._uses[part.block]:
                del self._uses[part.block]
                self._inline_nbytes -= len(part.block.segment.inline)
                if self._window is not None:
                    self._window.release(part.block)
