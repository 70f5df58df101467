"""``lichtstrom worker``."""

from __future__ import annotations

import dataclasses
import multiprocessing
from typing import TYPE_CHECKING

import click

from pipeline.cli.metrics import observed
from pipeline.cli.names import StreamParam, store_option, wait_option
from pipeline.cli.output import json_option, print_json, report_option, status_line
from pipeline.cli.signals import stopping

if TYPE_CHECKING:
    from pipeline.worker import WorkerReport


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("stream", type=StreamParam(pattern=True), metavar="STREAM")
@click.option(
    "--group", required=True, metavar="NAME", help="Workers of one group share the frames."
)
@click.option(
    "--processes", type=click.IntRange(1, 1000), default=1, metavar="N", help="How many processes."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="M",
    help="How many threads in each process call FUNCTION.",
)
@click.option(
    "--out",
    "outs",
    multiple=True,
    metavar="DETECTOR",
    help="Publish the results as a derived stream of this detector; given several times, FUNCTION"
    " returns a tuple of as many.  [default: discard them]",
)
@click.option(
    "--from",
    "start",
    metavar="start|now|NUMBER|TIME",
    default="start",
    help="Where a group that has done nothing yet begins; TIME is ISO 8601, UTC if no zone is"
    " named.",
)
@click.option(
    "--where",
    metavar="EXPR",
    help="Only frames that this selects, as of `lichtstrom frames --where`; the others are skipped"
    " without being read.",
)
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    metavar="N",
    help="Call FUNCTION with lists of N frames, in frame order.  [default: with one frame]",
)
@click.option(
    "--min-modules",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of a detector with modules: how many are enough for an image.  [default: all]",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long a frame waits for its other modules.  [default: until they cannot come]",
)
@click.option(
    "--frame-limit",
    "frame_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Kill a process whose frame takes longer; the frame is tried again.  [default: no limit]",
)
@click.option(
    "--idle-exit",
    "idle_exit_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End after so much silence.  [default: at the stream's end; with a pattern, never]",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Without a broker: where the group's progress is kept on this machine.",
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
@observed()
@report_option
@json_option
def command(
    function: str,
    stream: str,
    group: str,
    processes: int,
    threads: int,
    outs: tuple[str, ...],
    start: str,
    where: str | None,
    chunk: int | None,
    min_modules: int | None,
    deadline_s: float | None,
    frame_limit_s: float | None,
    idle_exit_s: float | None,
    state: str | None,
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
    from pipeline.worker import run_worker

    def left() -> str:
        for process in multiprocessing.active_children():
            process.kill()
        return "frames in hand go to other workers of the group"

    with stopping(left) as stop, status_line(report_s) as say:

        def progress(so_far: WorkerReport) -> None:
            say(_line(so_far), frames=so_far.frames, results=so_far.results)

        report = run_worker(
            function,
            stream,
            group=group,
            processes=processes,
            threads=threads,
            out=outs,
            start=int(start) if start.isdecimal() else start,
            where=where,
            chunk=chunk or 0,
            min_modules=min_modules,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            idle_exit_s=idle_exit_s,
            wait_s=wait_s,
            frame_limit_s=frame_limit_s,
            stop=stop.event,
            progress=progress,
            max_attempts=max_attempts,
            store=store,
            state=state,
        )
    if as_json:
        print_json({**dataclasses.asdict(report), "rate_hz": report.rate_hz})
    else:
        click.echo(_line(report))
    if not report.finished:
        stop.exit_if_asked()


def _line(report: WorkerReport) -> str:
    parts = [f"{report.frames} frames, {report.results} results, {report.rate_hz:.0f}/s"]
    for name in ("skipped", "rejected", "retried", "crashes"):
        if getattr(report, name):
            parts.append(f"{getattr(report, name)} {name}")
    return ", ".join(parts)
