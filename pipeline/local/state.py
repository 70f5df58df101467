"""What is written down about a runtime: ``runtime.json`` for clients, ``state.json`` for us.

``runtime.json`` says where the servers answer and exists while they are up.  ``state.json`` stays:
it names the processes exactly (a pid alone may have been given to somebody else) and keeps ports
and credentials, so that a restarted runtime is found where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidArgumentError, RuntimeUnavailableError
from pipeline.local.processes import ProcessId

RUNTIME_FILE = "runtime.json"
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaInfo:
    """Where the broker answers (of several all addresses), and its administrator if secured.

    ``pid`` is the first one's process.
    """

    bootstrap: str
    pid: int
    username: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Info:
    """Where the S3 server answers, and with which credentials."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    pid: int
    ca: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectInfo:
    """Where the Kafka Connect worker answers: its REST interface."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """One process of several brokers and gateways.

    Parameters
    ----------
    name:
        ``broker-1``, ``gateway-1`` and so on: what ``lichtstrom restart`` takes.
    address:
        A broker's ``host:port``, a gateway's URL.
    pid:
        Its process.
    """

    name: str
    address: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeInfo:
    """The servers of one runtime, as clients need to know them.

    Parameters
    ----------
    kafka:
        The broker.
    store_url:
        ``file:`` URL of the directory that holds the objects; each directory in it is a bucket.
    s3:
        The S3 server on that very directory, or None where none could be had.
    started_ns:
        When the broker was started, ns since 1970.
    connect:
        The Kafka Connect worker, or None where none was asked for.
    nodes:
        Every broker and gateway, where there are several of one kind; else empty.
    """

    kafka: KafkaInfo
    store_url: str
    s3: S3Info | None
    started_ns: int
    connect: ConnectInfo | None = None
    nodes: tuple[NodeInfo, ...] = ()

    def node(self, name: str) -> NodeInfo:
        """Return the process of that name; InvalidArgumentError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes) or "one broker and one gateway"
        raise InvalidArgumentError("server", f"no {name} here, but {known}")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``runtime.json``; ``nodes`` only where there are some."""
        nodes = [dataclasses.asdict(node) for node in self.nodes]
        return ({"nodes": nodes} if nodes else {}) | {
            "version": 1,
            "kafka": _shown(self.kafka),
            "store": {"url": self.store_url},
            "s3": _shown(self.s3) if self.s3 else None,
            "started_ns": self.started_ns,
            "connect": dataclasses.asdict(self.connect) if self.connect else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RuntimeInfo:
        """Return what :meth:`to_json` wrote; KeyError or TypeError if it is something else."""
        s3, connect = data["s3"], data.get("connect")
        return cls(
            kafka=KafkaInfo(**data["kafka"]),
            store_url=data["store"]["url"],
            s3=S3Info(**s3) if s3 else None,
            started_ns=data["started_ns"],
            connect=ConnectInfo(**connect) if connect else None,
            nodes=tuple(NodeInfo(**node) for node in data.get("nodes", ())),
        )


def _shown(info: KafkaInfo | S3Info) -> dict[str, Any]:
    """Return the facts of a server, without those that only secured ones have."""
    secure = ("username", "password", "ca")
    return {n: v for n, v in dataclasses.asdict(info).items() if v or n not in secure}


@dataclass(slots=True, kw_only=True)
class ServerState:
    """One server as we left it: its process and the ports it was given."""

    process: ProcessId | None = None
    ports: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class State:
    """What ``up`` and ``down`` remember of one home; written after every step."""

    cluster_id: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    #: Of the broker's administrator; empty for a runtime that is not secured.
    password: str = field(default="", repr=False)
    started_ns: int = 0
    kafka: ServerState = field(default_factory=ServerState)
    s3: ServerState = field(default_factory=ServerState)
    connect: ServerState = field(default_factory=ServerState)
    #: The second broker and those after it, the second gateway and those after it.
    more_kafka: list[ServerState] = field(default_factory=list)
    more_s3: list[ServerState] = field(default_factory=list)

    @property
    def brokers(self) -> list[ServerState]:
        """All brokers in the order of their numbers."""
        return [self.kafka, *self.more_kafka]

    @property
    def gateways(self) -> list[ServerState]:
        """All S3 servers in the order of their numbers."""
        return [self.s3, *self.more_s3]

    def save(self, home: Path) -> None:
        """Write ``state.json``, readable by its owner alone."""
        write_private(home / STATE_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, home: Path) -> State:
        """Return what was saved last, or an empty state."""
        data = read_json(home / STATE_FILE)
        if data is None:
            return cls()
        try:
            # Homes from before there was a Connect worker know nothing of one.
            data.setdefault("connect", dataclasses.asdict(ServerState()))
            for name in ("kafka", "s3", "connect"):
                data[name] = _server(data[name])
            for name in ("more_kafka", "more_s3"):
                data[name] = [_server(server) for server in data.get(name, ())]
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise _unreadable(home / STATE_FILE, repr(error)) from error


def _server(data: dict[str, Any]) -> ServerState:
    process = data["process"]
    return ServerState(
        process=ProcessId(**process) if process else None, ports=tuple(data["ports"])
    )


def load_info(home: Path) -> RuntimeInfo | None:
    """Return the content of ``runtime.json``, or None if there is none."""
    data = read_json(home / RUNTIME_FILE)
    if data is None:
        return None
    try:
        return RuntimeInfo.from_json(data)
    except (KeyError, TypeError) as error:
        raise _unreadable(home / RUNTIME_FILE, repr(error)) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``, or None if there is no such file."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(data, dict):
        raise _unreadable(path, "not a JSON object")
    return data


def write_private(path: Path, data: dict[str, Any]) -> None:
    """Replace ``path`` at once, mode 0600: readers see the old or the new content whole."""
    # mkstemp creates with mode 0600, so the secrets are never readable by others.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(data, file, indent=2)
            file.write("\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _unreadable(path: Path, problem: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"{path} is not readable as a runtime's notes ({problem}): end the servers it was written"
        " for, if any, delete this file, and run `lichtstrom up` again (data is kept)"
    )
