"""``lichtstrom simulate NAME``, and ``simulate replay`` for stored data."""

from __future__ import annotations

import errno
from importlib.metadata import EntryPoint
from typing import Any

import click

from pipeline.cli import plugins
from pipeline.cli.groups import FailedError
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
    import zmq  # most simulators have loaded it anyway

    try:
        _simulate(plugin, settings, as_json=as_json)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise FailedError(f"{where}{error.strerror or error}{_hint(error.errno)}") from error
    except zmq.ZMQError as error:
        raise FailedError(f"{error}{_hint(error.errno)}") from error


def _hint(number: int | None) -> str:
    taken = number == errno.EADDRINUSE
    return " (another program has the port: choose one with --port or its like)" if taken else ""


def _simulate(plugin: Any, settings: dict[str, Any], *, as_json: bool) -> None:
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


class SimulatorGroup(plugins.PluginGroup):
    """The simulators, and ``replay`` for stored data."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return ``replay`` and the simulators' names."""
        return ["replay", *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name == "replay":
            from pipeline.cli.replay import command as replay

            return replay
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the simulators, and ``replay`` by itself."""
        super().format_commands(ctx, formatter)
        with formatter.section("Stored data"):
            formatter.write_dl([("replay", "Play a file, a directory or a stream as a live one.")])


command = click.group(
    cls=SimulatorGroup,
    plugins="lichtstrom.simulators",
    build=_build,
    help="Be an instrument, for tests and for preparing at home.",
)(lambda: None)
