"""One Kafka broker in KRaft mode, tuned for a single machine."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.local.commands import run
from pipeline.local.jvm import environment, logging_properties
from pipeline.local.net import LOOPBACK
from pipeline.local.processes import ProcessId, spawn
from pipeline.local.secure import Secured

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}

# Topics are made by a command with their retention in view, never by the first message.
auto.create.topics.enable=false
unclean.leader.election.enable=false
# Nothing expires unless a topic says so; ten years for the progress of groups.
log.retention.ms=-1
offsets.retention.minutes=5256000

# One node: one replica of everything, few partitions, small buffers.
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216

# A killed broker can register again only when its old session has ended: 12 s from kill to
# answer with the default of 9 s, measured 2026-11-23.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500

# A second group member gets its partitions after 1.3 s instead of 5-10 s with the defaults
# (design section 10, measured 2026-11-22); a killed one loses them after 10 s instead of 45 s.
group.initial.rebalance.delay.ms=0
group.consumer.heartbeat.interval.ms=300
group.consumer.min.heartbeat.interval.ms=200
group.consumer.session.timeout.ms=10000
group.consumer.min.session.timeout.ms=6000
group.share.heartbeat.interval.ms=300
group.share.min.heartbeat.interval.ms=200
group.share.session.timeout.ms=10000
group.share.min.session.timeout.ms=6000
"""

# An archive that does not fit after all is passed over, and we need no word of it: the JVM's own
# log is off but for errors, in spellings that hold from Java 9 on.
_QUIET_JVM = ("-Xshare:auto", "-Xlog:disable", "-Xlog:all=error")


@dataclass(frozen=True, kw_only=True)
class KafkaServer:
    """The broker of one home.

    Parameters
    ----------
    home:
        Directory of the runtime; the broker's own files lie in its ``kafka``.
    cluster_id:
        Kafka's name for the cluster, for ever the same in one home.
    java:
        Path of the ``java`` program; empty if only :meth:`answers` is wanted.
    jars:
        The class path.
    archive:
        Archive of classes to start from, or None.
    dump_to:
        Where to write such an archive when the broker ends, or None.
    secured:
        Certificates, for TLS and users; None for plain text.
    """

    home: Path
    cluster_id: str = ""
    java: str = ""
    jars: Sequence[Path] = ()
    archive: Path | None = None
    dump_to: Path | None = None
    secured: Secured | None = None

    name = "Kafka"

    @property
    def port_count(self) -> int:
        """How many ports it listens on."""
        return 3 if self.secured else 2

    @property
    def output(self) -> Path:
        """File that the process writes its output to."""
        return self.home / "log" / "kafka.out"

    def launch(self, ports: tuple[int, ...]) -> ProcessId:
        """Format the storage if that was not done, then start the broker."""
        self._configure(ports)
        if not (self.home / "kafka" / "data" / "meta.properties").exists():
            # ignore-formatted: a format that was cut short is completed.
            # A second of work: compiling well would cost more than it saves.
            argv = self._command("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format")
            argv += ["--ignore-formatted", "-t", self.cluster_id, "-c", self._properties]
            run(argv, timeout_s=60.0)
        dump = [f"-XX:ArchiveClassesAtExit={self.dump_to}"] if self.dump_to else []
        argv = self._command(*dump, "kafka.Kafka", self._properties)
        return spawn(argv, env=environment(), output=self.output)

    def answers(self, ports: tuple[int, ...]) -> bool:
        """Tell whether the broker names itself in answer to a metadata request."""
        try:
            if self.secured:
                context = self.secured.context()
                return broker_count(LOOPBACK, ports[2], timeout_s=1.0, context=context) > 0
            return broker_count(LOOPBACK, ports[0], timeout_s=1.0) > 0
        except (OSError, struct.error, IndexError):
            return False

    @property
    def _properties(self) -> str:
        return str(self.home / "kafka" / "server.properties")

    def _configure(self, ports: tuple[int, ...]) -> None:
        folder, log = self.home / "kafka", self.home / "log"
        for path in (folder / "data", log):
            path.mkdir(parents=True, exist_ok=True)
        port, controller_port = ports[:2]
        text = _PROPERTIES.format(
            host=LOOPBACK, port=port, controller_port=controller_port, data=folder / "data"
        )
        if self.secured:
            text += self.secured.broker_properties(ports)
        Path(self._properties).write_text(text)
        (folder / "log4j2.properties").write_text(logging_properties("kafka", log))

    def _command(self, *arguments: str) -> list[str]:
        class_path = os.pathsep.join(map(str, self.jars))
        logging = self.home / "kafka" / "log4j2.properties"
        return [
            self.java,
            "-Xmx384m",
            "-XX:+ExitOnOutOfMemoryError",
            *([f"-XX:SharedArchiveFile={self.archive}", *_QUIET_JVM] if self.archive else ()),
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={logging}",
            "-cp",
            class_path,
            *arguments,
        ]


def new_cluster_id() -> str:
    """Return a random id as Kafka wants it: a UUID in URL-safe base64, no dash in front."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def broker_count(
    host: str, port: int, *, timeout_s: float, context: ssl.SSLContext | None = None
) -> int:
    """Return how many brokers a metadata request (version 1, no topics) names.

    By hand, because the client library would need a thread, logs and most of a second for it.
    """
    # Kafka protocol guide: length, api key 3, version, correlation id, no client id, no topics.
    body = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    with ExitStack() as opened:
        connection = opened.enter_context(socket.create_connection((host, port), timeout_s))
        if context is not None:
            connection = opened.enter_context(context.wrap_socket(connection, server_hostname=host))
        connection.sendall(struct.pack(">i", len(body)) + body)
        with connection.makefile("rb") as stream:
            # Answer: length, correlation id, then the array of brokers.
            _, _, count = struct.unpack(">iii", stream.read(12))
    return int(count)
