"""``lichtstrom adapter NAME``."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import plugins
from pipeline.cli.groups import FailedError
from pipeline.cli.output import (
    json_option,
    print_json,
    print_pairs,
    report_option,
    size_text,
    status_line,
)
from pipeline.cli.signals import stopping
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.ingest import IngestReport

_COMMON: list[Callable[[Any], Any]] = [
    click.option("--beamtime", metavar="NAME", help="Beamtime of the streams; required."),
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
        help="Keep frames here while broker or store are away.  [default: wait for them]",
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
    report_option,
    json_option,
]


def _build(point: EntryPoint) -> click.Command:
    plugin = plugins.load(point)

    @click.pass_context
    def run(ctx: click.Context, /, **values: Any) -> None:
        _run(ctx, plugin, values)

    for option in reversed(_COMMON):
        run = option(run)
    command = click.command(point.name, help=_help(plugin))(run)
    own = plugins.parameters(plugin, point)
    common = {parameter.name for parameter in command.params}
    command.params = [p for p in own if p.name not in common] + command.params
    command.context_settings["default_map"] = _configured(point.name, command)
    return command


def _help(plugin: Any) -> str:
    first = (plugin.__doc__ or plugin.__name__).strip().partition("\n\n")[0]
    return (
        f"{first}\n\nGoes on with streams that an earlier run left open. Ctrl-C or SIGTERM finish"
        " what is queued and leave them open. Settings can also stand in lichtstrom.toml under"
        f" [adapter.{plugin.name}]."
    )


def _configured(name: str, command: click.Command) -> dict[str, Any]:
    """Return the section of this adapter in lichtstrom.toml."""
    path = Path(os.environ.get("LICHTSTROM_CONFIG", "lichtstrom.toml"))
    try:
        section = tomllib.loads(path.read_text()).get("adapter", {}).get(name, {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    known = [parameter.name for parameter in command.params if parameter.name]
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{path}: [adapter.{name}] {key} is unknown; {hint}")
    return dict(section)


def _run(ctx: click.Context, plugin: Any, values: dict[str, Any]) -> None:
    settings = plugins.given(values, plugin)
    if values["check"]:
        _check(plugin(**settings), as_json=values["as_json"])
        return
    for name in ("beamtime", "detector"):
        if not values[name]:
            raise click.UsageError(f"Missing option '--{name}'.", ctx)
    if values["after"] != "keep":
        settings["after"] = values["after"]
    report = _publish(plugin(**settings), values)
    if values["as_json"]:
        print_json(dataclasses.asdict(report))
    else:
        click.echo(_line(report), err=True)
        for name in report.ended:
            click.echo(name)
    if report.not_flushed:
        raise FailedError(f"{report.not_flushed} frames were not flushed; their sources are kept")


def _check(adapter: Any, *, as_json: bool) -> None:
    try:
        seen = dict(adapter.check())
    finally:
        adapter.close()
    if as_json:
        print_json(seen)
    else:
        print_pairs(seen)


def _publish(adapter: Any, values: dict[str, Any]) -> IngestReport:
    from pipeline.ingest import IngestReport, run
    from pipeline.session import connect

    report = IngestReport()
    after = values["after"]

    def left() -> str:
        return f"{report.frames - report.confirmed} frames were not flushed; their sources are kept"

    try:
        with connect() as session, stopping(left) as stop, status_line(values["report_s"]) as say:
            configured = session.settings.publish
            durability = values["durability"] or (
                configured.durability if after == "keep" else "disk"
            )
            report = run(
                session,
                adapter,
                beamtime=values["beamtime"],
                detector=values["detector"],
                stream=values["stream"],
                idle_end_s=values["idle_end_s"],
                streams=values["streams"],
                durability=durability,
                spool=str(values["spool"] or configured.spool),
                after=after,
                takeover=values["takeover"],
                hole_wait_s=values["hole_wait_s"],
                flush_timeout_s=values["flush_timeout_s"],
                stop=stop.event,
                on_progress=lambda so_far: say(
                    _line(so_far), frames=so_far.frames, confirmed=so_far.confirmed
                ),
                report=report,
            )
    finally:
        adapter.close()
    if not report.not_flushed and stop.signum:
        click.echo(_line(report), err=True)
    if not report.not_flushed:
        stop.exit_if_asked()
    return report


def _line(report: IngestReport) -> str:
    parts = [
        f"{report.confirmed} of {report.frames} frames published",
        size_text(report.nbytes),
        f"{len(report.streams)} streams, {len(report.ended)} ended",
    ]
    if report.skipped:
        parts.append(f"{report.skipped} were published before")
    if report.quarantined:
        parts.append(f"{report.quarantined} quarantined")
    return ", ".join(parts)


command = click.group(
    cls=plugins.PluginGroup,
    plugins="lichtstrom.adapters",
    build=_build,
    help="Publish what an instrument makes: `lichtstrom adapter NAME --help` tells its settings.",
)(lambda: None)
