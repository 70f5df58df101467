"""``lichtstrom simulate replay``: what was written to a file comes back as a stream, unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.session import Session, connect

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]
NUMBERS = [3, 4, 6, 7]


def lichtstrom(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def image(number: int) -> Any:
    return np.random.default_rng(number).poisson(3, (40, 60)).astype(np.uint16)


def publish(session: Session, beamtime: str) -> None:
    session.create_beamtime(beamtime, "d")
    metadata = {"energy_eV": 12000, "units": {"energy_eV": "eV"}, "sample": "LaB6"}
    with session.publish(beamtime, "d", "s", rate_hz=100, metadata=metadata) as out:
        for number in NUMBERS:
            attributes = {"omega": number / 10, "step": number, "word": f"w{number}"}
            out.write(image(number), number=number, timestamp_ns=number, attributes=attributes)
        out.attach("pixel_mask", np.eye(40, 60, dtype=np.uint32))


def facts(session: Session, beamtime: str, name: str) -> Any:
    stream = session.stream(beamtime, "d", name)
    return (
        [(f.number, f.timestamp_ns, dict(f.attributes)) for f in stream.ordered()],
        dict(stream.metadata),
    )


def test_a_file_of_the_sink_and_a_stored_stream_are_played_as_they_were(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    with connect() as session:
        publish(session, beamtime)
        lichtstrom("sink", "hdf5", f"{beamtime}/d/s", "--out", str(tmp_path))
        lichtstrom("export", f"{beamtime}/d/s", "--to", f"file://{tmp_path}/home")
        where = ["--beamtime", beamtime, "--detector", "d", "--times", "keep", "--rate", "1000"]
        file = str(tmp_path / "d_s.h5")
        lichtstrom("simulate", "replay", file, *where, "--stream", "file")
        url = f"file://{tmp_path}/home"
        part = ["--frames", "::2", "--stream", "part", "--json"]
        told = lichtstrom("simulate", "replay", url, *where, *part)
        assert json.loads(told)["ended"] == [f"{beamtime}/d/part"]
        first = facts(session, beamtime, "s")
        assert facts(session, beamtime, "file") == first
        played = session.stream(beamtime, "d", "file")
        for frame in played.ordered():
            assert frame.encoding == "bslz4"
            np.testing.assert_array_equal(frame.array, image(frame.number))
        assert played.settings["rate_hz"] == 1000
        assert [f.number for f in session.stream(beamtime, "d", "part").ordered()] == [3, 7]
        part = session.stream(beamtime, "d", "part")
        assert part.frame(7).encoding == "raw"
        assert part.attachment("pixel_mask").sum() == 40
