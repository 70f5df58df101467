"""Fixtures for all tests: the servers, fresh names, and the search for what a test left behind."""

from __future__ import annotations

import gc
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local import RuntimeInfo, down, up
from pipeline.local.processes import wait_until

# Threads of libraries that live as long as the process: the asynchronous runtime below obstore,
# hypothesis' watchdog, tqdm-like monitors of readers we compare with.
_LIBRARY_THREADS = ("tokio", "pyo3", "hypothesis", "obstore", "asyncio_", "pytest_timeout")

# Files that tools keep open on their own account.
_LIBRARY_FILES = (".coverage", ".hypothesis", "/__pycache__/", "/.pytest_cache/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--services",
        choices=("local", "containers"),
        default="local",
        help="where the broker and the S3 server of the service tests come from: child processes"
        " (default), or containers by testcontainers and a Docker engine that has the images",
    )


# -- services -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runtime_home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """LICHTSTROM_HOME of running servers, private to this test run.

    ``LICHTSTROM_TEST_HOME`` names a home to use and leave running instead, which saves the start
    while developing.
    """
    shared = os.environ.get("LICHTSTROM_TEST_HOME")
    if shared:
        up(Path(shared))
        yield Path(shared)
        return
    home = tmp_path_factory.mktemp("runtime")
    if request.config.getoption("--services") == "containers":
        from service_containers import container_runtime

        with container_runtime(home):
            yield home
        return
    try:
        up(home, progress=_tell(request.config))
        yield home
    finally:
        down(home)


@pytest.fixture(scope="session")
def runtime(runtime_home: Path) -> RuntimeInfo:
    """The running broker and S3 server."""
    from pipeline.local.state import load_info

    info = load_info(runtime_home)
    assert info is not None
    return info


@pytest.fixture
def home_env(runtime_home: Path, runtime: RuntimeInfo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let ``pipeline.connect()`` and every command find the test servers by LICHTSTROM_HOME."""
    for name in [name for name in os.environ if name.startswith("LICHTSTROM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LICHTSTROM_HOME", str(runtime_home))
    return runtime_home


@pytest.fixture
def beamtime() -> str:
    """A beamtime that nobody has used: fresh topics, a fresh bucket."""
    return f"t{secrets.token_hex(5)}"


def _tell(config: pytest.Config):
    """Show downloads and builds, which take a minute on a new machine, despite the capture."""
    capture = config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n[runtime] {line}", file=sys.stderr, flush=True)

    return tell


# -- leaks --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    leaked: list[threading.Thread] = []

    def gone() -> bool:
        leaked[:] = [t for t in threading.enumerate() if t not in before and _is_ours(t)]
        return not leaked

    if not gone():
        gc.collect()
        if not wait_until(gone, timeout_s=3.0):
            pytest.fail(f"the test left threads running: {[t.name for t in leaked]}")


@pytest.fixture(autouse=True)
def _no_leaked_files() -> Iterator[None]:
    before = _open_files()
    yield
    leaked: list[str] = []

    def gone() -> bool:
        after = _open_files()
        leaked[:] = sorted(after[fd] for fd in after if before.get(fd) != after[fd])
        return not leaked

    if not gone():
        gc.collect()
        if not wait_until(gone, timeout_s=3.0):
            pytest.fail(f"the test left files open: {leaked}")


def _is_ours(thread: threading.Thread) -> bool:
    if thread.name.startswith(_LIBRARY_THREADS):
        return False
    # pyzmq keeps one thread for the process, made when a large message is first sent uncopied.
    if type(thread).__module__ == "zmq.utils.garbage":
        return False
    # dask keeps one pool for the process, made at its first use.
    dask = sys.modules.get("dask.threaded")
    pool = getattr(dask, "default_pool", None)
    return thread not in getattr(pool, "_threads", ())


def _open_files() -> dict[int, str]:
    """Regular files and inotify watches that are open; sockets close in the background."""
    found = {}
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = str(Path(entry.path).readlink())
        except OSError:
            continue
        regular = target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/sys/"))
        if (regular or target == "anon_inode:inotify") and not any(
            part in target for part in _LIBRARY_FILES
        ):
            found[int(entry.name)] = target
    return found
