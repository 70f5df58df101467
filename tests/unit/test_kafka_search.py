"""Search in a partition: every frame is found, missing ones are passed, and reads stay few."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import KafkaSettings
from pipeline.errors import BrokerUnavailableError, UnknownSchemaError
from pipeline.frame import Module
from pipeline.kafka import search as search_module
from pipeline.kafka.client import Watch
from pipeline.kafka.cursor import decode_message
from pipeline.kafka.ranges import RangeReader
from pipeline.kafka.search import PartitionSearch
from pipeline.naming import record_key
from pipeline.protocols import Lookup
from pipeline.records import NO_CEIL, NO_FLOOR, Mark, Segment, Start
from pipeline.testing.memory_log import STREAM_KEY, make_mark, make_segment, make_start
from pipeline.wire import codec

OTHER = b"another!"
FAR = float("inf")


class FakeMessage:
    """A message as confluent-kafka gives it."""

    def __init__(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        self._offset, self._key, self._value = offset, key, value

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def topic(self) -> str:
        return "topic"

    def partition(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return 2, 1000 + self._offset

    def error(self) -> KafkaError | None:
        return None


class FakeEnd(FakeMessage):
    def error(self) -> KafkaError:
        return KafkaError(KafkaError._PARTITION_EOF)


class FakeConsumer:
    """A consumer over one partition: small batches, then its end."""

    def __init__(self, messages: Sequence[FakeMessage], batch: int = 16) -> None:
        self.messages = messages
        self.batch = batch
        self.position = 0
        self.fetched = 0
        self.silent = False
        self.failure: KafkaError | None = None

    def assign(self, partitions: Sequence) -> None:
        (wanted,) = partitions
        self.position = max(0, wanted.offset) if wanted.offset != OFFSET_BEGINNING else 0

    def _take(self) -> FakeMessage:
        if self.position >= len(self.messages):
            return FakeEnd(len(self.messages), None, None)
        message = self.messages[self.position]
        self.position += 1
        self.fetched += 1
        return message

    def poll(self, timeout: float) -> FakeMessage | None:
        if self.silent:
            return None
        if self.failure is not None:
            failed = FakeEnd(0, None, None)
            failed.error = lambda: self.failure  # type: ignore[method-assign,assignment,return-value]
            return failed
        return self._take()

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        left = min(count, self.batch - 1, len(self.messages) - self.position)
        return [self._take() for _ in range(left)]


@dataclass
class Partition:
    """One partition that writers append to, and the search over it."""

    start: Start = field(default_factory=make_start)
    messages: list[FakeMessage] = field(default_factory=list)

    def append(self, record: Segment | Mark, key: bytes | None = None) -> int:
        first = record.numbers[0] if isinstance(record, Segment) else max(record.ceil + 1, 0)
        key = record_key(record.stream_key, int(first)) if key is None else key
        self.messages.append(FakeMessage(len(self.messages), key, codec.encode(record)))
        return len(self.messages) - 1

    def search(self, batch: int = 16) -> tuple[PartitionSearch, FakeConsumer, RangeReader]:
        consumer = FakeConsumer(self.messages, batch)
        watch = Watch(KafkaSettings(bootstrap="h:1"))
        reader = RangeReader(consumer, watch, "topic")
        return PartitionSearch(reader, 0, self.start, None), consumer, reader

    def find(self, number: int, **changes: int) -> Lookup:
        found = self.search(**changes)[0]
        return found.find(number, 0, len(self.messages), 10.0)

    def seek(self, number: int) -> int:
        return self.search()[0].seek(number, 0, len(self.messages), 10.0)

    def holders(self, number: int) -> list[int]:
        """Offsets of our segments that hold a frame, by reading everything."""
        found = []
        for message in self.messages:
            located = decode_message(message, STREAM_KEY, None)
            segment = located.value if located is not None else None
            if isinstance(segment, Segment) and number in segment.numbers.tolist():
                found.append(message.offset())
        return found


@dataclass
class Writer:
    """A writer as the protocol has it: floor and ceil never fall."""

    partition: Partition
    epoch: int = 1
    module: int = 0
    floor: int = NO_FLOOR
    ceil: int = NO_CEIL

    def claim(self) -> None:
        self._mark("claim")

    def mark(self, kind: str = "idle") -> None:
        self._mark(kind)

    def _mark(self, kind: str) -> None:
        self.partition.append(
            make_mark(kind, epoch=self.epoch, module=self.module, floor=self.floor, ceil=self.ceil)
        )

    def write(self, *numbers: int, floor: int | None = None) -> int:
        self.floor = max(self.floor, numbers[0] if floor is None else floor)
        self.ceil = max(self.ceil, numbers[-1])
        return self.partition.append(
            make_segment(
                numbers, epoch=self.epoch, module=self.module, floor=self.floor, ceil=self.ceil
            )
        )

    def passes(self, floor: int) -> None:
        self.floor = max(self.floor, floor)

    def successor(self) -> Writer:
        newer = Writer(self.partition, self.epoch + 1, self.module, self.floor, self.ceil)
        newer.claim()
        return newer


def loose(partition: Partition, *numbers: int, ceil: int, epoch: int = 1) -> int:
    """A record of a drained spool, or of a group's member: it promises nothing."""
    return partition.append(make_segment(numbers, epoch=epoch, floor=NO_FLOOR, ceil=ceil))


