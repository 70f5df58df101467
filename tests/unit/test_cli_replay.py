"""``simulate replay`` and samples by ``export``: what is refused before anything is contacted."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.root import lichtstrom


@pytest.fixture(autouse=True)
def _no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICHTSTROM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LICHTSTROM_STORE_URL", f"file://{tmp_path}/store")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(lichtstrom, list(arguments))


def test_replay_stands_beside_the_simulators() -> None:
    text = run("simulate", "--help").output
    assert "replay" in text
    assert "pilatus" in text


@pytest.mark.parametrize(
    "options",
    [["--rate", "0"], ["--rate", "-1"], ["--rounds", "-1"], ["--times", "never"], []],
)
def test_replay_refuses_what_makes_no_sense(options: list[str]) -> None:
    source = ["x.h5"] if options else []
    assert run("simulate", "replay", *source, *options).exit_code == 2


def test_replay_names_a_selection_that_it_does_not_understand(tmp_path: Path) -> None:
    done = run("simulate", "replay", str(tmp_path), "--frames", "1-5")
    assert done.exit_code == 1
    assert "'1-5' is neither NUMBER nor FIRST:STOP:STEP" in done.output


@pytest.mark.parametrize(
    "options",
    [
        ["--frames", "::2"],
        ["--frames", "::2", "--kerchunk", "x.json"],
        ["--to", "file:///tmp/x", "--where", "a > 1", "--no-verify"],
    ],
)
def test_a_sample_goes_to_a_store_and_is_verified(options: list[str]) -> None:
    done = run("export", "b/d/s", *options)
    assert done.exit_code == 2
    assert "--to" in done.output


def test_a_store_without_one_stream_says_how_many(tmp_path: Path) -> None:
    done = run("simulate", "replay", f"file://{tmp_path}")
    assert done.exit_code == 2
    assert "has 0 streams (none)" in done.output
