"""One writer goes on: starting, claiming, resuming and ending a stream (design section 5)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import (
    StreamExistsError,
    StreamNotFoundError,
    TopicMissingError,
    WriterActiveError,
    WriterSupersededError,
)
from pipeline.frame import AttributeValue
from pipeline.naming import StreamId, new_nonce, record_key
from pipeline.publishing import trimmed
from pipeline.records import NO_CEIL, NO_FLOOR, Claim, Located, Mark, Start, StreamInfo
from pipeline.services import Services
from pipeline.wire import codec

log = logging.getLogger(__name__)
#: A writer that gave a sign of life this recently is alive (it sends a mark each second).
ALIVE_S = 10.0


def holder() -> str:
    """Return who we are, for people: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(slots=True, kw_only=True)
class Held:
    """A module of a stream that this writer has claimed."""

    claim: Claim
    #: Where its claim marks are: everything of earlier writers that counts lies before.
    marks: list[int] = field(default_factory=list)
    floor: int = NO_FLOOR
    ceils: list[int] = field(default_factory=list)
    #: Records at or above the last floor that earlier writers left.
    records: list[Located] = field(default_factory=list)


def ensure_topics(services: Services, name: StreamId) -> int:
    """Return the partitions of the stream's topic; makes topics and bucket where that is allowed.

    Raises TopicMissingError naming the command elsewhere.
    """
    try:
        return services.admin.require(name)
    except TopicMissingError:
        if not services.settings.create:
            raise
    create_beamtime(services, name.beamtime, name.detector)
    return services.admin.require(name)


def create_beamtime(
    services: Services,
    beamtime: str,
    detector: str | None = None,
    *,
    partitions: int | None = None,
    replication: int | None = None,
) -> list[str]:
    """Make a beamtime's bucket and topics (`lichtstrom beamtime create`); return what was made."""
    bucket = services.names.bucket(beamtime)
    services.store.create_bucket(bucket)
    made = services.admin.create_beamtime(
        beamtime, detector, partitions=partitions, replication=replication
    )
    services.schemas.publish(services.producer)
    return [bucket, *made]


def find_or_start(services: Services, start: Start) -> StreamInfo:
    """Return the stream of this name, starting it if there is none; the first start wins."""
    catalogue = services.catalogue(start.beamtime)
    info = catalogue.look().find(start.detector, start.stream)
    if info is not None:
        return info
    bounds = services.log(StreamInfo(start=start))
    try:
        offsets = tuple(bounds.bounds()[1])
    finally:
        bounds.close()
    catalogue.append(replace(start, offsets=offsets))
    info = catalogue.look().find(start.detector, start.stream)
    if info is None:  # started and deleted at once by somebody else
        raise StreamNotFoundError(name_of(start), where=catalogue.topic, hint="it was deleted")
    return info


def claim(
    services: Services,
    info: StreamInfo,
    module: int,
    *,
    instance: str = "",
    reopen: bool = False,
    takeover: bool = False,
    closing: bool = False,
    known: Claim | None = None,
) -> Claim:
    """Take a module of a stream with the next epoch.

    ``known`` is our own claim when we close what we hold ourselves.

    Raises
    ------
    StreamExistsError
        The stream has ended and ``reopen`` was not asked for.
    WriterActiveError
        Its writer is alive, or another one was faster.
    """
    name = name_of(info.start)
    current = info.modules[module].claim
    if info.state != "open" and not reopen:
        raise StreamExistsError(name, info.state)
    ours = known is not None and current == known
    if known is not None and not ours:
        raise superseded(name, current)
    same_instance = current is not None and bool(instance) and current.instance == instance
    if current is not None and not (ours or takeover or same_instance or info.state != "open"):
        _refuse_if_alive(services, info, module, current)
    wanted = Claim(
        stream_key=info.start.stream_key,
        module=module,
        epoch=(current.epoch if current else 0) + 1,
        nonce=new_nonce(),
        holder=holder(),
        instance=instance,
        closing=closing,
        reopen=reopen,
    )
    catalogue = services.catalogue(info.start.beamtime)
    catalogue.append(wanted)
    fresh = catalogue.look().by_key(info.start.stream_key)
    if fresh is None or fresh.deleted:
        raise StreamNotFoundError(name, where=catalogue.topic, hint="it was deleted")
    winner = fresh.modules[module].claim
    if winner == wanted:
        _tombstone(services, wanted, info.start.beamtime)
        return wanted
    if fresh.state != "open":
        raise StreamExistsError(name, fresh.state)
    raise WriterActiveError(name, holder=winner.holder if winner else "nobody", age_s=0.0)


