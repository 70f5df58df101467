"""The commands as a user runs them, on the real broker and the real S3 server."""

from __future__ import annotations

import bz2
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers the filters
import numpy as np
import pytest

from pipeline.local import status
from pipeline.local.processes import wait_until

pytestmark = pytest.mark.timeout(300)
_SHARED = Path(os.environ.get("LICHTSTROM_SHARED", Path(__file__).parents[3] / "shared"))


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*arguments: str, status: int = 0, timeout_s: float = 120, **options) -> str:
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status, f"{arguments}: {process.returncode}\n{out}\n{err}"
    return out


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def real_files(tmp_path: Path) -> Path:
    """Ten real Pilatus 6M files, unpacked."""
    packed = sorted((_SHARED / "data" / "pilatus6m").glob("*.cbf.bz2"))
    if len(packed) < 10:
        pytest.skip(f"NO REAL FILES in {_SHARED}/data/pilatus6m: set LICHTSTROM_SHARED")
    folder = tmp_path / "real"
    folder.mkdir()
    for path in packed[:10]:
        (folder / path.stem).write_bytes(bz2.decompress(path.read_bytes()))
    return folder


@pytest.mark.slow
def test_real_pilatus_files_go_through_every_command(
    home_env: Path, beamtime: str, tmp_path: Path, real_files: Path
) -> None:
    import fabio

    watched = tmp_path / "watched"
    watched.mkdir()
    adapter = start(
        "adapter", "pilatus", "--watch", str(watched), "--beamtime", beamtime,
        "--detector", "p6m", "--stream", "thau", "--idle-end", "2", "--streams", "1", "--json",
    )  # fmt: skip
    files = sorted(real_files.iterdir())
    try:
        for path in files:
            path.rename(watched / path.name)
        out, err = adapter.communicate(timeout=120)
    finally:
        adapter.kill()
        adapter.wait()
    assert adapter.returncode == 0, err
    report = json.loads(out)
    name = f"{beamtime}/p6m/thau"
    assert report["ended"] == [name]
    assert report["confirmed"] == 10

    (entry,) = json.loads(run("streams", f"{beamtime}/*/*", "--json"))
    assert (entry["stream"], entry["state"], entry["frames"]) == (name, "complete", 10)
    frames = lines(run("frames", name, "--json", "--payload-sha256"))
    contents = [(watched / path.name).read_bytes() for path in files]
    assert [f["payload_sha256"] for f in frames] == [
        hashlib.sha256(c).hexdigest() for c in contents
    ]
    assert [f["number"] for f in frames] == list(range(1, 11))
    assert {f["encoding"] for f in frames} == {"cbf"}
    shown = json.loads(run("show", name, "--json"))
    assert shown["metadata"]["wavelength_A"] == frames[0]["attributes"]["wavelength_A"]

    account = json.loads(run("verify", name, "--json"))
    assert account["complete"] is True
    assert json.loads(run("verify", name, "--store", "s3", "--json")) == account
    result = json.loads(run("sink", "hdf5", name, "--out", str(tmp_path / "out"), "--json"))
    assert result["path"] == str(tmp_path / "out" / "p6m_thau.h5")
    with h5py.File(result["path"]) as file:
        for row, path in enumerate(files):
            image = fabio.open(str(watched / path.name)).data
            assert np.array_equal(file["entry/data/data"][row], image)
    run("watch", name, "--png", str(tmp_path / "newest.png"))

    target = (tmp_path / "copy").as_uri()
    run("export", name, "--to", target)
    assert json.loads(run("verify", name, "--store", target, "--json")) == account
    assert run("delete", name, status=1, stdin=subprocess.DEVNULL) == ""
    run("delete", name, "--yes")
    run("show", name, status=1)
    assert json.loads(run("streams", f"{beamtime}/*/*", "--json")) == []
    orphans = run("doctor", "--orphans", "--beamtime", beamtime, "--older", "0", "--json")
    assert json.loads(orphans) == []
    assert json.loads(run("verify", name, "--store", target, "--json")) == account


