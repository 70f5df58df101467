"""Server processes that outlive the command: starting, recognising and ending them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process, named so that a later one with the same pid is not taken for it.

    Parameters
    ----------
    pid:
        The process id.
    start_ticks:
        Its start, in clock ticks since boot (field 22 of ``/proc/PID/stat``).
    boot_id:
        The boot in which it ran.
    """

    pid: int
    start_ticks: int
    boot_id: str


def spawn(argv: Sequence[str], *, env: Mapping[str, str], output: Path) -> ProcessId:
    """Start a server in a session of its own; its output is appended to ``output``.

    Its own session, so that Ctrl-C in the terminal does not reach it.  posix_spawn instead of
    subprocess: the child is meant to outlive us, and a Popen warns when it is left running.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.fspath(output), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        # Python ignores SIGPIPE, a shell's background job SIGINT: a server expects neither.
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        setsigmask=[],
    )
    # A child of ours keeps its entry in /proc until we wait for it, so this read cannot miss.
    _, ticks = _proc_stat(pid) or ("?", 0)
    return ProcessId(pid=pid, start_ticks=ticks, boot_id=_boot_id())


def is_running(process: ProcessId | None) -> bool:
    """Tell whether this very process still runs; one that ended but was not reaped does not."""
    if process is None or process.boot_id != _boot_id():
        return False
    _reap(process.pid)
    stat = _proc_stat(process.pid)
    return stat is not None and stat[0] not in "ZX" and stat[1] == process.start_ticks


def stop(process: ProcessId | None, *, timeout_s: float) -> bool:
    """End a process: SIGTERM, after ``timeout_s`` SIGKILL; False if it was not running.

    Blocks until it has ended, at most ``timeout_s`` and five seconds.  Signals nobody else: a pid
    that was given to another process in the meantime is left alone.
    """
    if process is None or not is_running(process):
        return False
    for number, limit_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        if not signal_to(process, number):
            break
        if wait_until(lambda: not is_running(process), timeout_s=limit_s):
            break
    return True


def signal_to(process: ProcessId | None, number: signal.Signals) -> bool:
    """Send a signal to this very process; False if it does not run any more."""
    if process is None or not is_running(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Ask for a condition every 30 ms; False if it did not come true in ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _proc_stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process, or None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name stands in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _reap(pid: int) -> None:
    """Take note of the end of a child of ours; children of others are none of our business."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
