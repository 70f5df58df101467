"""``lichtstrom down``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.output import json_option, print_json
from pipeline.cli.up import home_option


@click.command()
@home_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="SECONDS",
    help="How long a server may take to stop before it is killed.",
)
@json_option
def command(home: Path | None, timeout_s: float, as_json: bool) -> None:
    """Stop the servers that `lichtstrom up` started; their data is kept."""
    from pipeline.local import default_home, down

    home = home or default_home()
    stopped = down(home, timeout_s=timeout_s)
    if as_json:
        print_json({"home": str(home), "stopped": stopped})
    else:
        click.echo(f"stopped the servers of {home}" if stopped else f"nothing ran in {home}")
