"""What `lichtstrom connect hdf5` tells Kafka Connect, and its command line without a worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.root import lichtstrom
from pipeline.connectors.hdf5_config import connector_config, connector_name, dead_letters
from pipeline.errors import InvalidNameError
from pipeline.naming import MAX_TOPIC_LENGTH, Names, StreamId
from pipeline.sinks.hdf5.files import Options

STREAM = StreamId("c20261122", "lambda 1", "scan_7/a")


def config_of(options: Options | None = None, *, names: Names | None = None) -> dict[str, str]:
    return connector_config(
        STREAM,
        Path("/data/out"),
        options or Options(),
        names=names or Names(),
        name="n",
        tasks=3,
        replication=1,
    )


def test_the_connector_reads_the_detectors_topic_as_bytes() -> None:
    config = config_of(names=Names("abc"))
    assert config["topics"] == "abc.c20261122.lambda-201"
    assert config["tasks.max"] == "3"
    assert config["key.converter"] == config["value.converter"]
    assert config["value.converter"].endswith(".ByteArrayConverter")


def test_the_stream_stands_in_the_settings_so_that_it_can_be_parsed_again() -> None:
    assert StreamId.parse(config_of()["stream"]) == STREAM


def test_every_option_of_the_file_is_passed_on_as_text() -> None:
    options = Options(
        compression="as-is", overwrite=True, frames_per_file=10, check="full", layout="nxdata"
    )
    config = config_of(options)
    keys = ("compression", "overwrite", "frames.per.file", "check", "layout", "out.dir")
    assert [config[key] for key in keys] == ["as-is", "true", "10", "full", "nxdata", "/data/out"]


def test_fields_of_the_users_own_are_passed_on_if_there_are_any() -> None:
    assert config_of()["map"] == ""
    config = connector_config(
        STREAM,
        Path("/data/out"),
        Options(),
        names=Names(),
        name="n",
        tasks=1,
        replication=1,
        mapping=Path("/data/map.toml"),
    )
    assert config["map"] == "/data/map.toml"


def test_a_record_that_cannot_be_used_goes_to_a_topic_named_after_the_consumers_group() -> None:
    config = config_of()
    assert config["errors.tolerance"] == "all"
    name = config["errors.deadletterqueue.topic.name"]
    assert name == Names().dead_letters("c20261122", "lambda 1", "connect-n")
    assert name == "lichtstrom.c20261122.lambda-201.connect--n.dlq"


def test_two_streams_never_share_a_connectors_name() -> None:
    one, two = StreamId("a", "b", "c.d"), StreamId("a", "b.c", "d")
    assert connector_name(one) != connector_name(two)
    assert connector_name(StreamId("a", "b", "c")) == "hdf5.a.b.c"


def test_a_name_that_makes_too_long_a_topic_is_told_as_the_groups() -> None:
    with pytest.raises(InvalidNameError, match="group 'connect-"):
        dead_letters(Names(), STREAM, "x" * 190 + "." * 10)
    assert len(dead_letters(Names(), STREAM, connector_name(STREAM))) <= MAX_TOPIC_LENGTH


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSTROM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LICHTSTROM_CONNECT_URL", raising=False)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("arguments", [["list"], ["remove", "n"], ["hdf5", "a/b/c", "--out", "x"]])
def test_without_a_worker_the_command_says_how_to_get_one(arguments: list[str]) -> None:
    result = CliRunner().invoke(lichtstrom, ["connect", *arguments])
    assert result.exit_code == 1
    assert "runs no Kafka Connect worker: `lichtstrom up --connect`" in result.output


@pytest.mark.usefixtures("nothing_runs")
def test_the_address_of_a_worker_comes_from_the_option_or_the_environment() -> None:
    for more, environment in (
        (["--url", "http://127.0.0.1:1"], {}),
        ([], {"LICHTSTROM_CONNECT_URL": "http://127.0.0.1:1"}),
    ):
        result = CliRunner().invoke(lichtstrom, ["connect", "list", *more], env=environment)
        assert result.exit_code == 1
        assert "Kafka Connect at http://127.0.0.1:1 does not answer" in result.output


@pytest.mark.usefixtures("nothing_runs")
def test_a_limit_without_anything_to_wait_for_is_wrong_usage() -> None:
    arguments = ["connect", "hdf5", "a/b/c", "--out", "x", "--timeout", "3"]
    result = CliRunner().invoke(lichtstrom, arguments)
    assert result.exit_code == 2
    assert "--timeout is the limit of --wait" in result.output
