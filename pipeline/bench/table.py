"""The rows as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pipeline.bench.rows import Row


def drawn(rows: Sequence[Row], *, conditions: bool) -> Table:
    """Return the table; with ``conditions`` each row says how it was measured."""
    table = Table(box=None, pad_edge=False)
    table.add_column("row", no_wrap=True)
    for name in ("value", "unit", "limit", "ratio", "p50 ms", "p99 ms", "runs"):
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    if conditions:
        table.add_column("conditions")
    for row in rows:
        cells = [row.id, *_cells(row)]
        table.add_row(*cells, *([row.conditions] if conditions else []))
    return table


def _cells(row: Row) -> list[str]:
    return [
        _number(row.value),
        row.unit,
        _number(row.limit),
        _number(row.ratio),
        _number(row.p50),
        _number(row.p99),
        str(row.runs or ""),
    ]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
