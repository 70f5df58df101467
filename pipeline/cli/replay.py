"""``lichtstrom simulate replay SOURCE``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.ingesting import line
from pipeline.cli.metrics import observed
from pipeline.cli.names import open_stream, store_option
from pipeline.cli.output import json_option, print_json, status_line
from pipeline.cli.signals import stopping

if TYPE_CHECKING:
    from pipeline.protocols import AdapterEvent


@click.command("replay")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HZ",
    help="Frames per second.  [default: as recorded; breaks are cut to 10 s]",
)
@click.option(
    "--beamtime", default="replay", metavar="NAME", show_default=True, help="To publish in."
)
@click.option(
    "--detector", default="replay", metavar="NAME", show_default=True, help="To publish as."
)
@click.option(
    "--stream",
    metavar="NAME",
    help="Name of the stream; further ones are NAME.2, NAME.3, ...  [default: the source's own"
    " name and a run id]",
)
@click.option(
    "--frames",
    metavar="SELECTION",
    help="Play these numbers only: 7, 100:200, ::10, or several with commas.",
)
@click.option(
    "--numbers",
    type=click.Choice(["keep", "new"]),
    default="keep",
    show_default=True,
    help="The recorded numbers with their gaps, or new ones from 0.",
)
@click.option(
    "--times",
    type=click.Choice(["now", "shift", "keep"]),
    default="now",
    show_default=True,
    help="Start of exposure: when it is played; as recorded, moved to begin now; as recorded.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    default=1,
    metavar="N",
    show_default=True,
    help="Play it so often, each time as a new stream; 0 until it is stopped.",
)
@click.option("--dataset", default="", metavar="PATH", help="Where in an HDF5 file the images are.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    show_default=True,
    help="How long a live source may be silent.",
)
@store_option
@observed()
@json_option
def command(source: str, store: str | None, as_json: bool, **values: Any) -> None:
    """Play stored data as a live stream.

    SOURCE is an HDF5 file (ours, a DECTRIS master, any stack of images), a directory of images, or
    a stream beamtime/detector/stream: of the broker, or with --store URL of an export; the URL
    alone, where that holds one stream. Images are
    passed on as they are stored, not compressed anew. Ctrl-C ends the stream as aborted.
    """
    from pipeline.ingest import IngestReport, run
    from pipeline.reading.choice import FrameChoice
    from pipeline.replay.adapter import ReplayAdapter
    from pipeline.session import connect

    frames = values["frames"]
    report = IngestReport()

    def left() -> str:
        return f"{report.frames - report.confirmed} frames were not flushed"

    with (
        _source(source, store, values) as events,
        connect() as session,
        stopping(left) as stop,
        status_line() as say,
    ):
        adapter = ReplayAdapter(
            events,
            rate_hz=values["rate_hz"],
            numbers=values["numbers"],
            times=values["times"],
            frames=FrameChoice.parse(frames) if frames else None,
            rounds=values["rounds"],
            stop=stop.event,
        )
        run(
            session,
            adapter,
            beamtime=values["beamtime"],
            detector=values["detector"],
            stream=values["stream"],
            hole_wait_s=0.0,
            report=report,
            on_progress=lambda so_far: say(
                line(so_far), frames=so_far.frames, confirmed=so_far.confirmed
            ),
        )
    _say(report, as_json=as_json)
    stop.exit_if_asked()


def _say(report: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        click.echo(line(report), err=True)
        for name in report.streams:
            click.echo(name)
    if report.not_flushed:
        raise FailedError(f"{report.not_flushed} frames were not flushed")


@contextmanager
def _source(
    source: str, store: str | None, values: dict[str, Any]
) -> Iterator[Callable[[], Iterator[AdapterEvent | None]]]:
    """Give what reads the source anew each time it is called."""
    from pipeline.replay.sources import path_events, stream_events
    from pipeline.session import connect

    path = Path(source)
    if "://" in source:
        source, store = _only_stream(source), source
    elif store is None and (path.exists() or source.count("/") != 2):
        yield lambda: path_events(path, values["dataset"])
        return
    with connect(store) as session:
        stream = open_stream(session, source)
        yield lambda: stream_events(stream, values["timeout_s"])


def _only_stream(url: str) -> str:
    """Return the name of the one stream that a store has."""
    from pipeline.session import connect

    with connect(url) as session:
        names = [str(summary.name) for summary in session.streams()]
    if len(names) != 1:
        there = ", ".join(names[:5]) or "none"
        raise click.UsageError(f"{url} has {len(names)} streams ({there}): name one, --store {url}")
    return names[0]
