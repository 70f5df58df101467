"""Which objects a stream refers to, from its records and its manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import StreamTimeoutError
from pipeline.manifest.combined import CombinedLog
from pipeline.manifest.cursor import StoredCursor
from pipeline.manifest.part import packed_key
from pipeline.manifest.seal import Sealed, load_seal
from pipeline.protocols import Cursor, StreamLog
from pipeline.records import Located, Segment, StreamInfo
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id


@dataclass(slots=True)
class References:
    """Keys that a stream names.

    Parameters
    ----------
    needed:
        To frames that refer to them; 0 for what is not pixels (parts, seals, attachments).
    optional:
        Keys that may exist: only parts with small payloads have an object of those.
    """

    needed: dict[str, int] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)

    def __contains__(self, key: str) -> bool:
        return key in self.needed or key in self.optional


def references(services: Services, info: StreamInfo) -> References:
    """Return what an open or sealed stream refers to; reads all its records, no payload.

    Raises
    ------
    BlobNotFoundError, WireError
        Its manifest is damaged: nobody can tell what it refers to.
    FrameExpiredError
        Records that no part has are gone: the same.
    """
    found = References()
    for key in info.attachments.values():
        found.needed[key] = 0
    for ref in info.parts:
        found.needed[ref.key] = 0
        found.optional.add(packed_key(ref.key))
    if info.seal is not None:
        _add_seal(found, load_seal(services.store, info.seal.key))
    for located in _records(services, info):
        segment = located.value
        if isinstance(segment, Segment) and segment.blob:
            found.needed[segment.blob] = found.needed.get(segment.blob, 0) + len(segment)
    return found


def _add_seal(found: References, sealed: Sealed) -> None:
    found.needed[sealed.key] = 0
    found.needed.update(dict.fromkeys(sealed.info.attachments.values(), 0))
    for part in sealed.parts:
        found.needed[part.key] = 0
        found.optional.add(packed_key(part.key))


def add_older_seals(
    services: Services, info: StreamInfo, keys: list[str], into: References
) -> None:
    """Keep the seals that a later one supersedes, with what they name: written on purpose."""
    for key in keys:
        if info.seal is None or key == info.seal.key:
            continue
        sealed = load_seal(services.store, key)
        if sealed.info.seal is not None and sealed.info.seal.epoch < info.seal.epoch:
            _add_seal(into, sealed)


def _records(services: Services, info: StreamInfo) -> Iterator[Located]:
    """Yield all records of a stream up to where it ends now."""
    if info.is_sealed and info.seal is not None:
        sealed = load_seal(services.store, info.seal.key)
        parts = sealed.part_set(services.store)
        ends = list(sealed.info.end_offsets or ())
        yield from _read(StoredCursor(parts, list(info.start.offsets), ends), ends, 0.0, info)
        return
    live: StreamLog = CombinedLog(services.log(info), services.store)
    try:
        ends = live.bounds()[1]
        yield from _read(live.cursor(), ends, services.settings.kafka.timeout_s, info)
    finally:
        live.close()


def _read(cursor: Cursor, ends: list[int], timeout_s: float, info: StreamInfo) -> Iterator[Located]:
    heard_s = time.monotonic()
    try:
        while any(at < end for at, end in zip(cursor.positions(), ends, strict=True)):
            before = cursor.positions()
            yield from (r for r in cursor.poll(0.5) if r.offset < ends[r.partition])
            if cursor.positions() != before:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > timeout_s:
                raise StreamTimeoutError(stream_id(info), timeout_s, "its log could not be read")
    finally:
        cursor.close()