def other_stream(partition: Partition, number: int) -> None:
    partition.append(make_segment([number], stream_key=OTHER, floor=number))


# -- by example ---------------------------------------------------------------------------------


def test_in_an_empty_partition_nothing_is_found_and_nothing_passed() -> None:
    partition = Partition()
    assert partition.find(0) == Lookup(records=(), passed=False)
    assert partition.seek(0) == 0
    search, _, _ = partition.search()
    assert search.last(0, 0, 1.0) is None
    assert search.newest(0, 0, 0, 1.0) == (NO_FLOOR, NO_CEIL)


def test_each_frame_is_found_and_each_missing_one_is_passed() -> None:
    partition = Partition()
    writer = Writer(partition)
    writer.claim()
    for first in range(100, 400, 3):
        writer.write(first, first + 1)
    writer.passes(400)
    writer.mark()
    for number in range(90, 410):
        found = partition.find(number)
        assert [r.offset for r in found.records] == partition.holders(number)
        assert found.passed is (number < 400)


def test_a_number_passed_elsewhere_without_being_sent_here_is_passed() -> None:
    # The floor had gone on in other partitions: ceil 12 and floor 40 in the last mark here.
    partition = Partition()
    writer = Writer(partition)
    writer.write(10, 12)
    writer.passes(40)
    writer.mark()
    assert partition.find(11) == Lookup(records=(), passed=True)
    assert partition.find(20) == Lookup(records=(), passed=True)
    assert partition.find(40).passed is False


def test_a_late_frame_is_found_far_behind_its_floor() -> None:
    partition = Partition()
    writer = Writer(partition)
    for number in range(0, 4000, 2):
        writer.write(number)
    late = writer.write(7, floor=3999)
    for number in range(4000, 6000, 2):
        writer.write(number)
    assert [r.offset for r in partition.find(7).records] == [late]


def test_a_late_frame_of_one_module_is_found_beside_the_other_modules_own() -> None:
    # The index of late frames was once looked at only when no module had the frame.
    modules = tuple(Module(index=i, shape=(1, 1), position=(i, 0)) for i in (0, 1))
    partition = Partition(make_start(modules=modules))
    writers = [Writer(partition, module=i) for i in (0, 1)]
    for number in range(500):
        for writer in writers:
            if not (writer.module == 1 and number == 100):
                writer.write(number)
    late = writers[1].write(100, floor=499)
    for number in range(500, 700):
        for writer in writers:
            writer.write(number)
    found = partition.find(100)
    assert [r.offset for r in found.records] == [200, late]
    assert {r.value.module for r in found.records} == {0, 1}
    assert found.passed


def test_records_of_a_superseded_writer_do_not_mislead_the_search() -> None:
    # A writer that was stopped goes on: its queue lands behind its successor's records, with
    # lower numbers. A search that met them first once took them for the way the numbers go.
    partition = Partition()
    old = Writer(partition)
    for number in range(100):
        old.write(number)
    new = old.successor()
    for number in range(100, 600):
        new.write(number)
    zombies = [old.write(number, floor=90) for number in range(100, 130)]
    for number in range(600, 700):
        new.write(number)
    new.passes(700)
    new.mark("closing")
    for number in (0, 99, 101, 300, 500, 599, 600, 699):
        search, _, _ = partition.search()
        found = search.find(number, 0, len(partition.messages), 10.0)
        assert found.records[0].offset == partition.holders(number)[0]
        assert found.passed
    assert partition.holders(110) == [111, zombies[10]]
    assert [r.offset for r in partition.find(110).records] == [111]
    for number in range(0, 700, 7):
        assert partition.seek(number) <= partition.holders(number)[0]


