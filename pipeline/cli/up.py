"""``lichtstrom up``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.output import json_option, print_json, print_pairs

if TYPE_CHECKING:
    from pipeline.local import RuntimeInfo

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LICHTSTROM_HOME",
    metavar="DIR",
    help="Directory of the runtime.  [default: LICHTSTROM_HOME, else the user's data directory]",
)


@click.command()
@home_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=120.0,
    metavar="SECONDS",
    help="How long the servers may take to answer.",
)
@click.option("--s3/--no-s3", default=True, help="Start the S3 server, too.")
@click.option(
    "--connect",
    "with_connect",
    is_flag=True,
    help="Start a Kafka Connect worker, too, with lichtstrom's connectors.",
)
@click.option(
    "--brokers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many brokers: 1, 3 or 5, for the life of a home. With 3 any one may fail."
    "  [default: as many as the home has, else 1]",
)
@click.option(
    "--gateways",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many S3 servers on the one directory.  [default: as many as last time, else 1]",
)
@click.option(
    "--secure",
    is_flag=True,
    help="TLS, users and access rules on every server; a runtime that was secured stays so.",
)
@json_option
def command(
    home: Path | None,
    timeout_s: float,
    s3: bool,
    with_connect: bool,
    brokers: int | None,
    gateways: int | None,
    secure: bool,
    as_json: bool,
) -> None:
    """Start a Kafka broker and an S3 server on this machine, without Docker.

    What is missing is fetched once per user. What runs already is kept. `lichtstrom down` stops
    them; every command and pipeline.connect() find them by LICHTSTROM_HOME.
    """
    from pipeline.local import default_home, up
    from pipeline.naming import DEFAULT_PREFIX

    home = home or default_home()
    info = up(
        home,
        timeout_s=timeout_s,
        s3=s3,
        connect=with_connect,
        brokers=brokers,
        gateways=gateways,
        secure=secure,
        prefix=_prefix() if with_connect else DEFAULT_PREFIX,
        progress=lambda text: click.echo(text, err=True),
    )
    print_addresses(home, info, as_json=as_json)


def print_addresses(home: Path, info: RuntimeInfo, *, as_json: bool) -> None:
    """Print where the servers answer."""
    facts = {
        "home": str(home),
        "kafka": info.kafka.bootstrap,
        "store": info.store_url,
        "s3": info.s3.endpoint if info.s3 else None,
        "connect": info.connect.url if info.connect else None,
    } | {node.name: node.address for node in info.nodes}
    if as_json:
        print_json(facts)
    else:
        shown = {**facts, "s3": facts["s3"] or "none, the store is file: only"}
        print_pairs({name: value for name, value in shown.items() if value is not None})


def _prefix() -> str:
    from pipeline.config import load

    return load().kafka.prefix