def test_an_adapter_that_is_stopped_leaves_its_stream_open_and_goes_on(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    simulate = (
        "simulate",
        "pilatus",
        "--directory",
        str(watched),
        "--model",
        "100k",
        "--rate-hz",
        "0",
    )
    adapter = (
        "adapter", "pilatus", "--watch", str(watched), "--beamtime", beamtime,
        "--detector", "d", "--stream", "s", "--report", "0.1",
    )  # fmt: skip
    run(*simulate, "--frames", "20")
    first = start(*adapter)
    try:
        assert first.stderr is not None
        for line in first.stderr:
            if line.startswith("{") and json.loads(line)["progress"].get("confirmed") == 20:
                break
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 143, err
    name = f"{beamtime}/d/s"
    assert json.loads(run("verify", name, "--json", status=1))["state"] == "open"
    run("sink", "hdf5", name, "--out", str(tmp_path / "out"), status=1)
    run("export", name, "--to", (tmp_path / "copy").as_uri(), status=1)
    run(*simulate, "--frames", "10", "--start-number", "20")
    run(*adapter, "--idle-end", "1", "--streams", "1")
    assert json.loads(run("verify", name, "--json"))["received"] == 30


def test_a_sink_that_follows_ends_with_the_stream(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    import pipeline

    name = f"{beamtime}/d/s"
    sink = start("sink", "hdf5", name, "--out", str(tmp_path), "--follow", "--wait", "60", "--json")
    try:
        with pipeline.connect() as session, session.publish(beamtime, "d", "s", rate_hz=100) as out:
            for number in range(50):
                out.write(np.full((16, 16), number, np.uint16), number=number)
        text, err = sink.communicate(timeout=60)
    finally:
        sink.kill()
        sink.wait()
    assert sink.returncode == 0, err
    assert json.loads(text)["written"] == 50
    with h5py.File(tmp_path / "d_s.h5") as file:
        assert np.array_equal(file["entry/data/data"][:, 0, 0], np.arange(50))


def test_a_sink_that_is_stopped_goes_on_where_it_was(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    import pipeline

    command = ("sink", "hdf5", f"{beamtime}/d/s", "--out", str(tmp_path), "--follow")
    with pipeline.connect() as session:
        out = session.publish(beamtime, "d", "s", rate_hz=100)
        out.write(np.full((16, 16), 7, np.uint16))
        out.flush()
        sink = start(*command, "--report", "0.1")
        try:
            assert wait_until((tmp_path / ".d_s.h5.part").exists, timeout_s=60)
            sink.send_signal(signal.SIGINT)
            _, err = sink.communicate(timeout=60)
        finally:
            sink.kill()
            sink.wait()
        assert sink.returncode == 130, err
        assert not list(tmp_path.glob("*.h5"))
        out.write(np.full((16, 16), 8, np.uint16))
        out.end("complete")
        run(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["d_s.h5"]
    with h5py.File(tmp_path / "d_s.h5") as file:
        assert file["entry/data/data"][:, 0, 0].tolist() == [7, 8]


def test_workers_publish_what_a_function_returns(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    import pipeline

    with pipeline.connect() as session, session.publish(beamtime, "d", "s", rate_hz=100) as out:
        for _ in range(20):
            out.write(np.zeros((32, 32), np.uint16))
    report = json.loads(
        run(
            "worker", "pipeline.spots:count", f"{beamtime}/d/s", "--group", "g",
            "--processes", "2", "--out", "spots", "--store", "s3", "--json",
        )
    )  # fmt: skip
    assert report["finished"] is True
    assert report["results"] == 20
    assert json.loads(run("verify", f"{beamtime}/spots/s", "--json"))["received"] == 20
    frames = lines(run("frames", f"{beamtime}/spots/s", "--where", "spots == 0", "--json"))
    assert len(frames) == 20


def test_what_a_dead_writer_left_in_its_spool_is_published(
    home_env: Path, beamtime: str, tmp_path: Path
) -> None:
    writer = """
import dataclasses, os, sys, numpy as np
from pipeline.session import connect
with connect() as session:
    settings = session.settings
away = dataclasses.replace(settings.kafka, bootstrap="127.0.0.1:1", timeout_s=1.0)
session = connect(settings=dataclasses.replace(settings, kafka=away))
out = session.publish(sys.argv[1], "d", "s", rate_hz=100, spool=sys.argv[2])
for number in range(10):
    out.write(np.full((64, 64), number, np.int32), number=number)
try:
    out.flush(1.0)
except Exception as error:
    print(error)
os._exit(9)
"""
    spool = tmp_path / "spool"
    died = subprocess.run(
        [sys.executable, "-c", writer, beamtime, str(spool)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert died.returncode == 9, died.stderr
    (left,) = json.loads(run("spool", "list", str(spool), "--json"))
    assert left["stream"] == f"{beamtime}/d/s"
    (done,) = json.loads(run("spool", "drain", str(spool), "--json"))
    assert (done["state"], done["problem"]) == ("open", "")
    assert json.loads(run("spool", "list", str(spool), "--json")) == []
    assert json.loads(run("verify", f"{beamtime}/d/s", "--json", status=1))["received"] == 10


def test_beamtimes_are_made_listed_and_shown(home_env: Path, beamtime: str) -> None:
    made = json.loads(run("beamtime", "create", beamtime, "--detector", "d", "--json"))
    assert len(made["made"]) >= 2
    assert beamtime in json.loads(run("beamtime", "list", "--json"))
    shown = json.loads(run("beamtime", "show", beamtime, "--json"))
    assert sorted(shown["topics"].values()) == [1, 8]
    run("beamtime", "show", "no-such-beamtime", status=1)


@pytest.mark.slow
def test_the_demo_brings_every_frame_into_the_file_and_stops_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = json.loads(run("demo", "--seconds", "1", "--rate", "50", "--json", timeout_s=240))
    assert summary["problems"] == []
    assert (summary["frames"], summary["in_file"]) == (50, 50)
    assert summary["account"]["complete"] is True
    assert summary["spots"]["frames"] == 50
    found = status(tmp_path / ".demo" / "home")
    assert not found.kafka.running
    assert not found.s3.running


@pytest.mark.slow
def test_an_interrupted_demo_stops_what_it_started(tmp_path: Path) -> None:
    demo = start("demo", "--seconds", "60", "--home", str(tmp_path / "demo"))
    try:
        assert wait_until(
            (tmp_path / "demo" / "detector" / "scan_1_00005.cbf").exists, timeout_s=90
        )
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=90)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, err
    found = status(tmp_path / "demo" / "home")
    assert not found.kafka.running
    assert not found.s3.running
