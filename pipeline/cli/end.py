"""``lichtstrom end``."""

from __future__ import annotations

from typing import Literal

import click

from pipeline.cli.names import find_streams, stream_argument
from pipeline.cli.output import json_option, print_json


@click.command()
@stream_argument
@click.option(
    "--state",
    type=click.Choice(["lost", "timeout", "aborted"]),
    default="lost",
    help="How it ended.",
)
@json_option
def command(stream: str, state: Literal["lost", "timeout", "aborted"], as_json: bool) -> None:
    """End an open stream whose writer is gone, and seal it.

    Refused while the writer gives signs of life (one a second; 10 s of silence are needed).
    """
    from pipeline.session import connect

    with connect() as session:
        name = find_streams(session, stream)[0].name
        session.end(name.beamtime, name.detector, name.stream, state=state)
    if as_json:
        print_json({"stream": str(name), "state": state})
    else:
        click.echo(f"ended {name} ({state})")
