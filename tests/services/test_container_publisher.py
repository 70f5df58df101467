"""``Publisher.write_file`` against real servers: who waits, what is refused, what is confirmed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import (
    ClosedError,
    InvalidFrameError,
    QueueFullError,
    StoreUnavailableError,
    WriterSupersededError,
)
from pipeline.frame import FrameHeader, Module
from pipeline.local.processes import wait_until
from pipeline.protocols import PlacedFrame
from pipeline.publisher import Publisher
from pipeline.session import Session, connect

NBYTES = 100
DATA = np.random.default_rng(1).integers(0, 255, 100_000).astype(np.uint8)


class Gate:
    """A store that is away until it is opened; counts the puts that reached it."""

    def __init__(self, session: Session, *, is_open: bool) -> None:
        self._store = session.services.store
        self.open = threading.Event()
        if is_open:
            self.open.set()
        self.keys: list[str] = []
        session.services.store = self  # type: ignore[assignment]

    def put(self, key: str, parts: Any, **options: Any) -> None:
        self.keys.append(key)
        if not self.open.is_set():
            raise StoreUnavailableError("the gate", "closed")
        self._store.put(key, parts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def files(self) -> int:
        return len([key for key in self.keys if "/manifest/" not in key])


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


def frames(*numbers: int, at: int = 0, **fields: Any) -> list[PlacedFrame]:
    known = {"shape": (NBYTES,), "dtype": "uint8", "encoding": "raw", "timestamp_ns": 5}
    return [
        PlacedFrame(
            header=FrameHeader(number=number, **{**known, **fields}),
            offset=at + 10 + index * (NBYTES + 3),
            nbytes=NBYTES,
        )
        for index, number in enumerate(numbers)
    ]


def content(frame: PlacedFrame) -> bytes:
    return DATA[frame.offset : frame.offset + frame.nbytes].tobytes()


def test_the_token_comes_once_and_frames_that_are_known_are_not_announced_again(
    session: Session, beamtime: str
) -> None:
    gate = Gate(session, is_open=True)
    with session.publish(beamtime, "d", "s") as out:
        assert out.write_file(DATA, frames(*range(50)), token="a") == 50
        assert out.write_file(DATA, frames(*range(50)), token="again") == 0
        assert out.write_file(DATA, frames(*range(60)), token="more") == 10
        out.write(np.zeros((2, 2), np.uint8))  # the next number
        out.flush()
        assert sorted(out.take_confirmed()) == ["a", "again", "more"]
        assert out.position.acknowledged == 61
        assert out.position.repeated == 100
        assert gate.files == 2
    with session.stream(beamtime, "d", "s") as stream:
        assert [frame.number for frame in stream.ordered(timeout_s=10)] == list(range(61))
        assert stream.account()["duplicate"] == []


def test_nothing_of_a_file_with_a_bad_frame_is_published(session: Session, beamtime: str) -> None:
    gate = Gate(session, is_open=True)
    with session.publish(beamtime, "d", "s") as out:
        bad = [*frames(1, 2), *frames(3, at=DATA.nbytes)]
        with pytest.raises(InvalidFrameError) as caught:
            out.write_file(DATA, bad, token="bad")
        assert caught.value.frame == (3, 0)
        out.write_file(DATA, frames(4, 5))
        with pytest.raises(InvalidFrameError, match="other content"):
            out.write_file(DATA, frames(5, 6))  # at other places of the file
        out.flush()
        assert gate.files == 1
        assert out.take_confirmed() == []
    assert session.stream(beamtime, "d", "s").account()["received"] == 2


def test_a_store_that_is_away_is_waited_for_and_marks_go_on(
    session: Session, beamtime: str
) -> None:
    gate = Gate(session, is_open=False)
    out = session.publish(beamtime, "d", "s", rate_hz=10)
    done = threading.Event()

    def write() -> None:
        out.write_file(DATA, frames(*range(20)), token="t")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert wait_until(lambda: gate.files >= 2, timeout_s=20)
        out.flush(5)  # there is nothing to flush yet, and nobody holds the lock
        assert not done.is_set()
        gate.open.set()
        assert done.wait(20)
        out.end()
    finally:
        gate.open.set()
        out.abandon()
        thread.join(20)
    assert out.take_confirmed() == ["t"]
    assert session.stream(beamtime, "d", "s").account()["complete"]


def test_closing_ends_a_wait_for_the_store(session: Session, beamtime: str) -> None:
    gate = Gate(session, is_open=False)
    out = session.publish(beamtime, "d", "s", rate_hz=10)
    errors = []

    def write() -> None:
        try:
            out.write_file(DATA, frames(1))
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert wait_until(lambda: gate.files >= 1, timeout_s=20)
    out.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_a_publisher_that_refuses_tells_and_takes_the_file_later(
    session: Session, beamtime: str
) -> None:
    gate = Gate(session, is_open=False)
    with session.publish(beamtime, "d", "s", when_full="refuse") as out:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                out.write_file(DATA, frames(1, 2))
        assert out.position.queued == 0
        gate.open.set()
        assert out.write_file(DATA, frames(1, 2)) == 2
    assert session.stream(beamtime, "d", "s").account()["received"] == 2


def test_a_file_goes_behind_what_is_spooled_and_not_into_the_spool(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    gate = Gate(session, is_open=False)
    small = {"segment_nbytes": 1000, "queue_nbytes": 2000, "inline_nbytes": 0}
    spool = {"spool": str(tmp_path), "spool_after_s": 0.05}
    with session.publish(beamtime, "d", "s", rate_hz=10, **small, **spool) as out:
        for number in range(10):
            out.write(np.full((30, 30), number, np.uint8), number=number)
        assert wait_until(lambda: out.position.spooled > 0, timeout_s=20)
        out._settings = changed(out, when_full="refuse")
        with pytest.raises(QueueFullError):
            out.write_file(DATA, frames(*range(10, 20)))
        gate.open.set()
        out._settings = changed(out, when_full="block")
        assert out.write_file(DATA, frames(*range(10, 20)), token="t") == 10
        out.flush()
        assert out.take_confirmed() == ["t"]
    with session.stream(beamtime, "d", "s") as stream:
        assert [frame.number for frame in stream.ordered(timeout_s=10)] == list(range(20))
        assert stream.account()["complete"]


def changed(out: Publisher, **settings: Any) -> Any:
    from dataclasses import replace

    return replace(out._settings, **settings)


def test_an_older_writer_finds_out_and_gives_no_token(session: Session, beamtime: str) -> None:
    old = session.publish(beamtime, "d", "s", rate_hz=10)
    new = session.publish(beamtime, "d", "s", rate_hz=10, takeover=True)
    try:
        with pytest.raises(WriterSupersededError):
            old.write_file(DATA, frames(1, 2), token="old")
            old.flush()
        assert old.take_confirmed() == []
        new.write_file(DATA, frames(1, 2), token="new")
        new.end()
        assert new.take_confirmed() == ["new"]
    finally:
        old.abandon()
        new.abandon()
    assert session.stream(beamtime, "d", "s").account()["received"] == 2


def test_modules_of_one_file_share_the_object(session: Session, beamtime: str) -> None:
    modules = [Module(index=i, shape=(10, 10), position=(10 * i, 0)) for i in range(2)]
    given = [
        part
        for number in range(5)
        for module in (0, 1)
        for part in frames(number, at=2000 * number + 1000 * module, shape=(10, 10), module=module)
    ]
    gate = Gate(session, is_open=True)
    with session.publish(beamtime, "d", "s", modules=modules) as out:
        assert out.write_file(DATA, given) == 10
    assert gate.files == 1
    with session.stream(beamtime, "d", "s") as stream:
        for number in range(5):
            image = stream.frame(number).array
            assert image.shape == (20, 10)
            assert image[:10].tobytes() == content(given[2 * number])
            assert image[10:].tobytes() == content(given[2 * number + 1])
        assert stream.account()["complete"]


def test_a_restarted_writer_goes_on_in_the_midst_of_a_file(session: Session, beamtime: str) -> None:
    gate = Gate(session, is_open=True)
    first = session.publish(beamtime, "d", "s", rate_hz=10, instance="me")
    first.write_file(DATA, frames(*range(30)))
    first.flush()
    first.abandon()
    with session.publish(beamtime, "d", "s", rate_hz=10, instance="me") as out:
        # An idle mark may have said meanwhile that all below is published: only what lies above
        # is read back, and a copy of what lies below is merged by readers.
        assert 10 <= out.write_file(DATA, frames(*range(40)), token="t") <= 40
    assert out.take_confirmed() == ["t"]
    assert gate.files == 2
    account = session.stream(beamtime, "d", "s").account()
    assert (account["received"], account["conflict"], account["complete"]) == (40, [], True)
