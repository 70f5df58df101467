"""Manifests: parts while a stream runs, the seal when it has ended."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace

from pipeline.errors import PipelineError, StreamTimeoutError
from pipeline.manifest.combined import CombinedLog
from pipeline.manifest.writer import ManifestWriter
from pipeline.naming import new_nonce
from pipeline.protocols import Durability, StreamLog
from pipeline.publishing import claims
from pipeline.publishing.opening import Opened
from pipeline.reading.account import Account, build_account
from pipeline.reading.table import FrameTable
from pipeline.records import StreamInfo, UserMetadata
from pipeline.services import Services

log = logging.getLogger(__name__)
#: A part is due when this much may have gathered; the writer decides (64 MiB or 10 minutes).
_LOOK_EVERY_S = 20.0
#: The log must give something for so long, or the stream is sealed another time.
_SILENCE_S = 30.0
#: More than this of JSON would not fit the catalogue; the seal's object has it all.
_MAX_ACCOUNT_NBYTES = 500_000


class PartWriter:
    """Writes manifest parts of the stream that is being published; used by one thread."""

    def __init__(self, services: Services, opened: Opened, durability: Durability) -> None:
        self._services = services
        self._opened = opened
        self._durability = durability
        self._log: CombinedLog | None = None
        self._writer: ManifestWriter | None = None
        self._next_s = time.monotonic() + _LOOK_EVERY_S

    def look(self) -> None:
        """Write a part if one is due; trouble is logged and left to the next time."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _LOOK_EVERY_S
        try:
            self._advance()
        except PipelineError as error:
            log.warning("manifest part postponed: %s", error)

    def _advance(self) -> None:
        info = self._opened.info
        if self._log is None or self._writer is None:
            self._log = CombinedLog(self._services.log(info), self._services.store)
            held = next(iter(self._opened.held.values()))
            self._writer = ManifestWriter(
                self._log,
                self._services.store,
                prefix=self._services.prefix(info),
                epoch=held.claim.epoch,
                nonce=held.claim.nonce,
                durability=self._durability,
            )
        _, until = self._log.bounds()
        self._writer.pass_over(note_lost(self._services, self._log))
        while (ref := self._writer.advance(until)) is not None:
            self._services.catalogue(info.start.beamtime).append(ref)

    def close(self) -> None:
        """Release the log."""
        if self._writer is not None:
            self._writer.close()
        if self._log is not None:
            self._log.close()
            self._log = self._writer = None


def seal(
    services: Services, info: StreamInfo, *, durability: Durability, nonce: str = ""
) -> Account | None:
    """Write an ended stream's account and manifest; None if the store cannot take it now.

    A stream that was ended but not sealed is whole on its topic and can be sealed later, by
    anybody: under a ``nonce`` of its own, so that two who do so write different objects.
    """
    # A stream that is sealed again may have lost its first records to retention.
    reader = CombinedLog(services.log(info), services.store)
    writer = None
    try:
        closing = max(info.ends, key=lambda end: end.epoch)
        writer = ManifestWriter(
            reader,
            services.store,
            prefix=services.prefix(info),
            # Of all modules: it rises whichever of them is reopened and ended again.
            epoch=sum(end.epoch for end in info.ends),
            nonce=nonce or closing.nonce,
            durability=durability,
        )
        info = _pass_over_lost(services, reader, writer, info)
        account = account_of(reader, info)
        ref = writer.seal(closing, account)
        if len(json.dumps(account)) > _MAX_ACCOUNT_NBYTES:
            ref = replace(ref, account={})
        services.catalogue(info.start.beamtime).append(ref)
    except PipelineError as error:
        if not error.retriable:
            raise
        log.warning("%s ended but was not sealed: %s", claims.name_of(info.start), error)
        return None
    finally:
        if writer is not None:
            writer.close()
        reader.close()
    return account


def _pass_over_lost(
    services: Services, reader: CombinedLog, writer: ManifestWriter, info: StreamInfo
) -> StreamInfo:
    """Write parts over what is nowhere any more; return the stream with notes of it."""
    lost = note_lost(services, reader)
    if not lost:
        return info
    writer.pass_over(lost)
    catalogue = services.catalogue(info.start.beamtime)
    while (ref := writer.advance(info.end_offsets or (), final=True)) is not None:
        catalogue.append(ref)
    return reader.info(refresh=True)


def note_lost(services: Services, reader: CombinedLog) -> list[tuple[int, int, int]]:
    """Say in the catalogue what neither topic nor manifest has any more, and return it.

    Such a stream is never complete: the notes are in its account.
    """
    lost = reader.lost()
    if not lost:
        return lost
    info = reader.info(refresh=True)
    start = info.start
    topic = services.names.topic(start.beamtime, start.detector)
    notes = [
        {
            "source": f"{topic} partition {partition} offsets {first} to {stop - 1}",
            "reason": "trimmed before any part of the manifest had them",
        }
        for partition, first, stop in lost
    ]
    new = [note for note in notes if note not in info.quarantined]
    if new:
        log.error("records are lost stream=%s: %s", claims.name_of(start), new)
        record = UserMetadata(stream_key=start.stream_key, nonce=new_nonce(), quarantined=new)
        services.catalogue(start.beamtime).append(record)
    return lost


def account_of(reader: StreamLog, info: StreamInfo) -> Account:
    """Read an ended stream's log and return its account."""
    table = FrameTable(info.start)
    cursor = reader.cursor()
    ends = info.end_offsets or ()
    try:
        came_s, before = time.monotonic(), cursor.positions()
        while any(p < end for p, end in zip(before, ends, strict=True)):
            table.update([r for r in cursor.poll(1.0) if r.offset < ends[r.partition]])
            if (now := cursor.positions()) != before:
                came_s, before = time.monotonic(), now
            elif time.monotonic() - came_s > _SILENCE_S:
                raise StreamTimeoutError(claims.name_of(info.start), _SILENCE_S, "no record came")
    finally:
        cursor.close()
    return build_account(str(claims.name_of(info.start)), info, table)
