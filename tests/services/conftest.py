"""Everything in this folder runs against the real servers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.local.locks import locked
from pipeline.local.plugins import built_plugins

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_BUILD_LIMIT_S = 240.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The hook sees the items of all folders, not only of this one.
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.service)


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The jars of our connectors by the folder of their sources; what has changed is built."""
    missing = [program for program in ("mvn", "javac") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"KAFKA CONNECT NOT TESTED: no {' and no '.join(missing)} on this machine")
    # the processes of pytest-xdist have folders of their own below one of the run
    with locked(tmp_path_factory.getbasetemp().parent / "mvn.lock", timeout_s=_BUILD_LIMIT_S):
        for pom in (_ROOT / "connectors").glob("*/pom.xml"):
            if _is_stale(pom.parent):
                _build(pom)
    return {jar.parents[1].name: jar for jar in built_plugins(_ROOT)}


def _is_stale(folder: Path) -> bool:
    built = max((jar.stat().st_mtime for jar in folder.glob("target/*-plugin.jar")), default=0.0)
    sources = [*folder.glob("src/**/*"), folder / "pom.xml", *(_ROOT / "schemas").glob("*.avsc")]
    return any(path.stat().st_mtime > built for path in sources)


def _build(pom: Path) -> None:
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(pom), "package"],
        capture_output=True,
        text=True,
        timeout=_BUILD_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{pom}\n{done.stdout}\n{done.stderr}"
