"""``lichtstrom spool list | drain``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.output import json_option, print_json, print_table, size_text

_directory = click.argument(
    "directory", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR"
)


@click.group()
def command() -> None:
    """List and publish what dead writers left in a spool."""


@command.command("list")
@_directory
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List what writers that are gone left in the spool DIR."""
    from pipeline.publishing.spool import left_behind

    folders = list(left_behind(directory))
    found = [
        {
            "stream": str(folder.name),
            "segments": len(folder.files()),
            "nbytes": folder.nbytes,
            "pid": folder.pid,
            "path": str(folder.path),
        }
        for folder in folders
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        (f["stream"], f["segments"], size_text(int(str(f["nbytes"]))), f["path"]) for f in found
    ]
    print_table(("stream", "segments", "size", "folder"), rows)


@command.command()
@_directory
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=300.0,
    metavar="SECONDS",
    help="How long each stream may take.",
)
@json_option
def drain(directory: Path, timeout_s: float, as_json: bool) -> None:
    """Publish what writers that are gone left in the spool DIR.

    A stream that was ended meanwhile is reopened and ended again as it was; an open one stays
    open. Exit status 1 if something is left.
    """
    from pipeline.cli.draining import drain as drain_all
    from pipeline.session import connect

    results = []
    with connect() as session:
        for done in drain_all(session, directory, timeout_s=timeout_s):
            results.append(done)
            if not as_json and not done.problem:
                click.echo(f"{done.stream}  {done.segments} segments published, {done.state}")
    if as_json:
        print_json([dataclasses.asdict(done) for done in results])
    problems = [f"{done.stream}: {done.problem}" for done in results if done.problem]
    if problems:
        raise FailedError("; ".join(problems))
