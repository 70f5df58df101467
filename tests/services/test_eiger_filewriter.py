"""The FileWriter into the real broker and the real store: stored verbatim, deleted when safe."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from filewriter_stand_in import (
    FileWriterStandIn,
    data_file,
    hashes,
    images,
    master_file,
    running,
)

from pipeline.detectors.eiger.filewriter import FileWriterSource
from pipeline.detectors.rest import Device
from pipeline.ingest import IngestReport, run
from pipeline.local.processes import wait_until
from pipeline.session import Session, connect
from pipeline.testing.conformance.rig import pixels_sha256

ADAPTER = """
import json, sys
from pipeline.detectors.eiger.filewriter import FileWriterSource
from pipeline.detectors.rest import Device
from pipeline.ingest import run
from pipeline.session import connect

endpoint, options = sys.argv[1], json.loads(sys.argv[2])
source = FileWriterSource(Device(endpoint), "1.8.0", after="delete", settle_s=0.5)
with connect() as session:
    run(session, source, **options)
"""


@pytest.fixture
def session(home_env: Any) -> Iterator[Session]:
    with connect() as made:
        yield made


@pytest.fixture
def unit() -> Iterator[FileWriterStandIn]:
    with running() as made:
        yield made


def options(beamtime: str) -> dict[str, Any]:
    return {"beamtime": beamtime, "detector": "e", "durability": "disk", "stream": "S"}


def ingest(session: Session, unit: FileWriterStandIn, beamtime: str) -> IngestReport:
    device = Device(unit.endpoint)
    source = FileWriterSource(device, "1.8.0", after="delete", settle_s=0.5)
    try:
        return run(session, source, streams=1, **options(beamtime))
    finally:
        source.close()
        device.close()


def received(session: Session, beamtime: str) -> dict[int, str]:
    with session.stream(beamtime, "e", "S") as stream:
        return {f.number: pixels_sha256(f.array) for f in stream.ordered(timeout_s=20.0)}


def published(session: Session, beamtime: str) -> int:
    if not session.streams(f"{beamtime}/e/S"):
        return 0
    with session.stream(beamtime, "e", "S") as stream:
        return len(stream.table())


def fill(unit: FileWriterStandIn, *, files: int, images_a_file: int) -> dict[int, str]:
    """Put a whole series onto the unit; return its pixels by number."""
    count = files * images_a_file
    unit.files["series_1_master.h5"] = master_file(nimages=count, parts=files)
    truth: dict[int, str] = {}
    for part in range(files):
        first = part * images_a_file + 1
        data = images(first, images_a_file)
        unit.files[f"series_1_data_{part + 1:06d}.h5"] = data_file(data, first)
        truth.update(zip(range(first, first + images_a_file), hashes(data), strict=True))
    return truth


def test_a_series_arrives_whole_and_leaves_the_unit_empty(session, unit, beamtime):
    truth = fill(unit, files=3, images_a_file=20)
    master = unit.files["series_1_master.h5"]
    report = ingest(session, unit, beamtime)
    assert (report.frames, report.quarantined, report.not_flushed) == (60, 0, 0)
    assert received(session, beamtime) == truth
    with session.stream(beamtime, "e", "S") as stream:
        account = stream.account()
        assert (account["complete"], account["expected"], account["received"]) == (True, 60, 60)
        assert stream.metadata["source_interface"] == "filewriter"
        assert stream.attachment("master_h5").tobytes() == master
        assert np.all(stream.attachment("pixel_mask")[3] == 1)
    assert unit.files == {}
    deleted = [line for line in unit.requests if line.startswith("DELETE")]
    assert deleted[-1] == "DELETE /data/series_1_master.h5"


def test_after_kill_9_nothing_is_lost_and_nothing_comes_twice(session, unit, beamtime):
    truth = fill(unit, files=6, images_a_file=20)
    last = unit.files.pop("series_1_data_000006.h5")
    unit.active(True)
    command = [sys.executable, "-c", ADAPTER, unit.endpoint, json.dumps(options(beamtime))]
    child = subprocess.Popen(command)
    try:
        wait_until(lambda: published(session, beamtime) >= 60, timeout_s=30.0)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=10.0)
    unit.files["series_1_data_000006.h5"] = last
    unit.active(False)
    ingest(session, unit, beamtime)
    assert received(session, beamtime) == truth
    assert [str(summary.name) for summary in session.streams(f"{beamtime}/*/*")] == [
        f"{beamtime}/e/S"
    ]
    assert unit.files == {}
