"""Settings: their order, what is unknown or malformed, and secrets that do not show themselves."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.config import PublishSettings, Secret, Settings, load, with_publish
from pipeline.errors import ConfigError

RUNTIME = {
    "kafka": {"bootstrap": "127.0.0.1:9092"},
    "store": {"url": "file:///local/store"},
    "s3": {"endpoint": "http://127.0.0.1:7070", "access_key": "ak", "secret_key": "hush"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(store: str | None = None, *, toml: str = "", runtime: Any = None, **env: str) -> Settings:
    home = Path("home")
    if runtime is not None:
        home.mkdir(exist_ok=True)
        text = runtime if isinstance(runtime, str) else json.dumps(runtime)
        (home / "runtime.json").write_text(text)
    if toml:
        Path("lichtstrom.toml").write_text(toml)
    return load(store, environment={"LICHTSTROM_HOME": str(home), **env})


# -- where settings come from -------------------------------------------------------------------


def test_with_nothing_said_everything_has_its_default() -> None:
    assert read() == Settings()
    assert read().create is False


def test_the_local_runtime_is_found_and_may_create() -> None:
    found = read(runtime=RUNTIME)
    assert found.kafka.bootstrap == "127.0.0.1:9092"
    assert found.store.url == "file:///local/store"
    assert found.store.endpoints == ("http://127.0.0.1:7070",)
    assert (found.store.access_key, str(found.store.secret_key)) == ("ak", "hush")
    assert found.create is True


def test_a_runtime_without_an_s3_server_is_one_of_files() -> None:
    found = read(runtime={**RUNTIME, "s3": None})
    assert found.store.endpoints == ()
    assert found.create is True


def test_arguments_come_before_environment_before_file_before_runtime() -> None:
    toml = '[kafka]\nbootstrap = "file:1"\ntimeout_s = 3\n[store]\nurl = "file:///toml"\n'
    env = {"LICHTSTROM_KAFKA_BOOTSTRAP": "env:1", "LICHTSTROM_STORE_URL": "file:///env"}
    assert read(toml=toml, runtime=RUNTIME).kafka.bootstrap == "file:1"
    found = read(toml=toml, runtime=RUNTIME, **env)
    assert (found.kafka.bootstrap, found.kafka.timeout_s) == ("env:1", 3.0)
    assert found.store.url == "file:///env"
    assert read("memory://x", toml=toml, runtime=RUNTIME, **env).store.url == "memory://x"


def test_the_two_ways_to_the_local_store_have_short_names() -> None:
    assert read("file", runtime=RUNTIME).store.url == "file:///local/store"
    assert read("s3", runtime=RUNTIME).store.url == "s3://"
    assert read(runtime=RUNTIME, LICHTSTROM_STORE_URL="s3").store.url == "s3://"
    assert read("file", runtime={**RUNTIME, "store": {"url": "file"}}).store.url == "file"


def test_the_file_can_be_named_by_the_environment(folder: Path) -> None:
    named = folder / "other.toml"
    named.write_text('[kafka]\nprefix = "beam"\n')
    assert read(LICHTSTROM_CONFIG=str(named)).kafka.prefix == "beam"
    with pytest.raises(ConfigError, match=r"missing.toml .*does not exist"):
        read(LICHTSTROM_CONFIG="missing.toml")


def test_lists_and_tables_can_be_given_in_the_file_and_in_the_environment() -> None:
    toml = (
        '[store]\nendpoints = ["http://a", "http://b"]\n[kafka.properties]\n"sasl.username" = 5\n'
    )
    found = read(toml=toml)
    assert found.store.endpoints == ("http://a", "http://b")
    assert found.kafka.properties == {"sasl.username": "5"}
    found = read(
        LICHTSTROM_STORE_ENDPOINTS="http://a, http://b",
        LICHTSTROM_KAFKA_PROPERTIES="sasl.username=u,sasl.password=a=b,",
    )
    assert found.store.endpoints == ("http://a", "http://b")
    assert found.kafka.properties == {"sasl.username": "u", "sasl.password": "a=b"}


def test_variables_of_other_programs_and_commands_are_left_alone() -> None:
    env = {"KAFKA_BOOTSTRAP": "x", "LICHTSTROM_ADAPTER_WATCH": "/data", "LICHTSTROM_CREATE_X": "1"}
    assert read(**env, LICHTSTROM_KAFKA="x") == Settings()


def test_sections_of_instruments_are_for_the_command_line() -> None:
    assert read(toml='[adapter.p1]\nwatch = "/data"\n') == Settings()


def test_the_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("LICHTSTROM_HOME", "~/x")
    assert config.home() == Path.home() / "x"
    monkeypatch.delenv("LICHTSTROM_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    assert config.home() == folder / "lichtstrom"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert config.home() == Path.home() / ".local/share/lichtstrom"


# -- whether topics are made --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "env", "create"),
    [
        ("", {}, True),
        ('[kafka]\nbootstrap = "far:1"\n', {}, False),
        ("", {"LICHTSTROM_KAFKA_BOOTSTRAP": "far:1"}, False),
        ("create = false\n", {}, False),
        # Said on purpose it holds for any broker; a named broker once took it back.
        ('create = true\n[kafka]\nbootstrap = "far:1"\n', {}, True),
        ("", {"LICHTSTROM_CREATE": "yes", "LICHTSTROM_KAFKA_BOOTSTRAP": "far:1"}, True),
        ("create = true\n", {"LICHTSTROM_CREATE": "0"}, False),
    ],
)
def test_topics_are_made_on_the_local_runtime_or_on_request(
    toml: str, env: dict[str, str], create: bool
) -> None:
    assert read(toml=toml, runtime=RUNTIME, **env).create is create


# -- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[kafak]\n", ["kafak", "unknown", "'kafka'"]),
        ("[zzz]\n", ["zzz", "known: kafka, store, publish, read"]),
        ("[kafka]\nbootstrp = 'x'\n", ["[kafka] bootstrp", "'bootstrap'"]),
        ("[publish]\nqqqqqq = 1\n", ["[publish] qqqqqq", "known:", "segment_nbytes"]),
        ("kafka = 5\n", ["kafka must be a section"]),
        ("create = 'perhaps'\n", ["create", "'perhaps'", "neither true nor false"]),
        ("create = 5\n", ["create", "5", "bool"]),
        ("[kafka]\nbootstrap = 5\n", ["bootstrap", "5", "str"]),
        ("[kafka]\ntimeout_s = 'soon'\n", ["timeout_s", "'soon'", "float"]),
        ("[kafka]\ntimeout_s = true\n", ["timeout_s", "True", "float"]),
        ("[kafka]\ntimeout_s = nan\n", ["kafka.timeout_s", "nan"]),
        ("[kafka]\ntimeout_s = -1\n", ["kafka.timeout_s", "must not be negative"]),
        ("[kafka]\npartitions = 0\n", ["kafka.partitions", "1 to 10000"]),
        ("[kafka]\npartitions = 2.5\n", ["partitions", "2.5", "int"]),
        ("[kafka]\nproperties = 5\n", ["properties", "5", "table"]),
        ("[store]\nendpoints = 5\n", ["endpoints", "5", "list"]),
        ("[publish]\ndurability = 'ram'\n", ["publish.durability", "'ram'", "process, disk"]),
        ("[publish]\nwhen_full = 'drop'\n", ["publish.when_full", "block, refuse"]),
        ("[publish]\nsegment_nbytes = 0\n", ["publish.segment_nbytes"]),
        ("[publish]\nuploads = 0\n", ["publish.uploads", "1 to 256"]),
        ("[publish]\ninline_nbytes = 1000000\n", ["publish.inline_nbytes", "0 to 131072"]),
        ("[publish]\nqueue_nbytes = 0\n", ["publish.queue_nbytes", "at least 1"]),
        ("[read]\nthreads = -3\n", ["read.threads", "must not be negative"]),
        ("[kafka\n", ["lichtstrom.toml"]),
        ("\0", ["lichtstrom.toml"]),
    ],
)
def test_what_is_wrong_in_the_file_is_named(toml: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(toml=toml)
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)


def test_what_is_wrong_in_the_environment_is_named_by_variable() -> None:
    with pytest.raises(ConfigError, match=r"LICHTSTROM_KAFKA_BOOTSTRP is unknown.*'bootstrap'"):
        read(LICHTSTROM_KAFKA_BOOTSTRP="x")
    with pytest.raises(ConfigError, match=r"LICHTSTROM_PUBLISH_UPLOADS: 'two' is not of type int"):
        read(LICHTSTROM_PUBLISH_UPLOADS="two")
    with pytest.raises(ConfigError, match="LICHTSTROM_CREATE: 'perhaps'"):
        read(LICHTSTROM_CREATE="perhaps")


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "lichtstrom.toml").mkdir()
    with pytest.raises(ConfigError, match=r"lichtstrom.toml"):
        read()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "5",
        "{}",
        '{"kafka": 5}',
        json.dumps({**RUNTIME, "s3": {"endpoint": "http://a"}}),
        json.dumps({**RUNTIME, "s3": "yes"}),
        json.dumps({"kafka": RUNTIME["kafka"]}),
    ],
)
def test_a_damaged_note_of_the_runtime_says_what_to_do(content: str) -> None:
    with pytest.raises(ConfigError, match=r"runtime.json cannot be read .*lichtstrom up"):
        read(runtime=content)


# -- secrets and copies -------------------------------------------------------------------------


def test_secrets_do_not_show_themselves(caplog: pytest.LogCaptureFixture) -> None:
    found = read(LICHTSTROM_STORE_SECRET_KEY="hush", LICHTSTROM_KAFKA_PROPERTIES="sasl.password=p4")
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("settings %r %s", found, found)
    shown = repr(found) + str(found) + f"{found.store.secret_key!r}" + caplog.text
    assert "hush" not in shown
    assert "p4" not in shown
    assert found.store.secret_key == "hush"
    assert repr(Secret()) == "''"
    assert repr(Secret("a")) == "'***'"


def test_settings_do_not_change_but_can_be_copied_with_changes() -> None:
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.create = True  # type: ignore[misc]
    changed = with_publish(settings, linger_s=0.5)
    assert changed.publish == PublishSettings(linger_s=0.5)
    assert settings.publish == PublishSettings()
