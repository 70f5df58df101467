"""Several instruments in one process, on the real broker and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.detectors.pilatus.sim import PilatusSimulator

pytestmark = pytest.mark.timeout(120)


def test_one_process_publishes_several_instruments_and_outlives_the_failure_of_one(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    config = ""
    for name in ("waxs", "saxs", "away"):
        config += f"""
[adapter.{name}]
adapter = "pilatus"
watch = "{tmp_path / name}"
beamtime = "{beamtime}"
detector = "{name}"
stream = "s"
streams = 1
idle_end_s = 0.5
"""
    (tmp_path / "lichtstrom.toml").write_text(config)
    for name, frames in (("waxs", 3), ("saxs", 5)):
        PilatusSimulator(tmp_path / name, frames=frames, rate_hz=0, shape=(40, 50)).run()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "adapter", "run", "--restart", "0", "--json"],
        cwd=tmp_path,
        env={**os.environ, "LICHTSTROM_CONFIG": str(tmp_path / "lichtstrom.toml")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "instrument=away stopped" in done.stderr
    assert "not everything was published: away" in done.stderr
    reports = json.loads(done.stdout)
    assert {name: report["confirmed"] for name, report in reports.items()} == {
        "waxs": 3,
        "saxs": 5,
        "away": 0,
    }
    with pipeline.connect() as session:
        for name, frames in (("waxs", 3), ("saxs", 5)):
            with session.stream(beamtime, name, "s") as stream:
                assert stream.account()["received"] == frames
