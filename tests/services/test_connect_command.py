"""``lichtstrom connect`` with the built connector in a real worker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.root import lichtstrom
from pipeline.connectors.rest import ConnectRest
from pipeline.local import down, up
from pipeline.local.processes import wait_until
from pipeline.session import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"


@pytest.fixture
def rest(
    plugins: Mapping[str, Path], home_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConnectRest]:
    """The worker of the session's home; connectors that a test leaves are removed."""
    monkeypatch.chdir(tmp_path)
    info = up(home_env, connect=True)
    assert info.connect is not None
    with ConnectRest(info.connect.url) as client:
        before = {status.name for status in client.statuses()}
        yield client
        for status in client.statuses():
            if status.name not in before:
                client.remove(status.name)


@pytest.fixture
def stream(rest: ConnectRest, beamtime: str) -> str:
    """An ended stream of 30 frames, each full of its number."""
    publish(beamtime)
    return f"{beamtime}/d/s_1"


def publish(beamtime: str) -> None:
    with connect("file") as session, session.publish(beamtime, "d", "s_1", rate_hz=100) as out:
        for number in range(30):
            out.write(np.full((16, 8), number, np.uint16))


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(lichtstrom, ["connect", *arguments])
    assert result.exit_code == status, f"{arguments}: {result.output} {result.exception!r}"
    return result


def test_a_stream_is_written_and_the_command_returns_with_the_file(
    rest: ConnectRest, stream: str, tmp_path: Path
) -> None:
    made = run(
        "hdf5", stream, "--out", "files", "--tasks", "2", "--wait", "--timeout", "120", "--json"
    )
    facts = json.loads(made.stdout)
    path = tmp_path / "files" / "d_s_1.h5"
    assert facts["file"] == str(path), "DIR is made absolute"
    with h5py.File(path) as file:
        assert file["entry/data/data"][:, 3, 3].tolist() == list(range(30))
    assert "nothing is wrong" in CliRunner().invoke(lichtstrom, ["hdf5", "check", str(path)]).output
    with connect("file") as session:
        assert session.services.admin.partitions(facts["dead_letters"]) == 1
    listed = json.loads(run("list", "--json").stdout)
    ours = [c for c in listed if c["connector"] == facts["connector"]]
    assert [(c["state"], c["failure"], len(c["tasks"])) for c in ours] == [("RUNNING", "", 2)]
    run("hdf5", stream, "--out", "other", status=1)  # the name is taken
    assert run("remove", stream).output == f"removed {facts['connector']}\n"
    run("remove", facts["connector"], status=1)


def test_a_finished_file_of_the_stream_is_refused_and_with_overwrite_not_waited_for(
    rest: ConnectRest, stream: str, tmp_path: Path
) -> None:
    one, two = (f"{stream.replace('/', ' ')} ü {number}" for number in (1, 2))
    run("hdf5", stream, "--out", "files", "--wait", "--timeout", "120", "--name", one)
    path = tmp_path / "files" / "d_s_1.h5"
    before = path.stat().st_ino
    refused = run("hdf5", stream, "--out", "files", "--name", two, status=1)
    assert "exists: choose another directory" in refused.output
    run("remove", one)
    run(
        *("hdf5", stream, "--out", "files", "--overwrite", "--name", two),
        *("--wait", "--timeout", "0"),
    )
    assert path.stat().st_ino == before


def test_another_file_of_that_name_is_replaced(
    rest: ConnectRest, stream: str, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "d_s_1.h5"
    path.write_bytes(b"another file")
    run("hdf5", stream, "--out", "files", "--overwrite", "--wait", "--timeout", "120")
    with h5py.File(path) as file:
        assert len(file["entry/data/data"]) == 30


def test_settings_that_the_connector_refuses_are_told_by_field(
    rest: ConnectRest, stream: str
) -> None:
    result = run("hdf5", stream, "--out", "x", "--tasks", "2", "--frames-per-file", "5", status=1)
    assert "are refused: frames.per.file: " in result.output
    assert len(result.output.splitlines()) == 1


def test_a_stream_that_does_not_exist_makes_no_connector(rest: ConnectRest, stream: str) -> None:
    before = rest.statuses()
    result = run("hdf5", stream.replace("s_1", "s_2"), "--out", "x", status=1)
    assert f"did you mean {stream}?" in result.output
    assert [s.name for s in rest.statuses()] == [s.name for s in before]


def test_a_worker_of_another_kafka_cluster_is_refused_because_it_would_wait_for_ever(
    rest: ConnectRest, beamtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("LICHTSTROM_HOME", str(home))
    try:
        up(home, s3=False)
        publish(beamtime)
        result = run("hdf5", f"{beamtime}/d/s_1", "--out", "x", "--url", rest.url, status=1)
        assert "works on another Kafka cluster" in result.output
    finally:
        down(home)


def test_the_local_worker_has_the_converter_for_any_other_sink(
    rest: ConnectRest, stream: str, beamtime: str, tmp_path: Path
) -> None:
    out = tmp_path / "records.txt"
    rest.create(
        beamtime,
        {
            "connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector",
            "topics": f"lichtstrom.{beamtime}.d",
            "file": str(out),
            "key.converter": _BYTES,
            "value.converter": "lichtstrom.connect.converter.AvroSingleObjectConverter",
        },
    )
    assert wait_until(lambda: out.exists() and "inline=" in out.read_text(), timeout_s=60.0), (
        rest.status(beamtime)
    )
