"""What an ingest run has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class IngestReport:
    """What became of the frames of one run.

    Parameters
    ----------
    frames, nbytes:
        Handed to a publisher.
    confirmed:
        Published, and known to be.
    skipped:
        Found to be published by an earlier run.
    quarantined:
        Could not be read as a frame.
    streams:
        Streams that got frames, in the order of their opening.
    ended:
        Streams whose end was written, or found to be.
    not_flushed:
        Frames that were not confirmed when the run stopped; their sources are kept.
    """

    frames: int = 0
    nbytes: int = 0
    confirmed: int = 0
    skipped: int = 0
    quarantined: int = 0
    streams: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    not_flushed: int = 0
