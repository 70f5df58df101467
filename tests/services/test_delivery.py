"""What delivery means, row by row, on a stream that is live, replayed from its topic, or stored."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import worker_functions
from test_shared import LIMIT_S, _dead_letters

from pipeline.local.processes import wait_until
from pipeline.session import Session, connect
from pipeline.shared import SharedFrames
from pipeline.sharing.ledger import Ledger
from pipeline.worker import WorkerReport, run_worker

FRAMES = 48
KINDS = ("live", "replayed", "stored")


class Place:
    """One stream that a group reads: still being written, ended, or without any broker."""

    def __init__(self, kind: str, session: Session, beamtime: str, state: Path) -> None:
        self.kind = kind
        self.beamtime = beamtime
        self.name = f"{beamtime}/lambda/s"
        self._session = session
        self.state = state if kind == "stored" else None
        self.store = session.settings.store.url if kind == "stored" else None
        self._writer = threading.Thread(target=self._write)
        self.reader = session
        self._writer.start()
        if kind == "live":
            assert wait_until(lambda: bool(session.streams(self.name)), timeout_s=LIMIT_S)
        else:
            self._writer.join(LIMIT_S)
            self.reader = connect(self.store)

    def _write(self) -> None:
        with self._session.publish(self.beamtime, "lambda", "s", frames_per_chunk=4) as out:
            for number in range(FRAMES):
                out.write(np.full((3, 4), number, np.uint16), number=number)
                if self.kind == "live" and number % 8 == 7:
                    out.flush()
                    threading.Event().wait(0.05)

    def join(self, timeout_s: float = LIMIT_S) -> SharedFrames:
        stream = self.reader.stream(self.beamtime, "lambda", "s")
        state = {} if self.state is None else {"state": self.state}
        return stream.shared("g", timeout_s=timeout_s, **state)  # type: ignore[return-value]

    def work(self, function: Callable[..., object], **options: object) -> WorkerReport:
        return run_worker(
            function,
            self.name,
            group="g",
            timeout_s=LIMIT_S,
            store=self.store,
            state=self.state,
            **options,  # type: ignore[arg-type]
        )

    def dead_letters(self) -> list[tuple[int, int, str, str]]:
        if self.state is None:
            letters = _dead_letters(self._session, self.beamtime)
            return [(p.number, p.attempt, p.reason, p.trace) for p in letters]
        key = self.reader.stream(self.beamtime, "lambda", "s").start.stream_key.hex()
        ledger = Ledger(self.state, f"g/{key}")
        try:
            return [tuple(row) for row in ledger.rejected()]  # type: ignore[misc]
        finally:
            ledger.close()

    def close(self) -> None:
        self._writer.join(LIMIT_S)
        if self.reader is not self._session:
            self.reader.close()


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, home_env: Path, beamtime: str, tmp_path: Path
) -> Iterator[Place]:
    with connect() as session:
        place = Place(request.param, session, beamtime, tmp_path / "state.db")
        yield place
        place.close()


def test_each_frame_goes_to_one_of_two_workers(place: Place) -> None:
    reports: list[WorkerReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(place.work(worker_functions.mean)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sum(report.frames for report in reports) == FRAMES
    assert [report.finished for report in reports] == [True, True]


def test_a_retried_frame_comes_again_not_before_its_time_and_its_attempts_are_counted(
    place: Place,
) -> None:
    times: list[float] = []
    attempts: Counter[int] = Counter()
    with place.join() as frames:
        for delivery in frames:
            attempts[delivery.frame.number] += 1
            if delivery.frame.number == 7:
                times.append(time.time())
                assert delivery.attempt == len(times)
                if len(times) < 3:
                    delivery.retry(delay_s=0.3)
                    continue
            delivery.ack()
    assert attempts == {n: 3 if n == 7 else 1 for n in range(FRAMES)}
    assert all(later - earlier >= 0.3 for earlier, later in itertools.pairwise(times))


def test_a_frame_that_always_fails_ends_in_the_dead_letters_with_its_traceback(
    place: Place,
) -> None:
    report = place.work(worker_functions.fails_on_five, max_attempts=2)
    assert (report.rejected, report.retried, report.results) == (1, 1, FRAMES - 1)
    ((number, attempt, reason, trace),) = place.dead_letters()
    assert (number, attempt, reason) == (5, 2, "ValueError: five is not to be had")
    assert "fails_on_five" in trace


def test_a_poison_frame_holds_nobody_up(place: Place) -> None:
    done: list[int] = []
    with place.join() as frames:
        for delivery in frames:
            if delivery.frame.number == 0 and len(done) < FRAMES - 1:
                delivery.retry(delay_s=0.05)
            else:
                done.append(delivery.frame.number)
                delivery.ack()
    assert done[-1] == 0
    assert sorted(done) == list(range(FRAMES))


def test_what_was_done_out_of_order_is_not_done_again_and_what_was_not_done_is(
    place: Place,
) -> None:
    with place.join() as frames:
        taken = [next(frames) for _ in range(12)]
        for delivery in taken[1::2]:
            delivery.ack()
    done = {delivery.frame.number for delivery in taken[1::2]}
    again = []
    with place.join() as frames:
        for delivery in frames:
            again.append(delivery.frame.number)
            delivery.ack()
    assert sorted(again) == sorted(set(range(FRAMES)) - done)


def test_a_frame_whose_process_takes_too_long_or_dies_is_done_by_another(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    report = place.work(worker_functions.hangs_on_three, processes=2, frame_limit_s=0.2)
    assert report.crashes
    assert (report.results, report.rejected) == (FRAMES, 0)


_RUNNER = """
import sys
from pathlib import Path
import worker_functions
from pipeline.worker import run_worker
name, state, store = sys.argv[1:]
run_worker(worker_functions.hangs_on_three, name, group="g", state=state or None,
           store=store or None, processes=2)
"""


@pytest.mark.slow
def test_what_a_killed_runner_had_in_hand_goes_to_the_next_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", textwrap.dedent(_RUNNER), place.name]
    runner = subprocess.Popen([*command, str(place.state or ""), place.store or ""])
    with runner:
        assert wait_until((tmp_path / "hung").exists, timeout_s=LIMIT_S)
        runner.send_signal(signal.SIGKILL)
    report = place.work(worker_functions.hangs_on_three)
    assert 1 <= report.results <= FRAMES
    assert report.finished
    assert wait_until(lambda: not _children_of(place.name), timeout_s=LIMIT_S)


def _children_of(name: str) -> list[str]:
    """Return the processes whose environment or command names the stream."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if name in command and entry.name != str(os.getpid()):
            found.append(command)
    return found
