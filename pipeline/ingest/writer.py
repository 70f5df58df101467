"""One stream that an ingest run writes, and what belongs beside its frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.frame import AttributeValue
from pipeline.ingest.runs import RunStream
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd


@dataclass(slots=True, eq=False, kw_only=True)
class Writer:
    """One stream that is written; ``out`` is None while it rests."""

    stream: RunStream
    begin: SeriesBegin
    run: Mapping[str, AttributeValue]
    out: Any = None
    #: (number, module) of the frames that are not confirmed.
    unconfirmed: set[tuple[int, int]] = field(default_factory=set)
    notes: list[Quarantined] = field(default_factory=list)
    #: Arrays and facts that are not stored yet, by name.
    attachments: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, AttributeValue] = field(default_factory=dict)
    #: When to try again to store what belongs beside the frames.
    beside_s: float = 0.0
    used_s: float = 0.0
    ending: SeriesEnd | None = None
    retry_s: float = 0.0

    @property
    def is_spooled(self) -> bool:
        """Whether frames wait on local disk."""
        return self.out is not None and bool(self.out.position.spooled)

    def send_beside(self) -> None:
        """Write what belongs beside the frames, each thing once.

        Raises what passes when a server is back; what was written then is not written again.
        """
        while self.notes:
            note = self.notes[0]
            self.out.quarantine(note.source, note.reason)
            self.stream.quarantined.add(note.source)
            del self.notes[0]
        if self.metadata:
            self.out.update_metadata(self.metadata)
            self.metadata = {}
        while self.attachments:
            name = next(iter(self.attachments))
            self.out.attach(name, self.attachments[name])
            del self.attachments[name]
