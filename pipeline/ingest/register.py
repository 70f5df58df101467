"""The series of an adapter: those of this run, and what earlier runs have left of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.frame import AttributeValue
from pipeline.ingest import sharing
from pipeline.ingest.runs import new_run_id
from pipeline.ingest.sources import Source, found_sources
from pipeline.ingest.streams import Streams
from pipeline.protocols import SeriesBegin

#: Series that are over and still known, in case something late comes of them; of others the
#: catalogue knows.
_MAX_OVER = 32


class Register:
    """Which source a series is; for one thread."""

    def __init__(self, streams: Streams, wanted: str | None) -> None:
        self._streams = streams
        self._wanted = wanted or ""
        self._sources: dict[str, Source] = {}
        #: Streams that earlier runs left open, whose series has not shown up in this one.
        self.orphans: list[Source] = []

    def __iter__(self) -> Iterator[Source]:
        yield from {id(source): source for source in self._sources.values()}.values()

    def get(self, series: str) -> Source | None:
        """Return the source of a series that has begun."""
        return self._sources.get(series)

    def adopt(
        self,
        owns: Callable[[Mapping[str, AttributeValue]], Any],
        share: sharing.Share = sharing.whole,
    ) -> None:
        """Find what an earlier run has left open.

        Its files may all be gone (published and deleted) before its end was written.
        """
        catalogue = self._streams.earlier()
        self.orphans += sharing.left_behind(catalogue, self._wanted, owns, share)
        for source in found_sources(catalogue, self._wanted):
            if sharing.FACT in source.facts:
                continue
            if not source.streams[-1].ended and owns(source.facts):
                self.orphans.append(source)

    def forgive(self, waited_s: float) -> None:
        """Not count as silence of the sources what we spent on something else."""
        for source in (*self, *self.orphans):
            source.touched_s += waited_s

    def known(self, event: SeriesBegin) -> Source | None:
        """Return the source of this run that begins once more; None if it is another one."""
        facts = self._facts(event)
        source = self._sources.get(event.series)
        if source is not None and source.is_of(facts, late=event.late):
            return source
        if not event.run or (event.share and not event.late):
            return None  # runs of a device that are shared have equal facts
        # Under another name: a device that was connected anew may count its series anew.
        others = [other for other in self if other.is_of(facts, late=event.late)]
        if event.late:
            others = [other for other in others if other.active]
        if others:
            self._sources[event.series] = others[-1]
            return others[-1]
        return None

    def find(self, event: SeriesBegin) -> Source:
        """Return a source for a series, with the streams that earlier runs have made of it."""
        facts = self._facts(event)
        known: list[Source] = []
        if event.run and (event.late or not event.share):
            known = [source for source in self.orphans if source.is_of(facts, late=event.late)]
            if not known and not event.share:
                found = found_sources(self._streams.earlier(), self._wanted)
                known = [source for source in found if source.is_of(facts, late=event.late)]
        if event.late:  # what has ended is another series of the same number
            known = [source for source in known if not source.streams[-1].ended]
        if not known:
            if event.late:
                facts["attached"] = new_run_id()
            return Source(event, facts, [], time.monotonic())
        newest = known[-1]
        if newest in self.orphans:
            self.orphans.remove(newest)
        return Source(event, newest.facts, newest.streams, time.monotonic())

    def add(self, source: Source) -> None:
        """Make it the source of its series, and forget series that are long over."""
        self._sources.pop(source.begin.series, None)
        self._sources[source.begin.series] = source
        over = [s for s in self if not (s.active or s.writer or s.notes)]
        for old in sorted(over, key=lambda s: s.touched_s)[:-_MAX_OVER]:
            for series in [name for name, s in self._sources.items() if s is old]:
                del self._sources[series]

    def _facts(self, event: SeriesBegin) -> dict[str, AttributeValue]:
        shared = {sharing.FACT: True} if event.share else {}
        return {**event.run, **shared, "stream": self._wanted}
