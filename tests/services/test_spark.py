"""The example for Spark Structured Streaming, on the topics of a real broker.

pyspark has 450 MB and is not among what the tests install: ``make spark`` runs this file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.frame import Module
from pipeline.local.java import find_java
from pipeline.session import connect

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(300)]
SCRIPT = Path(__file__).parents[2] / "connectors/spark/frames_per_second.py"
S = 10**9
#: 2026-11-23 10:00:00 UTC
BEGIN = 1795428000


@pytest.fixture
def java_and_spark() -> str:
    """JAVA_HOME of a Java that Spark takes; skipped where it or pyspark is not there."""
    java = find_java()
    lacks = [
        name
        for name, there in (
            ("pyspark", importlib.util.find_spec("pyspark") is not None),
            ("Java 17", java is not None),
        )
        if not there
    ]
    if lacks and os.environ.get("LICHTSTROM_NEED_SPARK"):
        pytest.fail(f"no {' and no '.join(lacks)} here")
    if lacks or java is None:
        pytest.skip(f"Spark is NOT tested: no {' and no '.join(lacks)} here; `make spark` does it")
    return str(Path(java.path).resolve().parents[1])


def test_spark_counts_the_frames_of_each_stream_and_second(
    java_and_spark: str, home_env: Path, beamtime: str
) -> None:
    modules = [Module(index=i, shape=(4, 4), position=(4 * i, 0)) for i in (1, 2)]
    with connect() as session:
        session.create_beamtime(beamtime, "d")
        with session.publish(beamtime, "d", "one", rate_hz=1000) as out:
            for number in range(300):
                stamp_ns = BEGIN * S + number * S // 100
                out.write(np.zeros((4, 4), np.uint8), number=number, timestamp_ns=stamp_ns)
        with session.publish(beamtime, "d", "one", reopen=True) as out:  # copies, counted once
            for number in range(10):
                stamp_ns = BEGIN * S + number * S // 100
                out.write(np.zeros((4, 4), np.uint8), number=number, timestamp_ns=stamp_ns)
        with session.publish(beamtime, "d", "two", modules=modules) as out:
            for module in (1, 2):
                for number in range(5):
                    out.write(
                        np.zeros((4, 4), np.uint8),
                        number=number,
                        timestamp_ns=BEGIN * S,
                        module=module,
                    )
    found = _run(java_and_spark, beamtime)
    hour = "2026-11-23T10:00:0"
    one, two = f"{beamtime}/d/one", f"{beamtime}/d/two"
    assert found == [
        *(
            {"stream": one, "second": f"{hour}{i}+00:00", "frames": 100, "nbytes": 1600}
            for i in range(3)
        ),
        {"stream": two, "second": f"{hour}0+00:00", "frames": 5, "nbytes": 160},
    ]


def _run(java_home: str, beamtime: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), beamtime, "d"],
        env={**os.environ, "JAVA_HOME": java_home},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
