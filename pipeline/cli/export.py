"""``lichtstrom export``."""

from __future__ import annotations

import dataclasses

import click

from pipeline.cli.names import StreamParam, find_streams, store_option
from pipeline.cli.output import json_option, print_json, size_text, status_line


@click.command()
@click.argument(
    "streams", nargs=-1, required=True, type=StreamParam(pattern=True), metavar="STREAM..."
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="URL",
    help="Store to copy to: file:///dir, s3:// or s3://bucket/prefix.",
)
@click.option(
    "--verify/--no-verify", default=True, help="Check the checksum of every frame on the way."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=4, metavar="N", help="Objects copied at once."
)
@store_option
@json_option
def command(
    streams: tuple[str, ...],
    target: str,
    verify: bool,
    threads: int,
    store: str | None,
    as_json: bool,
) -> None:
    """Copy ended streams with their manifests to another store.

    The copy is read without a broker: `lichtstrom streams --store URL`,
    pipeline.connect("URL"). Run it again to resume.
    """
    from pipeline.blobs import open_store
    from pipeline.export import ExportReport, export
    from pipeline.session import connect

    with connect(store) as session:
        found = {s.name: s.info for pattern in streams for s in find_streams(session, pattern)}
        settings = dataclasses.replace(session.settings.store, url=target)
        copy = open_store(settings)
        try:
            with status_line() as say:

                def progress(report: ExportReport) -> None:
                    say(f"{report.streams} streams, {size_text(report.nbytes)} copied")

                report = export(
                    found.values(),
                    session.services.store,
                    copy,
                    names=session.services.names,
                    progress=progress,
                    verify=verify,
                    threads=threads,
                )
        finally:
            copy.close()
    if as_json:
        print_json({**dataclasses.asdict(report), "target": target})
    else:
        click.echo(
            f"{report.streams} streams in {target}: {report.objects} objects copied"
            f" ({size_text(report.nbytes)}), {report.skipped} were there,"
            f" {report.frames} frames checked"
        )