def _refuse_if_alive(services: Services, info: StreamInfo, module: int, current: Claim) -> None:
    now_ms = services.catalogue(info.start.beamtime).clock_ms()
    since_ms = now_ms - int(ALIVE_S * 1000)
    reader = services.log(info)
    try:
        sign_ms = reader.last_sign_ms(module, since_ms)
    finally:
        reader.close()
    sign_ms = max(sign_ms or 0, info.modules[module].claimed_ms)
    if sign_ms > since_ms:
        age_s = (now_ms - sign_ms) / 1000
        raise WriterActiveError(name_of(info.start), holder=current.holder, age_s=age_s)


def _tombstone(services: Services, held: Claim, beamtime: str) -> None:
    """Let compaction forget what our claim supersedes."""
    catalogue = services.catalogue(beamtime)
    keys = catalogue.state.superseded_keys(held.stream_key, held.module, held.epoch)
    catalogue.tombstone(keys)
    catalogue.state.forget(held.stream_key, held.module, held.epoch)


def resume(services: Services, info: StreamInfo, held: Claim) -> Held:
    """Mark every partition, read up to the marks, and return what earlier writers left.

    Reads back only to their last floor.
    """
    reader = services.log(info)
    timeout_s = services.settings.kafka.timeout_s
    try:
        # A new stream's first writer has nothing to read back.
        fresh = held.epoch == 1
        low, high = reader.bounds()
        if fresh and low == high:
            floor, ceils = NO_FLOOR, [NO_CEIL] * len(low)
        else:
            floor, ceils = trimmed.progress(services, reader, held.module, timeout_s=timeout_s)
        marks = send_marks(services, info, held, floor=floor, ceils=ceils, kind="claim")
        if fresh and low == high == marks:
            return Held(claim=held, marks=marks, floor=floor, ceils=ceils)
        records = trimmed.read_back(services, reader, floor, marks, timeout_s=timeout_s)
    finally:
        reader.close()
    for located in records:  # a slow writer may have got in between the look and the marks
        if located.value.module == held.module:
            floor = max(floor, located.value.floor)
            partition = located.partition
            ceils[partition] = max(ceils[partition], located.value.ceil)
    return Held(claim=held, marks=marks, floor=floor, ceils=ceils, records=records)


def send_marks(
    services: Services,
    info: StreamInfo,
    held: Claim,
    *,
    floor: int,
    ceils: Sequence[int],
    kind: str,
) -> list[int]:
    """Append a mark to every partition and wait for all; return their offsets."""
    start = info.start
    topic = services.names.topic(start.beamtime, start.detector)
    entries = [
        (
            topic,
            partition,
            record_key(start.stream_key, max(ceil + 1, 0)),
            codec.encode(
                Mark(
                    stream_key=start.stream_key,
                    epoch=held.epoch,
                    module=held.module,
                    floor=floor,
                    ceil=ceil,
                    nonce=held.nonce,
                    kind=kind,  # type: ignore[arg-type]  # one of the three words
                )
            ),
        )
        for partition, ceil in enumerate(ceils)
    ]
    answers = services.producer.append_all(entries, services.settings.kafka.timeout_s)
    return [answer.offset for answer in answers]


def superseded(name: StreamId, current: Claim | None, count: int = 0) -> WriterSupersededError:
    """Return the error of a writer that finds somebody else's claim in place of its own."""
    by = "nobody (it was deleted)" if current is None else current.holder
    return WriterSupersededError(name, by=by, superseded=count)


def name_of(start: Start) -> StreamId:
    """Return the stream's name."""
    return StreamId(start.beamtime, start.detector, start.stream)


def default_frames_per_chunk(
    *, rate_hz: float | None, frame_nbytes: int | None, segment_nbytes: int
) -> int:
    """Return how many consecutive frames share a partition, a power of two (design section 4)."""
    if rate_hz:
        wanted = rate_hz * 0.010  # the frames in 10 ms
    elif frame_nbytes:
        wanted = segment_nbytes / frame_nbytes
    else:
        wanted = 16  # values and derived streams
    return int(2 ** (min(256, max(1, int(wanted))).bit_length() - 1))


def check_metadata(metadata: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
    """Return the metadata, checked like a frame's attributes."""
    from pipeline.wire.columns import check_attributes

    return dict(check_attributes(metadata or {}))
