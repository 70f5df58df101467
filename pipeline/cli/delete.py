"""``lichtstrom delete``."""

from __future__ import annotations

import click

from pipeline.cli.names import StreamParam, find_streams, store_option
from pipeline.cli.output import json_option, print_json


@click.command()
@click.argument("stream", type=StreamParam(pattern=True), metavar="STREAM")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also what is being written: stops its writer.")
@store_option
@json_option
def command(stream: str, yes: bool, force: bool, store: str | None, as_json: bool) -> None:
    """Delete streams for good: the records first, then the blobs.

    STREAM may be a pattern. The names may be used again afterwards.
    """
    from pipeline.session import connect

    with connect(store) as session:
        found = find_streams(session, stream)
        if not yes:
            for summary in found:
                click.echo(f"{summary.name}  {summary.state}", err=True)
            question = f"delete {len(found)} stream{'s' if len(found) > 1 else ''} for good?"
            click.confirm(question, abort=True, err=True)
        deleted = []
        for summary in found:
            name = summary.name
            blobs = session.delete(name.beamtime, name.detector, name.stream, force=force)
            deleted.append({"stream": str(name), "blobs": blobs})
            if not as_json:
                click.echo(f"deleted {name}, {blobs} blobs")
    if as_json:
        print_json(deleted)
