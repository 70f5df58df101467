"""``lichtstrom verify``."""

from __future__ import annotations

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.names import open_stream, store_option, stream_argument
from pipeline.cli.output import account_pairs, json_option, print_json, print_pairs, progress_bar
from pipeline.errors import PipelineError


@click.command()
@stream_argument
@store_option
@json_option
def command(stream: str, store: str | None, as_json: bool) -> None:
    """Read every payload of a stream, check it, and print the account.

    Exit status: 0 complete, 1 not complete, 2 wrong usage, 3 the stream could not be read.
    """
    from pipeline.session import connect

    try:
        with (
            connect(store) as session,
            open_stream(session, stream) as opened,
            progress_bar("verify") as progress,
        ):
            account = opened.verify(progress=progress)
    except PipelineError as error:
        raise FailedError(str(error), exit_code=3) from error
    if as_json:
        print_json(dict(account))
    else:
        print_pairs(account_pairs(account))
    if not account["complete"]:
        raise SystemExit(1)
