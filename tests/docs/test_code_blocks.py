"""The code in the documents, and the examples, run as they stand.

Beamtimes that a document names (``c20261122``, ``c1``) are replaced by a fresh one, because the
servers may have seen them before.  ``make demo`` and ``make test`` are steps of ``.ci/run``; here
it is only checked that they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT, Block, blocks, pages

from pipeline.local import down

_BEAMTIME = re.compile(r"\b(c20261122|c1)\b")
#: Lines of the README that prepare the shell of a reader, or are steps of their own in CI.
_NOT_HERE = re.compile(r"^(make (demo|test|bench|clean)|\. \.venv/bin/activate|git clone|cd )")
LIMIT_S = 300


def run_python(block: Block, names: dict[str, Any], beamtime: str) -> None:
    body = "\n" * block.line + _BEAMTIME.sub(beamtime, block.body)
    exec(compile(body, str(block.path), "exec"), names)


def run_shell(block: Block, folder: Path, beamtime: str) -> str:
    lines = [line for line in block.body.splitlines() if not _NOT_HERE.match(line)]
    script = _BEAMTIME.sub(beamtime, "\n".join(lines))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


#: Pages whose code begins with names that the text explains: what they stand for.
_GIVEN = {
    "docs/sinks/hdf5.md": """
import numpy, pipeline
session = pipeline.connect()
with session.publish("c1", "lambda", "given", rate_hz=100) as out:
    for step in range(3):
        out.write(numpy.full((4, 6), step, numpy.uint16))
stream = session.stream("c1", "lambda", "given")
info, frames, account = stream.info, list(stream.ordered()), stream.account()
"""
}


def run_page(page: Path, folder: Path, beamtime: str) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    given = _GIVEN.get(str(page.relative_to(ROOT)), "")
    exec(_BEAMTIME.sub(beamtime, given), names)
    try:
        _run_blocks(page, names, folder, beamtime)
    finally:
        if "session" in names:
            names["session"].close()


def _run_blocks(page: Path, names: dict[str, Any], folder: Path, beamtime: str) -> None:
    for block in blocks(page, "python", "sh"):
        if block.not_run:
            continue
        if block.language == "python":
            run_python(block, names, beamtime)
        else:
            run_shell(block, folder, beamtime)


# -- the README, from nothing --------------------------------------------------------------------


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's empty folder, with a runtime of its own that the README starts and ends."""
    for name in [name for name in os.environ if name.startswith("LICHTSTROM_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("LICHTSTROM_HOME", str(home))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(folder)
    yield folder
    down(home)


@pytest.mark.service
@pytest.mark.timeout(600)
def test_the_readme_runs_from_its_first_line_to_its_last(newcomer: Path, beamtime: str) -> None:
    run_page(ROOT / "README.md", newcomer, beamtime)
    assert not (newcomer.parent / "home" / "runtime.json").exists(), "its last command ends all"


def test_the_two_commands_of_the_readme_are_steps_of_ci() -> None:
    first, *_ = blocks(ROOT / "README.md", "sh")
    assert re.findall(r"^make \w+", first.body, re.MULTILINE) == ["make demo", "make test"]
    steps = (ROOT / ".ci/run").read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in ("demo", "test"):
        assert target in targets
        assert re.search(rf"\bmake (\S+ )*{target}\b", steps)


# -- the other documents -------------------------------------------------------------------------


def with_code() -> list[Path]:
    return [
        page
        for page in pages()
        if page.name != "README.md" and any(not b.not_run for b in blocks(page, "python", "sh"))
    ]


@pytest.mark.service
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", with_code(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_code_of_a_page_runs(
    page: Path, home_env: Path, beamtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, beamtime)


# -- examples ------------------------------------------------------------------------------------


@pytest.mark.service
@pytest.mark.timeout(180)
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_an_example_runs(script: Path, home_env: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_is_named_in_the_documents() -> None:
    text = "".join(page.read_text() for page in pages())
    scripts = (ROOT / "examples").glob("*.py")
    assert [s.name for s in scripts if f"examples/{s.name}" not in text] == []
