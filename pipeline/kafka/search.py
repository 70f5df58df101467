"""Finding a frame in a partition by search.

Every record carries ``ceil``, the highest number its writer has sent to the partition so far, and
``floor``, below which nothing more will come.  Neither falls, so frame n lies between the first
record with ceil >= n and the first with floor > n, whatever interleaves.  Numbers grow about
evenly, so guessing by interpolation between known records needs one or two reads.

Not every record is such a landmark.  What a superseded writer still had in its queue may land
behind its successor's records, with lower numbers; what members of a group and drained spools add
promises nothing (no floor).  Frames in those are found beside the landmarks around them, or by an
index of the whole partition, which is read once.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Collection, Iterator

from pipeline.kafka.cursor import decode_message
from pipeline.kafka.ranges import RangeReader
from pipeline.protocols import Lookup
from pipeline.records import NO_CEIL, NO_FLOOR, Located, Mark, Segment, Start
from pipeline.wire import codec

#: Below this many records between two known ones a search reads on instead of jumping.
_NEAR = 24
#: Known records kept per partition and module for interpolation; 4096 are 64 KiB of integers.
_MAX_ANCHORS = 4096
#: A run of doubtful records as long as this is believed.  A writer has at most as many segments on
#: their way as its queue has buffers, 32 by default, so a superseded one's run is shorter.
_RUN = 64


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
        #: Per module: offsets of landmarks, and the highest number sent before each, both rising.
        self._anchors: dict[int, tuple[list[int], list[int]]] = {}
        #: Per module the newest epoch seen: a record of it is no superseded writer's.
        self._epochs: dict[int, int] = {}
        #: (end of the range, whether all its last records are landmarks) by module.
        self._tails: dict[int, tuple[int, bool]] = {}
        #: (lowest, highest number, offset, module) of every segment, as far as a scan has come.
        self._index: list[tuple[int, int, int, int]] = []
        self._indexed_to = 0

    def find(self, number: int, low: int, high: int, timeout_s: float) -> Lookup:
        """Return the records that hold ``number`` between the offsets ``low`` and ``high``."""
        deadline = time.monotonic() + timeout_s
        records: dict[int, Located] = {}
        passed, lacking = True, []
        for module in self._start.module_indices:
            plain = self._look_at_tail(module, low, high, deadline)
            begin, reached = self._before(number, module, low, high, deadline)
            held, over = self._collect(number, module, begin, high, deadline)
            records.update(held)
            passed = passed and over
            # Behind all landmarks there is nothing, where all records are landmarks.
            if not held and (reached or not plain):
                lacking.append(module)
        if lacking:  # late frames lie behind a floor that has passed them
            records.update(self._late(number, lacking, low, high, deadline))
        found = tuple(records[offset] for offset in sorted(records))
        return Lookup(records=found, passed=passed)

    def seek(self, number: int, low: int, high: int, timeout_s: float) -> int:
        """Return an offset before which no record of a frame >= ``number`` lies.

        But for late frames: those, below a floor that has passed them, may lie anywhere behind it.
        """
        deadline = time.monotonic() + timeout_s
        if self._start.lineage:  # members of a group interleave, each with ceils of its own
            self._scan(low, high, deadline)
            offsets = [o for _, last, o, _ in self._index if last >= number and low <= o < high]
            return min(offsets, default=high)
        found = []
        for module in self._start.module_indices:
            self._look_at_tail(module, low, high, deadline)
            found.append(self._before(number, module, low, high, deadline)[0])
        return min(found)

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

    def _look_at_tail(self, module: int, low: int, high: int, deadline: float) -> bool:
        """Learn the module's newest epoch; True if only landmarks of one writer end the range."""
        known = self._tails.get(module)
        if known is not None and known[0] == high:
            return known[1]
        plain = True
        for records in self._backwards(low, high, deadline):
            ours = [r.value for r in records if r.value.module == module]
            if ours:
                newest = max(value.epoch for value in ours)
                self._epochs[module] = max(newest, self._epochs.get(module, 0))
                plain = newest == 1 and not any(_is_loose(value) for value in ours)
                break
        self._tails[module] = high, plain
        return plain

    def _before(
        self, number: int, module: int, low: int, high: int, deadline: float
    ) -> tuple[int, bool]:
        """Return (an offset before which no landmark reaches ``number``, whether a later one does).

        Invariant: the module's landmarks below ``lower`` do not reach it; there are none between
        ``upper`` and the first one known to do so.
        """
        lower, lower_reach, upper, upper_reach = self._known(number, module, low, high)
        reached = upper_reach is not None
        step = 0
        while lower < upper:
            step += 1
            # Every third step halves, so that uneven numbers cannot make it slow.
            reaches = (lower_reach, upper_reach) if step % 3 else (None, None)
            guess = _interpolate(number, lower, reaches[0], upper, reaches[1])
            seen, hit = 0, None
            for located in self._landmarks(guess, upper, module, deadline):
                seen += 1
                reach = _reach(located.value)
                self._remember(module, located.offset, reach)
                if reach >= number:
                    if seen > 1 or guess == lower:
                        return lower, True
                    hit = reach
                    break
                lower, lower_reach = located.offset + 1, reach
                if seen >= _NEAR:
                    break
            else:  # read up to ``upper`` without meeting it
                if seen or guess == lower:
                    return lower, reached
            if hit is not None:
                reached, upper, upper_reach = True, guess, hit
            elif not seen:
                upper = guess
        return lower, reached

    def _landmarks(self, begin: int, end: int, module: int, deadline: float) -> Iterator[Located]:
        """Yield the module's records that tell where numbers lie.

        What may come from a superseded writer, or has no floor, is held back until it is clear
        that nothing better follows: ``_RUN`` records, the newer writer's claim, or the end.
        """
        older: list[Located] = []
        loose: list[Located] = []
        for located in self.read(begin, end, deadline):
            value = located.value
            if value.module != module:
                continue
            newest = self._epochs[module] = max(value.epoch, self._epochs.get(module, 0))
            if isinstance(value, Mark) and value.kind == "claim":
                # It comes before anything of its writer, so what came before it is not late; its
                # own ceil may lie below, of what arrived between its look and itself.
                yield from older
                older, loose = [], []
            elif _is_loose(value):
                loose.append(located)
                if len(loose) >= _RUN and not older:
                    yield from loose
                    loose = []
            elif value.epoch >= newest:
                older, loose = [], []
                yield located
            elif not older or value.epoch >= older[-1].value.epoch:
                if older and value.epoch > older[-1].value.epoch:
                    older = []
                older.append(located)
                if len(older) >= _RUN:
                    yield from older
                    older, loose = older[-1:], []
        yield from older or loose

    def _known(
        self, number: int, module: int, low: int, high: int
    ) -> tuple[int, int | None, int, int | None]:
        """Return what earlier searches say: (lower, its reach, upper, its reach)."""
        offsets, reaches = self._anchors.setdefault(module, ([], []))
        at = bisect.bisect_left(reaches, number)
        lower, lower_reach = (offsets[at - 1] + 1, reaches[at - 1]) if at else (low, None)
        lower = max(lower, low)  # retention may have passed it since
        if at < len(offsets) and lower <= offsets[at] < high:
            return lower, lower_reach, offsets[at], reaches[at]
        return lower, lower_reach, high, None

    def _remember(self, module: int, offset: int, reach: int) -> None:
        offsets, reaches = self._anchors.setdefault(module, ([], []))
        at = bisect.bisect_left(offsets, offset)
        if at < len(offsets) and offsets[at] == offset:
            return
        # One below its neighbours is no landmark after all.
        if (at and reaches[at - 1] > reach) or (at < len(reaches) and reaches[at] < reach):
            return
        if len(offsets) >= _MAX_ANCHORS:
            del offsets[::2], reaches[::2]
            at = bisect.bisect_left(offsets, offset)
        offsets.insert(at, offset)
        reaches.insert(at, reach)

    def _collect(
        self, number: int, module: int, begin: int, high: int, deadline: float
    ) -> tuple[dict[int, Located], bool]:
        """Return the module's records of ``number`` from ``begin``, and whether it was passed."""
        found: dict[int, Located] = {}
        loose = 0
        for located in self.read(begin, high, deadline):
            if located.value.module != module:
                continue
            if _holds(located, number):
                found[located.offset] = located
                loose = 0
            if located.value.floor > number:
                return found, True
            # Where nobody promises anything, no floor will end this.
            loose = loose + 1 if _is_loose(located.value) else 0
            if loose > _RUN:
                break
        return found, False

    def _late(
        self, number: int, modules: Collection[int], low: int, high: int, deadline: float
    ) -> dict[int, Located]:
        """Return the segments of ``modules`` that hold ``number``, wherever they are."""
        self._scan(low, high, deadline)
        return {
            offset: located
            for first, last, offset, module in self._index
            if first <= number <= last and module in modules and low <= offset < high
            for located in self.read(offset, offset + 1, deadline)
            if _holds(located, number)
        }

    def _scan(self, low: int, high: int, deadline: float) -> None:
        """Extend the index of the whole partition up to ``high``."""
        for located in self.read(max(low, self._indexed_to), high, deadline):
            value = located.value
            if isinstance(value, Segment) and len(value):
                numbers = value.numbers
                entry = (int(numbers[0]), int(numbers[-1]), located.offset, value.module)
                self._index.append(entry)
            self._indexed_to = located.offset + 1
        self._indexed_to = max(self._indexed_to, high)

    def read(self, begin: int, end: int, deadline: float) -> Iterator[Located]:
        """Yield the stream's records with begin <= offset < end."""
        for message in self._reader.read(self._partition, begin, end, deadline):
            located = decode_message(message, self._start.stream_key, self._resolve)
            if located is not None:
                yield located


def _interpolate(
    number: int, lower: int, lower_reach: int | None, upper: int, upper_reach: int | None
) -> int:
    """Guess an offset in [lower, upper) a little before the first record reaching ``number``."""
    if upper - lower <= _NEAR:
        return lower
    if lower_reach is None or upper_reach is None or upper_reach <= lower_reach:
        return (lower + upper) // 2
    share = (number - lower_reach) / (upper_reach - lower_reach)
    # Half a batch earlier, so that the read from the guess runs over the record searched for.
    return min(upper - 1, max(lower, lower + int(share * (upper - lower)) - _NEAR // 2))


def _reach(value: Segment | Mark) -> int:
    """Return the number up to which a landmark speaks: sent, or passed without being sent."""
    return max(value.ceil, value.floor - 1)


def _is_loose(value: Segment | Mark) -> bool:
    return value.floor == NO_FLOOR and value.ceil != NO_CEIL


def _has_frames(located: Located) -> bool:
    return isinstance(located.value, Segment) and len(located.value) > 0


def _holds(located: Located, number: int) -> bool:
    segment = located.value
    if not isinstance(segment, Segment) or not len(segment):
        return False
    at = int(segment.numbers.searchsorted(number))
    return at < len(segment) and int(segment.numbers[at]) == number
