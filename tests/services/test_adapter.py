"""The adapters of files into the real broker and the real store, with kill -9 in the middle."""

from __future__ import annotations

import bz2
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import BeamtimeSettings
from pipeline.detectors.pilatus.adapter import PilatusAdapter
from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.errors import WriterActiveError
from pipeline.ingest import IngestReport, run
from pipeline.ingest.beamtimes import CurrentBeamtime
from pipeline.local.processes import wait_until
from pipeline.session import Session, connect

SHARED = Path(os.environ.get("LICHTSTROM_SHARED") or Path(__file__).parents[3] / "shared")
REAL = SHARED / "data" / "pilatus6m"

ADAPTER = """
import json, signal, sys, threading
from pipeline.detectors.pilatus.adapter import PilatusAdapter
from pipeline.ingest import run
from pipeline.session import connect

adapter, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with connect() as session:
    report = run(session, PilatusAdapter(**adapter), stop=stop, **options)
print(json.dumps([report.frames, report.skipped, report.not_flushed]))
"""


@pytest.fixture
def session(home_env):
    with connect() as made:
        yield made


def ingest(session: Session, directory: Path, beamtime: Any, **options: Any) -> IngestReport:
    own = {"after": options.get("after", "keep"), "timezone": "UTC", "grace_s": 0.3}
    adapter = PilatusAdapter(watch=directory, **own)
    options = {"streams": 1, "idle_end_s": 0.5, "stream": "S", **options}
    try:
        return run(session, adapter, beamtime=beamtime, detector="p", **options)
    finally:
        adapter.close()


def start(directory: Path, beamtime: str, *, after: str = "keep", **options: Any) -> Any:
    adapter = {"watch": str(directory), "after": after, "timezone": "UTC"}
    options = {"beamtime": beamtime, "detector": "p", "stream": "S", **options}
    return subprocess.Popen(
        [sys.executable, "-c", ADAPTER, json.dumps(adapter), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
    )


def received(session: Session, beamtime: str, name: str = "S") -> dict[int, bytes]:
    with session.stream(beamtime, "p", name) as stream:
        return {f.number: bytes(f.payload) for f in stream.ordered(timeout_s=20.0)}


def published(session: Session, beamtime: str) -> int:
    """Return how many frames the stream S has now, copies included; 0 if there is none."""
    if not session.streams(f"{beamtime}/p/S"):
        return 0
    with session.stream(beamtime, "p", "S") as stream:
        return len(stream.table())


def files(directory: Path) -> dict[int, bytes]:
    return {int(p.stem.rpartition("_")[2]): p.read_bytes() for p in directory.glob("*.cbf")}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"REAL FILES NOT TESTED: {REAL} does not exist")
def test_ten_real_pilatus_files_become_ten_frames(session, beamtime, tmp_path):
    import fabio

    for packed in sorted(REAL.glob("*.bz2")):
        (tmp_path / packed.stem).write_bytes(bz2.decompress(packed.read_bytes()))
    report = ingest(session, tmp_path, beamtime)
    assert (report.frames, report.quarantined) == (10, 0)
    assert received(session, beamtime) == files(tmp_path)
    with session.stream(beamtime, "p", "S") as stream:
        frame = stream.frame(10)
        with fabio.open(str(tmp_path / "thau_3_2_0010.cbf")) as image:
            assert np.array_equal(frame.array, image.data)
        assert frame.attributes["wavelength_A"] == 0.96859
        assert frame.timestamp_ns == 1568208029197 * 10**6
        assert stream.metadata["units"]["distance_m"] == "m"
        assert stream.state == "complete"


def test_a_second_run_over_kept_files_publishes_nothing(session, beamtime, tmp_path):
    PilatusSimulator(tmp_path, frames=20, rate_hz=0, shape=(40, 50)).run()
    assert ingest(session, tmp_path, beamtime).frames == 20
    again = ingest(session, tmp_path, beamtime)
    assert (again.frames, again.skipped) == (0, 20)
    assert [str(s.name) for s in session.streams(f"{beamtime}/*/*")] == [f"{beamtime}/p/S"]


@pytest.mark.parametrize("after", ["keep", "delete"])
def test_after_kill_9_nothing_is_lost_and_nothing_comes_twice(session, beamtime, tmp_path, after):
    truth = tmp_path / "truth"
    directory = tmp_path / "watched"
    PilatusSimulator(truth, frames=400, rate_hz=0, shape=(40, 50), stamp=True).run()
    directory.mkdir()
    durable = {"durability": "disk"} if after == "delete" else {}
    paths = iter(sorted(truth.iterdir()))
    for target in (60, 150, 300):
        process = start(directory, beamtime, after=after, **durable)
        try:
            _copy(paths, directory, 130)
            assert wait_until(
                lambda target=target: published(session, beamtime) >= target, timeout_s=60.0
            )
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
    _copy(paths, directory, 400)
    report = ingest(session, directory, beamtime, after=after, **durable)
    assert report.not_flushed == 0
    assert received(session, beamtime) == files(truth)
    with session.stream(beamtime, "p", "S") as stream:
        account = stream.account()
        assert (account["received"], account["conflict"]) == (400, [])
        assert stream.state == "complete"
    assert len(session.streams(f"{beamtime}/*/*")) == 1
    if after == "delete":
        assert not list(directory.glob("*.cbf"))


