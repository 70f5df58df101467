"""A secured broker and S3 server, with an attacker's mind: nothing of another beamtime, by any way.

``c1`` and ``c10`` on purpose: the one's name begins the other's.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic
from minio import time as minio_time
from minio.credentials.credentials import Credentials as Keys
from minio.signer import sign_v4_s3

import pipeline
from pipeline import config
from pipeline.access import AccessControl
from pipeline.credentials import Credentials
from pipeline.errors import BrokerDeniedError, PipelineError, StoreDeniedError
from pipeline.kafka.client import security
from pipeline.local import down, up

SECRET = b"SECRET of c10"
TOPIC, BUCKET = "lichtstrom.c10.det", "lichtstrom-c10"
pytestmark = pytest.mark.timeout(400)


@dataclass
class Facility:
    home: Path
    settings: config.Settings
    control: AccessControl
    users: dict[str, Credentials]
    folder: Path

    def file(self, user: str) -> Path:
        path = self.folder / f"{user}.json"
        path.write_text(json.dumps(self.users[user].to_json()))
        return path

    def kafka(self, user: str) -> dict[str, Any]:
        kafka = config.load(credentials=self.file(user), environment={}).kafka
        quick = {"socket.timeout.ms": 5000, "log_level": 0}
        return {"bootstrap.servers": kafka.bootstrap, **security(kafka), **quick}


@pytest.fixture(scope="module")
def facility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    # Not below pytest's own folder, which a second user cannot enter.
    home = Path("/tmp") / f"lichtstrom-secure-{os.getpid()}"
    try:
        up(home, secure=True)
        settings = config.load("s3", environment={"LICHTSTROM_HOME": str(home)})
        with pipeline.connect(settings=settings) as session:
            for beamtime in ("c1", "c10"):
                session.create_beamtime(beamtime, "det", partitions=2)
            with session.publish("c10", "det", "scan", inline_nbytes=0) as out:
                out.write(np.full((8, 8), 10, np.uint16))
        control = AccessControl(settings)
        roles = {"reader": "read", "writer": "write", "manager": "admin"}
        users = {user: control.grant("c1", user, role) for user, role in roles.items()}  # type: ignore[arg-type] # Roles
        users["other"] = control.grant("c10", "other", "admin")
        found = Facility(home, settings, control, users, tmp_path_factory.mktemp("credentials"))
        assert s3(found, "other", "PUT", f"/{BUCKET}/det/secret", SECRET)[0] == 200
        yield found
        control.close()
    finally:
        down(home)
        shutil.rmtree(home, ignore_errors=True)


def s3(
    facility: Facility,
    user: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send a signed request with the path as it is: clients would tidy it up."""
    given = facility.users[user].s3
    assert given is not None
    url, now = urlsplit(given.endpoint + path), minio_time.utcnow()
    digest = hashlib.sha256(body).hexdigest()
    signed = sign_v4_s3(
        method=method,
        url=url,
        region="us-east-1",
        headers={
            "Host": url.netloc,
            "X-Amz-Content-Sha256": digest,
            "X-Amz-Date": minio_time.to_amz_date(now),
            **(headers or {}),
        },
        credentials=Keys(given.access_key, str(given.secret_key)),
        content_sha256=digest,
        date=now,
    )
    context = ssl.create_default_context(cadata=given.ca)
    server = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=10)
    try:
        server.request(method, path, body, signed)  # type: ignore[arg-type] # one value each
        answer = server.getresponse()
        return answer.status, answer.read()
    finally:
        server.close()


# -- what a role is enough for --------------------------------------------------------------------


def test_a_writer_publishes_and_a_reader_reads_shares_and_rejects(facility: Facility) -> None:
    with (
        pipeline.connect(credentials=facility.file("writer")) as session,
        session.publish("c1", "det", "s1", inline_nbytes=0) as out,
    ):
        for number in range(8):
            out.write(np.full((8, 8), number, np.uint16))
    with pipeline.connect(credentials=facility.file("reader")) as session:
        assert [str(s.name) for s in session.streams("*")] == ["c1/det/s1"]
        stream = session.stream("c1", "det", "s1")
        assert [int(f.array[0, 0]) for f in stream.ordered(timeout_s=20)] == list(range(8))
        seen = []
        for delivery in stream.shared(group="peaks", timeout_s=20):
            seen.append(delivery.frame.number)
            if delivery.frame.number == 5:
                delivery.reject("bad")
            else:
                delivery.ack()
        assert sorted(set(seen)) == list(range(8))
        with pytest.raises(BrokerDeniedError):
            session.delete("c1", "det", "s1")
        with pytest.raises(PipelineError), session.publish("c1", "det", "forged") as out:
            out.write(np.zeros((2, 2), np.uint8))
            out.flush(10)
        assert len(session.streams("*")) == 1
    with pipeline.connect(credentials=facility.file("manager")) as session:
        assert session.delete("c1", "det", "s1") > 0


