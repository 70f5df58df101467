"""The runtime on its real servers: starting, repairing, several at once."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from minio import Minio

from pipeline.errors import RuntimeUnavailableError
from pipeline.local import RuntimeInfo, down, status, up
from pipeline.local.kafka import broker_ids
from pipeline.local.processes import is_running, wait_until
from pipeline.local.state import State


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    down(tmp_path / "home")


def test_the_servers_of_the_session_answer_where_their_notes_say(
    runtime: RuntimeInfo, runtime_home: Path
) -> None:
    host, port = runtime.kafka.bootstrap.split(":")
    assert broker_ids(host, int(port), timeout_s=5.0) == (1,)
    assert runtime.s3 is not None
    with urllib.request.urlopen(f"{runtime.s3.endpoint}/health", timeout=5.0) as answer:
        assert answer.status == 200
    assert (runtime_home / "runtime.json").stat().st_mode & 0o777 == 0o600


def test_the_store_directory_and_the_s3_server_show_the_same_objects(
    runtime: RuntimeInfo, beamtime: str, tmp_path: Path
) -> None:
    assert runtime.s3 is not None
    client = Minio(
        runtime.s3.endpoint.removeprefix("http://"),
        runtime.s3.access_key,
        runtime.s3.secret_key,
        secure=False,
        region=runtime.s3.region,
    )
    client.make_bucket(beamtime)
    store = Path(runtime.store_url.removeprefix("file://"))
    (store / beamtime / "written").write_bytes(b"by the file system")
    with client.get_object(beamtime, "written") as answer:
        assert answer.read() == b"by the file system"
    (tmp_path / "source").write_bytes(b"by S3")
    client.fput_object(beamtime, "put", str(tmp_path / "source"))
    assert (store / beamtime / "put").read_bytes() == b"by S3"


def test_up_twice_returns_the_same_servers(home: Path) -> None:
    first = up(home)
    assert up(home) == first
    assert status(home).running
    assert down(home)
    assert not down(home)
    assert status(home).summary == "stopped"


def test_several_runtimes_stand_side_by_side(runtime: RuntimeInfo, home: Path) -> None:
    other = up(home, s3=False)
    assert other.s3 is None
    assert other.kafka.bootstrap != runtime.kafka.bootstrap
    create_topic(other.kafka.bootstrap, "only-there")
    here = AdminClient({"bootstrap.servers": runtime.kafka.bootstrap}).list_topics(timeout=20)
    assert "only-there" not in here.topics


def test_a_broker_killed_without_warning_is_started_again_on_its_data_and_port(
    home: Path,
) -> None:
    before = up(home, s3=False)
    produce_one(before.kafka.bootstrap, b"survives")
    process = State.load(home).kafka.process
    os.kill(before.kafka.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_running(process), timeout_s=10.0)
    assert "Kafka failed" in status(home).summary
    after = up(home, s3=False)
    assert after.kafka.pid != before.kafka.pid
    assert after.kafka.bootstrap == before.kafka.bootstrap
    assert consume_one(after.kafka.bootstrap) == b"survives"


def test_what_was_stopped_comes_back_with_its_data_and_credentials(home: Path) -> None:
    before = up(home)
    produce_one(before.kafka.bootstrap, b"survives")
    down(home)
    after = up(home)
    assert before.s3 is not None
    assert after.s3 is not None
    assert after.s3.secret_key == before.s3.secret_key
    assert consume_one(after.kafka.bootstrap) == b"survives"


def test_two_starts_at_once_start_one_broker(home: Path) -> None:
    found: list[RuntimeInfo] = []
    threads = [threading.Thread(target=lambda: found.append(up(home, s3=False))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_broker_that_cannot_start_is_quoted_and_nothing_is_left_running(home: Path) -> None:
    up(home, s3=False)
    down(home)
    meta = home / "kafka" / "data" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(RuntimeUnavailableError, match=r"(?s)Kafka ended while starting.*node id 7"):
        up(home)
    assert status(home).summary == "stopped"
    recorded = json.loads((home / "state.json").read_text())
    assert recorded["kafka"]["process"] is None
    assert recorded["s3"]["process"] is None


def test_without_any_way_to_an_s3_server_the_store_is_a_directory_and_this_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(**_: object) -> str:
        raise RuntimeUnavailableError("no Go, no network")

    monkeypatch.setattr("pipeline.local.runtime.ensure_versitygw", nowhere)
    said: list[str] = []
    info = up(home, progress=said.append)
    assert info.s3 is None
    assert "no S3 server, the store is file: only (no Go, no network)" in said
    assert status(home).running


def create_topic(bootstrap: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)


def produce_one(bootstrap: str, value: bytes) -> None:
    create_topic(bootstrap, "kept")
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce("kept", value)
    assert producer.flush(20) == 0


def consume_one(bootstrap: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "any"})
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        message = consumer.poll(30)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()
