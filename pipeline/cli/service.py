"""``lichtstrom service``: run a command for good, looked after by systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.output import print_json
from pipeline.errors import InvalidArgumentError

#: Commands whose loops tell that they go on.
_WATCHED = ("adapter", "worker", "exporter")
#: Commands that run until they are stopped.
_LONG = (*_WATCHED, "sink", "values", "simulate", "retention")
#: What finds servers and settings; never a secret, as units can be read by everybody.
_KEPT = ("LICHTSTROM_HOME", "LICHTSTROM_CONFIG", "LICHTSTROM_CREDENTIALS", "LICHTSTROM_METRICS")
_PREFIX = "lichtstrom-"

_UNIT = """\
[Unit]
Description=lichtstrom {name}: {words}
Wants=network-online.target
After=network-online.target
# Tried again for ever, but not faster than this.
StartLimitIntervalSec=0

[Service]
{kind}
ExecStart={start}
WorkingDirectory={folder}
{environment}Restart=on-failure
RestartSec=5
# 128 + SIGTERM: stopped as asked.
SuccessExitStatus=143
# SIGTERM to the command alone: what is queued is finished, its processes end with it.
KillMode=mixed
TimeoutStopSec=90
# A journal line each: `journalctl -u {unit}`.
StandardOutput=journal
StandardError=journal
NoNewPrivileges=true
ProtectSystem=full
RestrictSUIDSGID=true
LockPersonality=true

[Install]
WantedBy={target}
"""
_NOTIFY = """\
Type=notify
NotifyAccess=main
TimeoutStartSec=300
# Killed and restarted when its work has not gone on for so long.
WatchdogSec={seconds:g}"""
# Its servers outlive the command that starts them.
_UP = """\
Type=oneshot
RemainAfterExit=yes
ExecStop={stop}"""


@click.group()
def command() -> None:
    """Have systemd run a command for good: restarted, watched, logged in the journal."""


_system = click.option(
    "--system",
    is_flag=True,
    help="For the machine (root) instead of for you; yours run only while you are logged in, or"
    " after `loginctl enable-linger`.",
)


@command.command("install", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@_system
@click.option("--user", "account", metavar="USER", help="With --system: who runs it.")
@click.option(
    "--watchdog",
    "watchdog_s",
    type=click.FloatRange(min=5),
    default=120.0,
    metavar="SECONDS",
    help="Kill and restart it when its work has not gone on for so long.",
)
@click.option("--print", "only_print", is_flag=True, help="Print the unit, change nothing.")
def install(
    name: str,
    words: tuple[str, ...],
    system: bool,
    account: str | None,
    watchdog_s: float,
    only_print: bool,
) -> None:
    """Write the unit lichtstrom-NAME.service for a command of ours, enable and start it.

    Example: `lichtstrom service install pilatus -- adapter pilatus --watch /ramdisk --beamtime auto
    --detector p300k`. It runs in this directory, with this Python and this lichtstrom.toml; a unit
    of that name is replaced. Only loops that do their work feed the watchdog (adapter, worker,
    exporter): a process that hangs is restarted, too.
    """
    _check(name, words)
    text = unit(name, words, watchdog_s=watchdog_s, system=system, account=account)
    if only_print:
        click.echo(text, nl=False)
        return
    path = _folder(system=system) / _file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    click.echo(f"{path} is written", err=True)
    _systemctl(system, "daemon-reload")
    _systemctl(system, "enable", _file(name))
    _systemctl(system, "restart", _file(name))
    click.echo(f"started; its log: journalctl {'' if system else '--user '}-u {_file(name)}")


@command.command("uninstall")
@click.argument("name")
@_system
def uninstall(name: str, system: bool) -> None:
    """Stop the service (what is queued is finished) and remove its unit."""
    path = _folder(system=system) / _file(name)
    if not path.exists():
        raise FailedError(f"there is no {path}")
    _systemctl(system, "disable", "--now", _file(name))
    path.unlink()
    _systemctl(system, "daemon-reload")


@command.command("list")
@_system
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(system: bool, as_json: bool) -> None:
    """List our services and whether they run."""
    found = sorted(_folder(system=system).glob(f"{_PREFIX}*.service"))
    rows = [
        {"name": _name(path), "unit": str(path), "state": _state(system, path)} for path in found
    ]
    if as_json:
        print_json(rows)
    for row in () if as_json else rows:
        click.echo(f"{row['name']}  {row['state']}  {row['unit']}")


def unit(
    name: str,
    words: tuple[str, ...],
    *,
    watchdog_s: float = 120.0,
    system: bool = False,
    account: str | None = None,
) -> str:
    """Return the unit's text (systemd.service(5))."""
    program = [sys.executable, "-m", "pipeline.cli"]
    if words[0] == "up":
        kind = _UP.format(stop=_command([*program, "down", *_home_of(words)]))
    elif words[0] in _WATCHED:
        kind = _NOTIFY.format(seconds=watchdog_s)
    else:
        kind = "Type=exec"
    kept = [f"{key}={os.environ[key]}" for key in _KEPT if os.environ.get(key)]
    return _UNIT.format(
        name=name,
        words=_plain(" ".join(words[:2])),
        kind=kind + (f"\nUser={account}" if system and account else ""),
        start=_command([*program, *words]),
        folder=_plain(str(Path.cwd())),
        environment="".join(f"Environment={_quoted(entry)}\n" for entry in kept),
        unit=_file(name),
        target="multi-user.target" if system else "default.target",
    )


def _check(name: str, words: tuple[str, ...]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,100}", name):
        raise InvalidArgumentError("NAME", f"{name!r}: letters, digits, _ . @ and - only")
    if words[0] not in (*_LONG, "up"):
        raise InvalidArgumentError(
            "COMMAND", f"{words[0]!r} does not run for long; of these: {', '.join((*_LONG, 'up'))}"
        )
    if words[0] == "retention" and "--watch" not in words:
        raise InvalidArgumentError("COMMAND", "retention ends at once without --watch")


def _home_of(words: tuple[str, ...]) -> list[str]:
    at = words.index("--home") if "--home" in words[:-1] else None
    return [] if at is None else list(words[at : at + 2])


def _command(words: list[str]) -> str:
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return a word as systemd.syntax(7) and its specifiers and variables leave it alone."""
    text = _plain(word).replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    if not text.isprintable():
        raise InvalidArgumentError("COMMAND", f"{text!r} holds what cannot stand in a unit")
    return text.replace("%", "%%")


def _file(name: str) -> str:
    return f"{_PREFIX}{name}.service"


def _name(path: Path) -> str:
    return path.name.removeprefix(_PREFIX).removesuffix(".service")


def _folder(*, system: bool) -> Path:
    if system:
        return Path("/etc/systemd/system")
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "systemd" / "user"


def _state(system: bool, path: Path) -> str:
    try:
        return _run(system, "is-active", path.name).stdout.strip() or "unknown"
    except FailedError:
        return "unknown"


def _systemctl(system: bool, *words: str) -> None:
    done = _run(system, *words)
    if done.returncode:
        command = f"systemctl {'' if system else '--user '}{' '.join(words)}"
        raise FailedError(f"`{command}` failed: {done.stderr.strip()}")


def _run(system: bool, *words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemctl")
    if program is None:
        raise FailedError("there is no systemctl here: services need Linux with systemd")
    argv = [program, *([] if system else ["--user"]), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
