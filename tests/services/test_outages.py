"""Broker and store away: at the start, in the middle, at the end. Nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import config
from pipeline.config import Settings
from pipeline.errors import BrokerUnavailableError, FlushTimeoutError, QueueFullError
from pipeline.local import RuntimeInfo, down, up
from pipeline.local.processes import wait_until
from pipeline.local.state import load_info
from pipeline.publishing.spool import left_behind
from pipeline.session import Session, connect


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Servers that these tests may kill."""
    home = tmp_path_factory.mktemp("outages")
    try:
        up(home)
        yield home
    finally:
        down(home)


@pytest.fixture
def servers(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeInfo]:
    monkeypatch.setenv("LICHTSTROM_HOME", str(own_home))
    up(own_home)
    info = load_info(own_home)
    assert info is not None
    yield info
    up(own_home)


@pytest.fixture
def settings(servers: RuntimeInfo, tmp_path: Path) -> Settings:
    return config.with_publish(
        config.load("file"),
        spool=str(tmp_path / "spool"),
        spool_after_s=0.3,
        segment_nbytes=100_000,
        queue_nbytes=400_000,
    )


def image(number: int) -> np.ndarray:
    return np.full((200, 200), number, dtype=np.uint16)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    gone = wait_until(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid), timeout_s=10)
    assert gone


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def assert_whole(session: Session, beamtime: str, frames: int) -> None:
    stream = session.stream(beamtime, "detector", "s")
    account = stream.verify()
    assert account["complete"], account
    assert account["received"] == frames
    assert account["duplicate"] == account["conflict"] == []


def test_a_broker_killed_in_the_middle_is_bridged_by_the_spool(
    servers: RuntimeInfo, settings: Settings, own_home: Path, beamtime: str, tmp_path: Path
) -> None:
    with connect(settings=settings) as session:
        with session.publish(beamtime, "detector", "s", frames_per_chunk=4) as out:
            for number in range(10):
                out.write(image(number), token=number)
            out.flush()
            kill(servers.kafka.pid)
            for number in range(10, 60):
                out.write(image(number), token=number)
            out.write(image(59), number=59, token="again")
            assert out.position.spooled > 0
            confirmed = out.take_confirmed()
            # What is only spooled is not safe enough to let go of its source.
            assert sorted(confirmed) == list(range(len(confirmed)))
            assert len(confirmed) <= 10 + 4
            up(own_home)
            out.flush(60)
            confirmed += out.take_confirmed()
            assert confirmed[-1] == "again"
            assert sorted(confirmed[:-1]) == list(range(60))
        assert_whole(session, beamtime, 60)
    assert not list(left_behind(tmp_path / "spool"))
    assert not list((tmp_path / "spool").rglob("*.segment"))


def test_a_publisher_may_start_before_the_broker(
    servers: RuntimeInfo, settings: Settings, own_home: Path, beamtime: str
) -> None:
    kill(servers.kafka.pid)
    quick = config.Settings(
        kafka=config.KafkaSettings(bootstrap=servers.kafka.bootstrap, timeout_s=1.0),
        store=settings.store,
        publish=settings.publish,
        create=True,
    )
    with connect(settings=quick) as session:
        out = session.publish(beamtime, "detector", "s", rate_hz=400)
        for number in range(20):
            out.write(image(number), token=number)
        assert out.position.spooled > 0
        assert out.take_confirmed() == []
        up(own_home)
        out.flush(60)
        out.end()
        assert_whole(session, beamtime, 20)


def test_without_a_spool_a_broker_that_is_away_is_an_error_that_says_so(
    servers: RuntimeInfo, settings: Settings, beamtime: str
) -> None:
    kill(servers.kafka.pid)
    away = config.Settings(
        kafka=config.KafkaSettings(bootstrap=servers.kafka.bootstrap, timeout_s=0.5),
        store=settings.store,
    )
    with connect(settings=away) as session:
        with pytest.raises(BrokerUnavailableError, match="lichtstrom status"):
            session.publish(beamtime, "detector", "s", rate_hz=10)
        with pytest.raises(BrokerUnavailableError):
            session.streams()


