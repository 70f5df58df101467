"""Rows of a table as frames, their payloads read ahead."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pipeline.reading.fetch import Block, Fetcher, Origin, Window
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.reading.table import Rows
from pipeline.records import Int64s, Located, Segment

#: Frames made ahead of the one handed out: what is read ahead lies among them.
_AHEAD = 256


class Table(Protocol):
    """Rows and where they are: a :class:`pipeline.reading.table.FrameTable`, for example."""

    @property
    def numbers(self) -> Int64s:
        """Frame number of each row."""
        ...

    def locate(self, row: int) -> tuple[Located, int]:
        """Return the record of a row, and the row within it."""
        ...


class Source(Protocol):
    """A table and its log: a :class:`pipeline.reading.live.LiveTable`, for example."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while looking at the table."""
        ...

    @property
    def table(self) -> Table:
        """The rows."""
        ...

    def reload(self, located: Located) -> Segment:
        """Read one record again, with the payloads inside it."""
        ...


class FrameFeed(Iterator[Frame]):
    """Frames of the given rows, which are in order and merged (one per number and module).

    Parameters
    ----------
    ahead:
        Read payloads ahead; for listings they are only read when asked for.
    whole:
        Join the modules of a frame; else each row is a frame of its own.
    """

    def __init__(
        self,
        live: Source,
        rows: Rows,
        fetcher: Fetcher,
        origin: Origin,
        *,
        ahead: bool,
        whole: bool = True,
    ) -> None:
        self._live = live
        self._table = live.table
        self._rows = rows
        self._at = 0
        self._fetcher = fetcher
        self._origin = origin
        self._window = Window(fetcher.prefetch_nbytes) if ahead else None
        self._whole = whole and bool(origin.modules)
        self._ready: deque[tuple[Frame, list[Block]]] = deque()
        #: Blocks made and not used up: record index -> block, frames to come.
        self._uses: dict[Block, int] = {}
        self._done: list[Block] = []

    def __next__(self) -> Frame:
        if self._done:
            self._release()
        if len(self._ready) < _AHEAD // 2 and self._at < len(self._rows):
            self._make()
        if not self._ready:
            raise StopIteration
        frame, self._done = self._ready.popleft()
        return frame

    def _make(self) -> None:
        """Make the next frames; those of one record share what is read."""
        end = min(len(self._rows), self._at + _AHEAD)
        with self._live.lock:
            numbers = self._table.numbers
            rows = self._rows
            while self._whole and end < len(rows) and numbers[rows[end]] == numbers[rows[end - 1]]:
                end += 1
            places = [self._table.locate(int(row)) for row in rows[self._at : end]]
        self._at = end
        parts = self._parts(places)
        for frames in self._grouped(parts):
            whole = ModularFrame(frames[0].number, {f.module: f for f in frames})
            self._ready.append(
                (whole if self._whole else frames[0], [frame._block for frame in frames])
            )
        if self._window is not None:
            self._window.pump()

    def _grouped(self, parts: Iterable[Frame]) -> Iterator[list[Frame]]:
        group: list[Frame] = []
        for part in parts:
            if group and (not self._whole or part.number != group[0].number):
                yield group
                group = []
            group.append(part)
        if group:
            yield group

    def _parts(self, places: Sequence[tuple[Located, int]]) -> list[Frame]:
        spans: dict[int, list[int]] = {}
        for located, row in places:
            span = spans.setdefault(id(located), [row, row, 0])
            span[:] = [min(span[0], row), max(span[1], row), span[2] + 1]
        blocks: dict[int, Block] = {}
        frames = []
        for located, row in places:
            block = blocks.get(id(located))
            segment = located.value
            if not isinstance(segment, Segment):
                continue
            number = int(segment.numbers[row])
            if block is None:
                first, last, uses = spans[id(located)]
                block = blocks[id(located)] = self._fetcher.open(
                    segment,
                    self._origin,
                    slice(first, last + 1),
                    functools.partial(self._live.reload, located),
                )
                block.appended_ms = located.timestamp_ms
                self._uses[block] = uses
                if self._window is not None:
                    self._window.add(number, block)
            frames.append(Frame(number, block, row))
        return frames

    def _release(self) -> None:
        for block in self._done:
            left = self._uses[block] - 1
            if left:
                self._uses[block] = left
            else:
                del self._uses[block]
                if self._window is not None:
                    self._window.release(block)
        self._done = []
        if self._window is not None:
            self._window.pump()
