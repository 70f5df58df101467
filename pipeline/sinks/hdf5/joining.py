"""Slow-control values beside the frames of a detector: joined by time.

A slow channel is a stream of its own, of frames that have attributes and no pixels.  Each frame of
the detector gets the last value at or before its own time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.joining.lookup import look_up
from pipeline.nexus.facts import Facts
from pipeline.nexus.text import link_name
from pipeline.nexus.tree import Group
from pipeline.sinks.hdf5.finished import Finished
from pipeline.sinks.hdf5.flavours import column
from pipeline.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values over time: ``times_ns`` (n,) int64 rising, ``values`` (n,) float64."""

    name: str
    units: str
    times_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def at(self, times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the last value at or before each time; NaN before the first, and for time 0."""
        found = look_up(self.times_ns, self.values, times_ns, "step")
        at: npt.NDArray[np.float64] = np.where(found.known & (times_ns > 0), found.data, np.nan)
        return at


def series_of(stream: Stream) -> Iterator[Series]:
    """Yield the numeric attributes of a stream as they are now."""
    table = stream.table()
    rows = table.merged().rows
    times = table.timestamps_ns[rows]
    units = stream.metadata.get("units")
    for name in table.names():
        found = table.attribute(name)
        if found.is_object or not isinstance(found.data, np.ndarray):
            continue
        values = found.data[rows].astype(np.float64)
        known = np.broadcast_to(np.asarray(found.known), table.numbers.shape)[rows]
        order = np.argsort(times[known], kind="stable")
        yield Series(
            name=name,
            units=str(units.get(name, "")) if isinstance(units, dict) else "",
            times_ns=times[known][order],
            values=values[known][order],
        )


class Joined:
    """What a file gets of slow channels: ``/entry/slow_control/<detector>_<stream>/<attribute>``.

    They are read when the file is finished.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def __call__(self, tree: Group, done: Finished, _: Facts) -> list[str]:
        """Add them to the tree; return what has no values."""
        entry = tree.nodes["entry"]
        assert isinstance(entry, Group)
        slow = entry.group("slow_control", "NXcollection")
        times = done.rows.timestamps_ns.astype(np.int64)
        without = []
        for stream in self._streams:
            name = f"{stream.name.detector}_{stream.name.stream}"
            group = slow.group(link_name(name), "NXcollection")
            for series in series_of(stream):
                more = {"units": series.units} if series.units else {}
                group.field(link_name(series.name), column(series.at(times)), **more)
            if len(group.nodes) == 0:
                without.append(f"slow_control/{name}")
        return without
