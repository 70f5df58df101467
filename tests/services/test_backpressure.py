"""Adapters faster than their store: bounded memory, a spool that fills, and nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.frame import FrameHeader
from pipeline.ingest import IngestReport, run
from pipeline.local.processes import wait_until
from pipeline.protocols import SeriesBegin, SeriesEnd, SourceFrame
from pipeline.session import Session, connect

FRAMES, NBYTES = 200, 50_000
#: Room for 8 segments of one frame each.
QUEUE = {"segment_nbytes": NBYTES, "queue_nbytes": 8 * NBYTES, "inline_nbytes": 0}


class SlowStore:
    """A store whose puts of frames wait for a permit: as slow as the test says."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.permits = threading.Semaphore(0)
        self.open = threading.Event()

    def put(self, key: str, parts: Any, **options: Any) -> None:
        if "manifest" not in key:
            while not self.open.is_set() and not self.permits.acquire(timeout=0.01):
                pass
        self._store.put(key, parts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class SmallSession:
    """A session whose publishers have little room."""

    def __init__(self, session: Session, **settings: Any) -> None:
        self._session = session
        self._settings = {**QUEUE, **settings}
        self.out: Any = None

    def publish(self, *names: str, **settings: Any) -> Any:
        self.out = self._session.publish(*names, **settings, **self._settings)
        return self.out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class FastSource:
    """A stream source: it keeps nothing, and gives frames as fast as they are taken."""

    name = "fast"

    def __init__(self) -> None:
        self.given = 0

    def events(self, *, poll_s: float) -> Iterator[Any]:
        yield SeriesBegin(series="1", name="s", run={"adapter": self.name, "id": 1})
        for number in range(FRAMES):
            header = FrameHeader(
                number=number, timestamp_ns=1, shape=(NBYTES,), dtype="uint8", encoding="raw"
            )
            self.given += 1
            yield SourceFrame(series="1", header=header, payload=pixels(number))
        yield SeriesEnd(series="1", expected=FRAMES)

    def acknowledge(self, tokens: Any) -> None:
        raise AssertionError("there is nothing to let go of")

    def check(self) -> Any:
        return {}

    def close(self) -> None:
        pass


def pixels(number: int) -> bytes:
    return bytes([number % 251]) * NBYTES


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


@contextmanager
def ingesting(
    session: Session, beamtime: str, *, spool: str = "", **settings: Any
) -> Iterator[tuple[FastSource, IngestReport, SlowStore, SmallSession, Callable[[], None]]]:
    """Run the source in a thread against a store that is stopped; the last one waits for it."""
    store = session.services.store = SlowStore(session.services.store)  # type: ignore[assignment]
    small = SmallSession(session, **settings)
    source, report, stop, errors = FastSource(), IngestReport(), threading.Event(), []

    def work() -> None:
        try:
            run(
                small,
                source,
                beamtime=beamtime,
                detector="d",
                stream="s",
                spool=spool,
                report=report,
                stop=stop,
                idle_end_s=0.05,  # waiting for the store is not the source's silence
            )
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="ingest")

    def finish() -> None:
        thread.join(60)
        assert not thread.is_alive(), report
        assert not errors, errors

    thread.start()
    try:
        yield source, report, store, small, finish
    finally:
        stop.set()
        store.open.set()
        finish()


def check_whole(session: Session, beamtime: str) -> None:
    with session.stream(beamtime, "d", "s") as stream:
        account = stream.account()
        assert account["complete"], account
        assert (account["received"], account["duplicate"]) == (FRAMES, [])
        order = [frame.number for frame in stream.ordered(timeout_s=20.0)]
        assert order == list(range(FRAMES))
        assert bytes(stream.frame(FRAMES - 1).payload) == pixels(FRAMES - 1)


def test_without_a_spool_the_source_is_held_back_and_nothing_is_lost(
    session: Session, beamtime: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ingesting(session, beamtime) as (source, report, store, _, finish):
        assert wait_until(lambda: report.waited_s > 1.2, timeout_s=20), report
        assert source.given <= 8 + 2  # the queue, the draft being filled, and one in hand
        assert "queue is full" in report.waiting
        given = source.given
        store.permits.release(20)
        assert wait_until(lambda: source.given > given + 15, timeout_s=20), report
        store.open.set()
        finish()
    assert report.waiting == ""
    assert (report.frames, report.confirmed, report.spooled) == (FRAMES, FRAMES, 0)
    held = [m for m in caplog.messages if "the source is held back" in m]
    assert len(held) >= 1
    check_whole(session, beamtime)


def test_with_a_spool_a_slow_store_is_caught_up_with_in_order(
    session: Session, beamtime: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool"
    with ingesting(session, beamtime, spool=str(spool), spool_after_s=0.1) as parts:
        source, report, store, small, finish = parts
        # The store moves all the time, only too slowly.
        permits, queued = iter(range(60)), [0]

        def slowly() -> bool:
            if small.out is not None:
                queued.append(small.out.position.queued)
            if next(permits, None) is not None:
                store.permits.release()
            return source.given == FRAMES

        assert wait_until(slowly, timeout_s=20), report
        assert small.out.position.spooled > 100
        # Those whose record is acknowledged, but not confirmed yet, hold no payload any more.
        assert max(queued) <= 2 * 8 + 2
        store.open.set()
        finish()
    assert any("spooling" in message for message in caplog.messages)
    assert (report.frames, report.confirmed) == (FRAMES, FRAMES)
    assert not list(spool.rglob("*.segment"))
    check_whole(session, beamtime)


def test_a_full_spool_holds_the_source_back_and_ends_nothing(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    room = {"spool_after_s": 0.05, "spool_nbytes": 20 * NBYTES}
    with ingesting(session, beamtime, spool=str(spool), **room) as parts:
        source, report, store, _, finish = parts
        assert wait_until(lambda: "limit" in report.waiting, timeout_s=20), report
        assert 20 <= source.given <= 8 + 20 + 2
        given = source.given
        store.permits.release(8 + 12)
        assert wait_until(lambda: source.given > given + 4, timeout_s=20), report
        on_disk = sum(file.stat().st_size for file in spool.rglob("*.segment"))
        assert on_disk < 21 * NBYTES
        store.open.set()
        finish()
    assert (report.frames, report.confirmed) == (FRAMES, FRAMES)
    check_whole(session, beamtime)
