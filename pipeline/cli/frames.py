"""``lichtstrom frames``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.names import open_stream, store_option, stream_argument
from pipeline.cli.output import json_option, print_json, time_text

if TYPE_CHECKING:
    from pipeline.stream import Frame, Stream


@click.command()
@stream_argument
@click.option(
    "--where",
    metavar="EXPR",
    help="Only frames that match, e.g. 'omega > 10 and number < 500'; names are number, time,"
    " timestamp_ns (ns), module and the frames' attributes.  [default: all]",
)
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", help="At most N frames.  [default: all]"
)
@click.option(
    "--payload-sha256",
    is_flag=True,
    help="Read every payload and print its SHA-256, too.",
)
@store_option
@json_option
def command(
    stream: str,
    where: str | None,
    limit: int | None,
    payload_sha256: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """List the frames of a stream up to now, in number order.

    With --json one object a line: number timestamp_ns shape dtype encoding nbytes crc32c module
    attributes. A detector with modules gives a line for each module of a frame.
    """
    from pipeline.session import connect

    with connect(store) as session, open_stream(session, stream) as opened:
        for count, frame in enumerate(_matching(opened, where)):
            if limit is not None and count >= limit:
                break
            for part in frame.modules.values():
                facts = _facts(part, payload_sha256=payload_sha256)
                if as_json:
                    print_json(facts, indent=None)
                else:
                    click.echo(_line(facts))


def _matching(stream: Stream, where: str | None) -> Iterator[Frame]:
    """Yield the frames without reading payloads, which ``select`` would read ahead."""
    if where is None:
        yield from stream.frames()
        return
    from pipeline.reading.expressions import compile_expression

    expression = compile_expression(where)
    table = stream.table()
    expression.check_names(table.names())
    rows = table.merged().rows
    mask = expression.mask(table.view())
    chosen = set(table.numbers[rows[mask[rows]]].tolist())
    yield from (frame for frame in stream.frames() if frame.number in chosen)


def _facts(frame: Frame, *, payload_sha256: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "number": frame.number,
        "timestamp_ns": frame.timestamp_ns,
        "shape": list(frame.shape),
        "dtype": frame.dtype,
        "encoding": frame.encoding,
        "nbytes": frame.nbytes,
        "crc32c": frame.checksum,
        "module": frame.module,
        "attributes": dict(frame.attributes),
    }
    if payload_sha256:
        facts["payload_sha256"] = hashlib.sha256(frame.payload).hexdigest()
    return facts


def _line(facts: dict[str, Any]) -> str:
    shape = "x".join(map(str, facts["shape"])) or "-"
    digest = f"  {facts['payload_sha256']}" if "payload_sha256" in facts else ""
    values = " ".join(f"{name}={_short(value)}" for name, value in facts["attributes"].items())
    module = f".{facts['module']}" if facts["module"] else ""
    return (
        f"{facts['number']}{module}  {time_text(facts['timestamp_ns'])}  {shape}  {facts['dtype']}"
        f"  {facts['encoding']}  {facts['nbytes']}  {facts['crc32c']:08x}{digest}  {values}"
    ).rstrip()


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
