"""The local Connect worker on a real broker: starting, repairing, moving work, ending."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.cli.root import lichtstrom
from pipeline.connectors.errors import (
    ConnectorConfigError,
    ConnectorExistsError,
)
from pipeline.connectors.rest import ConnectorStatus, ConnectRest
from pipeline.local import RuntimeInfo, down, status, up
from pipeline.local.connect import this_command
from pipeline.local.connect_worker import start_worker
from pipeline.local.plugins import VARIABLE
from pipeline.local.processes import is_running, wait_until
from pipeline.local.state import State, load_info

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FILE_SINK = "org.apache.kafka.connect.file.FileStreamSinkConnector"
TEXT = "org.apache.kafka.connect.storage.StringConverter"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; only Kafka's file connectors, so that nothing has to be built."""
    (tmp_path / "plugins").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plugins"))
    monkeypatch.setenv("LICHTSTROM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LICHTSTROM_CONNECT_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "home"
    down(tmp_path / "home")


def up_with_connect(home: Path) -> tuple[RuntimeInfo, str]:
    info = up(home, s3=False, connect=True)
    assert info.connect is not None
    return info, info.connect.url


def until(condition: Callable[[], object], rest: ConnectRest, timeout_s: float = 60.0) -> None:
    """Wait; on failure the connectors' states are in the message."""
    assert wait_until(lambda: bool(condition()), timeout_s=timeout_s), rest.statuses()


def running_on(found: ConnectorStatus | None) -> list[str]:
    """The workers of the running tasks."""
    tasks = found.tasks if found is not None else ()
    return sorted(task.worker for task in tasks if task.state == "RUNNING")


def failure_of(found: ConnectorStatus | None) -> str:
    return found.failure if found is not None else ""


def binds(listener: socket.socket, address: tuple[str, int]) -> bool:
    try:
        listener.bind(address)
    except OSError:
        return False
    return True


def create_topic(info: RuntimeInfo, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": info.kafka.bootstrap})
    admin.create_topics([NewTopic(name, 4, 1)])[name].result(20)


def produce(info: RuntimeInfo, topic: str, tag: str) -> set[str]:
    """Send ten lines to each of the four partitions; return them."""
    producer = Producer({"bootstrap.servers": info.kafka.bootstrap})
    lines = {f"{tag}-{i}" for i in range(40)}
    for i, line in enumerate(sorted(lines)):
        producer.produce(topic, line.encode(), partition=i % 4)
    assert producer.flush(20) == 0
    return lines


def file_sink(path: Path, topic: str, tasks: int) -> dict[str, str]:
    return {
        "connector.class": FILE_SINK,
        "tasks.max": str(tasks),
        "topics": topic,
        "file": str(path),
        "value.converter": TEXT,
    }


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_worker_is_started_found_kept_and_ended_with_the_others(home: Path) -> None:
    info, url = up_with_connect(home)
    with ConnectRest(url) as rest:
        assert rest.plugins()[FILE_SINK] == "sink"
        found = CliRunner().invoke(lichtstrom, ["status", "--json"])
        assert found.exit_code == 0, found.output
        facts = json.loads(found.output)
        assert (facts["connect"], facts["connect_answers"]) == (url, True)
        assert up(home, s3=False) == info, "it runs, asked for or not"
        process = State.load(home).connect.process
        assert down(home)
        assert not is_running(process)
    assert up(home, s3=False).connect is None, "after down, only --connect starts it"
    assert status(home).running


def test_a_worker_finds_the_runtime_and_the_command_in_its_environment(home: Path) -> None:
    info, _ = up_with_connect(home)
    assert info.connect is not None
    entries = Path(f"/proc/{info.connect.pid}/environ").read_bytes().split(b"\0")
    assert f"LICHTSTROM_HOME={home}".encode() in entries
    assert ("LICHTSTROM_COMMAND=" + "\n".join(this_command())).encode() in entries


def test_a_worker_killed_without_warning_goes_on_with_its_sink_where_it_was(home: Path) -> None:
    info, url = up_with_connect(home)
    create_topic(info, "lines")
    out = home / "out.txt"
    with ConnectRest(url) as rest:
        before = produce(info, "lines", "before")
        rest.create("copy", file_sink(out, "lines", 1))
        until(lambda: before <= set(lines_of(out)), rest)
        assert info.connect is not None
        process = State.load(home).connect.process
        os.kill(info.connect.pid, signal.SIGKILL)
        assert wait_until(lambda: not is_running(process), timeout_s=10.0)
        assert "Kafka Connect failed" in status(home).summary
        after = produce(info, "lines", "after")
        again, same_url = up_with_connect(home)
        assert same_url == url
        assert again.connect is not None
        assert again.connect.pid != info.connect.pid
        until(lambda: before | after <= set(lines_of(out)), rest)


def test_what_was_killed_is_started_again_without_being_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, url = up_with_connect(home)
    assert info.connect is not None
    process = State.load(home).connect.process
    os.kill(info.connect.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_running(process), timeout_s=10.0)
    # Whoever repairs it need not know where its plugins came from.
    monkeypatch.delenv(VARIABLE)
    up(home, s3=False)
    with ConnectRest(url) as rest:
        assert FILE_SINK in rest.plugins()


def test_the_tasks_of_a_killed_worker_go_to_another_one_and_nothing_is_lost(home: Path) -> None:
    info, url = up_with_connect(home)
    create_topic(info, "lines")
    out = home / "out.txt"
    own = url.removeprefix("http://")
    with start_worker(home) as other, ConnectRest(url) as rest:
        rest.create("copy", file_sink(out, "lines", 2))
        both = sorted([own, other.url.removeprefix("http://")])
        until(lambda: running_on(rest.status("copy")) == both, rest)
        first = produce(info, "lines", "first")
        until(lambda: first <= set(lines_of(out)), rest)
        other.kill()
        second = produce(info, "lines", "second")
        until(lambda: running_on(rest.status("copy")) == [own, own], rest)
        until(lambda: first | second <= set(lines_of(out)), rest)
    assert not is_running(other.process)


def test_a_removed_connector_of_the_same_name_begins_anew(home: Path) -> None:
    info, url = up_with_connect(home)
    create_topic(info, "lines")
    lines = produce(info, "lines", "x")
    with ConnectRest(url) as rest:
        for out in (home / "one.txt", home / "two.txt"):
            rest.create("copy", file_sink(out, "lines", 1))
            until(lambda out=out: lines <= set(lines_of(out)), rest)
            removed = CliRunner().invoke(lichtstrom, ["connect", "remove", "copy"])
            assert removed.exit_code == 0, removed.output
            assert removed.output == "removed copy\n"
        assert rest.statuses() == []


def test_the_words_of_a_real_worker_are_understood(home: Path) -> None:
    info, url = up_with_connect(home)
    create_topic(info, "lines")
    config = file_sink(home / "out.txt", "lines", 1)
    with ConnectRest(url) as rest:
        with pytest.raises(ConnectorConfigError) as caught:
            rest.create("copy", {**config, "tasks.max": "many", "topics": ""})
        assert {"tasks.max", "topics"} <= caught.value.fields.keys()
        rest.create("copy", config)
        with pytest.raises(ConnectorExistsError):
            rest.create("copy", config)
        until(lambda: running_on(rest.status("copy")), rest)
        listed = CliRunner().invoke(lichtstrom, ["connect", "list", "--json"])
        assert [c["connector"] for c in json.loads(listed.output)] == ["copy"]
        # A directory cannot be opened as a file: the task fails, and says why.
        rest.create("fails", file_sink(home, "lines", 1))
        until(lambda: failure_of(rest.status("fails")), rest)
        listed = CliRunner().invoke(lichtstrom, ["connect", "list"])
        assert "Is a directory" in listed.output


def test_a_worker_follows_a_broker_that_had_to_take_another_port(home: Path) -> None:
    info, _ = up_with_connect(home)
    process = State.load(home).kafka.process
    os.kill(info.kafka.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_running(process), timeout_s=10.0)
    host, port = info.kafka.bootstrap.split(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The last threads of a killed process keep its sockets for a moment.
        assert wait_until(lambda: binds(taken, (host, int(port))), timeout_s=10.0)
        taken.listen()
        again, _ = up_with_connect(home)
        assert again.kafka.bootstrap != info.kafka.bootstrap
        create_topic(again, "lines")
        lines = produce(again, "lines", "x")
        assert again.connect is not None
        with ConnectRest(again.connect.url) as rest:
            rest.create("copy", file_sink(home / "out.txt", "lines", 1))
            until(lambda: lines <= set(lines_of(home / "out.txt")), rest)


def test_without_plugins_nothing_is_started_and_the_error_says_what_to_build(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    nowhere = home / "nowhere" / "pipeline" / "local" / "plugins.py"
    monkeypatch.setattr("pipeline.local.plugins.__file__", str(nowhere))
    result = CliRunner().invoke(lichtstrom, ["up", "--connect", "--no-s3"])
    assert result.exit_code == 1
    assert "make connectors" in result.output
    assert load_info(home) is None
    assert State.load(home).kafka.process is None