def test_a_superseded_writers_only_copy_is_found() -> None:
    partition = Partition()
    old = Writer(partition)
    for number in range(100):
        old.write(number)
    new = old.successor()
    zombie = old.write(140, floor=90)
    for number in range(100, 120):
        new.write(number)
    assert [r.offset for r in partition.find(140).records] == [zombie]


def test_what_a_drained_spool_added_is_found_and_not_jumped_over() -> None:
    # The spool of a writer that died held its newest frames; then somebody ended the stream.
    partition = Partition()
    writer = Writer(partition)
    for number in range(500):
        writer.write(number)
    for number in range(500, 1000):
        loose(partition, number, ceil=number)
    closing = Writer(partition, epoch=2, floor=499, ceil=999)
    closing.claim()
    closing.passes(1000)
    closing.mark("closing")
    for number in (0, 250, 499, 500, 700, 999):
        assert [r.offset for r in partition.find(number).records] == partition.holders(number)
        assert partition.seek(number) <= partition.holders(number)[0]


def test_results_of_several_members_are_found_whatever_their_order() -> None:
    partition = Partition(make_start(lineage={"group": "g"}))
    for number in range(0, 600, 2):
        loose(partition, number, ceil=number)
        if number >= 200:
            loose(partition, number - 199, ceil=number - 199)
    for number in (0, 1, 3, 200, 399, 598):
        held = partition.holders(number)
        found = partition.find(number)
        assert [r.offset for r in found.records] == held
        assert partition.seek(number) <= held[0]
    assert partition.seek(599) == len(partition.messages)


def test_other_streams_and_foreign_records_are_passed_over() -> None:
    partition = Partition()
    writer = Writer(partition)
    for number in range(200):
        other_stream(partition, number)
        partition.messages.append(FakeMessage(len(partition.messages), b"foreign", b"x"))
        partition.messages.append(
            FakeMessage(len(partition.messages), record_key(STREAM_KEY, number), b"damaged")
        )
        writer.write(number)
        partition.messages.append(FakeMessage(len(partition.messages), None, None))
    for number in (0, 57, 199):
        assert [r.offset for r in partition.find(number).records] == partition.holders(number)


def test_an_unknown_schema_is_raised_because_frames_may_be_in_it() -> None:
    partition = Partition()
    data = b"\xc3\x01" + b"\xee" * 8 + b"x"
    partition.messages.append(FakeMessage(0, record_key(STREAM_KEY, 0), data))
    with pytest.raises(UnknownSchemaError):
        partition.find(0)


def test_a_catalogue_record_on_a_data_topic_counts_as_none() -> None:
    partition = Partition()
    data = codec.encode(make_start())
    partition.messages.append(FakeMessage(0, record_key(STREAM_KEY, 0), data))
    assert partition.find(0).records == ()


def test_the_last_segment_and_the_newest_marks_are_found_from_the_end() -> None:
    partition = Partition()
    writer = Writer(partition)
    writer.write(5)
    for _ in range(300):
        other_stream(partition, 0)
        writer.mark()
    search, _, _ = partition.search()
    high = len(partition.messages)
    last = search.last(0, high, 5.0)
    assert last is not None
    assert last.offset == 0
    assert search.newest(0, 0, high, 5.0) == (5, 5)
    assert search.newest(3, 0, high, 5.0) == (NO_FLOOR, NO_CEIL)
    assert search.last(1, high, 5.0) is None


def test_retention_may_pass_what_an_earlier_search_knew() -> None:
    partition = Partition()
    writer = Writer(partition)
    for number in range(100):
        writer.write(number)
    search, _, _ = partition.search()
    assert search.find(10, 0, 100, 5.0).records
    assert search.seek(10, 50, 100, 5.0) == 50
    assert search.find(10, 50, 100, 5.0).records == ()
    assert [r.offset for r in search.find(60, 50, 100, 5.0).records] == [60]


