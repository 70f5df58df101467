"""Streams of a real broker on a Dask cluster: other processes, which see the store alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.session import connect

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]
_SCRIPT = Path(__file__).with_name("dask_cluster.py")
NUMBERS = [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_cluster_reads_the_frames_of_streams_without_the_broker(
    home_env: Path, beamtime: str
) -> None:
    pytest.importorskip("distributed")
    with connect() as session:
        # small ones are in the records, and in objects once the stream is sealed
        for detector, side in (("large", 300), ("small", 8)):
            session.create_beamtime(beamtime, detector)
            with session.publish(beamtime, detector, "s", frames_per_chunk=4) as out:
                for number in NUMBERS:
                    image = np.full((side, side), number, np.uint16)
                    out.write(image, number=number, attributes={"omega": number / 2})
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), beamtime, "large", "small"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["workers"], found["knows_broker"]) == (2, False)
    for detector in ("large", "small"):
        means, blocks = found[detector]
        assert means == [float(n) if n in NUMBERS else None for n in range(10)]
        assert blocks == [
            [[n, n / 2, n] for n in block] for block in ([0, 1, 2, 3], [5, 6, 7], [8, 9])
        ]
