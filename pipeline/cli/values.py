"""``lichtstrom values publish | epics | show``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.metrics import observed
from pipeline.cli.names import open_stream, store_option, stream_argument
from pipeline.cli.output import json_option, print_json, time_text

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.value_publisher import ValuePublisher

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Publish values over time as a stream of their own, and show them.

    Frames get them by stream.join(...): motor positions, ring current, scan points.
    """


def _publishing_options(function: F) -> F:
    for option in (
        click.option(
            "--tick",
            "tick_s",
            type=click.FloatRange(min=0.01),
            metavar="SECONDS",
            help="After so much silence say that nothing has changed.  [default: 0.5 for epics,"
            " else never]",
        ),
        click.option("--keep-open", is_flag=True, help="Do not end the stream: go on later."),
        click.option("--reopen", is_flag=True, help="Go on with a stream that has ended."),
    ):
        function = option(function)
    return function


def _open(session: Session, stream: str, tick_s: float | None, *, reopen: bool) -> ValuePublisher:
    from pipeline.naming import StreamId

    name = StreamId.parse(stream)
    return session.publish_values(
        name.beamtime, name.detector, name.stream, tick_s=tick_s, reopen=reopen
    )


@command.command()
@stream_argument
@_publishing_options
@observed()
@json_option
def publish(
    stream: str, tick_s: float | None, keep_open: bool, reopen: bool, as_json: bool
) -> None:
    """Publish lines of JSON from standard input: {"timestamp_ns": ..., "NAME": VALUE, ...}.

    Values hold from timestamp_ns on (ns since 1970, UTC; default: now). The stream ends with the
    input.
    """
    from pipeline.session import connect
    from pipeline.values.lines import publish_lines

    with connect() as session, _open(session, stream, tick_s, reopen=reopen) as out:
        count = publish_lines(sys.stdin, out)
        if keep_open:
            out.close()
    _report(stream, count, as_json=as_json)


@command.command()
@stream_argument
@click.option(
    "--pv",
    "pvs",
    multiple=True,
    required=True,
    metavar="PV[=NAME]",
    help="What to monitor, over PV Access, and the name of its value.  [default: NAME is PV]",
)
@click.option(
    "--address",
    default="",
    metavar="HOSTS",
    help="Who is asked: HOST or HOST:PORT (UDP), separated by commas.  [default: as"
    " EPICS_PVA_ADDR_LIST says]",
)
@_publishing_options
@observed()
@json_option
def epics(
    stream: str,
    pvs: tuple[str, ...],
    address: str,
    tick_s: float | None,
    keep_open: bool,
    reopen: bool,
    as_json: bool,
) -> None:
    """Publish EPICS PVs as they change, until Ctrl-C or SIGTERM; then the stream ends."""
    from pipeline.cli.signals import stopping
    from pipeline.session import connect
    from pipeline.values.epics import EpicsValues

    names = {pv: name or pv for pv, _, name in (text.partition("=") for text in pvs)}
    with (
        stopping(lambda: "values that were not published yet") as stop,
        connect() as session,
        _open(session, stream, tick_s or 0.5, reopen=reopen) as out,
    ):
        source = EpicsValues(out, names, address=address)
        source.run(stop.event)
        if keep_open:
            out.close()
    _report(stream, source.count, as_json=as_json)


@command.command()
@stream_argument
@store_option
@json_option
def show(stream: str, store: str | None, as_json: bool) -> None:
    """Print the values up to now; with --json the lines that `publish` reads."""
    from pipeline.session import connect

    with connect(store) as session, open_stream(session, stream) as opened:
        for frame in opened:
            values = dict(frame.attributes)
            if as_json:
                print_json({"timestamp_ns": frame.timestamp_ns, **values}, indent=None)
            elif values:
                text = "  ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
                click.echo(f"{time_text(frame.timestamp_ns)}  {text}")


def _report(stream: str, count: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"stream": stream, "values": count})
    else:
        click.echo(f"{stream}: {count} values published")