# -- the broker -----------------------------------------------------------------------------------

Attack = Callable[[dict[str, Any]], object]


def _produce(topic: str) -> Attack:
    def attack(kafka: dict[str, Any]) -> None:
        producer = Producer({**kafka, "message.timeout.ms": 5000, "error_cb": lambda _: None})
        found: list[Any] = []
        producer.produce(topic, b"forged", partition=0, on_delivery=lambda e, _: found.append(e))
        producer.flush(10)
        if not found or found[0] is not None:
            raise PermissionError(found)

    return attack


def _consume(kafka: dict[str, Any]) -> None:
    consumer = Consumer({**kafka, "group.id": "lichtstrom.reader", "error_cb": lambda _: None})
    try:
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        message = consumer.poll(5.0)
        if message is None or message.error() is not None:
            raise PermissionError(f"denied, or nothing came: {message and message.error()}")
    finally:
        consumer.close()


def _join(kafka: dict[str, Any]) -> None:
    values = {"group.id": "lichtstrom.c10.peaks", "error_cb": lambda _: None}
    consumer = Consumer({**kafka, **values})
    try:
        consumer.subscribe(["lichtstrom.c1.det"])
        message = consumer.poll(5.0)
        if message is not None and message.error() is not None:
            raise PermissionError(message.error())
        consumer.commit(offsets=[TopicPartition("lichtstrom.c1.det", 0, 1)], asynchronous=False)
    finally:
        consumer.close()


def _transact(kafka: dict[str, Any]) -> None:
    Producer({**kafka, "transactional.id": "lichtstrom.c10.stage"}).init_transactions(5)


