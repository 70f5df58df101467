"""``lichtstrom watch``."""

from __future__ import annotations

import math
import shutil
import sys
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from pipeline.cli.groups import FailedError
from pipeline.cli.names import StreamParam, open_stream, store_option
from pipeline.cli.output import json_option, print_json, time_text
from pipeline.cli.signals import stopping
from pipeline.errors import (
    FrameNotFoundError,
    PipelineError,
    StreamNotFoundError,
    StreamTimeoutError,
)
from pipeline.naming import has_wildcards

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.stream import Frame, Stream

_LOOK_S = 0.5
#: Between two looks at the groups.
_GROUPS_S = 2.0


@click.command()
@click.argument("stream", type=StreamParam(pattern=True), metavar="[STREAM]", required=False)
@click.option("--once", is_flag=True, help="Draw the newest image and stop.")
@click.option(
    "--png",
    "png_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the newest image, in full size, to a PNG file and stop.  [default: draw]",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0),
    default=0.5,
    metavar="SECONDS",
    help="Draw a new image at most so often.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    help="How long to wait for the first image.",
)
@store_option
@json_option
def command(
    stream: str | None,
    once: bool,
    png_path: Path | None,
    every_s: float,
    timeout_s: float,
    store: str | None,
    as_json: bool,
) -> None:
    """Draw the newest image of STREAM in the terminal and follow, to the stream's end or Ctrl-C.

    Without STREAM: the stream that was created last. With a pattern: the last that it matches,
    and when that has ended the next one. --json prints each image's facts instead.
    """
    from pipeline.session import connect

    pattern = stream if stream and has_wildcards(stream) else None
    with connect(store) as session, stopping(lambda: "nothing is lost") as stop:
        name = _newest(session) if stream is None else stream
        if pattern is not None:
            name = _next(session, pattern, "", stop.event, timeout_s=timeout_s)
        while name:
            with open_stream(session, name) as opened:
                frame = opened.latest(timeout_s=timeout_s)
                if png_path is not None:
                    _write_png(png_path, frame)
                if as_json or png_path is not None:
                    _tell(frame, png_path, as_json=as_json)
                else:
                    _draw(frame, opened)
                if once or png_path is not None:
                    return
                _follow(session, opened, frame, stop.event, every_s=every_s, as_json=as_json)
            if pattern is None:
                return
            name = _next(session, pattern, name, stop.event)


def _newest(session: Session) -> str:
    found = session.streams()
    if not found:
        where = session.settings.kafka.bootstrap or session.services.store.url
        raise StreamNotFoundError("*/*/*", where=where, hint="nothing was published yet")
    return str(found[-1].name)


def _next(
    session: Session, pattern: str, after: str, stop: Event, *, timeout_s: float = math.inf
) -> str:
    """Wait until the newest stream of a pattern is another one than ``after``; '' when stopped."""
    deadline_s = time.monotonic() + timeout_s
    while not stop.is_set():
        found = session.streams(pattern)
        if found and str(found[-1].name) != after:
            return str(found[-1].name)
        if time.monotonic() >= deadline_s:
            where = session.settings.kafka.bootstrap or session.services.store.url
            raise StreamNotFoundError(pattern, where=where, hint="nothing was published yet")
        stop.wait(_LOOK_S)
    return ""


def _follow(
    session: Session,
    stream: Stream,
    frame: Frame,
    stop: Event,
    *,
    every_s: float,
    as_json: bool,
) -> None:
    drawn_s = time.monotonic()
    standing = _Standing(session, stream)
    while not stop.wait(max(0.0, drawn_s + every_s - time.monotonic())):
        before = frame
        try:
            frame = stream.latest(after=frame.number, timeout_s=_LOOK_S)
        except StreamTimeoutError:
            continue
        except FrameNotFoundError:
            return  # it has ended
        rate_hz = (frame.number - before.number) / max(1e-3, time.monotonic() - drawn_s)
        drawn_s = time.monotonic()
        if as_json:
            _tell(frame, None, as_json=True)
        else:
            _draw(frame, stream)
            click.echo(f"{rate_hz:.1f} frames/s  {standing.line()}".rstrip())


class _Standing:
    """The line on the stream's groups, asked for every few seconds: that reads records."""

    def __init__(self, session: Session, stream: Stream) -> None:
        self._session = session
        self._name = stream.name
        self._next_s = 0.0
        self._line = ""

    def line(self) -> str:
        """Return it; empty without groups or a broker."""
        from pipeline.cli.standing import group_line, stream_row

        now_s = time.monotonic()
        if now_s >= self._next_s and self._session.services.has_broker:
            row = stream_row(self._session, self._name)
            self._line = group_line(row) if row else ""
            # as long a rest as the question took, several times: it must not slow the picture
            self._next_s = time.monotonic() + _GROUPS_S + 4 * (time.monotonic() - now_s)
        return self._line


def _tell(frame: Frame, path: Path | None, *, as_json: bool) -> None:
    facts = {
        "stream": str(frame.stream),
        "number": frame.number,
        "timestamp_ns": frame.timestamp_ns,
        "shape": list(frame.shape),
        "dtype": frame.dtype,
        "attributes": dict(frame.attributes),
        **({"png": str(path)} if path else {}),
    }
    if as_json:
        print_json(facts, indent=None)
    else:
        click.echo(f"{path}: frame {frame.number} of {frame.stream}")


def _draw(frame: Frame, stream: Stream) -> None:
    click.echo(f"{stream.name}  frame {frame.number}  {time_text(frame.timestamp_ns)}")
    if frame.encoding == "none":
        click.echo("  ".join(f"{name}={value}" for name, value in frame.attributes.items()))
        return
    from pipeline.cli.picture import blocks, coloured, plane, shrunk

    size = shutil.get_terminal_size()
    image = plane(frame.array)
    small = shrunk(image, 2 * max(1, size.lines - 3), size.columns)
    text = blocks(coloured(small))
    if sys.stdout.isatty():
        click.echo("\x1b[H\x1b[2J", nl=False)
        click.echo(f"{stream.name}  frame {frame.number}  {time_text(frame.timestamp_ns)}")
    click.echo(text, color=True)


def _write_png(path: Path, frame: Frame) -> None:
    from pipeline.cli.picture import coloured, plane, png

    if frame.encoding == "none":
        raise PipelineError(f"frame {frame.number} of {frame.stream} has no pixels")
    try:
        path.write_bytes(png(coloured(plane(frame.array))))
    except OSError as error:
        raise FailedError(f"{path} cannot be written: {error.strerror}") from error