def test_a_search_goes_on_with_what_was_appended_since() -> None:
    partition = Partition()
    writer = Writer(partition)
    for number in range(100):
        writer.write(number)
    search, _, _ = partition.search()
    assert search.find(150, 0, 100, 5.0) == Lookup(records=(), passed=False)
    for number in range(100, 200):
        writer.write(number)
    assert [r.offset for r in search.find(150, 0, 200, 5.0).records] == [150]


def test_landmarks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_MAX_ANCHORS", 16)
    partition = Partition()
    writer = Writer(partition)
    for number in range(2000):
        writer.write(number)
    search, _, _ = partition.search()
    for number in range(0, 2000, 7):
        assert [r.offset for r in search.find(number, 0, 2000, 5.0).records] == [number]
    assert len(search._anchors[0][0]) <= 16


def test_silence_ends_at_the_deadline_with_the_address() -> None:
    partition = Partition()
    Writer(partition).write(1)
    search, consumer, _ = partition.search()
    consumer.silent = True
    with pytest.raises(BrokerUnavailableError, match=r"h:1.*topic/0 was not read in time"):
        search.find(1, 0, 1, 0.0)


def test_a_failed_read_is_raised() -> None:
    partition = Partition()
    Writer(partition).write(1)
    search, consumer, _ = partition.search()
    consumer.failure = KafkaError(KafkaError._FAIL)
    with pytest.raises(BrokerUnavailableError):
        search.find(1, 0, 1, 5.0)


def test_a_read_goes_on_when_a_broker_was_away_for_a_moment() -> None:
    partition = Partition()
    Writer(partition).write(1)
    search, consumer, _ = partition.search()
    consumer.failure = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    assert search.find(1, 0, 1, 5.0).records


# -- by any interleaving ------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 3), st.integers(0, 4)),
        st.tuples(st.sampled_from(["mark", "late", "zombie", "claim", "other", "drain"])),
    ),
    max_size=60,
)


