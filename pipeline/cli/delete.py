"""``lichtstrom delete``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.names import StreamParam, find_streams, store_option
from pipeline.cli.output import json_option, print_json
from pipeline.naming import StreamId, has_wildcards

if TYPE_CHECKING:
    from pipeline.records import StreamInfo
    from pipeline.retention.erasing import Erased
    from pipeline.session import Session


@click.command()
@click.argument("stream", type=StreamParam(pattern=True), metavar="STREAM")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also what is being written: stops its writer.")
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Of one stream: write who erased what and when, signed by its SHA-256. The same command"
    " again finishes what was killed.",
)
@store_option
@json_option
def command(
    stream: str, yes: bool, force: bool, receipt: Path | None, store: str | None, as_json: bool
) -> None:
    """Delete streams for good: marked as gone, then the records, then the blobs.

    STREAM may be a pattern. The names may be used again afterwards. What the retention policy
    holds is refused.
    """
    from pipeline.retention.erasing import erase
    from pipeline.session import connect

    if receipt is not None and has_wildcards(stream):
        raise click.UsageError("--receipt is of one stream, not of a pattern")
    with connect(store) as session:
        if receipt is not None and (resumed := _resume(session, stream, receipt)) is not None:
            _say([resumed], as_json=as_json)
            return
        found = find_streams(session, stream)
        if not yes:
            for summary in found:
                click.echo(f"{summary.name}  {summary.state}", err=True)
            question = f"delete {len(found)} stream{'s' if len(found) > 1 else ''} for good?"
            click.confirm(question, abort=True, err=True)
        deleted: list[Erased] = []
        by_beamtime: dict[str, list[StreamInfo]] = {}
        for summary in found:
            by_beamtime.setdefault(summary.name.beamtime, []).append(summary.info)
        for infos in by_beamtime.values():
            deleted += erase(session.services, infos, force=force, receipt=receipt)
    _say(deleted, as_json=as_json)


def _resume(session: Session, stream: str, receipt: Path) -> Erased | None:
    from pipeline.retention.erasing import resume

    return resume(session.services, StreamId.parse(stream).beamtime, receipt)


def _say(deleted: list[Erased], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "stream": done.stream,
                    "blobs": done.objects,
                    "nbytes": done.nbytes,
                    "records_left": done.records_left,
                    "sha256": done.receipt["sha256"],
                }
                for done in deleted
            ]
        )
        return
    for done in deleted:
        click.echo(f"deleted {done.stream}, {done.objects} blobs")
        if done.records_left:
            click.echo(
                f"{done.records_left} records that nobody can reach are on the topic, between"
                " those of streams that need theirs: `lichtstrom retention apply` trims them later"
            )
