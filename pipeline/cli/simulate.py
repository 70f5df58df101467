"""``lichtstrom simulate NAME``."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import click

from pipeline.cli import plugins
from pipeline.cli.output import json_option, print_json, progress_bar
from pipeline.cli.signals import stopping


def _build(point: EntryPoint) -> click.Command:
    plugin = plugins.load(point)

    @json_option
    def run(as_json: bool, **values: Any) -> None:
        _run(plugin, plugins.given(values, plugin), as_json=as_json)

    first = (plugin.__doc__ or plugin.__name__).strip().partition("\n\n")[0]
    command = click.command(point.name, help=first)(run)
    command.params = plugins.parameters(plugin, point) + command.params
    return command


def _run(plugin: Any, settings: dict[str, Any], *, as_json: bool) -> None:
    simulator = plugin(**settings)
    wanted = getattr(simulator, "frames", 0)
    made = 0

    def count(_number: int) -> None:
        nonlocal made
        made += 1
        say(made, wanted)

    with stopping(lambda: f"{made} frames were made") as stop, progress_bar("frames") as say:
        made = simulator.run(stop.event, count)
    if as_json:
        print_json({"frames": made})
    else:
        click.echo(f"{made} frames", err=True)
    stop.exit_if_asked()


command = click.group(
    cls=plugins.PluginGroup,
    plugins="lichtstrom.simulators",
    build=_build,
    help="Be an instrument, for tests and for preparing at home.",
)(lambda: None)
