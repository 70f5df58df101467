"""Series of an adapter, and the streams that they have given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.frame import AttributeValue
from pipeline.ingest.runs import RunStream
from pipeline.ingest.writer import Writer
from pipeline.protocols import Quarantined, SeriesBegin

#: What stands in a stream's run beside the facts by which its source is found again.
_BESIDE = ("run_id", "durability")


@dataclass(slots=True, eq=False)
class Source:
    """One series of the adapter, and the streams it has given, in order."""

    begin: SeriesBegin
    facts: dict[str, AttributeValue]
    streams: list[RunStream]
    touched_s: float
    writer: Writer | None = None
    active: bool = True
    #: Quarantined before there was a stream to say so.
    notes: list[Quarantined] = field(default_factory=list)

    def is_of(self, facts: Mapping[str, AttributeValue], *, late: bool) -> bool:
        """Tell whether it is the source with these facts; ``late``: with these and perhaps more."""
        return facts.items() <= self.facts.items() if late else facts == self.facts


@dataclass(slots=True, eq=False)
class Shared:
    """The token of a file; it counts when all holds on it are gone."""

    token: Any
    holds: int = 1

    def hold(self) -> Shared:
        """Have it wait for one more."""
        self.holds += 1
        return self

    def waits(self) -> bool:
        """Take one hold away; tell whether others are left."""
        self.holds -= 1
        return self.holds > 0


def found_sources(summaries: Iterable[Any], wanted: str) -> list[Source]:
    """Return the sources of the streams in a catalogue that were to be called ``wanted``."""
    sources: list[Source] = []
    for summary in sorted(summaries, key=lambda summary: summary.info.position):
        run = summary.info.start.run
        facts = {key: value for key, value in run.items() if key not in _BESIDE}
        if len(facts) < 2 or facts.get("stream") != wanted:
            continue  # not an adapter's, or of an adapter that gives no facts
        source = next((source for source in sources if source.facts == facts), None)
        if source is None:
            # with its modules: each has a writer's part that must be ended
            modules = summary.info.start.modules
            begin = SeriesBegin(series=str(summary.name), run=facts, modules=modules)
            source = Source(begin, facts, [], 0.0)
            sources.append(source)
        source.streams.append(RunStream.found(summary.name, summary.info))
    return sources
