"""What a measurement gives: one row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure beside its limit.

    Parameters
    ----------
    value, limit:
        Medians of the runs; ``limit`` is what bare calls of the system do with the same bytes.
    ratio:
        value / limit: of a rate the share that is reached, of a time how many times as long.
    p50, p99:
        Percentiles in milliseconds, where single events were timed.
    runs:
        How many interleaved runs the medians are of.
    conditions:
        Durability, page cache, counts: all that a reader must know to compare.
    error:
        Why there is no value.
    """

    id: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    ratio: float | None = None
    p50: float | None = None
    p99: float | None = None
    runs: int = 0
    conditions: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``bench --json`` prints it; ``error`` only where there is one."""
        found = asdict(self)
        if not self.error:
            del found["error"]
        return {key: _short(value) for key, value in found.items()}


def row(
    name: str,
    values: Sequence[float],
    limits: Sequence[float],
    *,
    unit: str,
    conditions: Sequence[str],
    p50: float | None = None,
    p99: float | None = None,
) -> Row:
    """Return the row of several runs; the ratio is that of the medians."""
    value, limit = median(values), median(limits)
    spread = ", ".join(f"{v:.4g}" for v in values)
    return Row(
        id=name,
        value=value,
        unit=unit,
        limit=limit,
        ratio=value / limit if limit else None,
        p50=p50,
        p99=p99,
        runs=len(values),
        conditions="; ".join([*conditions, f"runs {spread}"]),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of the values."""
    return float(np.percentile(np.asarray(values), percent))


def _short(value: Any) -> Any:
    """Four digits: more would not be the same in the next run."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
