"""Other people's programs that prepare the runtime: run with a limit, installed on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.locks import locked
from pipeline.local.paths import cache_dir


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> str:
    """Run a program to its end and return what it printed.

    Raises RuntimeUnavailableError with its last lines if it fails or takes longer than
    ``timeout_s``.
    """
    try:
        done = subprocess.run(
            argv,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailableError(f"{argv[0]} did not end in {timeout_s:g} s") from error
    except OSError as error:
        raise RuntimeUnavailableError(f"{argv[0]} cannot be run: {error}") from error
    if done.returncode:
        last = " | ".join(done.stdout.strip().splitlines()[-6:])
        raise RuntimeUnavailableError(f"{argv[0]} failed with status {done.returncode}: {last}")
    return done.stdout


def pip_folder_path(requirement: str) -> Path:
    """Return where :func:`pip_folder` installs, or has installed, a package."""
    return cache_dir() / "python" / requirement.replace("==", "-")


def pip_folder(requirement: str, *, timeout_s: float) -> Path:
    """Return a folder of our cache that holds a package and what it needs, installed once.

    The user's own environment is not touched; ``requirement`` is pinned (``name==version``).
    """
    folder = pip_folder_path(requirement)
    if folder.exists():
        return folder
    with locked(cache_dir() / "python.lock", timeout_s=timeout_s):
        if not folder.exists():
            _pip_install(requirement, folder, timeout_s)
    return folder


def _pip_install(requirement: str, folder: Path, timeout_s: float) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".install-", dir=folder.parent))
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv += ["--no-input", "--target", str(partial), requirement]
    # PIP_USER or a prefix in the user's settings would contradict --target.
    env = {**os.environ, "PIP_USER": "0", "PYTHONWARNINGS": "ignore"}
    try:
        run(argv, env=env, timeout_s=timeout_s)
        partial.rename(folder)
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(f"pip could not install {requirement}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
