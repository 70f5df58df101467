"""Commands that systemd looks after: their signs of life come from their work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_S = 60.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(LIMIT_S)
        yield line


def drained(line: socket.socket) -> None:
    """Take what has been said until now."""
    line.setblocking(False)
    try:
        while line.recv(999):
            pass
    except BlockingIOError:
        pass


@pytest.mark.parametrize(
    "words",
    [
        ("adapter", "pilatus", "--watch", "raw", "--beamtime", "{}", "--detector", "p"),
        ("worker", "operator:truth", "{}/p/*", "--group", "g"),
    ],
    ids=["adapter", "worker"],
)
def test_a_command_is_ready_alive_silent_when_it_hangs_and_ends_when_asked(
    words: tuple[str, ...], manager: socket.socket, tmp_path: Path, beamtime: str, home_env: None
) -> None:
    (tmp_path / "raw").mkdir()
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "2000000",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *(word.format(beamtime) for word in words)],
        cwd=tmp_path,
        env=environment,
    )
    try:
        assert manager.recv(999).startswith(b"READY=1\nWATCHDOG=1")
        assert manager.recv(999).startswith(b"WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        drained(manager)
        manager.settimeout(2.0)  # of which a living one would use a quarter
        with pytest.raises(TimeoutError):
            manager.recv(999)
        process.send_signal(signal.SIGCONT)
        manager.settimeout(LIMIT_S)
        assert manager.recv(999).startswith(b"WATCHDOG=1")
        process.terminate()
        assert process.wait(LIMIT_S) in (0, 128 + signal.SIGTERM)
    finally:
        process.kill()
        process.wait(LIMIT_S)
