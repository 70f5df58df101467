"""The Connect converter in Kafka's own Connect worker, with Kafka's own file sink."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import converter_vectors
import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from converter_worker import (
    Installation,
    Worker,
    write_properties,
)

import pipeline
from pipeline.local import RuntimeInfo
from pipeline.local.jars import CONNECT_LOCK, ensure, read_lock
from pipeline.local.java import ensure_java
from pipeline.local.plugins import split
from pipeline.local.processes import wait_until
from pipeline.naming import Names
from pipeline.session import Session, connect
from pipeline.wire.schemas import make_schema, shipped

pytestmark = pytest.mark.timeout(600)
ROOT = converter_vectors.ROOT
LIMIT_S = 60.0
CONVERTER = "lichtstrom.connect.converter.AvroSingleObjectConverter"
FRAMES = 12


@pytest.fixture(scope="session")
def jar(plugins: Mapping[str, Path]) -> Path:
    return plugins["avro-converter"]


@pytest.fixture(scope="module")
def installation(jar: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("plugins")
    locked = read_lock(CONNECT_LOCK)
    on_class_path, (file_sink,) = split(locked)
    paths = dict(zip(locked, ensure(locked, timeout_s=LIMIT_S), strict=True))
    for name, plugin in (("lichtstrom", jar), ("file", paths[file_sink])):
        (folder / name).mkdir()
        shutil.copy(plugin, folder / name)
    return Installation(
        java=ensure_java(timeout_s=LIMIT_S).path,
        jars=[paths[artifact] for artifact in on_class_path],
        plugins=folder,
    )


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(session: Session, beamtime: str, stream: str) -> None:
    with session.publish(beamtime, "lambda", stream, frames_per_chunk=4) as out:
        for step in range(FRAMES):
            out.write(
                np.full((3, 4), step, np.uint16),
                number=10 * step,
                timestamp_ns=1000 + step,
                attributes={"omega": 0.5 * step, "sample": f"s{step}"},
            )


def produce(bootstrap: str, topic: str, *values: bytes, key: bytes = b"poison") -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for value in values:
        producer.produce(topic, value=value, key=key, partition=0)
    assert producer.flush(20) == 0


def letters(bootstrap: str, topic: str, count: int, worker: Worker) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "letters", "log_level": 0})
    found: list[Message] = []
    deadline = time.monotonic() + LIMIT_S
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                found.append(message)
    finally:
        consumer.close()
    assert len(found) == count, worker.tail()
    return found


def sink(folder: Path, *topics: str, **options: str) -> tuple[Path, Path]:
    """Write a file sink's properties, those of the page; return their file and the one it fills."""
    written = folder / "records.txt"
    page = properties_of_the_page()[1]
    values = {**page, "topics": ",".join(topics), "file": str(written), **options}
    return write_properties(folder / "sink.properties", values), written


def converters() -> dict[str, str]:
    """The worker's own converters, of the page."""
    page = properties_of_the_page()[0]
    return {name: value for name, value in page.items() if name.endswith(".converter")}


def records(written: Path, kind: str) -> list[str]:
    """The lines of one kind of record, by a field that no other kind has."""
    mark = {"Segment": "timestamps_ns=", "Start": "frames_per_chunk=", "End": "state="}[kind]
    lines = written.read_text().splitlines() if written.exists() else []
    return [line for line in lines if mark in line]


def numbers(written: Path) -> list[int]:
    return sorted(n for line in records(written, "Segment") for n in of(line, "numbers"))


def of(line: str, name: str) -> list[int]:
    """A field that is an array of integers, of a line that is written to its end."""
    found = re.search(rf"\b{name}=\[([^]]*)\].*}}$", line)
    return [int(n) for n in found[1].split(", ")] if found and found[1] else []


# -- what the Java tests read ---------------------------------------------------------------------


def test_the_vectors_of_the_java_tests_are_what_the_codec_writes_now() -> None:
    assert converter_vectors.FILE.read_text() == converter_vectors.lines(), (
        "run python tests/services/converter_vectors.py"
    )


def test_the_jar_has_the_version_of_the_package() -> None:
    pom = (ROOT / "connectors/avro-converter/pom.xml").read_text()
    found = re.search(r"<artifactId>connect-avro-converter</artifactId>\s*<version>(.*)</", pom)
    assert found is not None
    assert found[1] == pipeline.__version__


# -- the page -------------------------------------------------------------------------------------


