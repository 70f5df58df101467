"""A file whose frames are all there, open for what is added at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.nexus.facts import Facts, mask_of
from pipeline.records import StreamInfo
from pipeline.sinks.hdf5.columns import Columns
from pipeline.sinks.hdf5.journal import Journal
from pipeline.sinks.hdf5.rows import Rows
from pipeline.sinks.hdf5.table import FrameTable, Layout, reopened


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What the layouts need: the open file, its rows as they stand in it, and its columns.

    ``first``: number and attributes of the lowest frame that came.
    """

    file: Any
    base: int
    layout: Layout
    rows: Rows
    columns: Columns
    first: tuple[int, Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def facts(self, info: StreamInfo) -> Facts:
        """Return what is known of the stream."""
        number, attributes = self.first
        times = self.rows.timestamps_ns
        times = times[times > 0]
        return Facts(
            info=info,
            first_number=number,
            first_attributes=attributes,
            earliest_ns=int(times.min()) if len(times) else 0,
            latest_ns=int(times.max()) if len(times) else 0,
        )

    def mask(self, facts: Facts) -> npt.NDArray[np.uint32] | None:
        """Return the mask that the first image shows; None where pixels carry none."""
        layout, valid = self.layout, np.flatnonzero(self.rows.valid)
        if len(layout.shape) != 2 or not facts.is_masked(np.dtype(layout.dtype)) or not len(valid):
            return None
        position = int(valid[0])
        for name, data in sorted(self.file["entry/data"].items()):
            if name.startswith("data"):
                if position < data.shape[0]:
                    return mask_of(data[position])
                position -= data.shape[0]
        return None


@contextmanager
def finishing(path: Path, table: FrameTable, journal: Journal) -> Iterator[Finished]:
    """Open a complete table, which was closed, and give it the frames' attributes."""
    file = reopened(path)
    try:
        count = len(table.rows)
        columns, first = columns_of(file, journal, base=table.base, count=count)
        yield Finished(
            file=file,
            base=table.base,
            layout=table.layout,
            rows=table.rows,
            columns=columns,
            first=first,
        )
        file.flush()
    finally:
        file.close()


def columns_of(
    file: Any, said: Iterable[tuple[int, dict[str, Any]]], *, base: int, count: int
) -> tuple[Columns, tuple[int, dict[str, Any]]]:
    """Write what frames say, a later word on the same frame winning; return it of the first."""
    columns = Columns(file["entry/instrument/detector"], capacity=max(1, count))
    first: tuple[int, dict[str, Any]] | None = None
    for number, attributes in said:
        if 0 <= number - base < count:
            columns.add(number - base, attributes)
            if first is None or number <= first[0]:
                first = number, attributes
    columns.resize(count)
    return columns, first or (base, {})
