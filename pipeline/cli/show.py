"""``lichtstrom show``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.names import open_stream, store_option, stream_argument
from pipeline.cli.output import (
    account_pairs,
    json_option,
    print_json,
    print_pairs,
    size_text,
    time_text,
)


@click.command()
@stream_argument
@store_option
@json_option
def command(stream: str, store: str | None, as_json: bool) -> None:
    """Tell all about one stream: state, metadata with units, who writes it, where it is."""
    from pipeline.cli.facts import details
    from pipeline.session import connect

    with connect(store) as session, open_stream(session, stream) as opened:
        facts = details(session, opened)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from pipeline.cli.facts import metadata_rows

    expected = "" if facts["expected"] is None else f" of {facts['expected']}"
    print_pairs(
        [
            ("stream", facts["stream"]),
            ("state", facts["state"]),
            ("frames", f"{facts['frames']}{expected}, {size_text(facts['nbytes'])}"),
            ("first", time_text(facts["first_ns"])),
            ("last", time_text(facts["last_ns"])),
            ("created", f"{time_text(facts['created_ns'])} by {facts['opened_by']}"),
            ("writer", facts["writer"]),
            ("topic", f"{facts['topic']} ({facts['broker'] or 'no broker'})"),
            ("store", f"{facts['store'].rstrip('/')}/{facts['prefix']}"),
            ("manifest", facts["manifest"] or "not sealed"),
            ("attachments", ", ".join(facts["attachments"]) or "none"),
        ]
    )
    for title in ("run", "lineage"):
        for name, value in facts[title].items():
            click.echo(f"{title}.{name}  {value}")
    rows = metadata_rows(facts["metadata"])
    if rows:
        click.echo("\nmetadata")
        width = max(len(name) for name, _, _ in rows)
        for name, value, unit in rows:
            click.echo(f"  {name:<{width}}  {value}{' ' if unit else ''}{unit}")
    click.echo("\naccount")
    for name, value in account_pairs(facts["account"]):
        if name not in ("stream", "state"):
            click.echo(f"  {name}  {value}")
