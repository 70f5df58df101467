"""Series as camserver tells of them, and which of their files have come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.detectors.pilatus.link import Began
from pipeline.frame import AttributeValue
from pipeline.protocols import SeriesBegin, SeriesEnd
from pipeline.records import State

# Drivers allow a file to be so much older than its series, by the clocks of two machines.
_SKEW_NS = 10 * 10**9


@dataclass(slots=True, kw_only=True, eq=False)
class OpenSeries:
    """A series of files that goes on; its first files often come before camserver is asked.

    Parameters
    ----------
    directory:
        Below the watched one.
    times_ns:
        Of the files that have come, by number.
    """

    begin: SeriesBegin
    directory: str
    prefix: str
    extension: str
    times_ns: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Acquisition:
    """One series that camserver has begun.

    Parameters
    ----------
    directory:
        Where camserver puts the files, as it calls it.
    series:
        Key of the series of files; empty until one has come.
    last:
        Number of the last image; None until camserver has told.
    ended_s:
        When the end was seen; None while it goes on.
    """

    began: Began
    directory: str
    prefix: str
    first: int
    extension: str
    series: str = ""
    numbers: set[int] = field(default_factory=set)
    stale: int = 0
    last: int | None = None
    state: State = "complete"
    ended_s: float | None = None

    def has(self, directory: str, prefix: str, number: int, extension: str) -> bool:
        """Tell whether a file is of this series; ``directory`` below the watched one.

        camserver may know the watched directory by another path, a sub-directory has one name.
        """
        if (prefix, extension) != (self.prefix, self.extension) or number < self.first:
            return False
        if self.last is not None and number > self.last:
            return False
        return not directory or directory.rpartition("/")[2] == self.directory.rpartition("/")[2]

    def adopt(self, series: OpenSeries) -> SeriesBegin | None:
        """Take over the files that came first; return the begin with what camserver told."""
        mine = {
            number
            for number, time_ns in series.times_ns.items()
            if self.has(series.directory, series.prefix, number, series.extension)
            and not self._is_older(time_ns)
        }
        if not mine:
            return None
        self.numbers |= mine
        self.series = series.begin.series
        return self.tell(series.begin)

    def tell(self, begin: SeriesBegin) -> SeriesBegin:
        """Return a begin of files with what camserver told; what files say has precedence."""
        told = self.began.metadata
        merged: dict[str, AttributeValue] = {**told, **begin.metadata}
        units = begin.metadata.get("units")
        if isinstance(units, Mapping) and "temperatures_C" in told:
            merged["units"] = {**units, "temperatures_C": "degC", "humidities_percent": "%"}
        rate_hz = 1 / self.began.period_s if self.began.period_s else None
        return replace(begin, metadata=merged, rate_hz=rate_hz)

    def is_stale(self, mtime_ns: int) -> bool:
        """Tell whether a file was there before the series: an old one of the same name."""
        return self.ended_s is None and self._is_older(mtime_ns)

    def _is_older(self, time_ns: int) -> bool:
        return not self.began.late and time_ns < self.began.seen_ns - _SKEW_NS

    @property
    def expected(self) -> int | None:
        """How many images there are; None while that is not known."""
        return None if self.last is None else self.last - self.first + 1

    @property
    def is_whole(self) -> bool:
        """Whether every image up to the last one has come."""
        return self.expected is not None and len(self.numbers) >= self.expected

    def end(self) -> SeriesEnd:
        """Return the event that ends its stream."""
        return SeriesEnd(series=self.series, state=self.state, expected=self.expected)
