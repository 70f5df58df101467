"""One more Connect worker of a home's group: what a second machine would run."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.connect import ConnectServer
from pipeline.local.jars import CONNECT_LOCK, ensure, read_lock
from pipeline.local.java import ensure_java
from pipeline.local.net import LOOPBACK
from pipeline.local.plugins import gather, split
from pipeline.local.processes import ProcessId, is_running, stop, wait_until
from pipeline.local.progress import Progress, quiet
from pipeline.local.servers import ensure_serving
from pipeline.local.state import ServerState, load_info
from pipeline.naming import DEFAULT_PREFIX


def make_server(
    home: Path, prefix: str | None, *, timeout_s: float, progress: Progress
) -> ConnectServer:
    """Return the first worker of a home but for the broker: Java, jars and plugins are there.

    With ``prefix`` None it has the names and the plugins that it was started with last.

    Raises RuntimeUnavailableError that says what could not be had.
    """
    java = ensure_java(timeout_s=timeout_s, progress=progress)
    artifacts = read_lock(CONNECT_LOCK)
    paths = dict(
        zip(artifacts, ensure(artifacts, timeout_s=timeout_s, progress=progress), strict=True)
    )
    on_class_path, plugins = split(artifacts)
    return ConnectServer(
        home=home,
        prefix=_last_prefix(home) if prefix is None else prefix,
        java=java.path,
        jars=[paths[artifact] for artifact in on_class_path],
        plugin_path=_last_plugin_path(home) if prefix is None else gather(home, plugins),
    )


def _last_prefix(home: Path) -> str:
    group = ConnectServer(home=home).recorded().get("group.id", "")
    return group.removesuffix(".connect") or DEFAULT_PREFIX


def _last_plugin_path(home: Path) -> list[Path]:
    paths = ConnectServer(home=home).recorded().get("plugin.path", "")
    return [Path(path) for path in paths.split(",") if path]


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker that its maker must end: ``down`` does not know it. Ended on leaving ``with``.

    Parameters
    ----------
    url:
        Address of its REST interface; any worker of a group answers for all of them.
    output:
        What it printed; its log lies beside, with ``.log``.
    """

    url: str
    output: Path
    _state: ServerState = field(repr=False)

    @property
    def pid(self) -> int:
        """The process id, 0 when it was stopped."""
        return self._state.process.pid if self._state.process else 0

    @property
    def process(self) -> ProcessId | None:
        """The process, as :func:`pipeline.local.processes.is_running` takes it."""
        return self._state.process

    def kill(self, *, timeout_s: float = 10.0) -> None:
        """Kill it without warning (SIGKILL) and wait until it is gone."""
        if is_running(self.process):
            os.kill(self.pid, signal.SIGKILL)
            wait_until(lambda: not is_running(self.process), timeout_s=timeout_s)

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """End it: its tasks are stopped and it leaves the group. May be called twice."""
        stop(self._state.process, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_worker(
    home: Path,
    *,
    number: int = 2,
    timeout_s: float = 120.0,
    progress: Progress = quiet,
) -> Worker:
    """Start another worker in the group of the home's own, on a port of its own.

    Parameters
    ----------
    home:
        Directory of a runtime that was started with ``connect=True``: its plugins are used.
    number:
        Two or more, tells such workers apart: the log is ``log/connect-<number>.log``.
    timeout_s:
        Limit until it has joined the group; and for each download, if Java is missing by now.

    Raises
    ------
    RuntimeUnavailableError
        With its last lines if it does not start, or if ``home`` has no Connect worker.
    """
    home = home.expanduser().absolute()
    info = load_info(home)
    if info is None or info.connect is None:
        raise RuntimeUnavailableError(
            f"{home} runs no Kafka Connect worker to go with: `lichtstrom up --connect` first"
        )
    java = ensure_java(timeout_s=timeout_s, progress=progress)
    on_class_path, _ = split(read_lock(CONNECT_LOCK))
    server = ConnectServer(
        home=home,
        bootstrap=info.kafka.bootstrap,
        prefix=_last_prefix(home),
        java=java.path,
        jars=ensure(on_class_path, timeout_s=timeout_s, progress=progress),
        plugin_path=_last_plugin_path(home),
        number=number,
    )
    state = ServerState()
    ensure_serving(server, state, save=lambda: None, timeout_s=timeout_s)
    return Worker(url=f"http://{LOOPBACK}:{state.ports[0]}", output=server.output, _state=state)
