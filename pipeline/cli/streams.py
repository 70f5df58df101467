"""``lichtstrom streams``."""

from __future__ import annotations

import click

from pipeline.cli.names import StreamParam, find_streams, store_option
from pipeline.cli.output import json_option, print_json, print_table, size_text, time_text
from pipeline.naming import has_wildcards


@click.command()
@click.argument("pattern", type=StreamParam(pattern=True), default="*/*/*")
@store_option
@json_option
def command(pattern: str, store: str | None, as_json: bool) -> None:
    """List the streams that PATTERN means (default: all), oldest first.

    Of an open stream, frames are those known so far.
    """
    from pipeline.cli.facts import summary_facts
    from pipeline.session import connect

    with connect(store) as session:
        wild = has_wildcards(pattern)  # a pattern may mean nothing, a name is to be there
        found = session.streams(pattern) if wild else find_streams(session, pattern)
        facts = [summary_facts(session, summary) for summary in found]
    if as_json:
        print_json(facts)
        return
    rows = [
        (
            entry["stream"],
            entry["state"],
            entry["frames"],
            "" if entry["expected"] is None else entry["expected"],
            size_text(entry["nbytes"]),
            time_text(entry["first_ns"]),
            time_text(entry["last_ns"]),
        )
        for entry in facts
    ]
    print_table(("stream", "state", "frames", "expected", "size", "first", "last"), rows)