def _copy(paths: Iterator[Path], directory: Path, count: int) -> None:
    for path in itertools.islice(paths, count):
        shutil.copy(path, directory / f"{path.name}.tmp")
        (directory / f"{path.name}.tmp").rename(directory / path.name)


def test_a_stopped_adapter_leaves_the_stream_open_and_flushed(session, beamtime, tmp_path):
    PilatusSimulator(tmp_path, frames=30, rate_hz=0, shape=(40, 50)).run()
    process = start(tmp_path, beamtime)
    try:
        assert wait_until(lambda: published(session, beamtime) > 0, timeout_s=60.0)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    frames, _, not_flushed = json.loads(output)
    assert (process.returncode, not_flushed) == (0, 0)
    assert published(session, beamtime) == frames
    (summary,) = session.streams(f"{beamtime}/*/*")
    assert summary.state == "open"


def test_a_truncated_file_is_in_the_account_and_no_frame(session, beamtime, tmp_path):
    PilatusSimulator(tmp_path, frames=5, rate_hz=0, shape=(40, 50)).run()
    path = tmp_path / "sim_00002.cbf"
    path.write_bytes(path.read_bytes()[:-100])
    ingest(session, tmp_path, beamtime)
    with session.stream(beamtime, "p", "S") as stream:
        account = stream.account()
        assert account["received"] == 4
        (note,) = account["quarantined"]
        assert note["source"] == "sim_00002.cbf"
        assert "cut short" in note["reason"]


def test_a_name_used_again_opens_a_new_stream(session, beamtime, tmp_path):
    PilatusSimulator(tmp_path, frames=5, rate_hz=0, shape=(40, 50)).run()
    first = files(tmp_path)
    ingest(session, tmp_path, beamtime)
    PilatusSimulator(tmp_path, frames=5, rate_hz=0, shape=(40, 50), seed=1).run()
    report = ingest(session, tmp_path, beamtime)
    assert report.ended == [f"{beamtime}/p/S.2"]
    assert received(session, beamtime) == first
    assert received(session, beamtime, "S.2") == files(tmp_path)


def test_streams_go_to_the_beamtime_of_their_beginning_and_nothing_comes_again_in_the_next(
    session, beamtime, tmp_path
):
    current, raw = tmp_path / "current", tmp_path / "raw"
    raw.mkdir()
    current.write_text(beamtime)
    options = {"stream": None, "beamtime": CurrentBeamtime(_following(current), session.takes)}
    PilatusSimulator(raw, frames=3, rate_hz=0, shape=(40, 50), prefix="one").run()
    assert ingest(session, raw, **options).frames == 3
    current.write_text(f"{beamtime}b")
    PilatusSimulator(raw, frames=4, rate_hz=0, shape=(40, 50), prefix="two").run()
    # Started anew: it knows from the other beamtime what is published.
    second = ingest(session, raw, **options, streams=2)
    assert (second.frames, second.skipped) == (4, 3)
    names = [summary.name for summary in session.streams(f"{beamtime}*/p/*")]
    found = {n.beamtime: len(received(session, n.beamtime, n.stream)) for n in names}
    assert found == {beamtime: 3, f"{beamtime}b": 4}


def _following(file: Path) -> BeamtimeSettings:
    return BeamtimeSettings(file=str(file))


def test_a_second_adapter_on_the_directory_gets_a_clear_error(session, beamtime, tmp_path):
    PilatusSimulator(tmp_path, frames=5, rate_hz=0, shape=(40, 50)).run()
    process = start(tmp_path, beamtime)
    try:
        assert wait_until(lambda: published(session, beamtime) == 5, timeout_s=60.0)
        with pytest.raises(WriterActiveError, match="takeover"):
            ingest(session, tmp_path, beamtime)
        PilatusSimulator(tmp_path, frames=1, rate_hz=0, shape=(40, 50), start_number=5).run()
        assert wait_until(lambda: published(session, beamtime) == 6, timeout_s=60.0)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_burst_with_deletion_is_published_whole(session, beamtime, tmp_path):
    stop = threading.Event()
    simulator = PilatusSimulator(tmp_path, frames=1500, rate_hz=0, shape=(16, 16))
    writer = threading.Thread(target=simulator.run, args=(stop,))
    writer.start()
    try:
        report = ingest(session, tmp_path, beamtime, after="delete", durability="disk")
    finally:
        stop.set()
        writer.join(20)
    assert report.confirmed == 1500
    assert sorted(received(session, beamtime)) == list(range(1500))
    assert not list(tmp_path.glob("*.cbf"))
