"""The lock file, the cache of jars, and the ways to fill it."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from pipeline.errors import RuntimeUnavailableError
from pipeline.local import jars
from pipeline.local.commands import run
from pipeline.local.fetch import settings_mirror

GOOD = b"class bytes"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an empty cache, no Maven repository and nobody to ask."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("M2_REPO", raising=False)
    monkeypatch.setenv("LICHTSTROM_MAVEN_REPOSITORY", (tmp_path / "nowhere").as_uri())
    return tmp_path / "cache" / "lichtstrom"


def artifact(content: bytes = GOOD) -> jars.Artifact:
    return jars.Artifact(
        group="org.example",
        name="thing_2.13",
        version="1.2-rc1",
        sha256=hashlib.sha256(content).hexdigest(),
    )


def repository_with(folder: Path, content: bytes) -> Path:
    path = folder / artifact().path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return folder


def test_the_shipped_lock_file_names_the_broker_once_and_each_artifact_once() -> None:
    artifacts = jars.read_lock()
    names = [f"{a.group}:{a.name}" for a in artifacts]
    assert "org.apache.kafka:kafka_2.13:4.3.1" in [a.coordinate for a in artifacts]
    assert len(names) == len(set(names))
    assert {a.version for a in artifacts if a.group == "org.apache.kafka"} == {"4.3.1"}


def test_the_class_path_of_connect_has_the_brokers_versions_of_what_both_need() -> None:
    connect = {f"{a.group}:{a.name}": a for a in jars.read_lock(jars.CONNECT_LOCK)}
    broker = {f"{a.group}:{a.name}": a for a in jars.read_lock()}
    assert connect["org.apache.kafka:connect-runtime"].version == "4.3.1"
    assert "org.apache.logging.log4j:log4j-slf4j-impl" in connect
    shared = connect.keys() & broker.keys()
    assert "org.apache.kafka:kafka-clients" in shared
    assert {name: connect[name] for name in shared} == {name: broker[name] for name in shared}
    assert len(connect) == len(jars.read_lock(jars.CONNECT_LOCK))


def test_a_wrong_line_is_said_with_the_name_of_its_lock_file() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"connect\.lock line 2 is not"):
        jars.parse_lock("# fine\nnonsense\n", name=jars.CONNECT_LOCK)


def test_an_artifact_lies_where_maven_repositories_have_it() -> None:
    assert artifact().path == "org/example/thing_2.13/1.2-rc1/thing_2.13-1.2-rc1.jar"


def test_a_lock_file_may_hold_comments_and_empty_lines() -> None:
    text = f"# a comment\n\norg.example:thing:1 {'0' * 64}\n"
    assert [a.coordinate for a in jars.parse_lock(text)] == ["org.example:thing:1"]


@pytest.mark.parametrize(
    "line",
    [
        "org.example:thing 1",
        f"org.example:thing:1 {'0' * 63}",
        f"org.example:thing:1 {'G' * 64}",
        f"../../etc:thing:1 {'0' * 64}",
        f"org.example:thing:1 {'0' * 64} more",
    ],
)
def test_a_malformed_line_of_the_lock_file_is_named_by_its_number(line: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"line 2 .*" + re.escape(repr(line))):
        jars.parse_lock(f"# first\n{line}\n")


def test_what_maven_fetched_before_is_used_if_its_checksum_is_right(
    cache: Path, tmp_path: Path
) -> None:
    repository_with(tmp_path / "home" / ".m2" / "repository", GOOD)
    (path,) = jars.ensure([artifact()], timeout_s=5.0)
    assert path.is_relative_to(cache)
    assert path.read_bytes() == GOOD


def test_a_named_repository_is_asked_for_what_the_cache_lacks(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_with(tmp_path / "site", GOOD)
    monkeypatch.setenv("LICHTSTROM_MAVEN_REPOSITORY", repository.as_uri())
    said: list[str] = []
    (path,) = jars.ensure([artifact()], timeout_s=5.0, progress=said.append)
    assert path.read_bytes() == GOOD
    assert "LICHTSTROM_MAVEN_REPOSITORY" in said[0]
    shutil.rmtree(repository)
    assert jars.ensure([artifact()], timeout_s=5.0) == (path,)


def test_a_jar_with_another_checksum_never_reaches_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_with(tmp_path / "site", b"tampered")
    monkeypatch.setenv("LICHTSTROM_MAVEN_REPOSITORY", repository.as_uri())
    with pytest.raises(RuntimeUnavailableError, match="another SHA-256") as caught:
        jars.ensure([artifact()], timeout_s=5.0)
    assert artifact().coordinate in str(caught.value)
    assert not list(cache.rglob("*.jar"))


def test_a_jar_damaged_in_the_cache_is_fetched_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_with(tmp_path / "site", GOOD)
    monkeypatch.setenv("LICHTSTROM_MAVEN_REPOSITORY", repository.as_uri())
    (path,) = jars.ensure([artifact()], timeout_s=5.0)
    path.write_bytes(b"bit rot")
    assert jars.missing([artifact()]) == (artifact(),)
    jars.ensure([artifact()], timeout_s=5.0)
    assert path.read_bytes() == GOOD


def test_out_of_time_is_an_error_that_names_the_variable_for_a_sites_repository(
    cache: Path,
) -> None:
    with pytest.raises(RuntimeUnavailableError, match="LICHTSTROM_MAVEN_REPOSITORY"):
        jars.ensure([artifact()], timeout_s=0.0)


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ("*", "https://mirror.example/maven"),
        ("central", "https://mirror.example/maven"),
        ("external:*, !other", "https://mirror.example/maven"),
        ("*,!central", None),
        ("other", None),
    ],
)
def test_the_mirror_of_the_users_maven_settings_is_found(
    tmp_path: Path, of: str, expected: str | None
) -> None:
    path = tmp_path / "settings.xml"
    path.write_text(
        '<settings xmlns="urn:maven"><mirrors><mirror><id>m</id>'
        f"<mirrorOf>{of}</mirrorOf><url>https://mirror.example/maven</url>"
        "</mirror></mirrors></settings>"
    )
    assert settings_mirror(path) == expected


def test_no_settings_and_broken_settings_name_no_mirror(tmp_path: Path) -> None:
    (tmp_path / "broken.xml").write_text("<settings><mirrors>")
    assert settings_mirror(tmp_path / "broken.xml") is None
    assert settings_mirror(tmp_path / "missing.xml") is None


def test_a_program_that_fails_is_reported_with_its_last_lines() -> None:
    with pytest.raises(RuntimeUnavailableError, match="status 3: the reason"):
        run(["/bin/sh", "-c", "echo the reason >&2; exit 3"], timeout_s=10.0)


def test_a_program_that_is_not_there_is_reported() -> None:
    with pytest.raises(RuntimeUnavailableError, match="cannot be run"):
        run(["/nowhere/program"], timeout_s=10.0)


def test_a_program_that_hangs_is_ended_at_its_limit() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"did not end in 0\.1 s"):
        run(["/bin/sleep", "60"], timeout_s=0.1)
