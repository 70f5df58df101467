"""PCO files into the real broker and the real store."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.detectors.pco.adapter import PcoAdapter
from pipeline.detectors.pco.sim import PcoSimulator
from pipeline.ingest import IngestReport, run
from pipeline.session import Session, connect


@pytest.fixture
def session(home_env):
    with connect() as made:
        yield made


def ingest(session: Session, directory: Path, beamtime: str, **options: Any) -> IngestReport:
    after = options.get("after", "keep")
    adapter = PcoAdapter(watch=directory, after=after, grace_s=0.3, idle_end_s=0.5)
    try:
        return run(
            session,
            adapter,
            beamtime=beamtime,
            detector="pco",
            idle_end_s=0.5,
            stop=threading.Event(),
            **options,
        )
    finally:
        adapter.close()


def received(session: Session, report: IngestReport) -> list[dict[str, Any]]:
    found = []
    for series, name in enumerate(report.streams, 1):
        with session.stream(*name.split("/")) as stream:
            for frame in stream.ordered(timeout_s=20.0):
                pixels = frame.array.astype("<u2").tobytes()
                found.append(
                    {
                        "series": str(series),
                        "number": frame.number,
                        "timestamp_ns": frame.timestamp_ns,
                        "pixels_sha256": hashlib.sha256(pixels).hexdigest(),
                    }
                )
    return found


@pytest.mark.parametrize("file_format", ["multitif", "b16"])
def test_each_arming_becomes_a_stream_and_files_go_when_they_are_safe(
    session, beamtime, tmp_path, file_format
):
    truth, folder = tmp_path / "truth", tmp_path / "d"
    PcoSimulator(
        folder,
        frames=12,
        rate_hz=0,
        shape=(40, 50),
        file_format=file_format,
        pages_per_file=5,
        rearm_after=7,
        lose=(3,),
        truth=truth,
    ).run()
    report = ingest(session, folder, beamtime, streams=2, after="delete", durability="disk")
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert received(session, report) == [line for line in lines if "lost" not in line]
    assert not list(folder.iterdir())
    with session.stream(*report.streams[0].split("/")) as stream:
        assert (stream.state, stream.account()["missing"]) == ("complete", [[3, 3]])
        assert stream.metadata["number_source"] == "stamp"


def test_a_second_run_over_kept_files_publishes_nothing(session, beamtime, tmp_path):
    PcoSimulator(tmp_path / "d", frames=9, rate_hz=0, shape=(40, 50), rearm_after=5).run()
    first = ingest(session, tmp_path / "d", beamtime, streams=2)
    again = ingest(session, tmp_path / "d", beamtime, streams=2)
    assert (first.frames, again.frames, again.skipped) == (9, 0, 9)
    assert len(session.streams(f"{beamtime}/*/*")) == 2
