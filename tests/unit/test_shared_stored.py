"""Groups on one machine, without a broker."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.errors import AlreadyAcknowledgedError, PipelineError, StreamTimeoutError
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.shared import SharedFrames, open_shared
from pipeline.sharing.ledger import Ledger
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_segment, make_start


def make_stream(count: int = 40, **start: object) -> Stream:
    log = MemoryLog(make_start(partitions=2, frames_per_chunk=4, **start))
    for first in range(0, count, 4):
        log.append(log.start.partition_of(first), make_segment(range(first, first + 4)))
    log.end()
    return Stream(log, MemoryStore("shared"), name=StreamId("test", "detector", "scan_1"))


def join(stream: Stream, state: Path, group: str = "g", timeout_s: float = 5.0) -> SharedFrames:
    return open_shared(None, stream, group=group, timeout_s=timeout_s, state=state)


def test_each_frame_goes_to_one_of_two_members(tmp_path: Path) -> None:
    with make_stream() as one, make_stream() as two:
        members = [join(stream, tmp_path / "g.db", timeout_s=0.0) for stream in (one, two)]
        numbers: list[list[int]] = [[], []]
        ended = [False, False]
        while not all(ended):
            for at, member in enumerate(members):
                try:
                    delivery = next(member)
                except StreamTimeoutError:  # the other one has them all
                    continue
                except StopIteration:
                    ended[at] = True
                    continue
                numbers[at].append(delivery.frame.number)
                delivery.ack()
        assert sorted(numbers[0] + numbers[1]) == list(range(40))
        assert all(numbers)


def test_two_groups_know_nothing_of_each_other(tmp_path: Path) -> None:
    with make_stream() as stream:
        for group in ("a", "b"):
            found = []
            for delivery in join(stream, tmp_path / "g.db", group):
                found.append(delivery.frame.number)
                delivery.ack()
            assert sorted(found) == list(range(40))
        assert list(join(stream, tmp_path / "g.db", "a")) == []


def test_a_member_that_left_gives_back_what_it_had_not_settled(tmp_path: Path) -> None:
    with make_stream() as stream:
        with join(stream, tmp_path / "g.db") as frames:
            done = next(frames)
            done.ack()
            open_ = next(frames)
        again = []
        for delivery in join(stream, tmp_path / "g.db"):
            again.append((delivery.frame.number, delivery.attempt))
            delivery.ack()
        assert len(again) == 39
        assert (open_.frame.number, 1) in again
        open_.ack()  # too late, which is no error


def test_retried_frames_come_again_and_rejected_ones_do_not(tmp_path: Path) -> None:
    with make_stream(8) as stream:
        attempts: dict[int, int] = {}
        with join(stream, tmp_path / "g.db") as frames:
            for delivery in frames:
                number = delivery.frame.number
                attempts[number] = delivery.attempt
                if number == 3 and delivery.attempt < 3:
                    delivery.retry(delay_s=0.01)
                elif number == 5:
                    try:
                        raise ValueError("no peak")  # noqa: TRY301 -- the traceback is kept
                    except ValueError as error:
                        delivery.reject(str(error))
                else:
                    delivery.ack()
        assert attempts == {n: 3 if n == 3 else 1 for n in range(8)}
        key = f"g/{stream.start.stream_key.hex()}"
        ledger = Ledger(tmp_path / "g.db", key)
        ((number, attempt, reason, trace),) = ledger.rejected()
        assert (number, attempt, reason) == (5, 1, "no peak")
        assert "ValueError" in trace
        ledger.close()


def test_a_delivery_is_settled_once(tmp_path: Path) -> None:
    with make_stream() as stream, join(stream, tmp_path / "g.db") as frames:
        delivery = next(frames)
        delivery.ack()
        for again in (delivery.ack, delivery.retry, lambda: delivery.reject("x")):
            with pytest.raises(AlreadyAcknowledgedError, match="settled before"):
                again()


def test_silence_while_others_hold_frames_is_a_timeout_and_can_be_resumed(tmp_path: Path) -> None:
    with make_stream(4) as stream:
        frames = join(stream, tmp_path / "g.db", timeout_s=0.05)
        held = [next(frames) for _ in range(4)]
        with pytest.raises(StreamTimeoutError, match="4 frames are in hand"):
            next(frames)
        for delivery in held:
            delivery.ack()
        assert list(frames) == []


def test_modules_of_a_frame_come_together(tmp_path: Path) -> None:
    modules = tuple(Module(index=i, shape=(2, 2), position=(2 * i, 0)) for i in range(2))
    log = MemoryLog(make_start(modules=modules, frames_per_chunk=8))
    log.append(0, make_segment(range(4), module=0))
    log.append(0, make_segment(range(3), module=1))
    log.end()
    name = StreamId("test", "detector", "scan_1")
    with Stream(log, MemoryStore("shared"), name=name) as stream:
        found = {}
        for delivery in join(stream, tmp_path / "g.db"):
            found[delivery.frame.number] = delivery.frame.missing_modules
            delivery.ack()
    assert found == {0: (), 1: (), 2: (), 3: (1,)}


def test_without_a_broker_the_state_file_must_be_named() -> None:
    with make_stream() as stream, pytest.raises(PipelineError, match="state="):
        open_shared(None, stream, group="g")


def test_a_state_file_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    with make_stream() as stream, pytest.raises(PipelineError, match="cannot be used"):
        join(stream, tmp_path / "missing" / "g.db")


def _lease_and_hang(path: str, key: str, pipe: object) -> None:
    ledger = Ledger(Path(path), key)
    leased = ledger.lease(list(range(5)))
    ledger.done(0)
    pipe.send(leased)  # type: ignore[attr-defined]
    pipe.recv()  # type: ignore[attr-defined]  # until it is killed


def test_frames_of_a_killed_process_go_to_another_one(tmp_path: Path) -> None:
    with make_stream(8) as stream:
        key = f"g/{stream.start.stream_key.hex()}"
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(
            target=_lease_and_hang, args=(str(tmp_path / "g.db"), key, theirs), daemon=True
        )
        child.start()
        assert ours.poll(30)
        assert ours.recv() == [0, 1, 2, 3, 4]
        found = []
        with join(stream, tmp_path / "g.db") as frames:
            for _ in range(3):  # what the living process holds is not touched
                delivery = next(frames)
                found.append(delivery.frame.number)
                delivery.ack()
            assert sorted(found) == [5, 6, 7]
            child.kill()
            child.join(10)
            for delivery in frames:
                found.append(delivery.frame.number)
                delivery.ack()
        assert sorted(found) == [1, 2, 3, 4, 5, 6, 7]
        child.close()
        ours.close()
        theirs.close()
