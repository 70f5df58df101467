"""Builds the Connect converter, and runs Kafka's own Connect worker with it on loopback.

Needs Maven and a JDK; what Maven fetches stays in its own cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.net import LOOPBACK, free_ports
from pipeline.local.processes import is_running, spawn, stop, wait_until

ROOT = Path(__file__).parents[2]
WORKER = "org.apache.kafka:connect-runtime:4.3.1"
FILE_SINK = "org.apache.kafka:connect-file:4.3.1"
#: Without it a worker logs nothing.
LOGGER = "org.slf4j:slf4j-simple:1.7.36"
_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_BUILD_LIMIT_S = 240.0
_START_LIMIT_S = 60.0
_POM = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>lichtstrom.test</groupId><artifactId>worker</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""


def needs_maven() -> None:
    """Skip, saying so, where there is no Maven or no JDK."""
    missing = [program for program in ("mvn", "javac") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"CONNECT CONVERTER NOT TESTED: no {' and no '.join(missing)} on this machine")


def _maven(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["mvn", "-q", "-B", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_BUILD_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"mvn {arguments} in {folder}\n{done.stdout}\n{done.stderr}"


def build_converter(folder: Path) -> Path:
    """Build the plugin's jar in a copy of the sources, its Java tests included; return its path."""
    project = folder / "connectors/avro-converter"
    shutil.copytree(
        ROOT / "connectors/avro-converter", project, ignore=shutil.ignore_patterns("target")
    )
    shutil.copytree(ROOT / "schemas", folder / "schemas")
    shutil.copy(ROOT / "LICENSE", folder)
    _maven(project, "package")
    (jar,) = (project / "target").glob("connect-avro-converter-*-plugin.jar")
    return jar


def class_path(folder: Path, *artifacts: str) -> list[Path]:
    """Return the jars of artifacts (group:name:version) and of all they need."""
    folder.mkdir(parents=True)
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, name, version in (artifact.split(":") for artifact in artifacts)
    )
    (folder / "pom.xml").write_text(_POM.format(dependencies=dependencies))
    found = folder / "classpath"
    _maven(folder, f"{_DEPENDENCY_PLUGIN}:build-classpath", f"-Dmdep.outputFile={found}")
    return [Path(jar) for jar in found.read_text().split(os.pathsep)]


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
    jars:
        Its class path: connect-runtime and what it needs, without plugins.
    plugins:
        A folder with one folder for each plugin.
    """

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
                str(shutil.which("java")),
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
