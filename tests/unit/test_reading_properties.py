"""Any interleaving of writers, crashes, copies and losses: each frame once, and in order."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import StreamTimeoutError
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.reading.ranges import Ranges
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_mark, make_segment, make_start

NAME = StreamId("test", "detector", "scan_1")
MODULES = tuple(Module(index=i, shape=(1, 1), position=(0, i)) for i in range(2))


@dataclass
class Writer:
    """A writer by the rules of the protocol: floor, ceil, claims; what it loses stays lost."""

    log: MemoryLog
    module: int = 0
    epoch: int = 1
    floor: int = -1
    ceils: list[int] = field(default_factory=list)
    highest: int = -1

    def claim(self) -> None:
        self.ceils = self.ceils or [-1] * self.log.start.partitions
        self._mark("claim")

    def _mark(self, kind: str) -> None:
        for partition, ceil in enumerate(self.ceils):
            fields = {"floor": self.floor, "ceil": ceil, "epoch": self.epoch}
            self.log.append(partition, make_mark(kind, module=self.module, **fields))

    def send(self, numbers: list[int], *, digest: int = 7) -> None:
        chunk = self.log.start.frames_per_chunk
        for _, group in itertools.groupby(numbers, lambda n: n // chunk):
            run = list(group)
            partition = self.log.start.partition_of(run[0])
            self.ceils[partition] = max(self.ceils[partition], run[-1])
            self.log.append(
                partition,
                make_segment(
                    run,
                    module=self.module,
                    epoch=self.epoch,
                    floor=self.floor,
                    ceil=self.ceils[partition],
                    digests=[digest] * len(run),
                ),
            )

    def declare(self, floor: int) -> None:
        self.floor = max(self.floor, floor)
        self._mark("idle")


def open_stream(log: MemoryLog) -> Stream:
    return Stream(log, MemoryStore("properties"), name=NAME)


def drain(frames: Any) -> list[int]:
    """Return what there is now."""
    found = []
    with contextlib.suppress(StreamTimeoutError):
        for frame in frames:
            found.append(frame.number)
    return found


_layouts = st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4]))
_actions = st.lists(
    st.tuples(
        st.sampled_from(["send", "skip", "shuffle", "copy", "mark", "read", "restart", "zombie"]),
        st.integers(1, 6),
        st.randoms(use_true_random=False),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(layout=_layouts, begin=st.sampled_from([0, 3, 1000]), actions=_actions)
def test_every_frame_comes_once_and_in_order_whatever_happens(
    layout: tuple[int, int], begin: int, actions: list[tuple[str, int, Any]]
) -> None:
    log = MemoryLog(make_start(partitions=layout[0], frames_per_chunk=layout[1]))
    stream = open_stream(log)
    writer, old = Writer(log), None
    writer.claim()
    position = begin
    sent: set[int] = set()
    copied: set[int] = set()
    live = stream.ordered(timeout_s=0)
    got: list[int] = []
    for action, count, random in actions:
        numbers = list(range(position, position + count))
        if action in ("send", "shuffle"):
            writer.floor = max(writer.floor, position)
            pieces = [numbers]
            if action == "shuffle":
                pieces = [[n] for n in random.sample(numbers, count)]
            for piece in pieces:
                writer.send(piece)
                if action == "shuffle" and random.random() < 0.5:
                    got += drain(live)
            sent.update(numbers)
            position += count
        elif action == "skip" and sent:
            position += count
        elif action == "copy" and sent:
            again = sorted(random.sample(sorted(sent), min(count, len(sent))))
            writer.send(again)
            copied.update(again)
        elif action == "mark" and sent:
            writer.declare(position)
        elif action == "read":
            got += drain(live)
        elif action == "restart":
            old = writer
            writer = Writer(log, epoch=old.epoch + 1, floor=old.floor, ceils=list(old.ceils))
            writer.claim()
        elif action == "zombie" and old is not None and sent:
            # Frames the old writer had in its queue; the new one publishes them as well.
            old.floor += 100_000
            old.send(numbers)
            old.declare(old.floor)
            writer.floor = max(writer.floor, position)
            writer.send(numbers)
            sent.update(numbers)
            copied.update(numbers)
            position += count
    writer.declare(position)
    log.mark("closing", floor=position, epoch=writer.epoch)
    log.end()
    got += drain(live)
    late = {n for a, b in live.late for n in range(a, b + 1)}
    assert got == sorted(set(got))
    assert set(got) | late == sent
    assert not late
    holes = set(range(min(sent), max(sent) + 1)) - sent if sent else set()
    assert live.missing == Ranges.of(holes).lists()
    again = stream.ordered()
    assert [frame.number for frame in again] == sorted(sent)
    assert again.missing == Ranges.of(holes).lists()
    account = stream.account()
    assert account["received"] == len(sent)
    assert account["missing"] == Ranges.of(holes).lists()
    assert account["duplicate"] == Ranges.of(copied).lists()
    assert account["conflict"] == account["incomplete"] == []
    assert account["complete"] is (not holes)
    assert [f.number for f in stream.select("number >= 0")] == sorted(sent)
    stream.close()


@settings(max_examples=80, deadline=None)
@given(
    layout=_layouts,
    count=st.integers(1, 60),
    data=st.data(),
)
def test_accounts_are_exact_under_loss_duplication_and_reorder(
    layout: tuple[int, int], count: int, data: st.DataObject
) -> None:
    numbers = st.sets(st.integers(0, count - 1))
    lost = data.draw(numbers, label="lost")
    twice = data.draw(numbers, label="twice") - lost
    other = data.draw(numbers, label="other content") - lost
    late = data.draw(numbers, label="late") - lost - twice - other
    log = MemoryLog(make_start(partitions=layout[0], frames_per_chunk=layout[1]))
    writer = Writer(log)
    writer.claim()
    first = [n for n in range(count) if n not in lost | late]
    random = data.draw(st.randoms(use_true_random=False))
    entries = [(n, 7) for n in first]
    random.shuffle(entries)
    for n, digest in [*entries, *((n, 7) for n in twice), *((n, 8) for n in other)]:
        writer.send([n], digest=digest)
    writer.declare(count)
    for n in late:
        writer.send([n])
    log.end(expected=count)
    stream = open_stream(log)
    account = stream.account()
    known = set(range(count)) - lost
    ceil = count - 1 if known and max(known) == count - 1 else max(known, default=-1)
    holes = {n for n in lost if known and min(known) < n < ceil}
    assert account["received"] == len(known)
    assert account["missing"] == Ranges.of(holes).lists()
    assert account["duplicate"] == Ranges.of(twice).lists()
    assert account["conflict"] == Ranges.of(other).lists()
    assert account["late"] == Ranges.of(late).lists()
    assert account["complete"] is (not lost and not other)
    in_order = stream.ordered()
    assert [frame.number for frame in in_order] == sorted(
        known - {n for a, b in in_order.late for n in range(a, b + 1)}
    )
    stream.close()


@settings(max_examples=80, deadline=None)
@given(layout=_layouts, count=st.integers(1, 20), data=st.data())
def test_frames_of_modules_are_joined_whatever_module_comes_first(
    layout: tuple[int, int], count: int, data: st.DataObject
) -> None:
    log = MemoryLog(make_start(partitions=layout[0], frames_per_chunk=layout[1], modules=MODULES))
    writers = [Writer(log, module=i) for i in range(2)]
    lost = [data.draw(st.sets(st.integers(0, count - 1))) for _ in range(2)]
    for writer in writers:
        writer.claim()
    stream = open_stream(log)
    live = stream.ordered(timeout_s=0)
    got: list[Any] = []
    todo = [[n for n in range(count) if n not in lost[i]] for i in range(2)]
    while any(todo):
        module = data.draw(st.sampled_from([i for i in range(2) if todo[i]]))
        number = todo[module].pop(0)
        writers[module].floor = number
        writers[module].send([number])
        if data.draw(st.booleans()):
            with contextlib.suppress(StreamTimeoutError):
                got.extend(live)
    for writer in writers:
        writer.declare(count)
    log.end()
    got.extend(live)
    there = set(range(count)) - (lost[0] & lost[1])
    assert [frame.number for frame in got] == sorted(there)
    for frame in got:
        assert set(frame.modules) == {i for i in range(2) if frame.number not in lost[i]}
    partial = (lost[0] ^ lost[1]) & there
    account = stream.account()
    assert account["incomplete"] == Ranges.of(partial).lists()
    assert account["received"] == len(there - partial)
    stream.close()
