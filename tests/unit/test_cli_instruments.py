"""Instruments of the settings file: described, checked, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.root import lichtstrom


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSTROM_HOME", str(tmp_path / "home"))


def run(text: str, *arguments: str):
    Path("lichtstrom.toml").write_text(text)
    return CliRunner().invoke(lichtstrom, ["adapter", *arguments])


TWO = """
[adapter.waxs]
adapter = "pilatus"
watch = "a"
[adapter.saxs]
adapter = "files"
watch = "b"
patterns = "*.tif"
"""


def test_all_sections_are_checked_and_said_by_name(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x_1.tif").write_bytes(b"")
    result = run(TWO, "run", "--check", "--json")
    assert result.exit_code == 1, result.output  # beamtime and detector are asked for, too
    assert "[adapter.waxs]: Missing option '--beamtime'" in result.stderr


def test_a_check_looks_at_the_instruments_that_are_named(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    section = TWO.replace('watch = "a"', 'watch = "a"\nbeamtime = "b"\ndetector = "d"')
    result = run(section, "run", "waxs", "--check", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == 0


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ('[adapter.x]\nadapter = "nonsense"', "adapter = 'nonsense' is not one of"),
        ('[adapter.x]\nadapter = "pilatus"\nwach = 1', "wach is unknown; did you mean 'watch'?"),
        ('[adapter.x]\nadapter = "pilatus"', "[adapter.x]: Missing option"),
        ('[adapter.x]\nadapter = "pilatus"\nwatch = "a"\nstreams = 0', "[adapter.x]: Invalid"),
        ("[adapter.y]\nwatch = 1", "no section [adapter.x]; there are: y"),
        ("", "no section [adapter.x]; there are: none"),
        ("[adapter]\nx = 1", "lichtstrom.toml"),
    ],
)
def test_a_wrong_section_is_named_with_what_is_wrong(section: str, complaint: str) -> None:
    result = run(section, "run", "x")
    assert result.exit_code == 1
    assert complaint in result.stderr


def test_without_sections_it_says_what_is_missing() -> None:
    assert "has no section [adapter.INSTRUMENT]" in run("", "run").stderr
