"""Adapters and simulators: listed without importing, loaded when chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from pipeline.cli.groups import CommandGroup
from pipeline.detectors.options import Option
from pipeline.errors import PluginError

_UNITS = {"s": "SECONDS", "hz": "HZ"}


def found(group: str) -> dict[str, EntryPoint]:
    """Return the plugins of an entry point group by name."""
    return {point.name: point for point in sorted(entry_points(group=group))}


def load(point: EntryPoint) -> Any:
    """Import a plugin; raises PluginError that names its distribution."""
    try:
        return point.load()
    except Exception as error:  # a plugin can fail in any way
        raise PluginError(
            f"{point.group} {point.name!r} of {distribution(point)} cannot be loaded:"
            f" {type(error).__name__}: {error}"
        ) from error


def distribution(point: EntryPoint) -> str:
    """Return the name and version of the distribution that a plugin comes from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"


def parameters(plugin: Any, point: EntryPoint) -> list[click.Parameter]:
    """Return the options that a plugin's class describes."""
    try:
        return [_parameter(option) for option in plugin.options()]
    except Exception as error:  # as above
        raise PluginError(
            f"{point.group} {point.name!r} of {distribution(point)}: options() failed:"
            f" {type(error).__name__}: {error}"
        ) from error


def _parameter(option: Option) -> click.Option:
    text = option.help[:1].upper() + option.help[1:].rstrip(".") + "."
    if option.type is bool:
        flag = f"{option.flag}/--no-{option.flag[2:]}"
        return click.Option([flag, option.name], default=bool(option.default), help=text)
    empty = option.default is None or option.default == ""
    kind: Any = click.Choice(option.choices) if option.choices else option.type
    unit = option.unit or _UNITS.get(option.name.rpartition("_")[2], "")
    return click.Option(
        [option.flag, option.name],
        type=kind,
        required=option.required,
        metavar=unit or None,
        help=text,
        # Not even None where there is no default: click takes that for a value.
        **({} if empty else {"default": option.default}),
    )


def given(values: Mapping[str, Any], plugin: Any) -> dict[str, Any]:
    """Return the plugin's own settings among the values; those not given keep its defaults."""
    names = {option.name for option in plugin.options()}
    return {name: value for name, value in values.items() if name in names and value is not None}


class PluginGroup(CommandGroup):
    """A command for each plugin.

    Parameters
    ----------
    plugins:
        The entry point group.
    build:
        Makes the command of one plugin.
    """

    def __init__(
        self,
        *args: Any,
        plugins: str,
        build: Callable[[EntryPoint], click.Command],
        **kw: Any,
    ) -> None:
        super().__init__(*args, **kw)
        self._plugins = plugins
        self._build = build

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the plugins' names, without importing them."""
        return list(found(self._plugins))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the plugin and make its command."""
        point = found(self._plugins).get(cmd_name)
        return self._build(point) if point is not None else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names, and where each comes from."""
        points = found(self._plugins)
        if points:
            with formatter.section("Commands"):
                formatter.write_dl(
                    [(name, f"from {distribution(p)}") for name, p in points.items()]
                )
