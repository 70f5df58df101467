"""Runs a standalone worker of Kafka Connect on loopback, as the page of the converter has it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.local.net import LOOPBACK, free_ports
from pipeline.local.processes import is_running, spawn, stop, wait_until

ROOT = Path(__file__).parents[2]
_START_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A running worker: its REST interface, and what it has logged."""

    url: str
    log: Path

    def get(self, path: str) -> bytes:
        """Return what its REST interface answers."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def status(self, connector: str) -> dict[str, Any]:
        """Return the status of a connector; an empty one while it is not there."""
        try:
            return dict(json.loads(self.get(f"/connectors/{connector}/status")))
        except urllib.error.HTTPError as error:
            error.close()
            return {"tasks": []}

    def tail(self) -> str:
        """Return the end of its log, for the message of a test that fails."""
        return self.log.read_text(errors="replace")[-6000:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a worker is started from.

    Parameters
    ----------
    java:
        The program.
    jars:
        Its class path: connect-runtime and what it needs, without plugins.
    plugins:
        A folder with one folder for each plugin.
    """

    java: str
    jars: list[Path]
    plugins: Path

    @contextmanager
    def running(
        self, folder: Path, bootstrap: str, settings: Mapping[str, str], *connectors: Path
    ) -> Iterator[Worker]:
        """Run a standalone worker with ``connectors`` (their files); it is ended afterwards."""
        (port,) = free_ports(1)
        url = f"http://{LOOPBACK}:{port}"
        defaults = {
            "bootstrap.servers": bootstrap,
            "listeners": url,
            "plugin.path": str(self.plugins),
            # By their manifests alone: a converter without one would not be found.
            "plugin.discovery": "service_load",
            "offset.storage.file.filename": str(folder / "offsets"),
            "offset.flush.interval.ms": "1000",
        }
        write_properties(folder / "worker.properties", {**defaults, **settings})
        log = folder / "worker.log"
        process = spawn(
            [
                self.java,
                "-Xmx256m",
                "-cp",
                os.pathsep.join(map(str, self.jars)),
                "org.apache.kafka.connect.cli.ConnectStandalone",
                str(folder / "worker.properties"),
                *map(str, connectors),
            ],
            env=os.environ,
            output=log,
        )
        worker = Worker(url=url, log=log)
        try:
            ready = wait_until(
                lambda: _answers(worker) or not is_running(process), timeout_s=_START_LIMIT_S
            )
            assert ready, worker.tail()
            assert is_running(process), worker.tail()
            yield worker
        finally:
            stop(process, timeout_s=20.0)


def write_properties(path: Path, values: Mapping[str, str]) -> Path:
    """Write a file of Java properties."""
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return path


def _answers(worker: Worker) -> bool:
    try:
        return bool(worker.get("/"))
    except (urllib.error.URLError, OSError):
        return False
