"""Publishers pressed hard: stores that do not answer, many threads, large frames and records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config
from pipeline.errors import (
    ClosedError,
    FlushTimeoutError,
    StoreUnavailableError,
    WriterActiveError,
)
from pipeline.frame import Module
from pipeline.local.processes import wait_until
from pipeline.publisher import Publisher
from pipeline.records import Mark
from pipeline.session import Session, connect


class Gate:
    """A store whose ``put`` fails, as one that is away does, until it is opened."""

    def __init__(self, session: Session, *, is_open: bool = False) -> None:
        self._store = session.services.store
        self.is_open = threading.Event()
        if is_open:
            self.is_open.set()
        session.services.store = self  # type: ignore[assignment]

    def put(self, *args: Any, **options: Any) -> Any:
        if not self.is_open.is_set():
            raise StoreUnavailableError("the gate", "closed")
        return self._store.put(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


@pytest.fixture
def other(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


def frame(number: int, nbytes: int = 100_000) -> np.ndarray:
    return np.full((nbytes // 100, 100), number % 251, dtype=np.uint8)


@contextmanager
def blocked_writer(out: Publisher, nbytes: int = 100_000) -> Iterator[threading.Thread]:
    """A thread that writes until it is blocked, and beyond."""
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(1000):
                out.write(frame(number, nbytes), number=number)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write, name="blocked writer")
    thread.start()
    try:
        seen: list[int] = []

        def stands() -> bool:
            seen.append(out.position.queued)
            return len(seen) > 20 and len(set(seen[-10:])) == 1

        assert wait_until(stands, timeout_s=20)
        yield thread
    finally:
        out.abandon()
        thread.join(30)
        assert not thread.is_alive()
    assert all(isinstance(error, ClosedError) for error in errors), errors


SMALL = {"segment_nbytes": 100_000, "queue_nbytes": 400_000}


def test_flush_keeps_its_limit_while_another_thread_is_blocked_in_write(
    session: Session, beamtime: str
) -> None:
    Gate(session)
    out = session.publish(beamtime, "detector", "s", rate_hz=100, **SMALL)

    def flush() -> None:
        with pytest.raises(FlushTimeoutError):
            out.flush(0.1)

    with blocked_writer(out):
        flushing = threading.Thread(target=flush)
        flushing.start()
        flushing.join(15)
        assert not flushing.is_alive()


def test_a_blocked_writer_is_seen_to_be_alive(
    session: Session, other: Session, beamtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gate(session)
    out = session.publish(beamtime, "detector", "s", rate_hz=100, **SMALL)
    with blocked_writer(out):
        stream = other.stream(beamtime, "detector", "s")
        cursor = stream.log.cursor(stream.log.bounds()[1])
        idle: list[Mark] = []

        def hears() -> bool:
            idle.extend(r.value for r in cursor.poll(0.1) if isinstance(r.value, Mark))
            return len(idle) > 2

        try:
            assert wait_until(hears, timeout_s=15)
        finally:
            cursor.close()
        monkeypatch.setattr("pipeline.publishing.claims.ALIVE_S", 3.0)
        with pytest.raises(WriterActiveError):
            other.publish(beamtime, "detector", "s", rate_hz=100)


@pytest.mark.parametrize("nbytes", [1_000_000, 250_000])
def test_frames_larger_than_a_segment_count_as_what_they_take(
    session: Session, beamtime: str, nbytes: int
) -> None:
    gate = Gate(session)
    out = session.publish(
        beamtime,
        "detector",
        "s",
        rate_hz=100,
        segment_nbytes=100_000,
        queue_nbytes=1_000_000,
        when_full="block",
    )
    with blocked_writer(out, nbytes) as thread:
        assert out.position.queued * nbytes <= 1_000_000
        gate.is_open.set()
        thread.join(60)
        assert not thread.is_alive()
        out.flush(30)
    stream = session.stream(beamtime, "detector", "s")
    assert len(list(stream.frames())) == 1000


def test_flush_waits_for_what_was_written_before_it_and_not_for_what_comes_after(
    session: Session, beamtime: str
) -> None:
    out = session.publish(beamtime, "detector", "s", rate_hz=1000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            out.write(None, attributes={"x": 1})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            out.flush(5)
    finally:
        stop.set()
        thread.join(10)
        out.close()


@pytest.mark.parametrize("value", ["x" * 60_000, "\x01" * 10_000, ["x" * 30_000] * 2, "'\"" * 9000])
def test_attributes_of_any_size_fit_the_records(
    session: Session, beamtime: str, value: Any
) -> None:
    with session.publish(beamtime, "detector", "s", frames_per_chunk=256, linger_s=1.0) as out:
        for number in range(120):
            kind = value if number % 3 else 7  # so that no column can hold it
            out.write(None, number=number, attributes={"text": kind})
    stream = session.stream(beamtime, "detector", "s")
    assert stream.account()["complete"]
    assert stream.account()["received"] == 120
    assert stream.frame(1).attributes["text"] == value


def test_an_unforeseen_error_in_a_thread_reaches_the_writer(
    session: Session, beamtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = session.publish(beamtime, "detector", "s", rate_hz=100)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("pipeline.publishing.window.segment_key", fail)
    out.write(frame(0))
    with pytest.raises(Exception, match="a bug") as caught:
        out.flush(10)
    assert not isinstance(caught.value, FlushTimeoutError)
    out.abandon()


def test_sources_without_a_pause_leave_time_for_the_spool_and_the_manifest(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    gate = Gate(session)
    out = session.publish(
        beamtime,
        "detector",
        "s",
        frames_per_chunk=1,
        inline_nbytes=0,
        spool=str(tmp_path / "spool"),
        spool_after_s=0.1,
        **SMALL,
    )
    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            out.write(frame(number, 1000), number=number)
            number += 1
            stop.wait(0.002)  # far below the linger: there is a young draft at any time
            if out.position.spooled > 20:
                started.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert started.wait(20)
        gate.is_open.set()
        assert wait_until(lambda: not out._spooling.active, timeout_s=60), out.position
    finally:
        stop.set()
        thread.join(10)
        out.close()


def test_settings_of_the_publisher_come_from_the_environment(
    home_env: Path, beamtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICHTSTROM_PUBLISH_SPOOL", str(tmp_path))
    monkeypatch.setenv("LICHTSTROM_PUBLISH_SEGMENT_NBYTES", "12345")
    monkeypatch.setenv("LICHTSTROM_PUBLISH_DURABILITY", "disk")
    settings = config.load("file").publish
    assert settings.spool == str(tmp_path)
    assert settings.segment_nbytes == 12345
    assert settings.durability == "disk"


def test_a_stream_of_very_many_holes_is_sealed_and_its_account_is_whole(
    session: Session, beamtime: str
) -> None:
    count = 60_000
    with session.publish(beamtime, "detector", "s", rate_hz=100_000) as out:
        for number in range(count):
            out.write(None, number=10**9 + 2 * number, timestamp_ns=0)
    stream = session.stream(beamtime, "detector", "s")
    assert stream.info.seal is not None
    assert len(stream.account()["missing"]) == count - 1


def test_a_session_forgets_what_was_closed(session: Session, beamtime: str) -> None:
    for number in range(3):
        with session.publish(beamtime, "detector", f"s{number}", rate_hz=10) as out:
            out.write(frame(number))
        session.stream(beamtime, "detector", f"s{number}").close()
    assert len(session._opened) == 1


def test_a_limit_below_zero_is_refused(session: Session, beamtime: str) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=10) as out:
        with pytest.raises(ValueError, match="timeout_s"):
            out.flush(-1)
        with pytest.raises(ValueError, match="timeout_s"):
            out.end(timeout_s=float("nan"))
        out.flush(None)


def test_a_module_that_was_reopened_is_in_the_new_seal(session: Session, beamtime: str) -> None:
    modules = [Module(index=i, shape=(10, 100), position=(10 * i, 0)) for i in range(2)]

    def write(module: int, numbers: range, **options: Any) -> Publisher:
        out = session.publish(
            beamtime, "detector", "s", rate_hz=10, modules=modules, module=module, **options
        )
        for number in numbers:
            out.write(frame(number, 1000), number=number, module=module)
        return out

    for _ in range(3):
        write(0, range(0), takeover=True).close()
    write(0, range(3), takeover=True).end()
    write(1, range(2)).end()
    stream = session.stream(beamtime, "detector", "s")
    first = stream.info.seal
    assert first is not None
    assert stream.account()["incomplete"] == [[2, 2]]
    write(1, range(2, 3), reopen=True).end()
    second = stream.info.seal
    assert second is not None
    assert second.key != first.key
    assert second.account == stream.account()
    assert stream.account()["complete"]


@pytest.mark.parametrize(
    "given",
    [
        {"expected": "10"},
        {"rate_hz": "5"},
        {"frames_per_chunk": 2.5},
        {"frames_per_chunk": 0},
        {"modules": [3]},
    ],
)
def test_arguments_of_publish_that_cannot_be_are_refused_by_name(
    session: Session, beamtime: str, given: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        session.publish(beamtime, "detector", "s", **given)


def test_payloads_never_make_a_record_too_large(session: Session, beamtime: str) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=1000, inline_nbytes=131_072) as out:
        out.write(frame(0, 3_000_000))
    assert session.stream(beamtime, "detector", "s").verify()["complete"]
