"""The command line without servers: usage, help, exit statuses, what other programs read."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import plugins
from pipeline.cli.root import COMMANDS, lichtstrom
from pipeline.errors import PipelineError, PluginError


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSTROM_HOME", str(tmp_path / "home"))


def run(*arguments: str, **options):
    return CliRunner().invoke(lichtstrom, list(arguments), **options)


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and sub-command with its path."""
    waiting: list[tuple[str, click.Command]] = [("", lichtstrom)]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                waiting.append((f"{path} {name}".strip(), found))


ALL = dict(_commands())


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_command_has_help_and_so_has_every_option(path: str) -> None:
    result = run(*path.split(), "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage: lichtstrom")
    assert ALL[path].help
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts}"
            assert parameter.help.endswith((".", "]")), parameter.help


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_number_says_its_unit_and_every_option_its_default(path: str) -> None:
    for parameter in ALL[path].params:
        if not isinstance(parameter, click.Option) or parameter.is_flag or parameter.count:
            continue
        if not isinstance(parameter.type, click.Choice):
            assert parameter.metavar, f"{path} {parameter.opts} has no unit"
        says = "default" in (parameter.help or "") or "required" in (parameter.help or "")
        known = parameter.required or parameter.default is not None or says
        assert known or path.startswith("simulate"), f"{path} {parameter.opts}"


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    result = run("--help")
    for name, (module, text) in COMMANDS.items():
        assert f"{name} " in result.output
        assert text.endswith(".")
        assert ALL[name].callback is not None or isinstance(ALL[name], click.Group), module


def test_help_imports_neither_numpy_nor_kafka() -> None:
    code = (
        "import sys\nfrom pipeline.cli.root import lichtstrom\n"
        "try: lichtstrom(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'confluent_kafka', 'obstore', 'h5py', 'rich', 'minio'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


def test_the_version_is_the_distributions() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("lichtstrom 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("show",),
        ("show", "only/two"),
        ("verify", "a/b"),
        ("streams", "*"),
        ("frames", "a/b/c", "--limit", "-1"),
        ("end", "a/b/c", "--state", "complete"),
        ("export", "a/b/c"),
        ("sink", "hdf5", "a/b/c"),
        ("worker", "m:f", "a/b/c"),
        ("worker", "m:f", "a/b/c", "--group", "g", "--processes", "0"),
        ("adapter", "nonsense"),
        ("adapter", "pilatus"),
        ("adapter", "pilatus", "--watch", ".", "--streams", "0"),
        ("adapter", "pilatus", "--watch", ".", "--detector", "d"),
        ("simulate", "pilatus"),
        ("spool", "list", "/nowhere/at/all"),
        ("demo", "--seconds", "-1"),
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("streams",), 1, "run `lichtstrom up`"),
        (("verify", "a/b/c"), 3, "run `lichtstrom up`"),
        (("streams", "--store", "nonsense://x"), 1, "store.url"),
        (("status",), 1, ""),
        (("adapter", "pilatus", "--watch", "nowhere", "--check"), 1, "nowhere"),
        (("simulate", "pilatus", "--directory", "d", "--frames", "-1"), 1, "frames"),
        (("simulate", "lambda", "--port", "0", "--truth", "nowhere/t"), 1, "nowhere/t: No such"),
        (("adapter", "eiger", "--check"), 1, "--stream-endpoint"),
        (("adapter", "lambda", "--watch", ".", "--share", "0", "--check"), 1, "--endpoint"),
    ],
)
def test_an_expected_failure_is_one_line(
    arguments: tuple[str, ...], status: int, text: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert text in result.stderr
    assert len(result.stderr.splitlines()) <= 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [("lambda",), ("eiger", "--stream-port", "0")])
def test_a_simulator_whose_port_is_taken_says_so_in_a_line(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("simulate", *arguments, "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Address already in use (another program has the port")
    assert "Traceback" not in result.output


def test_our_errors_keep_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PipelineError("the detector is on fire")

    monkeypatch.setattr("pipeline.local.status", fail)
    result = run("status")
    assert result.exit_code == 1
    assert result.stderr == "Error: the detector is on fire\n"


def test_ctrl_c_outside_of_a_long_command_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.local.status", interrupted)
    result = run("status")
    assert result.exit_code == 130


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("LICHTSTROM_SIMULATE_PILATUS_FRAMES", "2")
    monkeypatch.setenv("LICHTSTROM_SIMULATE_PILATUS_RATE_HZ", "0")
    result = run("simulate", "pilatus", "--directory", "d", "--model", "100k", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith('"frames": 2\n}')
    assert len(list((tmp_path / "d").iterdir())) == 2


def test_an_adapter_reads_its_section_of_the_file(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "lichtstrom.toml").write_text('[adapter.pilatus]\nwatch = "images"\n')
    result = run("adapter", "pilatus", "--check", "--json")
    assert result.exit_code == 0, result.output
    assert '"files": 0' in result.stdout


def test_an_unknown_setting_of_an_adapter_is_named_with_the_nearest(tmp_path) -> None:
    (tmp_path / "lichtstrom.toml").write_text('[adapter.pilatus]\nwach = "images"\n')
    result = run("adapter", "pilatus", "--check")
    assert result.exit_code == 1
    assert "wach is unknown; did you mean 'watch'?" in result.stderr


def test_a_plugin_that_fails_is_named_with_its_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint(name="broken", value="no.such:Adapter", group="lichtstrom.adapters")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    result = run("adapter", "broken", "--help")
    assert result.exit_code == 1
    assert "'broken' of unknown cannot be loaded" in result.stderr
    assert run("adapter", "--help").exit_code == 0  # listed all the same


def test_a_plugin_whose_options_fail_is_named() -> None:
    class Bad:
        @classmethod
        def options(cls):
            raise RuntimeError("oops")

    point = EntryPoint(name="bad", value="x:Bad", group="lichtstrom.adapters")
    with pytest.raises(PluginError, match=r"options\(\) failed: RuntimeError: oops"):
        plugins.parameters(Bad, point)


def test_a_demo_never_empties_a_directory_that_is_not_its_own(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    result = run("demo", "--home", str(tmp_path))
    assert result.exit_code == 1
    assert "was not made by a demo" in result.stderr
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_doctor_says_what_is_missing() -> None:
    result = run("doctor", "--json")
    assert result.exit_code in (0, 1)
    assert '"name": "python"' in result.stdout


def test_down_where_nothing_runs_is_fine() -> None:
    assert run("down").exit_code == 0
