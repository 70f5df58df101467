"""``lichtstrom export``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.names import StreamParam, find_streams, open_stream, store_option
from pipeline.cli.output import json_option, print_json, progress_bar, size_text, status_line

if TYPE_CHECKING:
    from pipeline.export import ExportReport, References
    from pipeline.session import Session


@click.command()
@click.argument(
    "streams", nargs=-1, required=True, type=StreamParam(pattern=True), metavar="STREAM..."
)
@click.option(
    "--to",
    "target",
    metavar="URL",
    help="Store to copy to: file:///dir, s3:// or s3://bucket/prefix.",
)
@click.option(
    "--kerchunk",
    "references",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Write references to the frames of one stream where they lie (with --to: in the copy),"
    " for xarray and zarr.",
)
@click.option(
    "--frames",
    metavar="SELECTION",
    help="Take a sample home: these numbers only, 7, 100:200, ::10, or several with commas.",
)
@click.option(
    "--where",
    metavar="EXPRESSION",
    help="Take a sample home: frames that match, as in `lichtstrom frames --where`.",
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
    target: str | None,
    references: Path | None,
    frames: str | None,
    where: str | None,
    verify: bool,
    threads: int,
    store: str | None,
    as_json: bool,
) -> None:
    """Copy ended streams with their manifests to another store, or refer to them.

    The copy is read without a broker: `lichtstrom streams --store URL`,
    pipeline.connect("URL"). Run it again to resume.

    With --frames or --where (or both) only some frames are taken, of open streams too. The sample
    has the stream's name and says in its account what it is a sample of.
    """
    from pipeline.session import connect

    if target is None and references is None:
        raise click.UsageError("say where to: --to URL, --kerchunk FILE.json, or both")
    sampled = frames is not None or where is not None
    if sampled and (target is None or references is not None or not verify):
        raise click.UsageError("a sample goes --to URL, is always verified, and has no references")
    with connect(store) as session:
        if sampled and target is not None:
            _sample(session, streams, target, frames=frames, where=where or "", as_json=as_json)
            return
        if target is not None:
            report = _copy(session, streams, target, verify=verify, threads=threads)
            if as_json:
                print_json({**dataclasses.asdict(report), "target": target})
            else:
                _say(report, target)
        if references is not None:
            written = _refer(session, streams, references, target)
            if as_json:
                print_json(dataclasses.asdict(written))
            else:
                click.echo(
                    f"{written.path}: {written.frames} frames at {written.positions} positions"
                    f" ({size_text(written.nbytes)})"
                )


def _copy(
    session: Session, streams: tuple[str, ...], target: str, *, verify: bool, threads: int
) -> ExportReport:
    from pipeline.blobs import open_store
    from pipeline.export import export

    found = {s.name: s.info for pattern in streams for s in find_streams(session, pattern)}
    copy = open_store(dataclasses.replace(session.settings.store, url=target))
    try:
        with status_line() as say:
            return export(
                found.values(),
                session.services.store,
                copy,
                names=session.services.names,
                progress=lambda report: say(
                    f"{report.streams} streams, {size_text(report.nbytes)} copied"
                ),
                verify=verify,
                threads=threads,
            )
    finally:
        copy.close()


def _sample(
    session: Session,
    streams: tuple[str, ...],
    target: str,
    *,
    frames: str | None,
    where: str,
    as_json: bool,
) -> None:
    from pipeline.blobs import open_store
    from pipeline.reading.choice import FrameChoice
    from pipeline.sampling import export_sample

    choice = None if frames is None else FrameChoice.parse(frames)
    found = {s.name for pattern in streams for s in find_streams(session, pattern)}
    copy = open_store(dataclasses.replace(session.settings.store, url=target))
    reports = []
    try:
        for name in sorted(found, key=str):
            with open_stream(session, str(name)) as stream, progress_bar(str(name)) as progress:
                report = export_sample(
                    stream,
                    copy,
                    names=session.services.names,
                    choice=choice,
                    where=where,
                    progress=progress,
                )
            reports.append(dataclasses.asdict(report))
            if not as_json:
                there = "" if report.written else ", was there"
                click.echo(
                    f"{name}: {report.frames} of {report.of} frames in {target}"
                    f" ({size_text(report.nbytes)}){there}"
                )
    finally:
        copy.close()
    if as_json:
        print_json({"target": target, "samples": reports})


def _say(report: ExportReport, target: str) -> None:
    click.echo(
        f"{report.streams} streams in {target}: {report.objects} objects copied"
        f" ({size_text(report.nbytes)}), {report.skipped} were there,"
        f" {report.frames} frames checked"
    )


def _refer(
    session: Session, streams: tuple[str, ...], path: Path, target: str | None
) -> References:
    from pipeline.export import write_references

    found = {s.name for pattern in streams for s in find_streams(session, pattern)}
    if len(found) != 1:
        raise click.UsageError(f"--kerchunk takes one stream, these are {len(found)}")
    (name,) = found
    stream = session.stream(name.beamtime, name.detector, name.stream)
    return write_references(stream, path, store_url=target or session.settings.store.url)
