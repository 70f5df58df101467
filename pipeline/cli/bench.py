"""``lichtstrom bench``: how fast it is here, each figure beside its physical limit."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline.errors import InvalidArgumentError

#: Columns where no terminal tells its own.
_WIDTH = 120


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--quick", is_flag=True, help="Smaller counts; all rows in under 10 minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Measure on the runtime of this folder, started if need be (default: a new one below"
    " TMPDIR, deleted afterwards).",
)
def command(ids: tuple[str, ...], quick: bool, as_json: bool, home: Path | None) -> None:
    """Measure rates, latencies, memory, start-up, each beside its physical limit.

    ID is the name of a row, such as publish.file.1200kB, or a pattern, such as 'detector.*' (whole
    instruments, from simulator to reader); without any all are measured. Needs 20 GB of disk, which
    are free again afterwards. Exit status 1 if a row could not be measured.
    """
    from rich.console import Console

    from pipeline.bench.runner import chosen, measure, report
    from pipeline.bench.table import drawn

    try:
        names = chosen(ids)
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from error
    started = datetime.now(UTC)
    rows = list(measure(names, home=home, quick=quick, tell=lambda s: click.echo(s, err=True)))
    if as_json:
        click.echo(json.dumps(report(rows, started), indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        console.print(drawn(rows, conditions=console.width >= 140))
    failed = [row for row in rows if row.error]
    for row in failed:
        click.echo(f"{row.id} failed: {row.error}", err=True)
    if failed:
        raise click.exceptions.Exit(1)
