"""``lichtstrom doctor``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from pipeline.cli.names import store_option
from pipeline.cli.output import json_option, print_json, size_text
from pipeline.cli.up import home_option


@click.command()
@home_option
@click.option(
    "--orphans",
    is_flag=True,
    help="Look instead for blobs that no record or manifest refers to, and stale partial files.",
)
@click.option(
    "--beamtime", metavar="NAME", help="With --orphans: only this beamtime.  [default: all]"
)
@click.option(
    "--older",
    "older_s",
    type=click.FloatRange(min=0),
    default=3600.0,
    metavar="SECONDS",
    help="With --orphans: ignore what is younger; its record may be on its way.",
)
@store_option
@json_option
def command(
    home: Path | None,
    orphans: bool,
    beamtime: str | None,
    older_s: float,
    store: str | None,
    as_json: bool,
) -> None:
    """Say what this machine lacks for the local runtime, and how to get it.

    Only looks; nothing is fetched, started or deleted. Exit status 1 if something is not well.
    """
    if orphans:
        _orphans(beamtime, older_s, store, as_json=as_json)
        return
    from pipeline.local import default_home
    from pipeline.local.doctor import checks

    found = checks(home or default_home())
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            click.echo(f"{'ok ' if check.ok else 'NOT'}  {check.name:<{width}}  {check.found}")
            if check.advice:
                click.echo(f"     {'':<{width}}  {check.advice}")
    if not all(check.ok for check in found):
        raise SystemExit(1)


def _orphans(beamtime: str | None, older_s: float, store: str | None, *, as_json: bool) -> None:
    from pipeline.retention.garbage import find_garbage
    from pipeline.session import connect

    with connect(store) as session:
        found = find_garbage(session.services, beamtime, older_s=older_s).orphans
    if as_json:
        print_json([dataclasses.asdict(orphan) for orphan in found])
        return
    for orphan in found:
        click.echo(f"{orphan.beamtime}  {orphan.kind}  {size_text(orphan.nbytes)}  {orphan.key}")
    total = size_text(sum(orphan.nbytes for orphan in found))
    click.echo(f"{len(found)} orphans, {total}")
