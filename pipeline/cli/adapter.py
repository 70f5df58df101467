"""``lichtstrom adapter NAME``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click

from pipeline.cli import plugins
from pipeline.cli.groups import FailedError
from pipeline.cli.ingesting import Instrument, check, line, publish, section
from pipeline.cli.metrics import observed
from pipeline.cli.output import json_option, print_json, report_option, status_line
from pipeline.cli.signals import stopping
from pipeline.ingest.report import IngestReport

_COMMON: list[Callable[[Any], Any]] = [
    click.option(
        "--beamtime",
        metavar="NAME",
        help="Beamtime of the streams; required. auto: follow what [beamtime] in lichtstrom.toml"
        " says, stream by stream.",
    ),
    click.option("--detector", metavar="NAME", help="Detector of the streams; required."),
    click.option(
        "--stream",
        metavar="NAME",
        help="Name of the stream; further ones are NAME.2, NAME.3, ...  [default: the series' own"
        " name and a run id]",
    ),
    click.option(
        "--idle-end",
        "idle_end_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="End a stream after so much silence.  [default: never, or as the device says]",
    ),
    click.option(
        "--streams",
        type=click.IntRange(min=1),
        metavar="N",
        help="Exit after N ended streams.  [default: go on]",
    ),
    click.option(
        "--after",
        type=click.Choice(["keep", "delete", "move"]),
        default="keep",
        help="What becomes of a source once its frame is safe on disk.",
    ),
    click.option(
        "--durability",
        type=click.Choice(["process", "disk"]),
        help="Survive the death of any process, or the loss of power.  [default: as configured;"
        " disk with --after delete or move]",
    ),
    click.option(
        "--spool",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Keep frames here while broker or store are away or too slow; when it is full, the"
        " source waits.  [default: the source waits]",
    ),
    click.option(
        "--hole-wait",
        "hole_wait_s",
        type=click.FloatRange(min=0),
        default=2.0,
        metavar="SECONDS",
        help="How long readers in order wait for a file that comes late.",
    ),
    click.option(
        "--flush-timeout",
        "flush_timeout_s",
        type=click.FloatRange(min=0),
        default=30.0,
        metavar="SECONDS",
        help="How long the last frames may take when it stops.",
    ),
    click.option("--takeover", is_flag=True, help="Take streams from a writer that is alive."),
    click.option("--check", is_flag=True, help="Only contact the source and say what is seen."),
    observed(),
    report_option,
    json_option,
]


def build(point: EntryPoint) -> click.Command:
    """Return the command of one adapter."""
    plugin = plugins.load(point)

    @click.pass_context
    def run(ctx: click.Context, /, **values: Any) -> None:
        _run(Instrument(name=point.name, plugin=plugin, values=values), ctx)

    for option in reversed(_COMMON):
        run = option(run)
    command = click.command(point.name, help=_help(plugin))(run)
    own = plugins.parameters(plugin, point)
    common = {parameter.name for parameter in command.params}
    command.params = [p for p in own if p.name not in common] + command.params
    command.context_settings["default_map"] = section(point.name, command)
    return command


def _help(plugin: Any) -> str:
    first = (plugin.__doc__ or plugin.__name__).strip().partition("\n\n")[0]
    return (
        f"{first}\n\nGoes on with streams that an earlier run left open. Ctrl-C or SIGTERM finish"
        " what is queued and leave them open. Settings can also stand in lichtstrom.toml under"
        f" [adapter.{plugin.name}]; `lichtstrom adapter run` publishes several instruments."
    )


def _run(instrument: Instrument, ctx: click.Context) -> None:
    values = instrument.values
    if values["check"]:
        check([instrument], as_json=values["as_json"])
        return
    instrument.check_usage(ctx)
    report = IngestReport()

    def left() -> str:
        return f"{report.frames - report.confirmed} frames were not flushed; their sources are kept"

    with stopping(left) as stop, status_line(values["report_s"]) as say:
        publish(
            instrument,
            stop=stop.event,
            report=report,
            on_progress=lambda so_far: say(
                line(so_far), frames=so_far.frames, confirmed=so_far.confirmed
            ),
        )
    if not report.not_flushed and stop.signum:
        click.echo(line(report), err=True)
        stop.exit_if_asked()
    if values["as_json"]:
        print_json(dataclasses.asdict(report))
    else:
        click.echo(line(report), err=True)
        for name in report.ended:
            click.echo(name)
    if report.not_flushed:
        raise FailedError(f"{report.not_flushed} frames were not flushed; their sources are kept")


class AdapterGroup(plugins.PluginGroup):
    """The adapters, and ``run`` for instruments of the settings file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return ``run`` and the adapters' names."""
        return ["run", *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name == "run":
            from pipeline.cli.instruments import command as run

            return run
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the adapters, and ``run`` by itself."""
        super().format_commands(ctx, formatter)
        with formatter.section("Several instruments"):
            formatter.write_dl([("run", "Publish the instruments that lichtstrom.toml describes.")])


command = click.group(
    cls=AdapterGroup,
    plugins="lichtstrom.adapters",
    build=build,
    help="Publish what an instrument makes: `lichtstrom adapter NAME --help` tells its settings.",
)(lambda: None)
