"""STREAM arguments: exact names and patterns, and near names where nothing is found."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.errors import (
    InvalidNameError,
    PipelineError,
    StreamNotFoundError,
    TopicMissingError,
)
from pipeline.naming import StreamId, has_wildcards, quote_part

if TYPE_CHECKING:
    from threading import Event

    from pipeline.session import Session, StreamSummary
    from pipeline.stream import Stream

F = TypeVar("F", bound=Callable[..., Any])
#: How often a stream that is waited for is looked for.
_LOOK_S = 0.2


class StreamParam(click.ParamType[str]):
    """``beamtime/detector/stream``; with ``pattern`` a shell pattern of that form."""

    name = "STREAM"

    def __init__(self, *, pattern: bool = False) -> None:
        self._pattern = pattern

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form."""
        if self._pattern and has_wildcards(value):
            if value.count("/") != 2:
                self.fail(f"{value!r} must be written beamtime/detector/stream", param, ctx)
            return value
        try:
            return str(StreamId.parse(value))
        except InvalidNameError as error:
            self.fail(str(error), param, ctx)


def stream_argument(command: F) -> F:
    """Add the argument STREAM."""
    return click.argument("stream", type=StreamParam(), metavar="STREAM")(command)


def store_option(command: F) -> F:
    """Add ``--store``."""
    return click.option(
        "--store",
        metavar="URL",
        help="'file' or 's3': which way to the runtime's store. A URL (file:///dir, s3://bucket)"
        " reads the sealed streams there, without a broker.  [default: as configured]",
    )(command)


wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for a stream that does not exist yet.",
)


def open_stream(session: Session, name: str) -> Stream:
    """Return a stream for reading; the error for an unknown one tells near names."""
    stream = StreamId.parse(name)
    try:
        return session.stream(stream.beamtime, stream.detector, stream.stream)
    except StreamNotFoundError as error:
        raise _with_near(session, stream, error) from error


def await_stream(session: Session, name: str, *, timeout_s: float, stop: Event) -> None:
    """Return when the stream exists; at the limit the next look at it raises."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            open_stream(session, name).close()
        except (StreamNotFoundError, TopicMissingError):
            if stop.wait(_LOOK_S):
                return
        else:
            return


def find_streams(session: Session, pattern: str) -> list[StreamSummary]:
    """Return the streams that a name or pattern means, at least one."""
    if has_wildcards(pattern):
        found = session.streams(pattern)
        if not found:
            raise StreamNotFoundError(
                pattern, where=_where(session), hint="`lichtstrom streams` lists what there is"
            )
        return found
    stream = StreamId.parse(pattern)
    same = [s for s in session.streams(f"{literal(stream.beamtime)}/*/*") if s.name == stream]
    if not same:
        raise _with_near(session, stream, StreamNotFoundError(stream, where=_where(session)))
    return same[-1:]


def _with_near(
    session: Session, stream: StreamId, error: StreamNotFoundError
) -> StreamNotFoundError:
    """Return the error with what became of the stream, or the names that come nearest."""
    try:
        if gone := session.fate(stream):
            return StreamNotFoundError(stream, where=error.where, hint=gone)
        known = [str(s.name) for s in session.streams(f"{literal(stream.beamtime)}/*/*")]
        if not known and session.services.has_broker:
            beamtimes = session.services.admin.beamtimes()
            close = difflib.get_close_matches(stream.beamtime, beamtimes, n=1)
            known = [str(s.name) for b in close for s in session.streams(f"{literal(b)}/*/*")]
    except PipelineError:
        return error
    near = difflib.get_close_matches(str(stream), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`lichtstrom streams` lists them"
    return StreamNotFoundError(stream, where=error.where, hint=hint)


def _where(session: Session) -> str:
    return session.settings.kafka.bootstrap or session.services.store.url


def literal(beamtime: str) -> str:
    """Return the pattern that matches only this beamtime."""
    return "".join(f"[{c}]" if has_wildcards(c) else c for c in quote_part(beamtime))
