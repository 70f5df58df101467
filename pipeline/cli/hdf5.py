"""``lichtstrom hdf5 check|repair``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.names import StreamParam, open_stream, store_option
from pipeline.cli.output import json_option, print_json, progress_bar
from pipeline.errors import PipelineError, SinkError

if TYPE_CHECKING:
    from pipeline.sinks.hdf5.findings import Finding
    from pipeline.stream import Stream

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def command() -> None:
    """Look at HDF5 files of detectors, and open again what a killed writer has left."""


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option(
    "--stream",
    type=StreamParam(),
    metavar="STREAM",
    help="Compare frames and metadata with this stream, beamtime/detector/stream, which has ended.",
)
@store_option
@json_option
def check(files: tuple[Path, ...], stream: str | None, store: str | None, as_json: bool) -> None:
    """Check structure and counts, and decode every chunk, of files and of all they refer to.

    With --stream also: every frame of the stream is in the file at its place, with its time, its
    pixels and its attributes, and no other; and the metadata is that of the stream. Name the file
    that users open, not its parts.

    Exit status 0: nothing is wrong; 1: something is, and it was said; 3: a file or the stream
    cannot be read, or the file is of another stream.
    """
    findings, unread = [], []
    try:
        with _opened(stream, store) as opened:
            for path in files:
                try:
                    findings += _checked(path, opened)
                except SinkError as error:
                    unread.append(str(error))
    except PipelineError as error:
        unread.append(str(error))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(str(finding))
        if not findings and not unread:
            click.echo("nothing is wrong")
    if unread:
        raise FailedError("; ".join(unread), exit_code=3)
    if findings:
        raise click.exceptions.Exit(1)


@contextmanager
def _opened(name: str | None, store: str | None) -> Iterator[Stream | None]:
    if name is None:
        yield None
        return
    from pipeline.session import connect

    with connect(store) as session, open_stream(session, name) as stream:
        yield stream


def _checked(path: Path, stream: Stream | None) -> list[Finding]:
    from pipeline.sinks.hdf5.checking import check_file

    with progress_bar(path.name) as progress:
        return check_file(path, stream=stream, progress=progress)


@command.command()
@click.argument("file", type=_FILE, metavar="FILE")
@json_option
def repair(file: Path, as_json: bool) -> None:
    """Open again a file whose writer was killed; no frame is touched.

    The sink does this by itself when it goes on with its file. It is refused while a sink, or
    another program of this machine, writes the file; one on another machine is not seen. What is
    printed as `before` are the 48 bytes that may have been changed.
    """
    from pipeline.sinks.hdf5.repairing import repair_file

    done = repair_file(file)
    facts = {
        "file": str(file),
        "changed": done.changed,
        "frames": done.frames,
        "before": done.before.hex(),
    }
    if as_json:
        print_json(facts)
        return
    click.echo("it can be opened again" if done.changed else "nothing had to be done")
    if done.frames is not None:
        click.echo(f"frames {done.frames}")
    if done.changed:
        click.echo(f"before {done.before.hex()}")
