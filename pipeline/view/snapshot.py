"""A stream at one moment, as the NXmx tree of its frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.nexus.facts import Facts, mask_of
from pipeline.nexus.nxmx import (
    ABSENT,
    INCOMPLETE,
    INVALID_PAYLOAD,
    LATE_DUPLICATE,
    Frames,
    nxmx,
)
from pipeline.nexus.text import as_text
from pipeline.nexus.tree import TEXT, Array, Deferred, Group, Images, Int64s, PerFrame
from pipeline.reading.account import Account, build_account
from pipeline.reading.fetch import Fetcher, Origin
from pipeline.reading.live import LiveTable
from pipeline.reading.table import Rows
from pipeline.records import Segment, StreamInfo
from pipeline.view.columns import REST, Kinds, column_of, rest_of
from pipeline.view.frames import FrameSet, Pixels

#: Ranges of the account whose numbers exist though no frame of them may have come.
_EXISTING = ("missing", "corrupt", "incomplete")


class Snapshot:
    """What was there when it was made; ``tree`` answers from the table and the store.

    Attributes
    ----------
    base, count:
        Number of the frame at position 0, and how many positions there are.
    shape, dtype, encoding:
        Of the frames; those of the first one that has pixels.
    frames, alike, usable:
        The frames that came; whether each has the shape and type of the first, and all its parts.
    kinds:
        The frames' attributes and their types.
    """

    def __init__(
        self,
        live: LiveTable,
        fetcher: Fetcher,
        origin: Origin,
        *,
        info: StreamInfo,
        kinds: Kinds,
    ) -> None:
        self.info = info
        self.kinds = kinds
        self._live = live
        self._table = table = live.table
        kinds.update(table.records)
        self.frames = FrameSet(live, table, table.merged().rows, fetcher, origin)
        account = build_account(str(origin.stream), info, table)
        self.base, self.count = _extent(self.frames.numbers, account)
        self._account = account
        self.shape, self.dtype, self.encoding = self._layout()
        self.alike = self._find_alike()
        self._whole = self.frames.counts >= len(info.start.module_indices)
        self.usable = self.alike & self._whole
        self.tree = self._tree()

    def _layout(self) -> tuple[tuple[int, ...], str, str]:
        for at in self._with_pixels() or [0][: len(self.frames.heads)]:
            frame = self.frames.frame(at)
            return tuple(frame.shape), frame.dtype, frame.encoding
        return (), "uint8", "none"

    def _with_pixels(self) -> list[int]:
        """Return the first frame whose record has pixels."""
        shaped = _per_row(self.segments(), lambda segment: bool(segment.shape))
        found: list[int] = np.flatnonzero(shaped[self.frames.heads])[:1].tolist()
        return found

    def segments(self) -> list[Segment]:
        """Return all records of frames, those of copies that do not count, too."""
        return [r.value for r in self._table.records if isinstance(r.value, Segment)]

    def _find_alike(self) -> npt.NDArray[np.bool_]:
        if self.frames.origin.modules:  # compared when they are read: parts differ by nature
            return np.ones(len(self.frames.numbers), bool)
        layout = (self.shape, self.dtype)
        alike = _per_row(self.segments(), lambda s: (tuple(s.shape), s.dtype) == layout)
        return alike[self.frames.heads] if self.shape else np.ones(len(self.frames.heads), bool)

    # -- the tree ---------------------------------------------------------------------------------

    def _tree(self) -> Group:
        images = None
        if self.shape:
            pixels = Pixels(
                self.frames,
                base=self.base,
                usable=self._whole,  # a frame unlike the others is an error when it is read
                shape=self.shape,
                dtype=self.dtype,
            )
            images = Images(
                shape=(self.count, *self.shape), dtype=np.dtype(self.dtype), read=pixels.read
            )
        facts = self._facts()
        return nxmx(
            facts,
            Frames(
                base=self.base,
                count=self.count,
                shape=self.shape,
                images=images,
                timestamp=self._column(np.uint64, self._timestamps),
                valid=self._column(np.uint8, self._valid),
                status=self._column(np.uint32, self._status),
                attributes=self._attributes(),
                mask=self._mask(facts, images),
            ),
        )

    def _facts(self) -> Facts:
        heads = self.frames.heads
        if not len(heads):
            return Facts(info=self.info)
        first = self.frames.frame(0)
        times = self._table.timestamps_ns[heads[self.usable]]
        times = times[times > 0]
        return Facts(
            info=self.info,
            first_number=first.number,
            first_attributes=dict(first.attributes),
            earliest_ns=int(times.min(initial=2**63 - 1)) if len(times) else 0,
            latest_ns=int(times.max(initial=0)),
        )

    def _mask(self, facts: Facts, images: Images | None) -> Deferred | None:
        if images is None or len(self.shape) != 2 or not facts.is_masked(images.dtype):
            return None
        place = self.frames.numbers[np.flatnonzero(self.usable)[:1]] - self.base

        def make() -> Array:
            read = images.read(place, (slice(None), slice(None)))
            return mask_of(read[0]) if len(read) else np.zeros(self.shape, np.uint32)

        return Deferred(shape=self.shape, dtype=np.dtype(np.uint32), make=make)

    def _attributes(self) -> dict[str, PerFrame]:
        columns = {
            name: self._column(dtype, lambda places, n=name, d=dtype: self._values(n, d, places))
            for name, dtype in self.kinds.columns.items()
        }
        if not self.shape and self.encoding != "none":  # a value rather than an image
            columns = {"value": self._value(), **columns}
        if self.kinds.rest:
            columns[REST] = self._column(TEXT, self._rest)
        return columns

    def _column(self, dtype: Any, at: Any) -> PerFrame:
        return PerFrame(count=self.count, dtype=np.dtype(dtype), at=at)

    # -- values by position -----------------------------------------------------------------------

    def _rows(self, places: Int64s) -> tuple[npt.NDArray[np.intp], Rows]:
        """Return which of ``places`` have a frame, and the rows of these."""
        at, there = self.frames.find(places + self.base)
        slots = np.flatnonzero(there)
        return slots, self.frames.heads[at[slots]]

    def _timestamps(self, places: Int64s) -> Array:
        found = np.zeros(len(places), np.uint64)
        at, there = self.frames.find(places + self.base)
        there[there] = self.usable[at[there]]
        times = self._table.timestamps_ns[self.frames.heads[at[there]]]
        found[there] = np.maximum(times, 0).astype(np.uint64)
        return found

    def _valid(self, places: Int64s) -> Array:
        at, there = self.frames.find(places + self.base)
        there[there] = self.usable[at[there]]
        return there.astype(np.uint8)

    def _status(self, places: Int64s) -> Array:
        numbers = places + self.base
        at, there = self.frames.find(numbers)
        status = np.zeros(len(places), np.uint32)
        status[there] |= np.where(self.alike[at[there]], 0, INVALID_PAYLOAD).astype(np.uint32)
        for name, bit in (
            ("incomplete", INCOMPLETE),
            ("late", LATE_DUPLICATE),
            ("duplicate", LATE_DUPLICATE),
        ):
            for first, last in self._account[name]:  # type: ignore[literal-required]
                status[(numbers >= first) & (numbers <= last)] |= bit
        return status

    def _values(self, name: str, dtype: np.dtype[Any], places: Int64s) -> Array:
        slots, rows = self._rows(places)
        found = np.full(len(places), _blank(dtype), dtype)
        with self._live.lock:
            found[slots] = column_of(self._table.attribute(name), rows, dtype)
        return found

    def _value(self) -> PerFrame:
        kind = np.dtype(self.dtype).kind
        dtype = np.dtype(np.float64 if kind == "f" else np.int64) if kind in "biuf" else TEXT

        def at(places: Int64s) -> Array:
            found = np.full(len(places), _blank(dtype), dtype)
            where, there = self.frames.find(places + self.base)
            slots = np.flatnonzero(there).tolist()
            for slot, frame in zip(slots, self.frames.frames(where[slots].tolist()), strict=True):
                value = frame.array.item()
                found[slot] = as_text(value) if dtype == TEXT else value
            return found

        return self._column(dtype, at)

    def _rest(self, places: Int64s) -> Array:
        slots, rows = self._rows(places)
        found = np.full(len(places), "", object)
        with self._live.lock:
            found[slots] = rest_of(self._table, rows.tolist(), self.kinds.rest)
        return found


def _extent(numbers: Int64s, account: Account) -> tuple[int, int]:
    """Return the lowest number known to exist, and how many positions there are from it on."""
    ends = [pair for name in _EXISTING for pair in account[name]]  # type: ignore[literal-required]
    if len(numbers):
        ends.append([int(numbers[0]), int(numbers[-1])])
    if not ends:
        return 0, 0
    first = min(pair[0] for pair in ends)
    return first, max(pair[1] for pair in ends) - first + 1


def _per_row(segments: list[Segment], says: Any) -> npt.NDArray[np.bool_]:
    """Return what is said of each segment, for each of its rows."""
    lengths = [len(segment) for segment in segments]
    return np.repeat(np.array([says(segment) for segment in segments], bool), lengths)


def _blank(dtype: np.dtype[Any]) -> Any:
    return {"i": ABSENT, "f": np.nan}.get(dtype.kind, "")
