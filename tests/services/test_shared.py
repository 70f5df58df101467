"""Groups on the real broker: each frame to one member, whatever happens to the members."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import FrameExpiredError, StreamTimeoutError
from pipeline.frame import Module
from pipeline.local.processes import wait_until
from pipeline.records import Pointer, Segment
from pipeline.session import Session, connect
from pipeline.sharing.progress import decode_done
from pipeline.wire import codec

FRAMES = 200
#: Longest that one of these tests waits for anything.
LIMIT_S = 60.0


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(
    session: Session, beamtime: str, name: str = "s", *, count: int = FRAMES, chunk: int = 4
) -> None:
    with session.publish(beamtime, "lambda", name, frames_per_chunk=chunk) as out:
        for number in range(count):
            out.write(np.full((3, 4), number, np.uint16), number=number)


class Members:
    """Members of a group in threads, each with a session of its own."""

    def __init__(self, beamtime: str, group: str, name: str = "s") -> None:
        self.address = (beamtime, "lambda", name)
        self.group = group
        self.numbers: list[list[int]] = []
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []

    def add(self, gate: threading.Barrier | None = None) -> None:
        mine: list[int] = []
        self.numbers.append(mine)
        thread = threading.Thread(target=self._run, args=(mine, gate))
        self.threads.append(thread)
        thread.start()

    def _run(self, mine: list[int], gate: threading.Barrier | None) -> None:
        try:
            with connect() as session:
                for delivery in session.stream(*self.address).shared(self.group, timeout_s=LIMIT_S):
                    assert (delivery.frame.array == delivery.frame.number).all()
                    mine.append(delivery.frame.number)
                    delivery.ack()
                    if gate is not None and len(mine) == 1:
                        gate.wait(LIMIT_S)
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> list[int]:
        for thread in self.threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
        assert self.errors == []
        return sorted(number for numbers in self.numbers for number in numbers)


def drain(session: Session, beamtime: str, group: str, name: str = "s") -> list[int]:
    found = []
    with session.stream(beamtime, "lambda", name).shared(group, timeout_s=LIMIT_S) as frames:
        for delivery in frames:
            found.append(delivery.frame.number)
            delivery.ack()
    return sorted(found)


def test_two_members_get_disjoint_frames_and_all_of_them_and_both_end(
    session: Session, beamtime: str
) -> None:
    members = Members(beamtime, "g")
    # Nobody goes on before both had a frame, so both take part.
    gate = threading.Barrier(2)
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        out.write(np.zeros((3, 4), np.uint16), number=0)
        out.flush()
        members.add(gate)
        members.add(gate)
        written = 1
        deadline = time.monotonic() + LIMIT_S
        while not all(members.numbers):
            assert time.monotonic() < deadline, members.errors
            out.write(np.full((3, 4), written, np.uint16), number=written)
            out.flush()
            written += 1
    assert members.join() == list(range(written))


def test_two_groups_and_a_late_one_each_get_every_frame(session: Session, beamtime: str) -> None:
    publish(session, beamtime)
    assert drain(session, beamtime, "a") == list(range(FRAMES))
    assert drain(session, beamtime, "b") == list(range(FRAMES))
    assert drain(session, beamtime, "a") == []


def test_progress_on_one_stream_never_moves_another_of_the_same_topic(
    session: Session, beamtime: str
) -> None:
    """Two members of one group on two streams of a topic (design section 5)."""
    publish(session, beamtime, "one")
    publish(session, beamtime, "two")
    members = [Members(beamtime, "g", "one"), Members(beamtime, "g", "two")]
    for member in members:
        member.add()
    for member in members:
        assert member.join() == list(range(FRAMES))


def test_a_restarted_member_goes_on_behind_the_done_frames(session: Session, beamtime: str) -> None:
    """Frames done out of order inside a record that is not finished are not redone."""
    publish(session, beamtime, count=64, chunk=64)
    stream = session.stream(beamtime, "lambda", "s")
    with stream.shared("g", timeout_s=LIMIT_S) as frames:
        held = [next(frames) for _ in range(40)]
        done = held[1::2]
        for delivery in done:
            delivery.ack()
    expected = set(range(64)) - {delivery.frame.number for delivery in done}
    assert drain(session, beamtime, "g") == sorted(expected)
    held[0].ack()  # void by now, which is counted and no error


_HANGING = """
    import sys
    from pipeline.session import connect
    with connect() as session:
        frames = session.stream(*sys.argv[1:4]).shared("g", timeout_s=60)
        for delivery in frames:
            print(delivery.frame.number, flush=True)
            if delivery.frame.number % 10 == 5:
                print("hang", flush=True)
                sys.stdin.read()
            delivery.ack()
