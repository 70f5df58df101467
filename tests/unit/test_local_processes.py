"""Processes are recognised by more than their pid, and only ours are ended."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.locks import locked
from pipeline.local.net import LOOPBACK, free_ports
from pipeline.local.processes import ProcessId, is_running, spawn, stop, wait_until
from pipeline.local.servers import ensure_serving, is_serving
from pipeline.local.state import ServerState

SLEEPER = ["/bin/sleep", "600"]
DEAF = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def sleeper(output: Path) -> Iterator[ProcessId]:
    process = spawn(SLEEPER, env={}, output=output)
    yield process
    stop(process, timeout_s=5.0)


def test_a_spawned_process_runs_in_a_session_of_its_own(sleeper: ProcessId) -> None:
    assert is_running(sleeper)
    assert os.getsid(sleeper.pid) == sleeper.pid


def test_stopping_ends_the_process_and_a_second_stop_says_there_was_none(
    sleeper: ProcessId,
) -> None:
    assert stop(sleeper, timeout_s=5.0)
    assert not is_running(sleeper)
    assert not stop(sleeper, timeout_s=5.0)


def test_a_process_deaf_to_sigterm_is_killed(output: Path) -> None:
    process = spawn(DEAF, env={"PATH": os.environ["PATH"]}, output=output)
    assert wait_until(lambda: "ready" in output.read_text(), timeout_s=10.0)
    assert stop(process, timeout_s=0.05)
    assert not is_running(process)


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_another_process_with_a_recorded_pid_is_not_signalled(
    sleeper: ProcessId, change: dict[str, object]
) -> None:
    stale = dataclasses.replace(sleeper, **change)  # type: ignore[arg-type]
    assert not is_running(stale)
    assert not stop(stale, timeout_s=5.0)
    assert is_running(sleeper)


def test_a_process_that_ended_but_was_not_waited_for_does_not_run(output: Path) -> None:
    process = spawn(["/bin/true"], env={}, output=output)
    assert wait_until(lambda: not is_running(process), timeout_s=10.0)


def test_a_lock_is_held_against_others_and_freed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locked(path, timeout_s=0.0),
        pytest.raises(RuntimeUnavailableError, match="another process has held"),
        locked(path, timeout_s=0.05),
    ):
        pass
    with locked(path, timeout_s=0.0):
        pass


def test_preferred_ports_are_given_if_they_are_free() -> None:
    ports = free_ports(2)
    assert len(set(ports)) == 2
    assert free_ports(2, preferred=ports) == ports


def test_a_preferred_port_that_is_taken_is_replaced() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]
        assert free_ports(1, preferred=(taken,)) != (taken,)


class FakeServer:
    """A server that is a shell script, and answers when its output has the word ready."""

    name = "Fake"
    port_count = 1

    def __init__(self, folder: Path, *scripts: str) -> None:
        self.output = folder / "log" / "fake.out"
        self.scripts = list(scripts)

    def launch(self, ports: tuple[int, ...]) -> ProcessId:
        script = self.scripts.pop(0)
        return spawn(
            ["/bin/sh", "-c", f"echo launched on {ports[0]}; {script}"],
            env={"PATH": os.environ["PATH"]},
            output=self.output,
        )

    def answers(self, ports: tuple[int, ...]) -> bool:
        return self.output.exists() and "ready" in self.output.read_text()


READY = "echo ready; exec sleep 600"


@pytest.fixture
def state() -> Iterator[ServerState]:
    state = ServerState()
    yield state
    stop(state.process, timeout_s=5.0)


def test_a_server_that_runs_is_not_started_again(tmp_path: Path, state: ServerState) -> None:
    server = FakeServer(tmp_path, READY)
    saved: list[ProcessId | None] = []
    ensure_serving(server, state, save=lambda: saved.append(state.process), timeout_s=20.0)
    process = state.process
    ensure_serving(server, state, save=lambda: saved.append(state.process), timeout_s=20.0)
    assert state.process == process
    assert saved == [process]
    assert is_serving(server, state)


def test_a_server_that_ends_while_starting_is_quoted(tmp_path: Path, state: ServerState) -> None:
    server = FakeServer(tmp_path, "echo no such license; exit 1")
    with pytest.raises(RuntimeUnavailableError, match="no such license") as caught:
        ensure_serving(server, state, save=lambda: None, timeout_s=20.0)
    assert "Fake ended while starting" in str(caught.value)
    assert str(server.output) in str(caught.value)
    assert state.process is None


def test_a_server_that_does_not_answer_in_time_is_stopped(
    tmp_path: Path, state: ServerState
) -> None:
    server = FakeServer(tmp_path, "exec sleep 600")
    seen: list[ProcessId | None] = []
    with pytest.raises(RuntimeUnavailableError, match=r"did not answer in 0\.2 s"):
        ensure_serving(server, state, save=lambda: seen.append(state.process), timeout_s=0.2)
    assert seen[0] is not None
    assert not is_running(seen[0])
    assert seen[-1] is None


def test_a_port_taken_by_somebody_else_leads_to_another_port(
    tmp_path: Path, state: ServerState
) -> None:
    server = FakeServer(tmp_path, "echo bind: address already in use; exit 1", READY)
    ensure_serving(server, state, save=lambda: None, timeout_s=20.0)
    assert is_serving(server, state)
    assert not server.scripts


def test_an_interrupt_while_starting_leaves_nothing_running(
    tmp_path: Path, state: ServerState
) -> None:
    server = FakeServer(tmp_path, "exec sleep 600")
    seen: list[ProcessId] = []

    def interrupt(ports: tuple[int, ...]) -> bool:
        assert state.process is not None
        seen.append(state.process)
        raise KeyboardInterrupt

    server.answers = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ensure_serving(server, state, save=lambda: None, timeout_s=20.0)
    assert not is_running(seen[0])
    assert state.process is None
