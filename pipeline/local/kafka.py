"""A Kafka broker in KRaft mode, alone or one of several, tuned for a single machine."""

from __future__ import annotations

import base64
import os
import shlex
import socket
import ssl
import struct
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.local.commands import run
from pipeline.local.jvm import environment, logging_properties
from pipeline.local.net import LOOPBACK
from pipeline.local.processes import ProcessId, spawn
from pipeline.local.secure import Secured

#: Options for the broker's Java, from the environment: ``-javaagent:...`` (docs/metrics.md).
_OPTIONS = "LICHTSTROM_KAFKA_OPTS"
_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
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

# One machine: few partitions, small buffers, and as many replicas as there are brokers.
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.num.partitions=4
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
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

# What several brokers have beside: each is a rack of its own, a reader that names its rack
# (client.rack) reads from the replica there, and leaders go home half a minute after a restart.
_OF_SEVERAL = """\

broker.rack=rack-{node}
replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector
leader.imbalance.check.interval.seconds=30
replica.lag.time.max.ms=10000
"""

# As many copies as design and documentation promise; more brokers share the partitions.
_REPLICAS = 3

# An archive that does not fit after all is passed over, and we need no word of it: the JVM's own
# log is off but for errors, in spellings that hold from Java 9 on.
_QUIET_JVM = ("-Xshare:auto", "-Xlog:disable", "-Xlog:all=error")


@dataclass(frozen=True, kw_only=True)
class KafkaServer:
    """A broker of one home, and a controller in the same process.

    Parameters
    ----------
    home:
        Directory of the runtime; the broker's own files lie in its ``kafka``, those of the second
        one in ``kafka-2``.
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
    node:
        Its number, from 1.
    controller_ports:
        Where the controllers of several brokers answer, in their order; empty if there is one.
    secured:
        Certificates, for TLS and users; None for plain text.
    """

    home: Path
    cluster_id: str = ""
    java: str = ""
    jars: Sequence[Path] = ()
    archive: Path | None = None
    dump_to: Path | None = None
    node: int = 1
    controller_ports: Sequence[int] = ()
    secured: Secured | None = None

    @property
    def port_count(self) -> int:
        """How many ports it listens on."""
        return 3 if self.secured else 2

    @property
    def name(self) -> str:
        """``Kafka``, or ``broker-2`` and so on where there are several."""
        return f"broker-{self.node}" if self.controller_ports or self.node > 1 else "Kafka"

    @property
    def output(self) -> Path:
        """File that the process writes its output to."""
        return self.home / "log" / f"{self._label}.out"

    def launch(self, ports: tuple[int, ...]) -> ProcessId:
        """Format the storage if that was not done, then start the broker."""
        self._configure(ports)
        if not (self._folder / "data" / "meta.properties").exists():
            # ignore-formatted: a format that was cut short is completed.
            # A second of work: compiling well would cost more than it saves.
            argv = self._command("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format")
            argv += ["--ignore-formatted", "-t", self.cluster_id, "-c", self._properties]
            run(argv, timeout_s=60.0)
        dump = [f"-XX:ArchiveClassesAtExit={self.dump_to}"] if self.dump_to else []
        # An agent that serves its beans has one port: of several brokers the first one gets it.
        given = os.environ.get(_OPTIONS, "") if self.node == 1 else ""
        argv = self._command(*dump, *shlex.split(given), "kafka.Kafka", self._properties)
        return spawn(argv, env=environment(), output=self.output)

    def answers(self, ports: tuple[int, ...]) -> bool:
        """Tell whether the broker names itself in answer to a metadata request.

        One of several does so only when it may lead partitions: before, it names the others.
        """
        try:
            if self.secured:
                context = self.secured.context()
                return self.node in broker_ids(LOOPBACK, ports[2], timeout_s=1.0, context=context)
            return self.node in broker_ids(LOOPBACK, ports[0], timeout_s=1.0)
        except (OSError, struct.error, IndexError):
            return False

    @property
    def has_closed(self) -> bool:
        """Whether a broker that is ending has closed its logs; the mark goes at its start."""
        return (self._folder / "data" / ".kafka_cleanshutdown").exists()

    @property
    def _properties(self) -> str:
        return str(self._folder / "server.properties")

    @property
    def _label(self) -> str:
        return "kafka" if self.node == 1 else f"kafka-{self.node}"

    @property
    def _folder(self) -> Path:
        return self.home / self._label

    def _configure(self, ports: tuple[int, ...]) -> None:
        folder, log = self._folder, self.home / "log"
        for path in (folder / "data", log):
            path.mkdir(parents=True, exist_ok=True)
        port, controller_port = ports[:2]
        controllers = self.controller_ports or (controller_port,)
        replicas = min(_REPLICAS, len(controllers))
        text = (_PROPERTIES + (_OF_SEVERAL if self.controller_ports else "")).format(
            node=self.node,
            host=LOOPBACK,
            port=port,
            controller_port=controller_port,
            data=folder / "data",
            voters=",".join(
                f"{number}@{LOOPBACK}:{voter}" for number, voter in enumerate(controllers, 1)
            ),
            replicas=replicas,
            in_sync=min(2, replicas),
        )
        if self.secured:
            text += self.secured.broker_properties(ports)
        Path(self._properties).write_text(text)
        (folder / "log4j2.properties").write_text(logging_properties(self._label, log))

    def _command(self, *arguments: str) -> list[str]:
        class_path = os.pathsep.join(map(str, self.jars))
        logging = self._folder / "log4j2.properties"
        return [
            self.java,
            # Of three on one laptop each has less to do, and less to do it with.
            "-Xmx256m" if self.controller_ports else "-Xmx384m",
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


def broker_ids(
    host: str, port: int, *, timeout_s: float, context: ssl.SSLContext | None = None
) -> tuple[int, ...]:
    """Return the numbers of the brokers that a metadata request (version 1, no topics) names.

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
            # Answer: length, correlation id, then the array of brokers: number, host, port, rack.
            _, _, count = struct.unpack(">iii", stream.read(12))
            return tuple(_read_broker(stream) for _ in range(count))


def _read_broker(stream: BinaryIO) -> int:
    node, length = struct.unpack(">ih", stream.read(6))
    *_, length = struct.unpack(f">{length}sih", stream.read(length + 6))
    stream.read(max(0, length))  # -1: no rack
    return int(node)
