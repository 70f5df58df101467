"""Getting payloads: one ranged read for the frames of a segment, some of them ahead of time."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from pipeline.codecs.checksum import crc32c
from pipeline.errors import ChecksumError, ClosedError
from pipeline.frame import AttributeValue, Module
from pipeline.naming import StreamId
from pipeline.protocols import BlobStore
from pipeline.records import Segment

_NOTHING = memoryview(b"")
#: A segment is read as a whole unless this many times its payload would be read (foreign files,
#: where the chunks of other images lie in between).
_MAX_WASTE = 1.5


@dataclass(frozen=True, slots=True)
class Origin:
    """What all frames of a stream have in common, for one way of reading.

    ``least`` is how many modules a frame must have to have an image; None for all of them.
    """

    stream: StreamId
    modules: tuple[Module, ...] = ()
    least: int | None = None


class Beside(Protocol):
    """Attributes that rows of a segment have from elsewhere."""

    def row(self, row: int) -> Mapping[str, AttributeValue]:
        """Return a row's attributes."""
        ...


class Block:
    """The payloads of a segment, or of some of its rows: read once, shared by the frames.

    Nothing is read before a frame asks or a :class:`Window` has it read ahead.  An error of the
    store is raised to the frame that needs the bytes, and the next one that asks tries again.
    """

    __slots__ = (
        "_begin",
        "_data",
        "_end",
        "_fetcher",
        "_future",
        "_lock",
        "_reload",
        "appended_ms",
        "joined",
        "origin",
        "segment",
    )

    def __init__(
        self,
        fetcher: Fetcher,
        origin: Origin,
        segment: Segment,
        rows: slice | None = None,
        reload: Callable[[], Segment] | None = None,
    ) -> None:
        self.segment = segment
        self.origin = origin
        #: When its record was appended, by the broker's clock; 0 where nobody has said so.
        self.appended_ms = 0
        #: What other streams say about the rows.
        self.joined: Beside | None = None
        self._reload = reload
        self._fetcher = fetcher
        self._lock = threading.Lock()
        self._future: Future[memoryview] | None = None
        self._data: memoryview | None = None
        self._begin, self._end = _span(segment, rows)

    @property
    def nbytes(self) -> int:
        """How much reading it at once takes; 0 where that is not possible or not needed."""
        return self._end - self._begin

    def payload(self, row: int) -> memoryview:
        """Return the bytes of one frame, read-only, checked against its CRC-32C.

        Raises
        ------
        ChecksumError
            The bytes are not those that were published.
        """
        segment = self.segment
        length = int(segment.lengths[row])
        if not length:
            return _NOTHING
        offset = int(segment.offsets[row])
        if not segment.blob:
            found = self._inline()[offset : offset + length]
        elif self._begin <= offset and offset + length <= self._end:
            found = self._read()[offset - self._begin : offset - self._begin + length]
        else:
            found = self._fetcher.get(segment.blob, offset, length)
        checksum, expected = crc32c(found), int(segment.checksums[row])
        if checksum != expected or found.nbytes != length:
            raise ChecksumError(
                segment.blob or "(in the record)",
                store=self._fetcher.url,
                number=int(segment.numbers[row]),
                expected=expected,
                found=checksum,
            )
        return found.toreadonly()

    def _inline(self) -> memoryview:
        """Return the payloads inside the record; a record kept without them is read again."""
        if not self.segment.inline and self._reload is not None:
            self.segment, self._reload = self._reload(), None
        return memoryview(self.segment.inline)

    def whole(self) -> Segment:
        """Return the record with the payloads inside it, if it has any."""
        self._inline()
        return self.segment

    def prefetch(self) -> None:
        """Begin to read in the background."""
        with self._lock:
            if self._data is None and self._future is None and self.nbytes:
                self._future = self._fetcher.submit(self)

    def load(self) -> memoryview:
        """Read the whole span now."""
        return self._fetcher.get(self.segment.blob, self._begin, self._end - self._begin)

    def _read(self) -> memoryview:
        data = self._data
        if data is not None:
            return data
        with self._lock:
            if self._data is None:
                future, self._future = self._future, None
                # Not begun yet: quicker to read it here than to wait behind others.
                if future is None or future.cancel():
                    self._data = self.load()
                else:
                    self._data = _result(future, self)
            return self._data


