"""``lichtstrom restart``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.output import json_option
from pipeline.cli.up import home_option, print_addresses


@click.command()
@click.argument("servers", nargs=-1, metavar="[SERVER]...")
@home_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=120.0,
    metavar="SECONDS",
    help="How long a server may take to stop, to answer again and to be in sync.",
)
@json_option
def command(servers: tuple[str, ...], home: Path | None, timeout_s: float, as_json: bool) -> None:
    """Restart brokers and S3 servers of the local runtime one by one.

    SERVER is broker-1, gateway-2 and so on, as `lichtstrom status` names them; without one: all
    brokers, then all gateways. A broker is stopped only when the other replicas of all partitions
    are in sync, and the next one when it has caught up: with `up --brokers 3 --gateways 2`
    publishers and readers go on, and nothing is lost.
    """
    from pipeline.local import default_home, restart

    home = home or default_home()
    info = restart(
        home, servers, timeout_s=timeout_s, progress=lambda text: click.echo(text, err=True)
    )
    print_addresses(home, info, as_json=as_json)
