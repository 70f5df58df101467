"""Frames that a group's expression filters out: done without having been delivered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.records import Int64s
from pipeline.sharing.assemble import Unit
from pipeline.sharing.buffer import Held
from pipeline.sharing.progress import Taken, finish

#: Frames that may wait to be fetched by :meth:`SharedFrames.take_filtered` before no more are read.
MAX_WAITING = 65_536


class Filtered:
    """Numbers of frames that were filtered out; nobody of the group gets them.

    Until :meth:`ack` they count as not done: whoever keeps a derived stream says first that it
    skips them, so that a crash in between leaves no hole there.

    Attributes
    ----------
    numbers:
        Frame numbers (int64), rising.
    """

    __slots__ = ("_lock", "_settle", "numbers")

    def __init__(self, numbers: Int64s, settle: Callable[[], None]) -> None:
        self.numbers = numbers
        self._settle: Callable[[], None] | None = settle
        self._lock = threading.Lock()

    def ack(self) -> None:
        """Say that they are done; a second time has no effect. Thread-safe, returns at once."""
        with self._lock:
            settle, self._settle = self._settle, None
        if settle is not None:
            settle()


@dataclass(frozen=True, slots=True)
class Row:
    """A frame that was filtered out: what to flag when that is settled, and whose it was."""

    number: int
    parts: Sequence[tuple[Taken, int]]
    held: Held

    def finish(self) -> None:
        """Flag it as done, unless its partition has gone to another member."""
        if not self.held.void:
            for taken, row in self.parts:
                finish(taken, row)


class Waiting:
    """What was filtered out and not yet fetched; not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether no more should be read for now."""
        return len(self._rows) >= MAX_WAITING

    def add(self, unit: Unit, held: Held) -> None:
        """Keep a frame's number and what settles it, and nothing of its payload."""
        parts = [(part.taken, part.row) for part in unit.parts.values()]
        self._rows.append(Row(unit.number, parts, held))

    def take(self) -> tuple[Int64s, list[Row]]:
        """Return the frames that are still ours, and forget them."""
        rows, self._rows = [row for row in self._rows if not row.held.void], []
        rows.sort(key=lambda row: row.number)
        return np.array([row.number for row in rows], np.int64), rows