def _every(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result(5)


def _admin(action: Callable[[AdminClient], Any]) -> Attack:
    def attack(kafka: dict[str, Any]) -> None:
        admin = AdminClient(kafka)  # its answers come while it is held
        _every(action(admin))

    return attack


OFFSETS = ConsumerGroupTopicPartitions("lichtstrom.c10.peaks", [TopicPartition(TOPIC, 0, 1)])
ASKED = ConsumerGroupTopicPartitions("lichtstrom.c10.peaks", [TopicPartition(TOPIC, 0)])
ATTACKS: dict[str, Attack] = {
    "read": _consume,
    "write": _produce(TOPIC),
    "write the catalogue": _produce("lichtstrom.c10.catalogue"),
    "write schemas": _produce("lichtstrom.schemas"),
    "write where Connect keeps its settings": _produce("lichtstrom.connect-configs"),
    "join a group": _join,
    "take a transactional id": _transact,
    "make a topic": _admin(lambda a: a.create_topics([NewTopic("lichtstrom.c10.new", 1)])),
    "make a topic that begins so": _admin(
        lambda a: a.create_topics([NewTopic("lichtstrom.c1", 1)])
    ),
    "delete a topic": _admin(lambda a: a.delete_topics([TOPIC])),
    "delete records": _admin(lambda a: a.delete_records([TopicPartition(TOPIC, 0, 1)])),
    "commit": _admin(lambda a: a.alter_consumer_group_offsets([OFFSETS])),
    "see offsets of a group": _admin(lambda a: a.list_consumer_group_offsets([ASKED])),
    "delete a group": _admin(lambda a: a.delete_consumer_groups(["lichtstrom.c10.peaks"])),
    "describe a group": _admin(lambda a: a.describe_consumer_groups(["lichtstrom.c10.peaks"])),
    "find an offset": lambda kafka: Consumer(
        {**kafka, "group.id": "lichtstrom.reader"}
    ).get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=5),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_who_manages_c1_can_do_nothing_of_c10_on_the_broker(
    facility: Facility, attack: str
) -> None:
    with pytest.raises((KafkaException, PermissionError)) as caught:
        ATTACKS[attack](facility.kafka("manager"))
    text = str(caught.value).lower()
    # Without a right to describe it, a topic is one that there is not.
    told = ("authorization", "denied", "unknown", "no leaders")
    assert any(word in text for word in told), text


def test_the_attacks_that_only_look_succeed_for_who_may(facility: Facility) -> None:
    for attack in ("read", "find an offset", "describe a group", "see offsets of a group"):
        ATTACKS[attack](facility.kafka("other"))


def test_nothing_of_c10_is_listed_on_the_broker(facility: Facility) -> None:
    admin = AdminClient(facility.kafka("manager"))
    topics = admin.list_topics(timeout=10).topics
    assert "lichtstrom.c1.det" in topics
    assert not [name for name in topics if name.startswith("lichtstrom.c10")]
    groups = admin.list_consumer_groups().result(10).valid
    assert not [g.group_id for g in groups if g.group_id.startswith("lichtstrom.c10")]


# -- the store ------------------------------------------------------------------------------------

UP = quote(f"../../../../{BUCKET}/det", safe="")
OWN = "/lichtstrom-c1"
REQUESTS = [
    ("GET", f"/{BUCKET}/det/secret", {}),
    ("HEAD", f"/{BUCKET}/det/secret", {}),
    ("PUT", f"/{BUCKET}/planted", {}),
    ("DELETE", f"/{BUCKET}/det/secret", {}),
    ("GET", f"/{BUCKET}?list-type=2", {}),
    ("GET", f"/{BUCKET}?uploads=", {}),
    ("POST", f"/{BUCKET}/large?uploads=", {}),
    ("GET", f"/{BUCKET}?policy=", {}),
    ("PUT", f"{OWN}?policy=", {}),
    ("DELETE", f"{OWN}?policy=", {}),
    ("PUT", f"{OWN}?acl=", {"x-amz-acl": "public-read"}),
    ("DELETE", f"/{BUCKET}", {}),
    ("PUT", "/lichtstrom-new", {}),
    *((m, f"{OWN}/{up}{BUCKET}/det/secret", {}) for m in ("GET", "DELETE") for up in
      ("../", "%2e%2e/", "..%2f", "%2e%2e%2f", "%252e%252e/", "det/../../", "/../", "./../")),
    *(("PUT", f"{OWN}/copy", {"x-amz-copy-source": source}) for source in (
        f"/{BUCKET}/det/secret", f"lichtstrom-c1/../{BUCKET}/det/secret",
        f"lichtstrom-c1/%2e%2e/{BUCKET}/det/secret", f"lichtstrom-c1%2f..%2f{BUCKET}%2fdet",
        f"lichtstrom-c1/%252e%252e/{BUCKET}/det/secret")),
    ("PUT", f"{OWN}/large?partNumber=1&uploadId={UP}", {}),
    ("GET", f"{OWN}/large?uploadId={UP}", {}),
    ("DELETE", f"{OWN}/large?uploadId={UP}", {}),
    ("DELETE", f"{OWN}/large?uploadId=x&uploadId={UP}", {}),
    ("PUT", f"{OWN}/large?partNumber=1&uploadId=..", {}),
    ("PATCH", "/list-users", {}),
    ("PATCH", "/list-buckets", {}),
    ("PATCH", f"/change-bucket-owner?bucket={BUCKET}&owner=lichtstrom.c1.manager", {}),
    ("PATCH", "/update-user?access=lichtstrom.c1.manager", {}),
]  # fmt: skip


def test_who_manages_c1_gets_nothing_of_c10_from_the_store(facility: Facility) -> None:
    for method, path, headers in REQUESTS:
        status, body = s3(facility, "manager", method, path, b"", headers)
        absent = method == "DELETE" and "%252e" in path  # a name like any other, of c1's own
        assert status >= 400 or absent, (method, path, headers, status, body)
        assert SECRET not in body
    for key in (f"../{BUCKET}/det/secret", f"x/../../{BUCKET}/det/secret", f"/{BUCKET}/det/secret"):
        batch = f"<Delete><Object><Key>{key}</Key></Object></Delete>".encode()
        digest = base64.b64encode(hashlib.md5(batch, usedforsecurity=False).digest()).decode()
        s3(facility, "manager", "POST", f"{OWN}?delete=", batch, {"Content-MD5": digest})
        assert s3(facility, "other", "GET", f"/{BUCKET}/det/secret") == (200, SECRET), key
    status, body = s3(facility, "manager", "GET", "/")
    assert b"c10" not in body
    _, body = s3(facility, "manager", "GET", f"{OWN}?list-type=2&prefix=..%2F{BUCKET}%2F")
    assert b"<Contents>" not in body
    assert s3(facility, "other", "GET", f"/{BUCKET}/det/secret") == (200, SECRET)
    _, body = s3(facility, "other", "GET", f"/{BUCKET}?list-type=2")
    assert b"planted" not in body


def test_another_user_of_the_machine_cannot_enter_a_beamtimes_folder(facility: Facility) -> None:
    if getpass.getuser() != "root" or shutil.which("setpriv") is None:
        pytest.skip("NOT TESTED: to be another user needs root and setpriv")
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    bucket = facility.home / "store" / BUCKET
    assert bucket.stat().st_mode & 0o777 == 0o750
    for argv in (
        ["ls", bucket],
        ["ls", facility.home / "store"],
        ["cat", bucket / "det" / "secret"],
        ["touch", bucket / "planted"],
        ["ls", facility.home / "kafka"],
        ["cat", facility.home / "runtime.json"],
        ["cat", facility.home / "tls" / "ca.key"],
        ["ls", facility.home / "s3-iam"],
    ):
        done = subprocess.run([*as_nobody, *argv], capture_output=True, text=True, check=False)
        assert done.returncode != 0, argv
        assert "Permission denied" in done.stderr


def test_a_store_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store" / "lichtstrom-c1").mkdir(parents=True)
    (tmp_path / "store").chmod(0o711)
    (tmp_path / "store" / "lichtstrom-c1").chmod(0o755)
    with pytest.raises(PipelineError, match="chmod o-rwx"):
        up(tmp_path, secure=True)


# -- secrets, and their end -----------------------------------------------------------------------


def test_secrets_stand_in_no_log_and_no_process_list(facility: Facility) -> None:
    state = json.loads((facility.home / "state.json").read_text())
    hidden = [state["password"], state["secret_key"]]
    for user in facility.users.values():
        assert user.s3 is not None
        hidden += [str(user.kafka.password), str(user.s3.secret_key)]
        assert not [x for x in hidden if x in repr(user)]
    lines = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, check=True).stdout
    logs = b"".join(p.read_bytes() for p in (facility.home / "log").iterdir() if p.is_file())
    for secret in hidden:
        assert secret.encode() not in lines
        assert secret.encode() not in logs


