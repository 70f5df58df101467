"""The Connect worker of a home without starting it: its settings, its plugins, its environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.errors import RuntimeUnavailableError
from pipeline.local import jars, plugins
from pipeline.local.connect import (
    ConnectServer,
    properties_text,
    this_command,
    worker_environment,
)
from pipeline.local.connect_worker import start_worker
from pipeline.local.plugins import gather


@pytest.fixture
def file_connectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[jars.Artifact]:
    """The plugin that is locked, with other bytes, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    _, found = plugins.split(jars.read_lock(jars.CONNECT_LOCK))
    for artifact in found:
        path = jars.jars_dir() / artifact.path
        path.parent.mkdir(parents=True)
        path.write_bytes(b"file")
    return found


def build(checkout: Path, name: str, content: bytes = b"jar") -> Path:
    jar = checkout / "connectors" / name / "target" / f"connect-{name}-1.jar"
    jar.parent.mkdir(parents=True, exist_ok=True)
    jar.write_bytes(content)
    return jar


def in_checkout(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setattr(
        "pipeline.local.plugins.__file__", str(checkout / "pipeline" / "local" / "plugins.py")
    )


# -- settings ---------------------------------------------------------------------------------


def test_topics_and_group_of_the_worker_begin_with_the_prefix(tmp_path: Path) -> None:
    settings = ConnectServer(home=tmp_path, bootstrap="h:1", prefix="abc").properties(8083)
    assert settings["group.id"] == "abc.connect"
    topics = {settings[f"{kind}.storage.topic"] for kind in ("config", "offset", "status")}
    assert topics == {"abc.connect-configs", "abc.connect-offsets", "abc.connect-status"}
    assert settings["listeners"] == "http://127.0.0.1:8083"


def test_paths_that_java_would_misread_come_back_from_the_properties(tmp_path: Path) -> None:
    odd = tmp_path / " Übung \\n 𝔛 = x"
    server = ConnectServer(home=tmp_path, bootstrap="h:1", plugin_path=[odd])
    (tmp_path / "connect").mkdir()
    text = properties_text(server.properties(8083))
    (tmp_path / "connect" / "connect.properties").write_text(text, "ascii")
    assert server.recorded() == server.properties(8083)


def test_a_home_that_never_had_a_worker_has_recorded_nothing(tmp_path: Path) -> None:
    assert ConnectServer(home=tmp_path).recorded() == {}


def test_a_folder_of_plugins_with_a_comma_is_refused_because_connect_would_split_it(
    tmp_path: Path,
) -> None:
    server = ConnectServer(home=tmp_path, plugin_path=[tmp_path / "a,b"])
    with pytest.raises(RuntimeUnavailableError, match="comma"):
        server.properties(8083)


def test_what_a_worker_starts_finds_the_home_and_this_lichtstrom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1k")
    monkeypatch.setenv("LICHTSTROM_HOME", "/another")
    found = worker_environment(tmp_path)
    assert found["LICHTSTROM_HOME"] == str(tmp_path)
    assert found["LICHTSTROM_COMMAND"] == "\n".join(this_command())
    assert "JAVA_TOOL_OPTIONS" not in found


def test_the_command_is_the_script_beside_python_or_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert this_command() == (str(tmp_path / "python"), "-m", "pipeline.cli")
    (tmp_path / "lichtstrom").touch()
    assert this_command() == (str(tmp_path / "lichtstrom"),)


def test_another_worker_needs_a_home_whose_worker_runs(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="lichtstrom up --connect"):
        start_worker(tmp_path)


# -- plugins ----------------------------------------------------------------------------------


def test_only_kafkas_own_file_connectors_are_kept_off_the_class_path() -> None:
    on_path, off_path = plugins.split(jars.read_lock(jars.CONNECT_LOCK))
    assert [artifact.name for artifact in off_path] == ["connect-file"]
    assert "connect-runtime" in {artifact.name for artifact in on_path}


def test_what_a_checkout_has_built_is_copied_into_a_folder_for_each_plugin(
    tmp_path: Path, file_connectors: list[jars.Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_checkout(monkeypatch, tmp_path)
    build(tmp_path, "one")
    build(tmp_path, "two")
    (home := tmp_path / "home").mkdir()
    (folder,) = gather(home, file_connectors)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jar")) == [
        "connect-file/connect-file-4.3.1.jar",
        "one/connect-one-1.jar",
        "two/connect-two-1.jar",
    ]


def test_a_plugin_that_was_built_again_replaces_the_old_copy_and_one_that_is_gone_goes(
    tmp_path: Path, file_connectors: list[jars.Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_checkout(monkeypatch, tmp_path)
    gone = build(tmp_path, "gone")
    build(tmp_path, "kept", b"old")
    gather(tmp_path, file_connectors)
    gone.unlink()
    build(tmp_path, "kept", b"new")
    (folder,) = gather(tmp_path, file_connectors)
    assert (folder / "kept" / "connect-kept-1.jar").read_bytes() == b"new"
    assert not (folder / "gone").exists()


def test_plugins_that_are_as_they_should_be_are_left_to_those_who_read_them(
    tmp_path: Path, file_connectors: list[jars.Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_checkout(monkeypatch, tmp_path)
    build(tmp_path, "one")
    (folder,) = gather(tmp_path, file_connectors)
    before = {path: path.stat().st_ino for path in folder.rglob("*.jar")}
    assert len(before) == 2
    gather(tmp_path, file_connectors)
    assert {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()} == before


def test_of_several_versions_of_a_plugin_the_last_one_built_is_taken_and_no_half_made_one(
    tmp_path: Path,
) -> None:
    old = build(tmp_path, "one")
    new = old.with_name("connect-one-0.jar")
    new.write_bytes(b"jar")
    old.with_name("original-connect-one-1.jar").write_bytes(b"jar")
    os.utime(old, ns=(1, 1))
    assert plugins.built_plugins(tmp_path) == [new]


def test_without_any_plugin_the_error_says_how_to_get_them(
    tmp_path: Path, file_connectors: list[jars.Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_checkout(monkeypatch, tmp_path)
    with pytest.raises(RuntimeUnavailableError, match=r"make connectors.*apt install maven"):
        gather(tmp_path, file_connectors)


def test_folders_that_a_site_names_are_used_where_they_are_instead_of_a_build(
    tmp_path: Path, file_connectors: list[jars.Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_checkout(monkeypatch, tmp_path)
    build(tmp_path, "one")
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.setenv(plugins.VARIABLE, f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    folder, *named = gather(tmp_path, file_connectors)
    assert named == [tmp_path / "a", tmp_path / "b"]
    assert [path.parent.name for path in folder.rglob("*.jar")] == ["connect-file"]
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(RuntimeUnavailableError, match=r"absent.*does not exist"):
        gather(tmp_path, file_connectors)
