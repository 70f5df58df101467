"""Ordered readers of one group, split by stream, on the real broker."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError, StreamTimeoutError
from pipeline.naming import StreamId
from pipeline.session import Session, connect

LIMIT_S = 60.0
PIXELS = np.zeros((2, 2), np.uint16)


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(session: Session, beamtime: str, name: str, count: int) -> None:
    with session.publish(beamtime, "lambda", name, frames_per_chunk=4) as out:
        for number in range(count):
            out.write(PIXELS, number=number)


def drain(session: Session, beamtime: str, streams: int) -> dict[str, list[int]]:
    """Read until so many streams have ended for this group."""
    found: dict[str, list[int]] = defaultdict(list)
    ended: list[StreamId] = []
    with session.follow_ordered(
        "g", f"{beamtime}/*/*", timeout_s=0.5, on_end=ended.append
    ) as frames:
        while len(ended) < streams:
            try:
                delivery = next(frames)
            except StreamTimeoutError:
                continue
            found[delivery.frame.stream.stream].append(delivery.frame.number)
            delivery.ack()
    return dict(found)


def test_one_member_reads_all_streams_in_order_and_never_again(
    session: Session, beamtime: str
) -> None:
    for name in ("a", "b", "c"):
        publish(session, beamtime, name, 30)
    assert drain(session, beamtime, 3) == {name: list(range(30)) for name in ("a", "b", "c")}
    publish(session, beamtime, "d", 3)
    assert drain(session, beamtime, 1) == {"d": [0, 1, 2]}
    # a stream that goes on is read on
    with session.publish(beamtime, "lambda", "a", reopen=True, instance="t") as out:
        out.write(PIXELS, number=30)
    assert drain(session, beamtime, 1) == {"a": [30]}


def test_members_split_the_streams_and_one_that_joins_takes_some_over(
    session: Session, beamtime: str
) -> None:
    """Each stream comes in order, every frame once, whoever reads it at the time."""
    names = [f"s{i}" for i in range(8)]
    lock = threading.Lock()
    found: dict[str, list[int]] = defaultdict(list)
    readers: dict[str, set[int]] = defaultdict(set)
    ended: set[str] = set()
    errors: list[BaseException] = []

    def read(index: int) -> None:
        try:
            with (
                connect() as own,
                own.follow_ordered(
                    "g",
                    f"{beamtime}/*/*",
                    timeout_s=0.2,
                    on_end=lambda name: ended.add(name.stream),
                ) as frames,
            ):
                while len(ended) < len(names):
                    try:
                        delivery = next(frames)
                    except StreamTimeoutError:
                        continue
                    with lock:
                        name = delivery.frame.stream.stream
                        found[name].append(delivery.frame.number)
                        readers[name].add(index)
                    delivery.ack()
        except BaseException as error:
            errors.append(error)
            ended.update(names)

    outs = [
        session.publish(beamtime, "lambda", name, frames_per_chunk=4, rate_hz=100) for name in names
    ]
    written = 0

    def write(count: int) -> None:
        nonlocal written
        for number in range(written, written + count):
            for out in outs:
                out.write(PIXELS, number=number)
        for out in outs:
            out.flush()
        written += count

    threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
    write(5)
    threads[0].start()
    pause = threading.Event()
    for _ in range(200):
        if len(readers) == len(names) or errors:
            break
        pause.wait(0.1)
    assert len(readers) == len(names), errors
    threads[1].start()
    for _ in range(200):
        if any(1 in seen for seen in readers.values()) or errors:
            break
        write(1)
        pause.wait(0.1)
    for out in outs:
        out.end()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert errors == []
    assert dict(found) == {name: list(range(written)) for name in names}
    assert any(1 in seen for seen in readers.values())


_MEMBER = """
    import sys
    from pipeline.session import connect
    with connect() as session:
        for delivery in session.follow_ordered("g", sys.argv[1] + "/*/*", timeout_s=60):
            frame = delivery.frame
            if frame.number == 20:
                print("hang", flush=True)
                sys.stdin.read()
            delivery.ack()
            print(frame.stream.stream, frame.number, flush=True)
"""


@pytest.mark.slow
def test_when_a_member_is_killed_another_goes_on_behind_its_last_acknowledged_frame(
    session: Session, beamtime: str
) -> None:
    for name in ("a", "b"):
        publish(session, beamtime, name, 40)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_MEMBER), beamtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    taken: dict[str, list[int]] = {"a": [], "b": []}
    with child, child.stdin, child.stdout:
        for line in child.stdout:
            if line.strip() == "hang":
                break
            name, number = line.split()
            taken[name].append(int(number))
        child.kill()
    assert any(numbers[-1:] == [19] for numbers in taken.values())
    found = drain(session, beamtime, 2)
    for name in ("a", "b"):
        assert taken[name] + found[name] == list(range(40))


def test_without_a_broker_there_is_nobody_to_split_the_streams(session: Session) -> None:
    with (
        connect(session.settings.store.url) as stored,
        pytest.raises(PipelineError, match="no"),
    ):
        stored.follow_ordered("g")
