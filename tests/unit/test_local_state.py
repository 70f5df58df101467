"""The notes of a runtime: their shape, their secrecy, and what happens when they are stale."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import PipelineError, RuntimeUnavailableError
from pipeline.local import ConnectInfo, KafkaInfo, RuntimeInfo, S3Info, default_home, down, status
from pipeline.local.processes import ProcessId
from pipeline.local.state import RUNTIME_FILE, ServerState, State, load_info, write_private

INFO = RuntimeInfo(
    kafka=KafkaInfo(bootstrap="127.0.0.1:9092", pid=10),
    store_url="file:///home/store",
    s3=S3Info(
        endpoint="http://127.0.0.1:7070",
        access_key="access",
        secret_key="hidden",
        region="us-east-1",
        pid=11,
    ),
    started_ns=5,
)


def test_runtime_json_has_the_shape_that_clients_read() -> None:
    assert INFO.to_json() == {
        "version": 1,
        "kafka": {"bootstrap": "127.0.0.1:9092", "pid": 10},
        "store": {"url": "file:///home/store"},
        "s3": {
            "endpoint": "http://127.0.0.1:7070",
            "access_key": "access",
            "secret_key": "hidden",
            "region": "us-east-1",
            "pid": 11,
        },
        "started_ns": 5,
        "connect": None,
    }
    assert RuntimeInfo.from_json(INFO.to_json()) == INFO


def test_the_note_of_a_connect_worker_comes_back_and_notes_from_before_it_are_read() -> None:
    info = replace(INFO, connect=ConnectInfo(url="http://127.0.0.1:8083", pid=12))
    assert RuntimeInfo.from_json(info.to_json()) == info
    old = INFO.to_json()
    del old["connect"]
    assert RuntimeInfo.from_json(old) == INFO


def test_the_state_of_a_home_from_before_connect_is_read(tmp_path: Path) -> None:
    State(cluster_id="c", kafka=ServerState(ports=(1, 2))).save(tmp_path)
    path = tmp_path / "state.json"
    old = json.loads(path.read_text())
    del old["connect"]
    path.write_text(json.dumps(old))
    assert State.load(tmp_path) == State(cluster_id="c", kafka=ServerState(ports=(1, 2)))


def test_the_secret_key_is_not_in_the_repr() -> None:
    assert "hidden" not in repr(INFO)
    assert "hidden" not in repr(State(secret_key="hidden"))


def test_the_notes_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    write_private(tmp_path / RUNTIME_FILE, INFO.to_json())
    assert (tmp_path / RUNTIME_FILE).stat().st_mode & 0o777 == 0o600
    assert load_info(tmp_path) == INFO
    assert [path.name for path in tmp_path.iterdir()] == [RUNTIME_FILE]


def test_the_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    process = ProcessId(pid=7, start_ticks=8, boot_id="b")
    state = State(cluster_id="c", kafka=ServerState(process=process, ports=(1, 2)))
    state.save(tmp_path)
    assert State.load(tmp_path) == state


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kafka": 5}'])
def test_damaged_notes_say_which_file_and_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / RUNTIME_FILE).write_text(text)
    (tmp_path / "state.json").write_text(text)
    for load, name in ((load_info, RUNTIME_FILE), (State.load, "state.json")):
        with pytest.raises(RuntimeUnavailableError, match=f"{name}.*delete this file"):
            load(tmp_path)


def test_notes_of_an_earlier_boot_describe_a_damaged_runtime_not_a_running_one(
    tmp_path: Path,
) -> None:
    # The pid is our own: it runs, but it is not the process that was recorded.
    stale = ProcessId(pid=os.getpid(), start_ticks=1, boot_id="an earlier boot")
    State(
        kafka=ServerState(process=stale, ports=(1, 2)),
        s3=ServerState(process=stale, ports=(3,)),
        connect=ServerState(process=stale, ports=(4,)),
    ).save(tmp_path)
    write_private(tmp_path / RUNTIME_FILE, INFO.to_json())
    found = status(tmp_path)
    assert not found.running
    assert not found.kafka.running
    assert "Kafka and versitygw and Kafka Connect failed" in found.summary
    assert not down(tmp_path)
    assert status(tmp_path).summary == "stopped"
    assert json.loads((tmp_path / "state.json").read_text())["kafka"]["ports"] == [1, 2]


def test_stopping_a_home_that_does_not_exist_makes_no_home(tmp_path: Path) -> None:
    assert not down(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert status(tmp_path / "nowhere").summary == "stopped"


def test_the_home_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LICHTSTROM_HOME", "/somewhere/else")
    assert default_home() == Path("/somewhere/else")
    monkeypatch.delenv("LICHTSTROM_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_home() == Path("/data/lichtstrom")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/invalid")
    assert default_home() == tmp_path / ".local/share/lichtstrom"


def test_a_home_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    from pipeline.local import up

    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="cannot be made"):
        up(tmp_path / "file" / "home")