def test_the_page_lists_the_options_that_the_converter_has(
    jar: Path, installation: Installation
) -> None:
    done = subprocess.run(
        [
            installation.java,
            "-cp",
            ":".join(map(str, [jar, *installation.jars])),
            "lichtstrom.connect.converter.OptionsTable",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "| `packed` |" in done.stdout
    assert done.stdout in (ROOT / "docs/connect-converter.md").read_text()


# -- a worker -------------------------------------------------------------------------------------


def test_a_stock_sink_gets_the_fields_and_poison_goes_to_the_dead_letters(
    session: Session,
    runtime: RuntimeInfo,
    installation: Installation,
    beamtime: str,
    tmp_path: Path,
) -> None:
    bootstrap, names = runtime.kafka.bootstrap, Names()
    topic, catalogue = names.topic(beamtime, "lambda"), names.catalogue(beamtime)
    publish(session, beamtime, "before")
    segment = next(record for name, record in vectors() if name == "Segment")
    unknown = b"\xc3\x01" + bytes(range(8)) + b"\x00"
    poison = [b"no avro", unknown, segment[:-1], segment + b"\x00"]
    produce(bootstrap, topic, *poison, b"")
    publish(session, beamtime, "after")
    dead = f"{topic}.connect-dlq"
    properties, written = sink(
        tmp_path, topic, catalogue, **{"errors.deadletterqueue.topic.name": dead}
    )
    expected = sorted(2 * [10 * step for step in range(FRAMES)])
    with installation.running(tmp_path, bootstrap, converters(), properties) as worker:
        complete = wait_until(
            lambda: len(numbers(written)) >= len(expected) and len(records(written, "End")) >= 2,
            timeout_s=LIMIT_S,
        )
        assert complete, (written.read_text() if written.exists() else "") + worker.tail()
        assert numbers(written) == expected
        dead_letters = letters(bootstrap, dead, len(poison), worker)
        plugins = json.loads(worker.get("/connector-plugins?connectorsOnly=false"))
        status = worker.status("records")
    assert [letter.value() for letter in dead_letters] == poison
    assert [task["state"] for task in status["tasks"]] == ["RUNNING"]
    texts = [dict(m.headers())["__connect.errors.exception.message"] for m in dead_letters]
    reasons = [b"begins with c301", b"0001020304050607", b"damaged org", b"left over"]
    assert all(reason in text for reason, text in zip(reasons, texts, strict=True)), texts
    found = {entry["class"]: entry for entry in plugins}[CONVERTER]
    assert (found["type"], found["version"]) == ("converter", pipeline.__version__)
    check_lines(session, beamtime, written)


def check_lines(session: Session, beamtime: str, written: Path) -> None:
    """Compare the columns of every segment, and the catalogue's records."""
    key = session.stream(beamtime, "lambda", "before").start.stream_key.hex()
    mine = [line for line in records(written, "Segment") if f"stream_key={key}," in line]
    assert sorted(n for line in mine for n in of(line, "numbers")) == list(
        range(0, 10 * FRAMES, 10)
    )
    for line in mine:
        assert ",shape=[3, 4],dtype=uint16,encoding=raw,blob=," in line
        steps = [n // 10 for n in of(line, "numbers")]
        assert of(line, "timestamps_ns") == [1000 + step for step in steps]
        assert of(line, "lengths") == [24] * len(steps)
        omega = ", ".join(str(0.5 * step) for step in steps)
        assert f"{{name=omega,kind=float64,float64=[{omega}]}}" in line
        sample = ", ".join(f"s{step}" for step in steps)
        assert f"{{name=sample,kind=text,text=[{sample}]}}" in line
    starts = records(written, "Start")
    assert sorted(re.findall(r",stream=(\w+),", "\n".join(starts))) == ["after", "before"]
    assert all("state=complete" in line for line in records(written, "End"))


def vectors() -> list[tuple[str, bytes]]:
    lines = [json.loads(line) for line in converter_vectors.FILE.read_text().splitlines()]
    return [(line["name"], bytes.fromhex(line["bytes"])) for line in lines]


def test_without_tolerance_the_task_fails_with_what_to_do(
    session: Session,
    runtime: RuntimeInfo,
    installation: Installation,
    beamtime: str,
    tmp_path: Path,
) -> None:
    topic = Names().topic(beamtime, "lambda")
    publish(session, beamtime, "s")
    produce(runtime.kafka.bootstrap, topic, b"\xc3\x01" + bytes(range(8)) + b"\x00")
    properties, _ = sink(tmp_path, topic, **{"errors.tolerance": "none"})

    def trace(worker: Worker) -> str:
        return "".join(task.get("trace", "") for task in worker.status("records")["tasks"])

    with installation.running(
        tmp_path, runtime.kafka.bootstrap, converters(), properties
    ) as worker:
        assert wait_until(lambda: bool(trace(worker)), timeout_s=LIMIT_S), worker.tail()
        text = trace(worker)
    assert f"topic {topic}: no schema has the fingerprint 0001020304050607" in text
    assert "schemas.directory" in text


def later_mark() -> tuple[str, bytes]:
    """The schema of marks as a later version may have it, and a record of it."""
    known = next(schema for schema in shipped().values() if schema.name.endswith("Mark"))
    later = json.loads(known.text)
    later["fields"].append({"name": "later", "type": ["null", "long"], "default": None})
    marker = make_schema(json.dumps(later)).marker
    mark = next(record for name, record in vectors() if name == "Mark")
    return json.dumps(later), marker + mark[len(marker) :] + b"\x02\x54"


def schema_topic(bootstrap: str, beamtime: str, text: str) -> str:
    """A topic of schemas as ``pipeline.kafka.schemas`` keeps it, with entries that are none."""
    topic = f"{beamtime}.schemas"
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        future.result(timeout=20)
    schema = make_schema(text)
    entry = json.dumps({"schema": text, "sha256": schema.sha256}).encode()
    produce(bootstrap, topic, b"no JSON", b"[]", b'{"schema": "no schema"}')
    produce(bootstrap, topic, entry, key=schema.fingerprint.hex().encode())
    return topic


@pytest.mark.parametrize("place", ["folder", "topic"])
def test_a_schema_of_a_later_version_is_found(
    session: Session,
    runtime: RuntimeInfo,
    installation: Installation,
    beamtime: str,
    tmp_path: Path,
    place: str,
) -> None:
    bootstrap, topic = runtime.kafka.bootstrap, Names().topic(beamtime, "lambda")
    publish(session, beamtime, "s")
    text, record = later_mark()
    produce(bootstrap, topic, record)
    if place == "folder":
        (tmp_path / "later.avsc").write_text(text)
        options = {"schemas.directory": str(tmp_path)}
    else:
        options = {
            "schemas.topic": schema_topic(bootstrap, beamtime, text),
            "schemas.consumer.bootstrap.servers": bootstrap,
        }
    properties, written = sink(
        tmp_path, topic, **{f"value.converter.{name}": value for name, value in options.items()}
    )

    def found() -> list[str]:
        lines = written.read_text().splitlines() if written.exists() else []
        return [line for line in lines if "later=42" in line]

    with installation.running(tmp_path, bootstrap, converters(), properties) as worker:
        assert wait_until(lambda: bool(found()), timeout_s=LIMIT_S), worker.tail()
    assert "skipped=[1, 2],rejected=[3],later=42" in found()[0]


def test_the_properties_of_the_page_write_the_streams_of_a_beamtime(
    session: Session,
    runtime: RuntimeInfo,
    installation: Installation,
    beamtime: str,
    tmp_path: Path,
) -> None:
    for stream in ("one", "two"):
        publish(session, beamtime, stream)
    written = tmp_path / "streams.txt"
    page = properties_of_the_page()[2]
    places = {"topics": Names().catalogue(beamtime), "file": str(written)}
    properties = write_properties(tmp_path / "sink.properties", page | places)
    bootstrap = runtime.kafka.bootstrap
    with installation.running(tmp_path, bootstrap, converters(), properties) as worker:
        done = wait_until(
            lambda: written.exists() and len(written.read_text().splitlines()) >= 2,
            timeout_s=LIMIT_S,
        )
        assert done, worker.tail()
    lines = written.read_text().splitlines()
    assert [re.findall(r"stream=(\w+),", line) for line in lines] == [["one"], ["two"]]
    assert not any("modules=" in line or "null" in line.replace("=null", "") for line in lines)


def properties_of_the_page() -> list[dict[str, str]]:
    """The blocks of properties in docs/connect-converter.md, in order."""
    text = (ROOT / "docs/connect-converter.md").read_text()
    blocks = re.findall(r"^```properties\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        dict(line.split("=", 1) for line in block.splitlines() if line and line[0] != "#")
        for block in blocks
    ]
