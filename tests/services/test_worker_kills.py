"""Runners, their processes and the broker killed at random: the derived stream lacks nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.local import down, up
from pipeline.local.processes import wait_until
from pipeline.local.state import load_info
from pipeline.session import connect

pytestmark = [pytest.mark.service, pytest.mark.timeout(1800)]
#: LICHTSTROM_KILLS=100 for the long form.
KILLS = int(os.environ.get("LICHTSTROM_KILLS", "5"))
RUNNERS = 2
LIMIT_S = 120.0


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Servers that this test may kill."""
    for name in [name for name in os.environ if name.startswith("LICHTSTROM_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("LICHTSTROM_HOME", str(home))
    try:
        up(home)
        yield home
    finally:
        down(home)


class Runner:
    """One ``lichtstrom worker``, started again whenever it was killed."""

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log
        self.start()

    def start(self) -> None:
        functions = Path(__file__).with_name("worker_functions.py")
        command = [sys.executable, "-m", "pipeline.cli", "worker", f"{functions}:careful"]
        options = ["--group", "g", "--processes", "2", "--out", "done", "--attempts", "1000"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, self._name, *options], stderr=log, stdout=log
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)


def descendants(pid: int) -> list[int]:
    """Return all processes below one, the fork server's included."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if status[0] != "Z":
            parents.setdefault(int(status[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def test_whatever_is_killed_the_results_are_complete(own_home: Path, tmp_path: Path) -> None:
    dice = random.Random(int(os.environ.get("LICHTSTROM_SEED", "1")))
    done = threading.Event()
    with connect() as session:
        beamtime, name = "kills", "kills/lambda/s"
        session.create_beamtime(beamtime, "lambda")
        counts: list[int] = []
        source = threading.Thread(target=lambda: counts.append(_publish(beamtime, done)))
        source.start()
        assert wait_until(lambda: bool(session.streams(name)), timeout_s=LIMIT_S)
        runners = [Runner(name, tmp_path / f"runner-{i}.log") for i in range(RUNNERS)]
        try:
            for number in range(KILLS):
                threading.Event().wait(dice.uniform(0.5, 4.0))
                runner = dice.choice(runners)
                # Once each twenty: a broker takes some seconds to come back.
                _kill_something(dice, runner, own_home, broker=number % 20 == 2)
            done.set()
            source.join(LIMIT_S)
            assert wait_until(lambda: _state(session) == "complete", timeout_s=LIMIT_S)
            assert [runner.process.wait(LIMIT_S) for runner in runners] == [0] * RUNNERS
        finally:
            done.set()
            for runner in runners:
                runner.kill()
        account = session.stream(beamtime, "done", "s").verify()
        assert account["complete"], account
        assert account["received"] == counts[0]
        assert account["conflict"] == []  # what was in hand may be there twice, and alike
        results = session.stream(beamtime, "done", "s").ordered(timeout_s=LIMIT_S)
        assert all(frame.attributes["square"] == frame.number**2 for frame in results)


def _publish(beamtime: str, done: threading.Event) -> int:
    """Publish until told to stop; the spool bridges the broker's absence."""
    number = 0
    with (
        connect() as session,
        session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out,
    ):
        while not done.wait(0.01):
            out.write(np.full((8, 8), number % 1000, np.uint16), number=number)
            number += 1
    return number


def _kill_something(dice: random.Random, runner: Runner, home: Path, *, broker: bool) -> None:
    if broker:
        info = load_info(home)
        assert info is not None
        os.kill(info.kafka.pid, signal.SIGKILL)
        threading.Event().wait(2.0)
        up(home)
        return
    children = descendants(runner.process.pid)
    if children and dice.random() < 0.5:
        os.kill(dice.choice(children), signal.SIGKILL)
        return
    runner.kill()
    runner.start()


def _state(session: object) -> str | None:
    found = session.streams("kills/done/s")  # type: ignore[attr-defined]
    return found[0].state if found else None
