"""What an ingest run has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.telemetry.book import Numbers


@dataclass(slots=True, weakref_slot=True)
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
    spooled:
        Frames that are on local disk now, behind a broker or a store that is away or too slow.
    waited_s:
        Seconds in which the source was held back, for a server or for room.
    waiting:
        What is waited for at this moment; empty while frames are taken.
    """

    frames: int = 0
    nbytes: int = 0
    confirmed: int = 0
    skipped: int = 0
    quarantined: int = 0
    streams: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    not_flushed: int = 0
    spooled: int = 0
    waited_s: float = 0.0
    waiting: str = ""


def numbers_of(report: IngestReport) -> Numbers:
    """Return a report as metrics."""
    return {
        "lichtstrom_adapter_frames_total": report.frames,
        "lichtstrom_adapter_bytes_total": report.nbytes,
        "lichtstrom_adapter_skipped_total": report.skipped,
        "lichtstrom_adapter_quarantined_total": report.quarantined,
        "lichtstrom_adapter_streams_total": len(report.streams),
        "lichtstrom_adapter_ended_streams_total": len(report.ended),
        "lichtstrom_adapter_held_back_seconds_total": report.waited_s,
        "lichtstrom_adapter_waiting": bool(report.waiting),
    }
