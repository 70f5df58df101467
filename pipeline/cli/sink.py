"""``lichtstrom sink NAME``."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.hdf5_options import file_options, mapping_option
from pipeline.cli.metrics import observed
from pipeline.cli.names import (
    await_stream,
    open_stream,
    store_option,
    stream_argument,
    wait_option,
)
from pipeline.cli.output import (
    account_pairs,
    json_option,
    print_json,
    print_pairs,
    report_option,
    status_line,
)
from pipeline.cli.signals import Stop, stopping

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.sinks.hdf5.files import Options
    from pipeline.sinks.hdf5.following import SinkReport
    from pipeline.sinks.hdf5.layout import Extra


#: A sink started before its detector is no mistake; a wrong name should not wait for ever.
_FOLLOW_WAIT_S = 30.0


@click.group()
def command() -> None:
    """Write a stream somewhere else: HDF5 files."""


@command.command()
@stream_argument
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the file goes: DIR/<detector>_<stream>.h5.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Follow an open stream; the command ends with the stream. One that does not exist yet is"
    " waited for: 30 s, or as --wait says.",
)
@file_options
@click.option(
    "--writers",
    type=click.IntRange(1, 64),
    default=1,
    metavar="K",
    help="Processes; more than one make a file per partition and a master file over them.",
)
@mapping_option
@click.option(
    "--join",
    "joined",
    multiple=True,
    metavar="STREAM",
    help="Slow-control values of another stream: for each frame the last before it. May be given"
    " several times.",
)
@click.option(
    "--checksum", is_flag=True, help="Write FILE.sha256 beside it, for `sha256sum --check`."
)
@wait_option
@store_option
@observed()
@report_option
@json_option
def hdf5(
    stream: str,
    out: Path,
    follow: bool,
    options: Options,
    writers: int,
    mapping: Path | None,
    joined: tuple[str, ...],
    checksum: bool,
    wait_s: float,
    store: str | None,
    report_s: float | None,
    as_json: bool,
) -> None:
    """Write a stream to an HDF5 file, there under its name only when it is finished.

    Every frame is written, late ones too, and the account is checked against the file before it
    gets its name. A stream that is not complete still gives a file, which says so. Ended or killed
    before, it goes on where it was when it is run again. Meanwhile the file can be read (SWMR).
    """
    from pipeline.session import connect
    from pipeline.sinks.hdf5.digests import write_digests
    from pipeline.sinks.hdf5.following import write_stream
    from pipeline.sinks.hdf5.writers import GROUP, write_in_processes
    from pipeline.sinks.letters import DeadLetters

    with (
        connect(store) as session,
        stopping(lambda: "the file was not finished; run it again") as stop,
        status_line(report_s) as say,
    ):
        if wait_s or follow:
            await_stream(session, stream, timeout_s=wait_s or _FOLLOW_WAIT_S, stop=stop.event)
        with open_stream(session, stream) as opened, ExitStack() as held:
            options = replace(options, extras=_extras(session, held, mapping, joined))
            letters = DeadLetters(session.services, opened.start, group=GROUP)
            write = (
                partial(write_in_processes, session, writers=writers)
                if writers > 1
                else partial(write_stream, letters=letters)
            )
            report = write(
                opened,
                out,
                options,
                follow=follow,
                stop=stop.event,
                on_progress=lambda done: say(f"{done} frames written", written=done),
            )
        if report is not None and checksum:
            write_digests(Path(report.path), [Path(part) for part in report.parts])
    _tell(report, stop, letters.topic, as_json=as_json)


@command.command("connect-writer", hidden=True)
@click.option(
    "--socket",
    "path",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Where the task of Kafka Connect listens.",
)
@observed()
def connect_writer(path: Path) -> None:
    """Write files for a task of the HDF5 connector, which starts this (docs/connect.md)."""
    import socket

    from pipeline.connectors.hdf5 import Task
    from pipeline.session import connect

    with (
        socket.socket(socket.AF_UNIX) as connection,
        suppress(BrokenPipeError, ConnectionResetError),  # the task is gone: so are the writers
        connect() as session,
    ):
        connection.connect(str(path))
        Task(session).serve(connection)


def _extras(
    session: Session, held: ExitStack, mapping: Path | None, joined: tuple[str, ...]
) -> list[Extra]:
    """Return what the file gets besides; streams stay open as long as ``held``."""
    from pipeline.sinks.hdf5.joining import Joined
    from pipeline.sinks.hdf5.mapping import load_mapping

    extras: list[Extra] = [load_mapping(mapping)] if mapping is not None else []
    if joined:
        extras.append(Joined([held.enter_context(open_stream(session, name)) for name in joined]))
    return extras


def _tell(report: SinkReport | None, stop: Stop, letters: str, *, as_json: bool) -> None:
    if report is None:
        raise FailedError(
            "stopped before the stream ended: no file was made; run it again",
            exit_code=128 + stop.signum,
        )
    if as_json:
        print_json(
            {
                "path": report.path,
                "parts": report.parts,
                "written": report.written,
                "invalid": {str(number): why for number, why in report.invalid.items()},
                "account": report.account,
            }
        )
    else:
        print_pairs([("file", report.path), ("frames", report.written)])
        print_pairs([p for p in account_pairs(report.account) if p[0] != "received"])
    if report.invalid:
        click.echo(f"{len(report.invalid)} frames could not be written: see {letters}", err=True)
    if not report.account["complete"]:
        click.echo("the stream is not complete, and the file says so", err=True)
