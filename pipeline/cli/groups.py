"""Groups of commands: loaded when used, expected failures in one line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from pipeline.errors import PipelineError


class FailedError(click.ClickException):
    """An expected failure: one line, exit status 1 (or another one)."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


class CommandGroup(click.Group):
    """Turns our errors into one line and exit status 1; usage errors stay 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            raise FailedError(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise SystemExit(130) from None


class LazyGroup(CommandGroup):
    """Imports a command's module when the command is used, so that ``--help`` is quick.

    Parameters
    ----------
    commands_in:
        Command to module below ``pipeline.cli`` (whose ``command`` it is) and short help.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, tuple[str, str]], **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._lazy = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in self._lazy:
            return None
        command = importlib.import_module(f"pipeline.cli.{self._lazy[cmd_name][0]}").command
        if not isinstance(command, click.Command):
            raise TypeError(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])
