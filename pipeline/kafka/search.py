"""Finding a frame in a partition by search.

Every record carries ``ceil``, the highest number its writer has sent to the partition so far, and
``floor``, below which nothing more will come.  Neither falls, so frame n lies between the first
record with ceil >= n and the first with floor > n, whatever interleaves.  Numbers grow about
evenly, so guessing by interpolation between known records needs one or two reads.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator

from pipeline.kafka.cursor import decode_message
from pipeline.kafka.ranges import RangeReader
from pipeline.protocols import Lookup
from pipeline.records import NO_CEIL, NO_FLOOR, Located, Segment, Start
from pipeline.wire import codec

#: Below this many records between two known ones a search reads on instead of jumping.
_NEAR = 24
#: Known records kept per partition and module for interpolation; 4096 are 64 KiB of integers.
_MAX_ANCHORS = 4096


class PartitionSearch:
    """Searches one partition for the records of one stream; the caller holds a lock."""

    def __init__(
        self,
        reader: RangeReader,
        partition: int,
        start: Start,
        resolve: codec.Resolver | None,
    ) -> None:
        self._reader = reader
        self._partition = partition
        self._start = start
        self._resolve = resolve
        #: Per module: offsets of known records, and the ceil of each, both rising.
        self._anchors: dict[int, tuple[list[int], list[int]]] = {}
        #: (lowest, highest number, offset) of every segment, as far as a full scan has come.
        self._index: list[tuple[int, int, int]] = []
        self._indexed_to = 0

    def find(self, number: int, low: int, high: int, timeout_s: float) -> Lookup:
        """Return the records that hold ``number`` between the offsets ``low`` and ``high``."""
        deadline = time.monotonic() + timeout_s
        records: dict[int, Located] = {}
        passed = True
        for module in self._start.module_indices:
            begin = self._first_reaching(number, module, low, high, deadline)
            over = self._collect(number, module, begin, high, deadline, records)
            passed = passed and over
        if not records:  # late frames lie behind a floor that has passed them
            for offset in self._late(number, low, high, deadline):
                located = next(self.read(offset, offset + 1, deadline), None)
                if located is not None:
                    records[offset] = located
        found = tuple(records[offset] for offset in sorted(records))
        return Lookup(records=found, passed=passed)

    def seek(self, number: int, low: int, high: int, timeout_s: float) -> int:
        """Return an offset before which no record of a frame >= ``number`` lies."""
        deadline = time.monotonic() + timeout_s
        return min(
            self._first_reaching(number, module, low, high, deadline)
            for module in self._start.module_indices
        )

    def last(self, low: int, high: int, timeout_s: float) -> Located | None:
        """Return the stream's last segment between the offsets, or None."""
        deadline = time.monotonic() + timeout_s
        for records in self._backwards(low, high, deadline):
            segments = [r for r in records if _has_frames(r)]
            if segments:
                return segments[-1]
        return None

    def newest(self, module: int, low: int, high: int, timeout_s: float) -> tuple[int, int]:
        """Return (floor, ceil) of the module's writers at the end of the range."""
        deadline = time.monotonic() + timeout_s
        floor, ceil = NO_FLOOR, NO_CEIL
        for records in self._backwards(low, high, deadline):
            ours = [r.value for r in records if r.value.module == module]
            if ours:
                # The largest of a whole window: a zombie's last record may lie below.
                return max(r.floor for r in ours), max(r.ceil for r in ours)
        return floor, ceil

    def _backwards(self, low: int, high: int, deadline: float) -> Iterator[list[Located]]:
        """Yield windows of records from the end of the range down, each eight times larger."""
        window, upper = 16, high
        while upper > low:
            lower = max(low, upper - window)
            yield list(self.read(lower, upper, deadline))
            upper, window = lower, window * 8

    def _first_reaching(
        self, number: int, module: int, low: int, high: int, deadline: float
    ) -> int:
        """Return the offset of the first record of ``module`` with ceil >= ``number``, or high.

        Invariant: the module's records below ``lower`` have a smaller ceil; it has none between
        ``upper`` and ``answer``.
        """
        lower, lower_ceil, upper, upper_ceil = self._known(number, module, low, high)
        answer = upper
        step = 0
        while lower < upper:
            step += 1
            # Every third step halves, so that uneven numbers cannot make it slow.
            ceils = (lower_ceil, upper_ceil) if step % 3 else (None, None)
            guess = _interpolate(number, lower, ceils[0], upper, ceils[1])
            seen, hit = 0, None
            for located in self.read(guess, upper, deadline):
                if located.value.module != module:
                    continue
                seen += 1
                self._remember(module, located.offset, located.value.ceil)
                if located.value.ceil >= number:
                    if seen > 1 or guess == lower:
                        return located.offset
                    hit = located
                    break
                lower, lower_ceil = located.offset + 1, located.value.ceil
                if seen >= _NEAR:
                    break
            else:  # read up to ``upper`` without meeting it
                if seen or guess == lower:
                    return answer
            if hit is not None:
                answer, upper, upper_ceil = hit.offset, guess, hit.value.ceil
            elif not seen:
                upper = guess
        return answer

    def _known(
        self, number: int, module: int, low: int, high: int
    ) -> tuple[int, int | None, int, int | None]:
        """Return what earlier searches say: (lower, its ceil, upper, its ceil)."""
        offsets, ceils = self._anchors.setdefault(module, ([], []))
        at = bisect.bisect_left(ceils, number)
        lower, lower_ceil = (offsets[at - 1] + 1, ceils[at - 1]) if at else (low, None)
        if at < len(offsets) and offsets[at] < high:
            return max(lower, low), lower_ceil, offsets[at], ceils[at]
        return max(lower, low), lower_ceil, high, None

    def _remember(self, module: int, offset: int, ceil: int) -> None:
        offsets, ceils = self._anchors.setdefault(module, ([], []))
        at = bisect.bisect_left(offsets, offset)
        if at < len(offsets) and offsets[at] == offset:
            return
        # A zombie's record may lie below its neighbours; it is no landmark.
        if (at and ceils[at - 1] > ceil) or (at < len(ceils) and ceils[at] < ceil):
            return
        if len(offsets) >= _MAX_ANCHORS:
            del offsets[::2], ceils[::2]
            at = bisect.bisect_left(offsets, offset)
        offsets.insert(at, offset)
        ceils.insert(at, ceil)

    def _collect(
        self,
        number: int,
        module: int,
        begin: int,
        high: int,
        deadline: float,
        records: dict[int, Located],
    ) -> bool:
        """Gather the module's records of ``number`` from ``begin``; True if it has been passed."""
        for located in self.read(begin, high, deadline):
            if located.value.module != module:
                continue
            if _holds(located, number):
                records[located.offset] = located
            if located.value.floor > number:
                return True
        return False

    def _late(self, number: int, low: int, high: int, deadline: float) -> list[int]:
        """Return offsets of segments that hold ``number``, from an index of the whole partition."""
        begin = max(low, self._indexed_to)
        for located in self.read(begin, high, deadline):
            if _has_frames(located) and isinstance(located.value, Segment):
                numbers = located.value.numbers
                self._index.append((int(numbers[0]), int(numbers[-1]), located.offset))
            self._indexed_to = located.offset + 1
        self._indexed_to = max(self._indexed_to, high)
        offsets = [offset for first, last, offset in self._index if first <= number <= last]
        return [
            offset
            for offset in offsets
            for located in self.read(offset, offset + 1, deadline)
            if _holds(located, number)
        ]

    def read(self, begin: int, end: int, deadline: float) -> Iterator[Located]:
        """Yield the stream's records with begin <= offset < end."""
        for message in self._reader.read(self._partition, begin, end, deadline):
            located = decode_message(message, self._start.stream_key, self._resolve)
            if located is not None:
                yield located


def _interpolate(
    number: int, lower: int, lower_ceil: int | None, upper: int, upper_ceil: int | None
) -> int:
    """Guess an offset in [lower, upper) a little before the first record reaching ``number``."""
    if upper - lower <= _NEAR:
        return lower
    if lower_ceil is None or upper_ceil is None or upper_ceil <= lower_ceil:
        return (lower + upper) // 2
    share = (number - lower_ceil) / (upper_ceil - lower_ceil)
    # Half a batch earlier, so that the read from the guess runs over the record searched for.
    return min(upper - 1, max(lower, lower + int(share * (upper - lower)) - _NEAR // 2))


def _has_frames(located: Located) -> bool:
    return isinstance(located.value, Segment) and len(located.value) > 0


def _holds(located: Located, number: int) -> bool:
    segment = located.value
    if not isinstance(segment, Segment) or not len(segment):
        return False
    at = int(segment.numbers.searchsorted(number))
    return at < len(segment) and int(segment.numbers[at]) == number
