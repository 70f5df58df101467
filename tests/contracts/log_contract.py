"""What every log of a stream promises; subclass it and give a ``log_factory`` fixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pipeline.protocols import Cursor, StreamLog
from pipeline.records import Located, Mark, Segment, Start, State
from pipeline.testing.memory_log import make_mark, make_segment, make_start

Entry = tuple[int, Segment | Mark]
#: Called with the start record, what to append, and how the stream ended (None: it is open).
LogFactory = Callable[[Start, Sequence[Entry], State | None], StreamLog]

#: No wait of the suite takes longer than this; real brokers need some of it to begin.
LIMIT_S = 20.0


def read_all(log: StreamLog, cursor: Cursor, count: int) -> list[Located]:
    """Return the next ``count`` records, or fewer if they do not come in time."""
    found: list[Located] = []
    silent = 0
    for _ in range(int(LIMIT_S / 0.1)):
        if len(found) >= count or (found and silent >= 10):
            break
        records = cursor.poll(0.1)
        silent = 0 if records else silent + 1
        found += records
    return found


def simple_entries(start: Start, count: int, *, last_floor: bool = True) -> list[Entry]:
    """Return claim marks, a stream of ``count`` frames in segments of a chunk, and last marks."""
    entries: list[Entry] = [
        (p, make_mark("claim", floor=0, stream_key=start.stream_key))
        for p in range(start.partitions)
    ]
    chunk = start.frames_per_chunk
    for first in range(0, count, chunk):
        numbers = list(range(first, min(first + chunk, count)))
        segment = make_segment(numbers, floor=first, stream_key=start.stream_key)
        entries.append((start.partition_of(first), segment))
    if last_floor:
        entries += [
            (p, make_mark("closing", floor=count, ceil=count - 1, stream_key=start.stream_key))
            for p in range(start.partitions)
        ]
    return entries


class StreamLogContract:
    """The promises of :class:`pipeline.protocols.StreamLog` and its cursors."""

    #: Two partitions and chunks of 4 unless a subclass needs another start record.
    def make_start(self) -> Start:
        return make_start(partitions=2, frames_per_chunk=4)

    def test_info_tells_the_start_and_the_state(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 8), "complete")
        assert log.info(refresh=True).start.stream_key == start.stream_key
        assert log.info(refresh=False).state == "complete"
        log.close()

    def test_bounds_enclose_all_records(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 20), "complete")
        cursor = log.cursor()
        low, high = log.bounds()
        for located in read_all(log, cursor, 9):
            assert low[located.partition] <= located.offset < high[located.partition]
        cursor.close()
        log.close()

    def test_a_cursor_returns_every_record_once_in_order_within_each_partition(
        self, log_factory: LogFactory
    ) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 40), "complete")
        cursor = log.cursor()
        records = [r for r in read_all(log, cursor, 14) if isinstance(r.value, Segment)]
        for partition in range(2):
            offsets = [r.offset for r in records if r.partition == partition]
            assert offsets == sorted(set(offsets))
        numbers = [n for r in records for n in r.value.numbers.tolist()]  # type: ignore[union-attr]
        assert sorted(numbers) == list(range(40))
        cursor.close()
        log.close()

    def test_positions_reach_the_end_when_everything_was_returned(
        self, log_factory: LogFactory
    ) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 16), "complete")
        cursor = log.cursor()
        read_all(log, cursor, 8)
        ends = log.info(refresh=True).end_offsets
        assert ends is not None
        for _ in range(int(LIMIT_S / 0.1)):
            if all(p >= e for p, e in zip(cursor.positions(), ends, strict=True)):
                break
            cursor.poll(0.1)
        assert all(p >= e for p, e in zip(cursor.positions(), ends, strict=True))
        cursor.close()
        log.close()

    def test_poll_returns_nothing_at_the_end(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 8), "complete")
        cursor = log.cursor()
        read_all(log, cursor, 6)
        assert cursor.poll(0.05) == []
        cursor.close()
        log.close()

    def test_a_cursor_starts_where_it_is_told(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 24), "complete")
        first = log.cursor()
        records = read_all(log, first, 10)
        first.close()
        middle = [max(r.offset for r in records if r.partition == p) for p in range(2)]
        second = log.cursor(middle)
        again = read_all(log, second, 2)
        assert sorted((r.partition, r.offset) for r in again) == [(0, middle[0]), (1, middle[1])]
        second.close()
        log.close()

    def test_a_paused_partition_is_silent_and_loses_nothing(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 40), "complete")
        cursor = log.cursor()
        cursor.pause([0])
        first = read_all(log, cursor, 7)
        assert {r.partition for r in first} == {1}
        assert cursor.poll(0.2) == []
        cursor.resume([0])
        rest = read_all(log, cursor, 14 - len(first))
        numbers = [
            n
            for r in [*first, *rest]
            if isinstance(r.value, Segment)
            for n in r.value.numbers.tolist()
        ]
        assert sorted(numbers) == list(range(40))
        cursor.close()
        log.close()

    @pytest.mark.parametrize("number", [0, 1, 4, 17, 39])
    def test_find_returns_the_record_of_a_frame(self, log_factory: LogFactory, number: int) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 40), "complete")
        lookup = log.find(number, timeout_s=LIMIT_S)
        (located,) = lookup.records
        assert isinstance(located.value, Segment)
        assert number in located.value.numbers
        assert lookup.passed
        log.close()

    def test_find_returns_all_copies_in_log_order(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        entries = simple_entries(start, 16, last_floor=False)
        copy = make_segment([4, 5, 6, 7], floor=4, stream_key=start.stream_key)
        entries.insert(5, (start.partition_of(4), copy))
        log = log_factory(start, entries, None)
        offsets = [r.offset for r in log.find(5, timeout_s=LIMIT_S).records]
        assert len(offsets) == 2
        assert offsets == sorted(offsets)
        log.close()

    def test_find_of_a_hole_says_that_it_was_passed(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        entries = simple_entries(start, 16)
        hole = make_segment([20, 22, 23], floor=22, stream_key=start.stream_key)
        entries.append((start.partition_of(20), hole))
        entries.append(
            (start.partition_of(20), make_mark(floor=24, ceil=23, stream_key=start.stream_key))
        )
        log = log_factory(start, entries, "complete")
        lookup = log.find(21, timeout_s=LIMIT_S)
        assert lookup.records == ()
        assert lookup.passed
        log.close()

    def test_find_of_what_may_still_come_says_so(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 8, last_floor=False), None)
        lookup = log.find(100, timeout_s=LIMIT_S)
        assert lookup.records == ()
        assert not lookup.passed
        log.close()

    def test_find_sees_a_late_frame(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        entries = [e for e in simple_entries(start, 16) if not _holds(e[1], 5)]
        late = make_segment([5], floor=16, ceil=15, stream_key=start.stream_key)
        entries.append((start.partition_of(5), late))
        log = log_factory(start, entries, "complete")
        assert len(log.find(5, timeout_s=LIMIT_S).records) == 1
        log.close()

    @pytest.mark.parametrize("number", [0, 9, 30, 39])
    def test_seek_skips_no_record_of_a_later_frame(
        self, log_factory: LogFactory, number: int
    ) -> None:
        start = self.make_start()
        entries = simple_entries(start, 40)
        log = log_factory(start, entries, "complete")
        cursor = log.cursor(log.seek(number))
        found: set[int] = set()
        for _ in range(int(LIMIT_S / 0.1)):
            if found >= set(range(number, 40)):
                break
            for located in cursor.poll(0.1):
                if isinstance(located.value, Segment):
                    found.update(located.value.numbers.tolist())
        assert found >= set(range(number, 40))
        cursor.close()
        log.close()

    def test_tail_holds_the_newest_frame_of_each_partition(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 38), "complete")
        tail = log.tail(timeout_s=LIMIT_S)
        last = {r.partition: int(r.value.numbers[-1]) for r in tail if isinstance(r.value, Segment)}
        assert last == {0: 35, 1: 37}
        log.close()

    def test_tail_of_a_stream_without_frames_is_empty(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 0), "complete")
        assert log.tail(timeout_s=LIMIT_S) == []
        log.close()

    def test_segments_come_back_as_they_were(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        segment = make_segment(
            [0, 2],
            payloads=[b"ab", b"cd"],
            attributes=[{"x": 1, "flag": True}, {"x": 2}],
            floor=0,
            stream_key=start.stream_key,
        )
        log = log_factory(start, [(0, segment)], "complete")
        (located,) = log.find(2, timeout_s=LIMIT_S).records
        value = located.value
        assert isinstance(value, Segment)
        assert value.numbers.tolist() == [0, 2]
        assert value.checksums.tolist() == segment.checksums.tolist()
        assert (value.shape, value.dtype, value.encoding) == ((2,), "uint8", "raw")
        assert [c.name for c in value.columns] == ["x"]
        assert list(value.extra) == ['{"flag": true}', ""]
        log.close()

    def test_close_may_be_called_twice(self, log_factory: LogFactory) -> None:
        start = self.make_start()
        log = log_factory(start, simple_entries(start, 4), "complete")
        cursor = log.cursor()
        cursor.close()
        cursor.close()
        log.close()
        log.close()


def _holds(value: Segment | Mark, number: int) -> bool:
    return isinstance(value, Segment) and number in value.numbers


__all__ = ["Entry", "LogFactory", "StreamLogContract", "simple_entries"]
