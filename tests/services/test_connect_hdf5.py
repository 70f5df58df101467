"""The HDF5 sink in real Kafka Connect workers: rebalances, kills, poison, a full disk."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_hdf5_command_kills import check_whole, image, publish
from test_hdf5_files import read_letters, unchecked, write_damaged_at_5

from pipeline.connectors.rest import ConnectorStatus, ConnectRest
from pipeline.errors import FrameExpiredError
from pipeline.local import up
from pipeline.local.connect_worker import start_worker
from pipeline.local.jars import CONNECT_LOCK, ensure, read_lock
from pipeline.local.java import ensure_java
from pipeline.local.state import ConnectInfo
from pipeline.naming import record_key
from pipeline.publishing import ending
from pipeline.session import Session, connect

pytestmark = [pytest.mark.service, pytest.mark.timeout(900)]
#: LICHTSTROM_KILLS=30 for the long form.
KILLS = int(os.environ.get("LICHTSTROM_KILLS", "4"))
LIMIT_S = 120.0


@pytest.fixture
def first(plugins: Mapping[str, Path], home_env: Path) -> ConnectInfo:
    """The worker that the local runtime keeps."""
    info = up(home_env, connect=True)
    assert info.connect is not None
    return info.connect


@pytest.fixture
def rest(first: ConnectInfo) -> Iterator[ConnectRest]:
    with ConnectRest(first.url) as opened:
        yield opened


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


@pytest.fixture
def connector(
    rest: ConnectRest, session: Session, beamtime: str, tmp_path: Path
) -> Iterator[Callable[..., str]]:
    """Create connectors for d/s of the beamtime, which write to ``tmp_path/out``."""
    made: list[str] = []

    def create(**settings: str) -> str:
        name = f"{beamtime}-{len(made)}"
        config = {
            "connector.class": "lichtstrom.connect.hdf5.Hdf5SinkConnector",
            "tasks.max": "2",
            "topics": session.services.names.topic(beamtime, "d"),
            "stream": f"{beamtime}/d/s",
            "out.dir": str(tmp_path / "out"),
            "errors.tolerance": "all",
            "errors.deadletterqueue.topic.name": dead_letters(session, beamtime),
            "errors.deadletterqueue.context.headers.enable": "true",
        }
        session.services.admin.create_topic(dead_letters(session, beamtime), partitions=1)
        rest.create(name, {**config, **settings})
        made.append(name)
        return name

    yield create
    for name in made:
        if rest.status(name) is not None:
            rest.remove(name)


def dead_letters(session: Session, beamtime: str) -> str:
    return session.services.names.dead_letters(beamtime, "d", "connect")


def until(condition: Callable[[], Any], what: str = "") -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def finished(rest: ConnectRest, name: str, directory: Path) -> bool:
    status = rest.status(name)
    assert status is None or not status.failure, status
    return (directory / "d_s.h5").exists()


def publish_numbers(session: Session, beamtime: str, numbers: list[int]) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in numbers:
            out.write(image(number), number=number, attributes={"omega": number / 10})


def test_the_page_has_the_settings_of_the_connector(plugins: Mapping[str, Path]) -> None:
    jars = ensure(read_lock(CONNECT_LOCK), timeout_s=LIMIT_S)
    done = subprocess.run(
        [
            ensure_java(timeout_s=LIMIT_S).path,
            "-cp",
            os.pathsep.join(map(str, (plugins["hdf5-sink"], *jars))),
            "lichtstrom.connect.hdf5.Settings",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    page = (Path(__file__).parents[2] / "docs" / "connect.md").read_text()
    assert done.stdout.startswith("| setting |")
    assert done.stdout in page


NUMBERS = [n for n in range(3, 120) if n % 9 != 4 and not 40 <= n < 60]


@pytest.mark.parametrize("tasks", ["1", "2"])
def test_tasks_write_a_stream(
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
    tasks: str,
) -> None:
    publish_numbers(session, beamtime, NUMBERS)
    name = connector(**{"tasks.max": tasks})
    until(lambda: finished(rest, name, tmp_path / "out"))
    check_whole(tmp_path / "out", np.array(NUMBERS))
    parts = list((tmp_path / "out").glob("d_s_p*.h5"))
    assert bool(parts) == (tasks == "2")
    with session.publish(beamtime, "d", "later") as out:  # on the same topic, none of its own
        for number in NUMBERS:
            out.write(image(number), number=number)
    until(lambda: lag(session, beamtime, name) == 0, "who is done does not pass over the rest")


def lag(session: Session, beamtime: str, name: str) -> int:
    """Return how many records of the detector's topic the connector has not committed."""
    with session.stream(beamtime, "d", "later") as stream:
        ends = stream.info.end_offsets
    assert ends is not None
    topic = session.services.names.topic(beamtime, "d")
    committed = session.services.admin.committed(f"connect-{name}", topic, len(ends))
    return sum(end - max(0, at.offset) for end, at in zip(ends, committed, strict=True))


