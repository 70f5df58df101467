"""Units for systemd, and the signs of life that its watchdog waits for."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.service import command, unit
from pipeline.errors import InvalidArgumentError
from pipeline.telemetry.watchdog import Watchdog


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(path)
        line.settimeout(5.0)
        yield line, path


def test_the_first_sign_of_life_says_ready_and_the_next_comes_in_a_quarter_of_the_limit(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, path = manager
    now = [100.0]
    monkeypatch.setattr("pipeline.telemetry.watchdog.time.monotonic", lambda: now[0])
    dog = Watchdog({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "8000000"})
    dog.beat("3 frames")
    assert line.recv(999) == b"READY=1\nWATCHDOG=1\nSTATUS=3 frames"
    now[0] += 1.9
    dog.beat("4 frames")
    now[0] += 0.2
    dog.beat("5 frames")
    assert line.recv(999) == b"WATCHDOG=1\nSTATUS=5 frames"


def test_without_a_manager_or_with_one_that_is_gone_the_work_goes_on(tmp_path: Path) -> None:
    Watchdog({}).beat()
    Watchdog({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "rubbish"}).beat("words")


COMMANDS = {
    "pilatus": ("adapter", "pilatus", "--watch", "/ram disk/100%", "--prefix", 'a"$b\\'),
    "files": ("sink", "hdf5", "c1/d/s", "--out", "/data"),
    "servers": ("up", "--home", "/srv/lichtstrom"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_systemd_accepts_the_units_and_sees_the_words_as_they_were(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here: units were not checked by systemd")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSTROM_HOME", "/srv/li strom")
    path = tmp_path / f"lichtstrom-{name}.service"
    path.write_text(unit(name, COMMANDS[name]))
    done = subprocess.run(
        [program, "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if path.name in line]
    assert told == []


def test_what_systemd_would_change_is_quoted() -> None:
    text = unit("pilatus", COMMANDS["pilatus"])
    start = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert start == (
        f"ExecStart={sys.executable} -m pipeline.cli adapter pilatus"
        ' --watch "/ram disk/100%%" --prefix "a\\"$$b\\\\"'
    )


def test_only_loops_that_feed_it_have_a_watchdog() -> None:
    assert "WatchdogSec=30\n" in unit("w", ("worker", "m:f", "c1/d/s"), watchdog_s=30)
    assert "Type=exec" in unit("files", COMMANDS["files"])
    assert "ExecStop=" in unit("servers", COMMANDS["servers"])
    assert "down --home /srv/lichtstrom" in unit("servers", COMMANDS["servers"])


def test_secrets_of_the_environment_are_in_no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICHTSTROM_KAFKA_PASSWORD", "hidden")
    monkeypatch.setenv("LICHTSTROM_CONFIG", "/etc/li.toml")
    text = unit("files", COMMANDS["files"])
    assert "hidden" not in text
    assert "Environment=LICHTSTROM_CONFIG=/etc/li.toml\n" in text


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("../evil", ("sink", "hdf5"), "letters, digits"),
        ("x", ("streams",), "does not run for long"),
        ("x", ("retention", "apply"), "without --watch"),
        ("x", ("sink", "a\nExecStartPre=/bin/false"), "cannot stand in a unit"),
    ],
)
def test_what_cannot_be_a_service_is_refused(
    name: str, words: tuple[str, ...], reason: str
) -> None:
    done = CliRunner().invoke(command, ["install", name, "--print", "--", *words])
    assert isinstance(done.exception, InvalidArgumentError)
    assert reason in str(done.exception)


def test_the_unit_is_printed_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = CliRunner().invoke(command, ["install", "p", "--print", "--", "exporter"])
    assert done.exit_code == 0
    assert "WatchdogSec=120" in done.output
    assert list(tmp_path.iterdir()) == []