"""


@pytest.mark.slow
def test_when_a_member_is_killed_nothing_is_lost_and_others_take_its_frames(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, count=64, chunk=64)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HANGING), beamtime, "lambda", "s"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        taken = []
        for line in child.stdout:
            if line.strip() == "hang":
                break
            taken.append(int(line))
        # Its progress is committed while it hangs with one frame in its hand.
        _wait_committed(session, beamtime, len(taken) - 1)
        child.kill()
    found = drain(session, beamtime, "g")
    assert sorted({*taken, *found}) == list(range(64))
    assert len(taken) + len(found) - 64 <= 1  # the one in hand


def _wait_committed(session: Session, beamtime: str, frames: int) -> None:
    """Wait until the group has committed so many frames in partition 0."""
    info = session.stream(beamtime, "lambda", "s").info
    names, admin = session.services.names, session.services.admin
    group = names.group(beamtime, "g", info.start.stream_key)
    topic = names.topic(beamtime, "lambda")
    log = session.services.log(info)
    try:
        low, high = log.bounds()
        sizes = {
            record.offset: len(record.value)
            for record in log.read(low, high, timeout_s=LIMIT_S)
            if record.partition == 0 and isinstance(record.value, Segment)
        }
    finally:
        log.close()
    deadline = time.monotonic() + LIMIT_S
    while True:
        entry = admin.committed(group, topic, info.start.partitions)[0]
        below = sum(size for offset, size in sizes.items() if offset < entry.offset)
        if below + sum(decode_done(entry.metadata)) >= frames:
            return
        assert time.monotonic() < deadline, (entry.offset, entry.metadata, sizes)


def test_retried_frames_come_again_and_rejected_ones_are_in_the_dead_letters(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    attempts: Counter[int] = Counter()
    with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=LIMIT_S) as frames:
        for delivery in frames:
            number = delivery.frame.number
            attempts[number] += 1
            assert delivery.attempt == attempts[number]
            if number == 7 and delivery.attempt < 3:
                delivery.retry(delay_s=0.05)
            elif number == 9:
                try:
                    raise ValueError("no peak")  # noqa: TRY301 -- the traceback is kept
                except ValueError as error:
                    delivery.reject(str(error))
            else:
                delivery.ack()
    assert attempts == {n: 3 if n == 7 else 1 for n in range(FRAMES)}
    (letter,) = _dead_letters(session, beamtime)
    assert (letter.number, letter.attempt, letter.reason) == (9, 1, "no peak")
    assert "ValueError" in letter.trace
    assert letter.group == "g"
    assert drain(session, beamtime, "g") == []


def _dead_letters(session: Session, beamtime: str, detector: str = "lambda") -> list[Pointer]:
    from confluent_kafka import TopicPartition

    from pipeline.kafka.client import make_consumer

    consumer, _ = make_consumer(session.settings.kafka)
    topic = session.services.names.dead_letters(beamtime, detector, "g")
    try:
        high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(high, LIMIT_S) if high else []
        return [codec.decode(message.value()) for message in messages]  # type: ignore[misc]
    finally:
        consumer.close()


def test_silence_is_a_timeout_and_the_same_iterator_goes_on(
    session: Session, beamtime: str
) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=1) as out:
        out.write(np.zeros((3, 4), np.uint16))
        out.flush()
        with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=0.2) as frames:
            next(frames).ack()
            with pytest.raises(StreamTimeoutError):
                next(frames)
            out.write(np.zeros((3, 4), np.uint16))
            out.flush()
            frames.timeout_s = LIMIT_S
            delivery = next(frames)
            assert delivery.frame.number == 1
            delivery.ack()


def test_a_frame_in_hand_at_the_end_is_named_in_the_timeout(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, count=3)
    with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=0.5) as frames:
        held = [next(frames) for _ in range(3)]
        with pytest.raises(StreamTimeoutError, match="3 deliveries"):
            next(frames)
        for delivery in held:
            delivery.ack()
        assert list(frames) == []


def test_frames_published_twice_are_delivered_once(session: Session, beamtime: str) -> None:
    for reopen in (False, True):
        with session.publish(
            beamtime, "lambda", "s", frames_per_chunk=4, reopen=reopen, instance="t"
        ) as out:
            # The second writer reads back only to the last floor, so it sends all again.
            for number in range(20):
                out.write(np.full((3, 4), number, np.uint16), number=number)
    assert drain(session, beamtime, "g") == list(range(20))


def test_modules_of_a_frame_come_together_and_incomplete_ones_when_they_are_passed(
    session: Session, beamtime: str
) -> None:
    modules = tuple(Module(index=i, shape=(2, 2), position=(2 * i, 0)) for i in range(2))
    with session.publish(beamtime, "lambda", "s", modules=modules, frames_per_chunk=4) as out:
        for module in range(2):
            for number in range(12 - module):
                out.write(np.full((2, 2), number, np.uint16), number=number, module=module)
            out.flush()
    found = {}
    with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=LIMIT_S) as frames:
        for delivery in frames:
            found[delivery.frame.number] = delivery.frame.missing_modules
            delivery.ack()
    assert found == {n: () if n < 11 else (1,) for n in range(12)}


def test_what_topic_and_manifest_lost_before_the_group_had_it_is_an_error(
    session: Session, beamtime: str
) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        for number in range(FRAMES):  # no part of a manifest has them yet
            out.write(np.full((3, 4), number, np.uint16), number=number)
        out.flush()
        stream = session.stream(beamtime, "lambda", "s")
        topic = session.services.names.topic(beamtime, "lambda")
        session.services.admin.delete_records(topic, {0: stream.log.bounds()[1][0] - 1})
        with pytest.raises(FrameExpiredError, match="group g is at offset"):
            stream.shared("g")


def test_what_only_the_topic_lost_before_the_group_had_it_comes_from_the_manifest(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    info = session.stream(beamtime, "lambda", "s").info
    topic = session.services.names.topic(beamtime, "lambda")
    assert info.end_offsets is not None
    session.services.admin.delete_records(topic, {0: info.end_offsets[0] - 1})
    assert drain(session, beamtime, "g") == list(range(FRAMES))


def test_partitions_that_come_back_are_read_again_though_they_had_been_read_to_their_end(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=LIMIT_S) as frames:
        first = next(frames)
        share = frames.share  # read ahead to the end, and nothing more of it taken
        assert wait_until(lambda: len(share._buffer) == FRAMES - 1, timeout_s=LIMIT_S)
        first.ack()
        with connect() as other:
            guest = other.stream(beamtime, "lambda", "s").shared("g", timeout_s=LIMIT_S)
            next(guest)  # some partitions have gone to it; it leaves with a frame in its hand
            guest.close()
        found = {first.frame.number}
        for delivery in frames:
            found.add(delivery.frame.number)
            delivery.ack()
    assert found == set(range(FRAMES))


def test_a_group_that_begins_now_gets_only_what_comes(session: Session, beamtime: str) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=1) as out:
        out.write(np.zeros((3, 4), np.uint16))
        out.flush()
        stream = session.stream(beamtime, "lambda", "s")
        with stream.shared("g", timeout_s=LIMIT_S, start="now") as frames:
            out.write(np.ones((3, 4), np.uint16))
            out.flush()
            delivery = next(frames)
            assert delivery.frame.number == 1
            delivery.ack()


def test_stored_streams_are_shared_without_a_broker(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    with connect(session.settings.store.url) as stored:
        assert not stored.services.has_broker
        found = []
        stream = stored.stream(beamtime, "lambda", "s")
        for delivery in stream.shared("g", timeout_s=LIMIT_S, state=tmp_path / "g.db"):
            found.append(delivery.frame.number)
            delivery.ack()
    assert sorted(found) == list(range(FRAMES))