def _result(future: Future[memoryview], block: Block) -> memoryview:
    try:
        return future.result()
    except CancelledError:
        return block.load()


def _span(segment: Segment, rows: slice | None) -> tuple[int, int]:
    """Return begin and end of the one read that serves the rows; (0, 0) if there is no such."""
    if not segment.blob or not len(segment.numbers):
        return 0, 0
    offsets, lengths = segment.offsets, segment.lengths
    if rows is not None:
        offsets, lengths = offsets[rows], lengths[rows]
    if not len(offsets):
        return 0, 0
    if len(offsets) == 1:
        begin = int(offsets[0])
        return begin, begin + int(lengths[0])
    begin, end = int(offsets.min()), int((offsets + lengths).max())
    wanted = int(lengths.sum(dtype="int64"))
    return (begin, end) if end - begin <= _MAX_WASTE * wanted else (0, 0)


class Fetcher:
    """Reads payloads from a store with a few threads; the store is not closed with it."""

    def __init__(self, store: BlobStore, *, threads: int, prefetch_nbytes: int) -> None:
        self.store = store
        self.threads = threads
        self.prefetch_nbytes = prefetch_nbytes
        self._closed = False
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="lichtstrom-fetch")

    @property
    def url(self) -> str:
        """Address of the store, for messages."""
        return self.store.url

    def open(
        self,
        segment: Segment,
        origin: Origin,
        rows: slice | None = None,
        reload: Callable[[], Segment] | None = None,
    ) -> Block:
        """Return the payloads of a segment (``rows``: only these are wanted); reads nothing.

        ``reload`` reads the record again if it was kept without the payloads inside it.
        """
        return Block(self, origin, segment, rows, reload)

    def get(self, key: str, offset: int, length: int) -> memoryview:
        """Read from the store now."""
        if self._closed:
            raise ClosedError("the stream of this frame was closed before its payload was read")
        return self.store.get(key, offset, length)

    def submit(self, block: Block) -> Future[memoryview] | None:
        """Read a block in the background; None when closed."""
        try:
            return None if self._closed else self._pool.submit(block.load)
        except RuntimeError:  # closed by another thread in between
            return None

    def close(self) -> None:
        """Give up what has not begun and join the threads; may be called twice."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)


class Window:
    """Reads blocks ahead in the order of their keys, bounded in bytes.

    A block counts from the start of its reading until :meth:`release`.  One block is always
    allowed, however large.
    """

    def __init__(self, limit_nbytes: int) -> None:
        self._limit = limit_nbytes
        self._nbytes = 0
        self._held: dict[Block, int] = {}
        self._waiting: list[tuple[int, int, Block]] = []
        self._count = itertools.count()
        self._gone: set[Block] = set()

    @property
    def nbytes(self) -> int:
        """How many bytes are read ahead now."""
        return self._nbytes

    def add(self, key: int, block: Block) -> None:
        """Have ``block`` read when its turn comes; lower keys first."""
        if block.nbytes:
            heapq.heappush(self._waiting, (key, next(self._count), block))

    def pump(self) -> None:
        """Begin as many reads as there is room for."""
        while self._waiting:
            block = self._waiting[0][2]
            if block in self._gone:
                self._gone.discard(block)
            elif self._held and self._nbytes + block.nbytes > self._limit:
                return
            else:
                self._held[block] = block.nbytes
                self._nbytes += block.nbytes
                block.prefetch()
            heapq.heappop(self._waiting)

    def release(self, block: Block) -> None:
        """Forget a block whose frames have all been handed out."""
        nbytes = self._held.pop(block, None)
        if nbytes is not None:
            self._nbytes -= nbytes
        elif block.nbytes:
            self._gone.add(block)
