"""Runs of a simulated Lambda through its server's ports into the real services."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.detectors.lambda_xs.adapter import LambdaAdapter
from pipeline.detectors.lambda_xs.sim import LambdaSimulator
from pipeline.errors import SourceError
from pipeline.ingest import IngestReport, run

pytestmark = pytest.mark.timeout(120)


@contextmanager
def running(simulator: LambdaSimulator) -> Iterator[None]:
    thread = threading.Thread(target=simulator.run, name="lambda")
    thread.start()
    try:
        yield
    finally:
        thread.join(60)


def publish(simulator: LambdaSimulator, beamtime: str, **settings: Any) -> IngestReport:
    adapter = LambdaAdapter(
        endpoint=f"http://127.0.0.1:{simulator.port}", status_every_s=0.1, **settings
    )
    try:
        with running(simulator), pipeline.connect() as session:
            return run(session, adapter, beamtime=beamtime, detector="lambda", streams=1)
    finally:
        adapter.close()


def compare(name: str, truth: Path) -> dict[str, Any]:
    """Compare every part with the truth; return the account."""
    entries = [json.loads(line) for line in truth.read_text().splitlines()]
    planted = {(e["number"], e["module"]): e for e in entries}
    sent = {key for key, entry in planted.items() if "lost" not in entry}
    came = set()
    with pipeline.connect() as session, session.stream(*name.split("/")) as stream:
        for frame in stream.ordered(timeout_s=20):
            for module, part in frame.modules.items():
                came.add((frame.number, module))
                digest = hashlib.sha256(part.array.tobytes()).hexdigest()
                assert digest == planted[frame.number, module]["pixels_sha256"]
        assert came == sent
        return stream.account()


@pytest.mark.parametrize(
    ("compressor", "bit_depth", "dual"),
    [("none", 12, False), ("zlib", 6, False), ("blosc/lz4", 24, True)],
)
def test_a_run_of_three_modules_comes_whole_past_the_wrap_of_its_numbers(
    home_env: Path, beamtime: str, tmp_path: Path, compressor: str, bit_depth: int, dual: bool
) -> None:
    truth = tmp_path / "truth"
    simulator = LambdaSimulator(
        frames=300,
        rate_hz=600,
        shape=(16, 24),
        compressor=compressor,
        bit_depth=bit_depth,
        dual=dual,
        pause_s=0.3,
        truth=truth,
    )
    report = publish(simulator, beamtime)
    account = compare(report.ended[0], truth)
    assert account["complete"]
    assert account["expected"] == account["received"] == 300


def test_losses_of_a_module_and_of_frames_are_named_exactly(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    truth = tmp_path / "truth"
    simulator = LambdaSimulator(
        frames=300,
        rate_hz=600,
        shape=(16, 24),
        lose=(5, 6, 270),
        lose_module=(9,),
        bad_status=(11,),
        pause_s=0.3,
        truth=truth,
    )
    report = publish(simulator, beamtime)
    account = compare(report.ended[0], truth)
    assert account["missing"] == [[5, 6], [270, 270]]
    assert account["incomplete"] == [[9, 9], [11, 11]]
    assert not account["complete"]


def test_one_port_is_a_stream_of_one_module(home_env: Path, beamtime: str, tmp_path: Path) -> None:
    simulator = LambdaSimulator(frames=20, rate_hz=100, shape=(16, 24), modules=2, pause_s=0.3)
    # the other port has no reader: nobody is waited for
    simulator._reader_s = 1.0
    report = publish(simulator, beamtime, ports="1")
    with pipeline.connect() as session, session.stream(*report.ended[0].split("/")) as stream:
        assert stream.frame(3).array.shape == (16, 24)
        assert stream.account()["complete"]


def test_two_processes_write_one_stream_of_all_modules_in_each_of_two_runs(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    simulator = LambdaSimulator(frames=300, rate_hz=200, shape=(16, 24), series=2, pause_s=2.0)

    def part(ports: str) -> list[str]:
        with pipeline.connect() as session:
            adapter = LambdaAdapter(
                endpoint=f"http://127.0.0.1:{simulator.port}", status_every_s=0.1, share=ports
            )
            try:
                report = run(session, adapter, beamtime=beamtime, detector="lambda", streams=2)
            finally:
                adapter.close()
            return report.ended

    with ThreadPoolExecutor(2) as pool, running(simulator):
        first, second = pool.map(part, ("0,2", "1"), timeout=60)
    assert first == second == [f"{beamtime}/lambda/run", f"{beamtime}/lambda/run.2"]
    with pipeline.connect() as session:
        for name in first:
            with session.stream(*name.split("/")) as stream:
                account = stream.account()
                assert sorted(stream.frame(299).modules) == [0, 1, 2]
            assert account["complete"]
            assert account["received"] == account["expected"] == 300


def test_what_a_killed_process_did_not_write_is_named_and_the_next_run_is_whole_again(
    home_env: Path, beamtime: str
) -> None:
    simulator = LambdaSimulator(frames=400, rate_hz=200, shape=(16, 24))
    detector = simulator.detector
    processes = [adapter_process(simulator.port, beamtime, share) for share in ("0,2", "1")]

    def kill_at(number: int) -> None:
        if number == 200:
            processes[1].kill()

    try:
        detector.prepare()
        assert detector.wait_for_readers(40)
        detector.start(on_frame=kill_at)
        processes[1].wait(10)
        processes.append(adapter_process(simulator.port, beamtime, "1"))
        assert detector.wait_for_readers(40)
        detector.start()
        assert processes[0].wait(60) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
        simulator.close()
    with pipeline.connect() as session:
        with session.stream(beamtime, "lambda", "run") as stream:
            killed = stream.account()
        with session.stream(beamtime, "lambda", "run.2") as stream:
            assert stream.account()["complete"]
    # what it had under way may have come for some frames and not for others before them
    named = {n for begin, end in killed["incomplete"] for n in range(begin, end + 1)}
    assert named >= set(range(201, 400))
    assert (killed["state"], killed["expected"], killed["missing"]) == ("lost", 400, [])
    assert killed["received"] + len(named) == 400


def adapter_process(port: int, beamtime: str, share: str) -> subprocess.Popen[bytes]:
    words = f"adapter lambda --endpoint http://127.0.0.1:{port} --share {share} --streams 2"
    named = f"--status-every 0.1 --beamtime {beamtime} --detector lambda"
    return subprocess.Popen([sys.executable, "-m", "pipeline.cli", *words.split(), *named.split()])


def test_a_check_says_what_the_server_is() -> None:
    simulator = LambdaSimulator(frames=0, modules=2, shape=(16, 24))
    adapter = LambdaAdapter(endpoint=f"http://127.0.0.1:{simulator.port}")
    try:
        seen = adapter.check()
    finally:
        adapter.close()
        simulator.close()
    assert seen["status"] == "ready"
    assert "lambda/2" in str(seen["ports"])


def test_a_server_that_is_away_is_told() -> None:
    adapter = LambdaAdapter(endpoint="http://127.0.0.1:1")
    try:
        with pytest.raises(SourceError, match="Is the device on"):
            adapter.check()
    finally:
        adapter.close()
