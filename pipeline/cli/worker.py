"""``lichtstrom worker``."""

from __future__ import annotations

import dataclasses
import multiprocessing
from typing import TYPE_CHECKING

import click

from pipeline.cli.names import await_stream, store_option, stream_argument, wait_option
from pipeline.cli.output import json_option, print_json, report_option, status_line
from pipeline.cli.signals import stopping

if TYPE_CHECKING:
    from threading import Event

    from pipeline.worker import WorkerReport


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@stream_argument
@click.option(
    "--group", required=True, metavar="NAME", help="Workers of one group share the frames."
)
@click.option(
    "--processes", type=click.IntRange(1, 1000), default=1, metavar="N", help="How many processes."
)
@click.option(
    "--out",
    metavar="DETECTOR",
    help="Publish the results as a derived stream of this detector.  [default: discard them]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Fail after so much silence.  [default: wait for the stream's end]",
)
@click.option(
    "--attempts",
    "max_attempts",
    type=click.IntRange(min=1),
    default=3,
    metavar="N",
    help="How often a frame is tried before it is given up.",
)
@wait_option
@store_option
@report_option
@json_option
def command(
    function: str,
    stream: str,
    group: str,
    processes: int,
    out: str | None,
    timeout_s: float | None,
    max_attempts: int,
    wait_s: float,
    store: str | None,
    report_s: float | None,
    as_json: bool,
) -> None:
    """Call a function with each frame of a stream that its group has not done yet.

    FUNCTION gets a frame and returns None, attributes (a dict), an array, or (array, attributes).
    It ends with the stream; stopped and started again it goes on where the group is.
    """
    from pipeline.worker import WorkerReport, run_worker

    report = WorkerReport()

    def left() -> str:
        for process in multiprocessing.active_children():
            process.kill()
        return "frames in hand go to other workers of the group"

    with stopping(left) as stop, status_line(report_s) as say:
        if wait_s:
            _wait(stream, wait_s, store, stop.event)

        def progress(so_far: WorkerReport) -> None:
            say(_line(so_far), frames=so_far.frames, results=so_far.results)

        if not stop.event.is_set():
            report = run_worker(
                function,
                stream,
                group=group,
                processes=processes,
                out=out,
                timeout_s=timeout_s,
                stop=stop.event,
                progress=progress,
                max_attempts=max_attempts,
                store=store,
            )
    if as_json:
        print_json({**dataclasses.asdict(report), "rate_hz": report.rate_hz})
    else:
        click.echo(_line(report))
    if not report.finished:
        stop.exit_if_asked()


def _wait(stream: str, wait_s: float, store: str | None, stop: Event) -> None:
    from pipeline.session import connect

    with connect(store) as session:
        await_stream(session, stream, timeout_s=wait_s, stop=stop)


def _line(report: WorkerReport) -> str:
    parts = [f"{report.frames} frames, {report.results} results, {report.rate_hz:.0f}/s"]
    for name in ("skipped", "rejected", "retried", "crashes"):
        if getattr(report, name):
            parts.append(f"{getattr(report, name)} {name}")
    return ", ".join(parts)
