"""What commands print: facts on stdout, progress on stderr when it is a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for other programs."
)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def print_pairs(pairs: Mapping[str, object] | Sequence[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    entries = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    width = max((len(name) for name, _ in entries), default=0)
    for name, value in entries:
        click.echo(f"{name:<{width}}  {value}")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns, numbers to the right."""
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *texts, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float)) or row[i] == "" for row in rows)
        for i in range(len(titles))
    ]
    for line in [list(titles), *texts]:
        cells = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def time_text(time_ns: int | None) -> str:
    """Return a time as ISO 8601 in UTC; empty for None."""
    if time_ns is None:
        return ""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9 // 10**6:03d}Z"


def size_text(nbytes: int) -> str:
    """Return a number of bytes for people."""
    value, units = float(nbytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}" if units[0] != "B" else f"{nbytes} B"


def range_text(ranges: Sequence[Sequence[int]]) -> str:
    """Return ranges for people, the first few of them."""
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:10]]
    more = len(ranges) - len(shown)
    return ", ".join(shown) + (f" and {more} more ranges" if more else "")


report_option = click.option(
    "--report",
    "report_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Print the counts so far as a line of JSON on stderr, so often.  [default: never]",
)
#: A line that changes more often than this cannot be read.
_REDRAW_S = 0.1


class StatusLine:
    """One line that says how far a command is: drawn in place, or as JSON every so often."""

    def __init__(self, draw: Callable[[str], object] | None, report_s: float | None) -> None:
        self._draw = draw
        self._report_s = report_s
        self._drawn_s = self._reported_s = 0.0

    def __call__(self, text: str, **counts: int) -> None:
        """Say it, if it is time to."""
        now_s = time.monotonic()
        if self._draw is not None and now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            self._draw(text)
        if self._report_s is not None and now_s - self._reported_s >= self._report_s:
            self._reported_s = now_s
            click.echo(json.dumps({"progress": counts}), err=True)


@contextmanager
def status_line(report_s: float | None = None) -> Iterator[StatusLine]:
    """Give a line on stderr; it draws nothing without a terminal."""
    if not sys.stderr.isatty():
        yield StatusLine(None, report_s)
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield StatusLine(status.update, report_s)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function for (done, total), drawn on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


def account_pairs(account: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return an account for people: what is empty is left out."""
    pairs: list[tuple[str, object]] = []
    for name, value in account.items():
        if name == "quarantined":
            pairs += [("quarantined", f"{e['source']}: {e['reason']}") for e in value]
        elif isinstance(value, list):
            if value:
                pairs.append((name, range_text(value)))
        elif name == "sample":
            chosen = f"{value['selection']} of {value['frames']} frames"
            pairs.append(("sample", f"{chosen}, stream {value['of']}"))
        elif name == "complete":
            pairs.append((name, "yes" if value else "no"))
        elif value or name == "received":
            pairs.append((name, value))
    return pairs
