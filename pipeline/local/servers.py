"""Keeping one server process running: adopt it, or start it on free ports until it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.net import free_ports
from pipeline.local.processes import ProcessId, is_running, stop, wait_until
from pipeline.local.state import ServerState

# Enough for a broker to write its state and for versitygw to finish requests.
STOP_TIMEOUT_S = 20.0

_ATTEMPTS = 3
#: What a server says that could not have its port.
PORT_TAKEN = ("Address already in use", "address already in use", "BindException")


class Server(Protocol):
    """A server we know how to run."""

    @property
    def port_count(self) -> int:
        """How many ports it listens on."""
        ...

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def output(self) -> Path:
        """File that the process writes its output to."""
        ...

    def launch(self, ports: tuple[int, ...]) -> ProcessId:
        """Start the process on these loopback ports; does not wait."""
        ...

    def answers(self, ports: tuple[int, ...]) -> bool:
        """Tell whether it serves requests; blocks a second at most, raises nothing."""
        ...


def is_serving(server: Server, state: ServerState) -> bool:
    """Tell whether the recorded process runs and answers."""
    return is_running(state.process) and bool(state.ports) and server.answers(state.ports)


def ensure_serving(
    server: Server, state: ServerState, *, save: Callable[[], None], timeout_s: float
) -> None:
    """Make ``state`` name a process that answers, started by us or found running.

    ``save`` is called whenever ``state`` changed: whatever kills us, the next ``up`` or ``down``
    knows the process.  On failure nothing is left running and RuntimeUnavailableError has the
    server's last words.
    """
    deadline = time.monotonic() + timeout_s
    if is_running(state.process):
        # Another `up` may have been killed while this server was starting: give it its time.
        if wait_until(
            lambda: not is_running(state.process) or server.answers(state.ports),
            timeout_s=min(10.0, timeout_s),
        ) and is_running(state.process):
            return
        stop_server(state, save)
    for attempt in range(1, _ATTEMPTS + 1):
        ports = free_ports(server.port_count, preferred=state.ports if attempt == 1 else ())
        words = _start(server, state, ports, save=save, deadline=deadline)
        if words is None:
            return
        if attempt == _ATTEMPTS or not any(sign in words for sign in PORT_TAKEN):
            raise RuntimeUnavailableError(failure(server, words, timeout_s, deadline))


def _start(
    server: Server,
    state: ServerState,
    ports: tuple[int, ...],
    *,
    save: Callable[[], None],
    deadline: float,
) -> str | None:
    """Launch and wait; return None when it answers, else what it said before it was stopped."""
    start = output_size(server)
    try:
        state.ports = ports
        state.process = server.launch(ports)
        save()
        wait_until(
            lambda: not is_running(state.process) or server.answers(ports),
            timeout_s=max(0.0, deadline - time.monotonic()),
        )
        if is_serving(server, state):
            return None
    except BaseException:
        stop_server(state, save)
        raise
    stop_server(state, save)
    return output_from(server, start)


def output_size(server: Server) -> int:
    """Return how long the server's output is by now; its folder is made."""
    server.output.parent.mkdir(parents=True, exist_ok=True)
    return server.output.stat().st_size if server.output.exists() else 0


def output_from(server: Server, start: int) -> str:
    """Return what the server has said since its output was ``start`` bytes long."""
    with server.output.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def stop_server(
    state: ServerState, save: Callable[[], None], *, timeout_s: float = STOP_TIMEOUT_S
) -> None:
    """End a server, after ``timeout_s`` by force, and take note of it."""
    stop(state.process, timeout_s=timeout_s)
    state.process = None
    save()


def failure(server: Server, words: str, timeout_s: float, deadline: float) -> str:
    """Return the text of an error: why a server did not start, with its last lines."""
    in_time = time.monotonic() < deadline
    why = "ended while starting" if in_time else f"did not answer in {timeout_s:g} s"
    last = "\n".join(f"  {line}" for line in words.strip().splitlines()[-15:])
    return f"{server.name} {why} and was stopped. Its last lines ({server.output}):\n{last}"
