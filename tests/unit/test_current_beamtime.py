"""--beamtime auto: what a file or a command says, and what holds when it says nonsense."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from pipeline.config import BeamtimeSettings, load
from pipeline.errors import BrokerUnavailableError, ConfigError
from pipeline.ingest.beamtimes import CurrentBeamtime


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "current"
    path.write_text("  c1 \ncomment\n")
    return path


def following(file: Path) -> CurrentBeamtime:
    return CurrentBeamtime(BeamtimeSettings(file=str(file)), {"c1", "c2"}.__contains__)


def test_the_first_line_of_the_file_is_the_name_and_may_change(file: Path) -> None:
    current = following(file)
    assert current() == "c1"
    file.write_text("c2")
    assert current() == "c2"
    file.write_text("c1\n")
    assert current() == "c1"


@pytest.mark.parametrize("text", ["", "\n", "   \nc2", "nobody's", "a\x07b", "auto", "x" * 5000])
def test_nonsense_leaves_the_last_name_in_force_and_is_told_once(
    file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    current = following(file)
    current()
    file.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert [current(), current()] == ["c1", "c1"]
    assert len(caplog.records) == 1
    assert "new streams go to c1 as before" in caplog.text
    file.write_text("c2")
    assert current() == "c2"


def test_a_file_that_is_no_text_or_goes_leaves_the_last_name_in_force(file: Path) -> None:
    current = following(file)
    current()
    file.write_bytes(b"\xff\xfe\x00")
    assert current() == "c1"
    file.unlink()
    assert current() == "c1"


def test_without_any_good_name_the_file_and_the_reason_are_named(file: Path) -> None:
    file.write_text("c9")
    with pytest.raises(ConfigError, match="names c9, and there is no such beamtime: `lichtstrom b"):
        following(file)()
    file.unlink()
    with pytest.raises(ConfigError, match="current cannot be read as a beamtime's name"):
        following(file)()


def test_while_nobody_can_be_asked_the_name_counts(file: Path) -> None:
    def away(name: str) -> bool:
        raise BrokerUnavailableError("nowhere:1", "refused")

    assert CurrentBeamtime(BeamtimeSettings(file=str(file)), away)() == "c1"


def test_a_command_says_the_name_and_its_failure_is_told() -> None:
    def of(program: str) -> CurrentBeamtime:
        command = f'"{sys.executable}" -c "{program}"'
        return CurrentBeamtime(BeamtimeSettings(command=command), lambda name: True)

    assert of("print(7)")() == "7"
    with pytest.raises(ConfigError, match=r"does not tell the beamtime: .*exit status 3"):
        of("exit(3)")()


def test_one_of_file_and_command_must_be_set() -> None:
    for settings in (BeamtimeSettings(), BeamtimeSettings(file="f", command="c")):
        with pytest.raises(ConfigError, match="LICHTSTROM_BEAMTIME_FILE"):
            CurrentBeamtime(settings, lambda name: True)


def test_the_settings_name_the_file(tmp_path: Path) -> None:
    environment = {
        "LICHTSTROM_HOME": str(tmp_path),
        "LICHTSTROM_BEAMTIME_FILE": "/run/beamtime",
        "LICHTSTROM_BEAMTIME_CREATE_DETECTOR": "eiger",  # an option of `beamtime create`
    }
    assert load(environment=environment).beamtime.file == "/run/beamtime"