def test_a_file_that_exists_fails_the_task_and_says_why(
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
) -> None:
    publish_numbers(session, beamtime, NUMBERS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d_s.h5").write_bytes(b"somebody else's")
    name = connector(**{"tasks.max": "1"})
    status = until(lambda: _failed(rest.status(name)))
    assert "d_s.h5 exists" in status.failure
    assert (tmp_path / "out" / "d_s.h5").read_bytes() == b"somebody else's"


def test_a_directory_that_cannot_be_made_fails_the_task_and_says_why(
    rest: ConnectRest, session: Session, connector: Callable[..., str], beamtime: str
) -> None:
    publish_numbers(session, beamtime, NUMBERS)
    name = connector(**{"tasks.max": "1", "out.dir": "/proc/files"})
    status = until(lambda: _failed(rest.status(name)))
    assert "cannot write /proc/files" in status.failure


def _failed(status: ConnectorStatus | None) -> ConnectorStatus | None:
    return status if status is not None and status.failure else None


def test_poison_goes_to_the_dead_letters_and_the_rest_to_the_file(
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
) -> None:
    publish_with_poison(session, beamtime)
    name = connector()
    until(lambda: finished(rest, name, tmp_path / "out"))
    check_whole(tmp_path / "out", np.array(NUMBERS))
    letters = read_letters(session, dead_letters(session, beamtime))
    assert [letter.value() for letter in letters] == [b"whose is it", b"damaged"]
    reasons = [
        dict(letter.headers())["__connect.errors.exception.message"].decode() for letter in letters
    ]
    assert "none of lichtstrom's" in reasons[0]


def publish_with_poison(session: Session, beamtime: str) -> None:
    topic = session.services.names.topic(beamtime, "d")
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in NUMBERS:
            out.write(image(number), number=number, attributes={"omega": number / 10})
            if number == 77:
                out.flush()
                with session.stream(beamtime, "d", "s") as stream:
                    key = record_key(stream.start.stream_key, 77)
                for poison in ((b"?", b"whose is it"), (key, b"damaged")):
                    session.services.producer.append_wait(topic, 0, *poison, LIMIT_S)


def test_poison_stops_who_wants_that(
    rest: ConnectRest, session: Session, connector: Callable[..., str], beamtime: str
) -> None:
    publish_with_poison(session, beamtime)
    settings = {"errors.tolerance": "none", "errors.deadletterqueue.topic.name": ""}
    name = connector(**settings)
    status = until(lambda: _failed(rest.status(name)))
    assert any("none of lichtstrom's" in task.trace for task in status.tasks)


@pytest.mark.usefixtures(unchecked.__name__)
def test_a_frame_that_cannot_be_read_is_missing_and_its_record_a_dead_letter(
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in range(8):
            write_damaged_at_5(out, number)
    name = connector()
    until(lambda: finished(rest, name, tmp_path / "out"))
    with h5py.File(tmp_path / "out" / "d_s.h5") as file:
        assert file["entry/instrument/detector/frame_valid"][:].tolist() == [1] * 5 + [0, 1, 1]
    (letter,) = read_letters(session, dead_letters(session, beamtime))
    headers = dict(letter.headers())
    assert b"frame 5: payload: bslz4" in headers["__connect.errors.exception.message"]


def remove_records(session: Session, beamtime: str, offsets: Sequence[int]) -> None:
    """Do what retention does."""
    topic = session.services.names.topic(beamtime, "d")
    session.services.admin.delete_records(topic, dict(enumerate(offsets)))


def test_records_that_retention_removed_come_from_the_manifest(
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in NUMBERS[:30]:
            out.write(image(number), number=number, attributes={"omega": number / 10})
        out.flush()
        name = connector()
        until(lambda: list((tmp_path / "out").glob(".d_s*.part")))
        rest.remove(name)
        for number in NUMBERS[30:]:
            out.write(image(number), number=number, attributes={"omega": number / 10})
    with session.stream(beamtime, "d", "s") as stream:
        ends = stream.info.end_offsets
    assert ends is not None
    remove_records(session, beamtime, ends)
    name = connector()
    until(lambda: finished(rest, name, tmp_path / "out"))
    check_whole(tmp_path / "out", np.array(NUMBERS))


def test_records_that_are_nowhere_any_more_fail_the_task_and_are_named(
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # ended while the store was away, so not sealed, and trimmed by somebody before it was
    monkeypatch.setattr(ending, "seal", lambda *_, **__: None)
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in NUMBERS:
            out.write(image(number), number=number)
        out.flush()
        with session.stream(beamtime, "d", "s") as stream:
            starts = stream.start.offsets
    remove_records(session, beamtime, [start + 2 for start in starts])
    with session.stream(beamtime, "d", "s") as stream, pytest.raises(FrameExpiredError):
        stream.account()  # nobody can tell what this stream had
    name = connector(**{"tasks.max": "1"})
    status = until(lambda: _failed(rest.status(name)))
    assert f"partition 0 offsets {starts[0]} to {starts[0] + 1}" in status.failure
    assert "neither on the topic nor in the manifest" in status.failure
    assert not (tmp_path / "out" / "d_s.h5").exists()


def writers_of(*workers: int) -> list[int]:
    """Return the process ids of the writers that these workers have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_writer = b"connect-writer" in (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just gone
            continue
        if is_writer and parent in workers:
            found.append(int(path.name))
    return found


def test_a_disk_without_room_stops_nothing_for_good(
    first: ConnectInfo,
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        out.write(image(0), number=0, attributes={"omega": 0.0})
        out.flush()
        before = set(writers_of(first.pid))
        name = connector(**{"tasks.max": "1"})
        (writer,) = until(lambda: set(writers_of(first.pid)) - before)
        # no file of it may grow beyond this, which the kernel says as it says of a full disk
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (100_000, 100_000))
        for number in range(1, 400):
            out.write(image(number), number=number, attributes={"omega": number / 10})
        out.flush()
        until(lambda: writer not in writers_of(first.pid), "the writer goes on")
        assert not (tmp_path / "out" / "d_s.h5").exists()
    until(lambda: finished(rest, name, tmp_path / "out"))
    check_whole(tmp_path / "out", np.arange(400))


def test_rebalances_and_kills_lose_double_and_damage_nothing(
    first: ConnectInfo,
    rest: ConnectRest,
    session: Session,
    connector: Callable[..., str],
    beamtime: str,
    tmp_path: Path,
    home_env: Path,
) -> None:
    """Writers are killed; workers come, get one of the tasks, and are killed, too."""
    dice = random.Random(KILLS)
    ready, done = threading.Event(), threading.Event()
    source = threading.Thread(target=publish, args=(session, beamtime, ready, done))
    source.start()
    try:
        assert ready.wait(60)
        name = connector()
        killed = 0
        while killed < KILLS:
            with start_worker(home_env, number=2 + killed) as other:
                moved = until(lambda pid=other.pid: writers_of(pid), "no task came to the worker")
                for _ in range(min(6, KILLS - killed - 1)):
                    until(lambda pid=other.pid: writers_of(first.pid, pid))
                    time.sleep(dice.uniform(0.1, 2.0))
                    moved = writers_of(first.pid, other.pid)
                    if moved:
                        os.kill(dice.choice(moved), signal.SIGKILL)
                        killed += 1
                other.kill()
                killed += 1
    finally:
        done.set()
        source.join(60)
    until(lambda: finished(rest, name, tmp_path / "out"))
    with session.stream(beamtime, "d", "s") as stream:
        numbers = np.unique(stream.table().numbers)
    check_whole(tmp_path / "out", numbers)
    assert not [status for status in rest.statuses() if status.name == name and status.failure]
