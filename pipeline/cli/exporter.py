"""``lichtstrom exporter``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pipeline.cli.metrics import observed
from pipeline.cli.signals import stopping


@click.command()
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1),
    default=15.0,
    metavar="SECONDS",
    help="How often to look; a look that takes long is followed by a rest as long.",
)
@click.option(
    "--streams",
    type=click.IntRange(1, 10_000),
    default=50,
    metavar="N",
    help="Tell the newest N streams and their groups one by one; all count in the states.",
)
@click.option(
    "--spool",
    "spools",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Tell what dead writers left there; may be given several times.",
)
@click.option(
    "--disk",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A directory on the store's disk, to tell its free space.  [default: of a file: store]",
)
@observed(default="127.0.0.1:9464")
def command(every_s: float, streams: int, spools: tuple[Path, ...], disk: Path | None) -> None:
    """Tell Prometheus of all beamtimes, until Ctrl-C or SIGTERM: one process for a facility.

    Lag of each group in frames and seconds, streams by state, dead letters, how broker and store
    answer. It reads the broker, joins no group and fetches no pixels; every 4 KiB that it puts into
    the store it deletes again.
    """
    from pipeline.facility import Facility
    from pipeline.session import connect
    from pipeline.telemetry import watchdog
    from pipeline.telemetry.book import BOOK

    # each stream has a place of its own, and one for each group
    BOOK.streams = max(BOOK.streams, 8 * streams)
    with connect() as session, stopping(lambda: "nothing is lost") as stop:
        facility = Facility(session, BOOK, streams=streams, spools=spools, disk=disk)
        try:
            while not stop.event.is_set():
                begun_s = time.monotonic()
                facility.look()
                watchdog.beat()
                took_s = time.monotonic() - begun_s
                stop.event.wait(max(every_s - took_s, took_s))
        finally:
            facility.close()
