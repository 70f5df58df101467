"""The test servers as containers, for ``--services=containers``.

Needs the package testcontainers and a Docker engine that has, or can pull, both images.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.local import KafkaInfo, RuntimeInfo, S3Info
from pipeline.local.kafka import KafkaServer
from pipeline.local.net import LOOPBACK, free_ports
from pipeline.local.processes import wait_until
from pipeline.local.s3 import S3Server
from pipeline.local.state import RUNTIME_FILE, write_private

KAFKA_IMAGE = "apache/kafka:4.3.1"
S3_IMAGE = "versity/versitygw:v1.7.0"
START_TIMEOUT_S = 120.0

S3_COMMAND = ["--port", ":7070", "--health", "/health", "--keep-alive", "posix", "/store"]

# The image takes KAFKA_A_B as the property a.b; the values are those of pipeline.local.kafka.
KAFKA_ENVIRONMENT = {
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_NODE_ID": "1",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_LOG_RETENTION_MS": "-1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "300",
    "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "200",
    "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "10000",
    "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": "6000",
    "KAFKA_GROUP_SHARE_HEARTBEAT_INTERVAL_MS": "300",
    "KAFKA_GROUP_SHARE_MIN_HEARTBEAT_INTERVAL_MS": "200",
    "KAFKA_GROUP_SHARE_SESSION_TIMEOUT_MS": "10000",
    "KAFKA_GROUP_SHARE_MIN_SESSION_TIMEOUT_MS": "6000",
}


@contextmanager
def container_runtime(home: Path) -> Iterator[RuntimeInfo]:
    """Run both images; writes ``runtime.json``, so that clients find them as they find ours."""
    try:
        from docker.errors import DockerException
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        raise pytest.UsageError("--services=containers: pip install testcontainers") from error
    store = home / "store"
    store.mkdir(parents=True)
    kafka_port, s3_port = free_ports(2)
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    with ExitStack() as stack:
        try:
            # A fixed port, because the broker must name it to its clients.
            kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, kafka_port)
            kafka.with_envs(
                **KAFKA_ENVIRONMENT,
                KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{LOOPBACK}:{kafka_port}",
            )
            stack.enter_context(kafka)
            s3 = DockerContainer(S3_IMAGE).with_bind_ports(7070, s3_port)
            s3.with_envs(ROOT_ACCESS_KEY_ID=access_key, ROOT_SECRET_ACCESS_KEY=secret_key)
            s3.with_volume_mapping(store, "/store", "rw").with_command(S3_COMMAND)
            stack.enter_context(s3)
        except DockerException as error:
            raise pytest.UsageError(
                f"--services=containers needs a Docker engine with {KAFKA_IMAGE} and {S3_IMAGE}:"
                f" {error}"
            ) from error
        _wait(KafkaServer(home=home), (kafka_port, 0))
        _wait(S3Server(home=home), (s3_port,))
        info = RuntimeInfo(
            kafka=KafkaInfo(bootstrap=f"{LOOPBACK}:{kafka_port}", pid=0),
            store_url=store.as_uri(),
            s3=S3Info(
                endpoint=f"http://{LOOPBACK}:{s3_port}",
                access_key=access_key,
                secret_key=secret_key,
                region="us-east-1",
                pid=0,
            ),
            started_ns=time.time_ns(),
        )
        write_private(home / RUNTIME_FILE, info.to_json())
        yield info


def _wait(server: KafkaServer | S3Server, ports: tuple[int, ...]) -> None:
    if not wait_until(lambda: server.answers(ports), timeout_s=START_TIMEOUT_S):
        pytest.fail(f"the container of {server.name} did not answer in {START_TIMEOUT_S:g} s")
