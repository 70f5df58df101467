"""One named value over time (or an index), as far as it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.reading.values import Bools
from pipeline.records import Int64s

#: Values kept behind the place that was asked for last: frames need not come in order of time.
KEPT = 16_384
#: Above every key.
HIGHEST = 2**63 - 1
#: Below every key.
NOWHERE = -(2**63)


class Track:
    """Keys (rising) and values; the newest are added, the oldest forgotten."""

    def __init__(self) -> None:
        self._keys: Int64s = np.empty(64, np.int64)
        self._data: npt.NDArray[Any] = np.empty(64, np.int64)
        self._begin = self._end = 0
        #: Where the last bracket was found: the next one is most often the same, or one further.
        self._place = -1

    @property
    def keys(self) -> Int64s:
        """Where the values lie, rising."""
        return self._keys[self._begin : self._end]

    @property
    def data(self) -> npt.NDArray[Any]:
        """The values: int64, float64 or objects."""
        return self._data[self._begin : self._end]

    def bracket(self, low: int, high: int) -> tuple[int, int] | None:
        """Return the place of the last value at or before all of [low, high], and of the next.

        The next is -1 if there is none.  None where a value lies in between, or none before.
        """
        place, begin, end = self._place, self._begin, self._end
        keys = self._keys
        if not (begin <= place < end and keys[place] <= low):
            place = begin - 1
        elif place + 1 < end and keys[place + 1] <= low:
            place += 1
            if place + 1 < end and keys[place + 1] <= low:
                place = begin - 1  # far off: search
        if place < begin:
            place = begin + int(self.keys.searchsorted(low, "right")) - 1
            if place < begin:
                return None
        self._place = place
        following = place + 1
        if following == end:
            return place - begin, -1
        return None if keys[following] <= high else (place - begin, following - begin)

    def extend(self, keys: Int64s, data: npt.NDArray[Any]) -> None:
        """Add values; those that are not in order are sorted in, behind their equals."""
        if not len(keys):
            return
        self._adapt(data.dtype, first=self._begin == self._end)
        self._reserve(len(keys))
        end = self._end + len(keys)
        self._keys[self._end : end] = keys
        self._data[self._end : end] = data
        unsorted_from = max(self._begin, self._end - 1)
        self._end = end
        if end - unsorted_from == 1:
            return
        if (np.diff(self._keys[unsorted_from:end]) < 0).any():
            self._place = -1
            order = np.argsort(self.keys, kind="stable")
            self._keys[self._begin : end] = self.keys[order]
            self._data[self._begin : end] = self.data[order]

    def _adapt(self, dtype: np.dtype[Any], *, first: bool) -> None:
        """Have values of this type find room: of integers and floats floats, else objects."""
        mine = self._data.dtype
        if mine not in (dtype, np.dtype(object)):
            wanted = dtype if first or dtype.kind == "O" else np.dtype(np.float64)
            self._data = self._data.astype(wanted)

    def _reserve(self, count: int) -> None:
        used = self._end - self._begin
        if self._end + count <= len(self._keys):
            return
        room = max(64, 2 * (used + count))
        keys, data = np.empty(room, np.int64), np.empty(room, self._data.dtype)
        keys[:used], data[:used] = self.keys, self.data
        self._keys, self._data, self._begin, self._end = keys, data, 0, used
        self._place = -1

    def forget(self, before: int) -> int:
        """Drop what lies far below ``before``; return the highest key that was dropped."""
        if self._end - self._begin <= 2 * KEPT:
            return NOWHERE
        place = int(self.keys.searchsorted(before, "right")) - KEPT
        if place <= 0:
            return NOWHERE
        self._begin += place
        return int(self._keys[self._begin - 1])

    def followed(self, at: Int64s) -> Bools:
        """Tell for each place whether there is a value behind it."""
        found: Bools = self.keys.searchsorted(at, "right") < self._end - self._begin
        return found

    @property
    def next_key(self) -> int:
        """Where the value behind the last :meth:`bracket` lies; above all keys if there is none."""
        following = self._place + 1
        return int(self._keys[following]) if following < self._end else HIGHEST

    def followed_by(self, place: int) -> bool:
        """Tell whether there is a value behind this place."""
        return self._end > self._begin and bool(self._keys[self._end - 1] > place)

    def line(self, before: int, after: int, at: Int64s) -> npt.NDArray[np.float64]:
        """Return what lies between two neighbouring values, by linear interpolation."""
        keys, data = self.keys, self.data
        low, high = int(keys[before]), int(keys[after])
        start = float(data[before])
        found: npt.NDArray[np.float64] = (at - low) / (high - low) * (float(data[after]) - start)
        found += start
        return found

    def gap(self, at: Int64s) -> Int64s:
        """Return how far the last value at or before each place lies off; -1 if there is none."""
        keys = self.keys
        if not len(keys):
            return np.full(len(at), -1, np.int64)
        before = keys.searchsorted(at, "right") - 1
        return np.where(before >= 0, at - keys[before], -1)
