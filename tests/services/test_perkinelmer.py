"""Files of QXRD into the real broker and the real store."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.detectors.perkinelmer.adapter import PerkinElmerAdapter
from pipeline.detectors.perkinelmer.sim import PerkinElmerSimulator
from pipeline.ingest import IngestReport, run
from pipeline.session import Session, connect


@pytest.fixture
def session(home_env):
    with connect() as made:
        yield made


def ingest(session: Session, directory: Path, beamtime: str, **options: Any) -> IngestReport:
    after = options.get("after", "keep")
    adapter = PerkinElmerAdapter(watch=directory, after=after, grace_s=0.5, idle_end_s=1.0)
    try:
        return run(
            session,
            adapter,
            beamtime=beamtime,
            detector="pe",
            idle_end_s=1.0,
            stop=threading.Event(),
            **options,
        )
    finally:
        adapter.close()


def test_pairs_become_frames_and_go_together(session, beamtime, tmp_path):
    truth, folder = tmp_path / "truth", tmp_path / "d"
    PerkinElmerSimulator(
        folder,
        frames=8,
        rate_hz=0,
        shape=(40, 50),
        early=(1,),
        late=(2,),
        missing=(3,),
        huge=(4,),
        lose=(5,),
        truth=truth,
    ).run()
    report = ingest(session, folder, beamtime, streams=1, after="delete", durability="disk")
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    wanted = {line["number"]: line["pixels_sha256"] for line in lines if "lost" not in line}
    assert not list(folder.iterdir())
    with session.stream(*report.streams[0].split("/")) as stream:
        frames = list(stream.ordered(timeout_s=20.0))
        pixels = {f.number: f.array.astype("<f4").tobytes() for f in frames}
        assert {n: hashlib.sha256(p).hexdigest() for n, p in pixels.items()} == wanted
        flags = {frame.number: frame.attributes["sidecar"] for frame in frames}
        assert flags == {0: "ok", 1: "ok", 2: "ok", 3: "missing", 4: "ok", 6: "ok", 7: "ok"}
        assert stream.account()["missing"] == [[5, 5]]
        assert stream.metadata["sidecars_missing"] == 1
        assert (stream.metadata["exposure_s"], stream.state) == (0.0667, "complete")


def test_frames_of_a_his_file_are_published_once(session, beamtime, tmp_path):
    PerkinElmerSimulator(
        tmp_path / "d", frames=5, rate_hz=0, shape=(40, 50), file_format="his"
    ).run()
    first = ingest(session, tmp_path / "d", beamtime, streams=1)
    again = ingest(session, tmp_path / "d", beamtime, streams=1)
    assert (first.frames, again.frames, again.skipped) == (5, 0, 5)
