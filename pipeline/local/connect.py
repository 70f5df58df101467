"""A Kafka Connect worker: a group of one, or of several, that runs sinks and sources."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.jvm import environment, logging_properties
from pipeline.local.net import LOOPBACK
from pipeline.local.processes import ProcessId, spawn
from pipeline.naming import DEFAULT_PREFIX, Names

#: Answers at once as long as the REST server lives ...
ALIVE = "/"
#: ... and only when the worker has joined its group and can be given connectors.
READY = "/health"

_SETTINGS: Mapping[str, str] = {
    # As many replicas as the broker gives by default: one, of several brokers three.
    # Compacted topics of a few records need no partitions.
    "config.storage.replication.factor": "-1",
    "offset.storage.replication.factor": "-1",
    "offset.storage.partitions": "2",
    "status.storage.replication.factor": "-1",
    "status.storage.partitions": "1",
    # Records stay as they are; connectors that want something else say so.
    "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    # Plugins name their classes in META-INF/services: no search through every class.
    "plugin.discovery": "service_load",
    "offset.flush.interval.ms": "5000",
    # A killed worker is missed after 6 s (the broker's group.min.session.timeout.ms), and 3 s
    # later, not 5 minutes, its tasks go to others: on one machine nobody reboots a worker.
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "1500",
    "scheduled.rebalance.max.delay.ms": "3000",
    # The consumers of its sinks must be missed as soon: until then (45 s by default) the group
    # of a sink waits for the dead one, and its tasks get nothing.
    "consumer.session.timeout.ms": "6000",
    "consumer.heartbeat.interval.ms": "1500",
    # A stream is written from its first frame, not from the moment that the sink was made.
    "consumer.auto.offset.reset": "earliest",
    # Our topics allow 1 MiB and what a batch adds (pipeline/kafka/admin.py); dead letters
    # carry as much.
    "consumer.max.partition.fetch.bytes": "4194304",
    "producer.max.request.size": "2097152",
}


@dataclass(frozen=True, kw_only=True)
class ConnectServer:
    """A worker of one home.

    Parameters
    ----------
    home:
        Directory of the runtime; the worker's files lie in its ``connect``.
    bootstrap:
        Address of the broker; empty if only :meth:`answers` is wanted.
    prefix:
        What the names of its topics and its group begin with.
    java:
        Path of the ``java`` program.
    jars:
        The class path.
    plugin_path:
        Folders of plugins: each folder or jar in one of them is a plugin.
    number:
        Tells the workers of one home apart; the first is the one that ``up`` runs.
    probe:
        The path that :meth:`answers` asks for, ``ALIVE`` or ``READY``.
    """

    home: Path
    bootstrap: str = ""
    prefix: str = DEFAULT_PREFIX
    java: str = ""
    jars: Sequence[Path] = ()
    plugin_path: Sequence[Path] = ()
    number: int = 1
    probe: str = READY

    name = "Kafka Connect"
    port_count = 1

    @property
    def output(self) -> Path:
        """File that the process writes its output to."""
        return self.home / "log" / f"{self._label}.out"

    def launch(self, ports: tuple[int, ...]) -> ProcessId:
        """Start the worker."""
        folder, log = self.home / "connect", self.home / "log"
        for path in (folder, log):
            path.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(properties_text(self.properties(ports[0])), "ascii")
        logging = folder / f"{self._label}.log4j2.properties"
        logging.write_text(logging_properties(self._label, log))
        argv = [
            self.java,
            "-Xmx512m",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={logging}",
            "-cp",
            os.pathsep.join(map(str, self.jars)),
            "org.apache.kafka.connect.cli.ConnectDistributed",
            str(self._properties),
        ]
        return spawn(argv, env=worker_environment(self.home), output=self.output)

    def answers(self, ports: tuple[int, ...]) -> bool:
        """Tell whether the REST interface answers with success."""
        connection = http.client.HTTPConnection(LOOPBACK, ports[0], timeout=1.0)
        try:
            connection.request("GET", self.probe)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def recorded(self) -> dict[str, str]:
        """Return the settings that the worker was started with last; none if it never was."""
        try:
            text = self._properties.read_text("ascii")
        except FileNotFoundError:
            return {}
        pairs = (line.partition("=") for line in text.splitlines())
        return {name: _unescaped(value) for name, _, value in pairs}

    def properties(self, port: int) -> dict[str, str]:
        """Return the worker's settings."""
        names = Names(self.prefix)
        for path in self.plugin_path:
            if "," in str(path):
                raise RuntimeUnavailableError(
                    f"{path}: Kafka Connect takes no folder of plugins with a comma in its path"
                )
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": names.connect_group(),
            "config.storage.topic": names.connect_topic("configs"),
            "offset.storage.topic": names.connect_topic("offsets"),
            "status.storage.topic": names.connect_topic("status"),
            "listeners": f"http://{LOOPBACK}:{port}",
            "rest.advertised.host.name": LOOPBACK,
            "rest.advertised.port": str(port),
            "plugin.path": ",".join(map(str, self.plugin_path)),
            **_SETTINGS,
        }

    @property
    def _label(self) -> str:
        return "connect" if self.number == 1 else f"connect-{self.number}"

    @property
    def _properties(self) -> Path:
        return self.home / "connect" / f"{self._label}.properties"


def properties_text(settings: Mapping[str, str]) -> str:
    """Return settings as a Java properties file, ASCII: Java would read it as Latin-1."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in settings.items())


def _escaped(value: str) -> str:
    units = value.encode("utf-16-be", "surrogatepass")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    # A backslash escapes, and spaces at the beginning would be cut off.
    return "".join(
        chr(code) if 0x20 < code < 0x7F and code != ord("\\") else f"\\u{code:04x}"
        for code in codes
    )


def _unescaped(text: str) -> str:
    units = text.encode().decode("unicode_escape").encode("utf-16-be", "surrogatepass")
    return units.decode("utf-16-be", "surrogatepass")


def worker_environment(home: Path) -> dict[str, str]:
    """Return what a worker needs to run lichtstrom: the runtime's home, and the command.

    ``LICHTSTROM_COMMAND`` has one argument a line, so that paths may hold spaces.
    """
    return {
        **environment(),
        "LICHTSTROM_HOME": str(home),
        "LICHTSTROM_COMMAND": "\n".join(this_command()),
    }


def this_command() -> tuple[str, ...]:
    """Return how to run this very lichtstrom."""
    script = Path(sys.executable).with_name("lichtstrom")
    return (str(script),) if script.exists() else (sys.executable, "-m", "pipeline.cli")
