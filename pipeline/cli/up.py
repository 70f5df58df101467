"""``lichtstrom up``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.output import json_option, print_json, print_pairs

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
        secure=secure,
        prefix=_prefix() if with_connect else DEFAULT_PREFIX,
        progress=lambda text: click.echo(text, err=True),
    )
    facts = {
        "home": str(home),
        "kafka": info.kafka.bootstrap,
        "store": info.store_url,
        "s3": info.s3.endpoint if info.s3 else None,
        "connect": info.connect.url if info.connect else None,
    }
    if as_json:
        print_json(facts)
    else:
        shown = {**facts, "s3": facts["s3"] or "none, the store is file: only"}
        print_pairs({name: value for name, value in shown.items() if value is not None})


def _prefix() -> str:
    from pipeline.config import load

    return load().kafka.prefix