def test_a_store_that_is_away_blocks_refuses_or_spools_but_loses_nothing(
    servers: RuntimeInfo, settings: Settings, own_home: Path, beamtime: str
) -> None:
    assert servers.s3 is not None
    over_s3 = config.load("s3")
    refusing = config.with_publish(
        over_s3, segment_nbytes=100_000, queue_nbytes=200_000, when_full="refuse"
    )
    with connect(settings=refusing) as session:
        out = session.publish(beamtime, "detector", "s", frames_per_chunk=4)
        out.write(image(0))
        out.flush()
        kill(servers.s3.pid)
        taken = 1
        refused = 0
        while refused < 3:
            try:
                out.write(image(taken), number=taken)
                taken += 1
            except QueueFullError:
                refused += 1
        assert out.position.refused == 3
        with pytest.raises(FlushTimeoutError, match="not acknowledged"):
            out.flush(0.2)
        up(own_home)
        out.flush(60)
        out.end()
        assert_whole(session, beamtime, taken)


def test_what_a_killed_publisher_left_in_its_spool_is_published_by_the_next(
    servers: RuntimeInfo, settings: Settings, own_home: Path, beamtime: str
) -> None:
    spool = settings.publish.spool
    code = (
        "import sys, os, numpy as np\n"
        "from pipeline import config\n"
        "from pipeline.session import connect\n"
        "s = connect(settings=config.with_publish(config.load('file'), spool=sys.argv[2],\n"
        "    spool_after_s=0.2, segment_nbytes=100_000, queue_nbytes=200_000))\n"
        "out = s.publish(sys.argv[1], 'detector', 's', frames_per_chunk=4, instance='a@b')\n"
        "out.write(np.full((200, 200), 0, 'u2')); out.flush(); print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for n in range(1, 40): out.write(np.full((200, 200), n, 'u2'), number=n)\n"
        "print(out.position.spooled, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, beamtime, spool],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    with child:
        assert child.stdout.readline() == "ready\n"
        kill(servers.kafka.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        spooled = int(child.stdout.readline())
        assert child.wait(20) == -signal.SIGKILL
    assert spooled >= 5
    up(own_home)
    with connect(settings=settings) as session:
        out = session.publish(beamtime, "detector", "s", instance="a@b")
        out.flush(60)
        # Those that were in memory died with the process; they were never called safe.
        for number in range(40):
            out.write(image(number), number=number)
        out.end()
        account = session.stream(beamtime, "detector", "s").verify()
        assert account["complete"], account
        assert account["received"] == 40


def test_a_slow_or_dead_reader_stalls_nobody(
    servers: RuntimeInfo, settings: Settings, beamtime: str
) -> None:
    with connect(settings=settings) as session:
        out = session.publish(beamtime, "detector", "s", frames_per_chunk=4)
        out.write(image(0))
        stuck = iter(session.stream(beamtime, "detector", "s").ordered(timeout_s=20))
        next(stuck)  # and never again
        seen: list[int] = []
        other = session.stream(beamtime, "detector", "s")
        reader = threading.Thread(
            target=lambda: seen.extend(f.number for f in other.ordered(timeout_s=20))
        )
        reader.start()
        for number in range(1, 50):
            out.write(image(number))
        out.end()
        reader.join(30)
        assert seen == list(range(50))


def test_an_adapter_started_before_the_broker_publishes_every_file(
    servers: RuntimeInfo, own_home: Path, beamtime: str, tmp_path: Path
) -> None:
    from pipeline.detectors.pilatus.sim import PilatusSimulator

    kill(servers.kafka.pid)
    watched = tmp_path / "images"
    watched.mkdir()
    log = tmp_path / "adapter.log"
    command = [
        *(sys.executable, "-m", "pipeline.cli", "adapter", "pilatus"),
        *("--watch", str(watched), "--beamtime", beamtime, "--detector", "detector"),
        *("--stream", "s", "--idle-end", "1", "--streams", "1"),
    ]
    environment = {**os.environ, "LICHTSTROM_KAFKA_TIMEOUT_S": "1"}
    with log.open("w") as output:
        adapter = subprocess.Popen(command, env=environment, stderr=output, stdout=output)
        try:
            PilatusSimulator(watched, frames=20, rate_hz=0, model="100k", prefix="a").run()
            said = wait_until(lambda: "does not answer" in log.read_text(), timeout_s=30)
            assert said, log.read_text()
            up(own_home)
            assert adapter.wait(90) == 0, log.read_text()
        finally:
            adapter.kill()
            adapter.wait(10)
    with connect("file") as session:
        assert_whole(session, beamtime, 20)
