"""Joins an adapter to publishers: series become streams, source frames become frames.

Nothing twice: what an earlier run has published is recognised by number and checksum.  Nothing
lost: a frame's source is let go only after the publisher has confirmed the frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from pipeline.errors import InvalidArgumentError
from pipeline.ingest import sharing
from pipeline.ingest.beamtimes import AUTO
from pipeline.ingest.loop import Ingest
from pipeline.ingest.register import Register
from pipeline.ingest.report import IngestReport, numbers_of
from pipeline.ingest.session import Session
from pipeline.ingest.streams import Streams
from pipeline.ingest.waiting import Waiting
from pipeline.ingest.writers import Writers
from pipeline.protocols import DetectorAdapter, Durability
from pipeline.telemetry.book import BOOK, Place

__all__ = ["IngestReport", "Session", "run"]


def run(
    session: Session,
    adapter: DetectorAdapter,
    *,
    beamtime: str | Callable[[], str],
    detector: str,
    stream: str | None = None,
    idle_end_s: float | None = None,
    streams: int | None = None,
    durability: Durability = "process",
    spool: str = "",
    after: Literal["keep", "delete", "move"] | None = None,
    takeover: bool = False,
    hole_wait_s: float = 2.0,
    stop: threading.Event | None = None,
    on_progress: Callable[[IngestReport], None] | None = None,
    report: IngestReport | None = None,
    poll_s: float = 0.2,
    flush_timeout_s: float = 30.0,
) -> IngestReport:
    """Publish what an adapter gives until its source is over, ``streams`` have ended, or ``stop``.

    Parameters
    ----------
    beamtime:
        Its name; or what is asked for it whenever a stream begins, such as
        :class:`~pipeline.ingest.beamtimes.CurrentBeamtime`.
    stream:
        Name of the stream; further ones are ``stream.2``, ``stream.3``, ...  Default: the series'
        own name and a run id.
    idle_end_s:
        Seconds of silence that end a stream; None: as the adapter does by itself.
    streams:
        Return after so many ended streams; one that was found complete counts.
    after:
        What the adapter was told to do with published sources; all but ``keep`` needs
        ``durability="disk"``.  Default: what the adapter says.
    hole_wait_s:
        How long readers in order wait for a file that comes late.
    stop:
        Set it (from a signal handler) to flush and return; open streams stay open and are
        continued by the next run.
    report:
        Filled in while it runs, for who wants to know after an exception.
    flush_timeout_s:
        How long the last frames may take.

    Raises
    ------
    WriterActiveError, WriterSupersededError
        Another writer, perhaps a second adapter on this directory.
    SourceError
        The source is unusable.
    """
    kept = after or getattr(adapter, "after", "keep")
    if kept != "keep" and durability != "disk":
        raise InvalidArgumentError(
            "durability", f"must be 'disk' with after = {kept!r}: a source goes only for good"
        )
    if streams is not None and streams < 1:
        raise InvalidArgumentError("streams", f"{streams} is not 1 or more")
    own_idle_s = idle_end_s
    if idle_end_s is not None and hasattr(adapter, "idle_end_s"):
        adapter.idle_end_s = idle_end_s  # it knows better: files that still grow are not silence
        own_idle_s = None
    settings = {
        "durability": durability,
        "spool": spool,
        "hole_wait_s": hole_wait_s,
        # waiting for room is done here, where a stop is seen
        "when_full": "refuse",
    }
    stop = stop or threading.Event()
    ingest = Ingest(
        adapter=adapter,
        idle_s=own_idle_s,
        stop=stop,
        on_progress=on_progress,
        report=IngestReport() if report is None else report,
    )
    ingest.writers = Writers(
        session,
        settings=settings,
        patient=not spool,
        adapter=adapter.name,
        takeover=takeover,
        waiting=Waiting(stop, ingest.report, ingest.look),
        on_confirmed=ingest.on_confirmed,
    )
    ingest.streams = Streams(
        session=session,
        writers=ingest.writers,
        beamtime=(lambda: beamtime) if isinstance(beamtime, str) else beamtime,
        follows=not isinstance(beamtime, str),
        detector=detector,
        wanted=stream,
        keeps=kept == "keep",
        on_disk=durability == "disk",
        report=ingest.report,
    )
    ingest.register = Register(ingest.streams, stream)
    ingest.others = sharing.Others(session, getattr(adapter, "others_wait_s", 30.0))
    place = Place(beamtime=beamtime if isinstance(beamtime, str) else AUTO, detector=detector)
    meter = BOOK.watch(place, ingest.report, numbers_of)
    try:
        return ingest.run(poll_s=poll_s, streams=streams, flush_timeout_s=flush_timeout_s)
    finally:
        meter.close()