def test_a_wrong_password_and_a_wrong_authority_are_told_without_secrets(
    facility: Facility, tmp_path: Path
) -> None:
    given = facility.users["reader"].to_json()
    given["kafka"]["password"] = given["s3"]["secret_key"] = "guessed-and-not-to-be-told"
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(given))
    impatient = {"LICHTSTROM_KAFKA_TIMEOUT_S": "2"}
    settings = config.load(credentials=wrong, environment=impatient)
    with pipeline.connect(settings=settings) as session:
        with pytest.raises(PipelineError) as broker:
            session.streams("*")
        with pytest.raises(StoreDeniedError) as store:
            session.services.store.get("lichtstrom-c1/det/x", 0, 1)
    for caught in (broker, store):
        assert "guessed" not in f"{caught.value!r} {caught.value.__cause__!r}"
        assert str(facility.users["reader"].kafka.password) not in str(caught.value)


def test_what_is_revoked_is_gone_within_a_minute_on_open_connections_too(
    facility: Facility,
) -> None:
    facility.users["guest"] = facility.control.grant("c1", "guest", "write")
    assert s3(facility, "guest", "PUT", f"{OWN}/guest", b"x")[0] == 200
    consumer = Consumer({**facility.kafka("guest"), "group.id": "lichtstrom.reader"})
    with suppress(KafkaException):
        consumer.get_watermark_offsets(TopicPartition("lichtstrom.c1.det", 0), timeout=10)
    begun_s = time.monotonic()
    assert facility.control.revoke("c1", "guest")
    assert not facility.control.revoke("c1", "guest")
    assert s3(facility, "guest", "GET", f"{OWN}/guest")[0] in (403, 404)
    with pytest.raises(KafkaException) as caught:
        while time.monotonic() < begun_s + 60:
            consumer.get_watermark_offsets(TopicPartition("lichtstrom.c1.det", 0), timeout=5)
    assert "authorization" in str(caught.value).lower() or "timed out" in str(caught.value)
    consumer.close()
    assert "guest" not in {access.user for access in facility.control.list("c1")}
    assert {a.user: (a.kafka, a.s3) for a in facility.control.list("c1")} == {
        "reader": ("read", "read"),
        "writer": ("write", "write"),
        "manager": ("admin", "admin"),
    }