def _grow(steps: Sequence[tuple], modules: int) -> tuple[Partition, dict[int, int]]:
    """Append what the steps say; return the partition, and the floor each module has told."""
    found = tuple(Module(index=i, shape=(1, 1), position=(i, 0)) for i in range(modules))
    partition = Partition(make_start(modules=found if modules > 1 else ()))
    writers = [Writer(partition, module=i) for i in range(modules)]
    zombies: list[Writer] = []
    for writer in writers:
        writer.claim()
    for turn, (kind, *values) in enumerate(steps):
        writer = writers[turn % modules]
        if kind == "write":
            count, hole = values
            first = writer.ceil + 1 + hole
            writer.write(*range(first, first + count))
        elif kind == "mark":
            writer.passes(writer.ceil + 1)
            writer.mark()
        elif kind == "late" and writer.floor > 2:
            writer.write(writer.floor // 2, floor=writer.floor)
        elif kind == "claim":
            zombies.append(writer)
            writers[turn % modules] = writer.successor()
        elif kind == "zombie" and zombies:
            zombie = zombies[turn % len(zombies)]
            zombie.write(zombie.ceil + 1, floor=zombie.floor)
        elif kind == "drain" and writer.ceil >= 0:
            number = writer.ceil // 2
            partition.append(
                make_segment(
                    [number],
                    module=writer.module,
                    epoch=writer.epoch,
                    floor=NO_FLOOR,
                    ceil=writer.ceil,
                )
            )
        elif kind == "other":
            other_stream(partition, turn)
    told = {writer.module: NO_FLOOR for writer in writers}
    for message in partition.messages:
        located = decode_message(message, STREAM_KEY, None)
        if located is not None:
            module = located.value.module
            told[module] = max(told[module], located.value.floor)
    return partition, told


@settings(max_examples=250, deadline=None)
@given(STEPS, st.integers(1, 2), st.sampled_from([1, 3, 16]))
def test_every_frame_is_found_in_every_module_whatever_interleaves(
    steps: list[tuple], modules: int, batch: int
) -> None:
    partition, told = _grow(steps, modules)
    search, _, _ = partition.search(batch)
    high = len(partition.messages)
    kept: dict[tuple[int, int], int] = {}
    for message in partition.messages:
        located = decode_message(message, STREAM_KEY, None)
        if located is not None and isinstance(located.value, Segment):
            for number in located.value.numbers.tolist():
                kept.setdefault((located.value.module, number), message.offset())
    numbers = {number for _, number in kept} | {0, 1, 500}
    for number in sorted(numbers):
        found = search.find(number, 0, high, 10.0)
        assert {r.offset for r in found.records} <= set(partition.holders(number))
        present = {module for module, kept_number in kept if kept_number == number}
        assert {r.value.module for r in found.records} == present
        if not found.records:
            assert found.passed == all(floor > number for floor in told.values())
    for number in sorted(numbers, reverse=True):  # the landmarks met so far mislead nobody
        assert {r.offset for r in search.find(number, 0, high, 10.0).records} <= set(
            partition.holders(number)
        )


@settings(max_examples=250, deadline=None)
@given(STEPS, st.integers(0, 60))
def test_nothing_but_late_frames_lies_before_where_a_reader_is_sent(
    steps: list[tuple], number: int
) -> None:
    kept = [step for step in steps if step[0] not in {"zombie"}]
    partition, _ = _grow(kept, 1)
    offset = partition.seek(number)
    for message in partition.messages[:offset]:
        located = decode_message(message, STREAM_KEY, None)
        if located is not None and isinstance(located.value, Segment):
            assert located.value.numbers[-1] < number


# -- how much is read ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Partition:
    """10^5 records: ours, another stream's between them, uneven steps, one restart, zombies."""
    partition = Partition()
    writer = Writer(partition)
    writer.claim()
    number = 0
    zombies: list[Writer] = []
    while len(partition.messages) < 100_000:
        at = len(partition.messages)
        number += 1 + (at % 7) * (at % 3) + (5000 if at % 20_000 == 0 else 0)
        writer.write(number)
        if at % 5 == 0:
            other_stream(partition, number)
        if at > 40_000 and not zombies:
            zombies.append(writer)
            writer = writer.successor()
        if 60_000 < at < 60_060:
            old = zombies[0]
            old.write(old.ceil + 1, floor=old.floor)
    writer.passes(number + 1)
    writer.mark("closing")
    return partition


def test_reads_stay_few_among_a_hundred_thousand_records(large: Partition) -> None:
    high = len(large.messages)
    search, consumer, reader = large.search(batch=64)
    numbers = []
    for at in range(17, high, 997):
        located = decode_message(large.messages[at], STREAM_KEY, None)
        if located is not None and isinstance(located.value, Segment):
            numbers.append((int(located.value.numbers[0]), at))
    cold = []
    for number, _ in numbers[:: len(numbers) // 8]:
        fresh, _, fresh_reader = large.search(batch=64)
        assert fresh.find(number, 0, high, 60.0).records
        cold.append(fresh_reader.reads)
    assert max(cold) <= 24, cold  # log2(10^5) is 17, and the end is looked at
    for number, at in numbers:
        found = search.find(number, 0, high, 60.0)
        assert at in [r.offset for r in found.records] or found.records[0].offset < at
    assert reader.reads / len(numbers) < 8
    assert consumer.fetched / len(numbers) < 1000


def test_reading_on_costs_no_jump() -> None:
    partition = Partition()
    writer = Writer(partition)
    for number in range(200):
        writer.write(number)
    _, consumer, reader = partition.search(batch=16)
    offsets = [m.offset() for m in reader.read(0, 10, 60, time.monotonic() + 5)]
    assert offsets == list(range(10, 60))
    assert reader.reads == 1
    again = [m.offset() for m in reader.read(0, 58, 150, time.monotonic() + 5)]
    assert again == list(range(58, 150))
    assert reader.reads == 1
    assert consumer.fetched < 200


def test_two_readings_of_one_reader_may_interleave() -> None:
    partition = Partition()
    writer = Writer(partition)
    for number in range(100):
        writer.write(number)
    _, _, reader = partition.search(batch=8)
    one = reader.read(0, 0, 30, time.monotonic() + 5)
    other = reader.read(0, 60, 90, time.monotonic() + 5)
    first = [next(one).offset() for _ in range(3)]
    second = [next(other).offset() for _ in range(20)]
    assert first + [m.offset() for m in one] == list(range(30))
    assert second + [m.offset() for m in other] == list(range(60, 90))


def test_a_range_behind_the_end_of_the_partition_ends_there() -> None:
    partition = Partition()
    Writer(partition).write(1)
    _, _, reader = partition.search()
    assert [m.offset() for m in reader.read(0, 0, 50, time.monotonic() + 5)] == [0]
    assert list(reader.read(0, 7, 7, time.monotonic() + 5)) == []
