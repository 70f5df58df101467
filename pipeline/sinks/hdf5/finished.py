"""A file whose frames are all there, open for what is added at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sinks.hdf5.columns import Columns
from pipeline.sinks.hdf5.facts import Facts
from pipeline.sinks.hdf5.journal import Journal
from pipeline.sinks.hdf5.rows import Rows
from pipeline.sinks.hdf5.table import FrameTable, Layout, reopened


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What the layouts need: the open file, its rows as they stand in it, and its columns."""

    file: Any
    base: int
    layout: Layout
    rows: Rows
    columns: Columns

    def __len__(self) -> int:
        return len(self.rows)

    def name_first(self, facts: Facts, said: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Tell what the first frame says, and when the first and the last were taken."""
        for number, attributes in said:
            facts.first_number, facts.first_attributes = number, attributes
            break
        times = self.rows.timestamps_ns
        times = times[times > 0]
        if len(times):
            facts.earliest_ns, facts.latest_ns = int(times.min()), int(times.max())
        valid = np.flatnonzero(self.rows.valid)
        if facts.mask is None and len(self.layout.shape) == 2 and len(valid):
            facts.mask = facts.mask_of(self.file["entry/data/data"][int(valid[0])])


@contextmanager
def finishing(path: Path, table: FrameTable, journal: Journal) -> Iterator[Finished]:
    """Open a complete table, which was closed, and give it the frames' attributes."""
    file = reopened(path)
    try:
        count = len(table.rows)
        columns = Columns(file["entry/instrument/detector"], capacity=max(1, count))
        for number, attributes in journal:
            position = table.share.place(number) - table.base
            if 0 <= position < count:
                columns.add(position, attributes)
        columns.resize(count)
        yield Finished(
            file=file, base=table.base, layout=table.layout, rows=table.rows, columns=columns
        )
        file.flush()
    finally:
        file.close()
