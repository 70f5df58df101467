"""How far a topic may be trimmed: never past the first record that is in no durable part."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import BlobNotFoundError, WireError
from pipeline.kafka import groups
from pipeline.manifest.seal import load_seal
from pipeline.manifest.writer import known_parts
from pipeline.records import StreamInfo
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """What happens to one topic; a value per partition.

    Parameters
    ----------
    low, high:
        First offset that the topic holds, and the one behind its last record.
    to:
        Records below this offset go.
    blocked:
        Streams with records that are in no durable part, which hold up more.
    """

    detector: str
    topic: str
    low: tuple[int, ...]
    high: tuple[int, ...]
    to: tuple[int, ...]
    blocked: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """How many offsets go."""
        return sum(to - low for to, low in zip(self.to, self.low, strict=True))

    def passes(self, ends: Sequence[int]) -> bool:
        """Whether nothing below ``ends`` is left on the topic afterwards."""
        return all(to >= end for to, end in zip(self.to, ends, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a topic held at one moment, per partition."""

    topic: str
    low: tuple[int, ...]
    high: tuple[int, ...]


def bounds_of(services: Services, beamtime: str, detectors: Iterable[str]) -> dict[str, Bounds]:
    """Return what the detectors' topics hold; those without a topic are left out.

    To be asked before the catalogue is looked at: what is not in the catalogue then has all its
    records behind ``high``.
    """
    found = {}
    for detector in detectors:
        topic = services.names.topic(beamtime, detector)
        count = services.admin.partitions(topic)
        if count:
            found[detector] = Bounds(
                topic=topic,
                low=tuple(groups.first_offsets(services.admin, topic, count)),
                high=tuple(groups.next_offsets(services.admin, topic, count)),
            )
    return found


def by_detector(infos: Iterable[StreamInfo]) -> dict[str, list[StreamInfo]]:
    """Return detector to its streams, deleted ones included."""
    found: dict[str, list[StreamInfo]] = {}
    for info in infos:
        found.setdefault(info.start.detector, []).append(info)
    return found


def plan_trim(
    services: Services,
    detector: str,
    bounds: Bounds,
    infos: Sequence[StreamInfo],
    *,
    going: Iterable[Sequence[int]],
    older_ms: int | None,
    settled_ms: int | None = None,
) -> Trim:
    """Return how far a detector's topic is trimmed.

    Parameters
    ----------
    bounds:
        Taken before ``infos``.
    infos:
        All streams of the detector, as the catalogue has them now.
    going:
        Per stream that goes (or has gone) its end offsets: nothing of it is to stay.
    older_ms:
        Records appended before this (ms since 1970, the broker's clock) go; None: none.
    settled_ms:
        Nothing that was appended after this goes: a stream that begins may have asked where the
        topic ends, and not be in the catalogue yet.
    """
    low, high = bounds.low, bounds.high
    wanted = list(low)
    if older_ms is not None:
        wanted = groups.offsets_at(services.admin, bounds.topic, len(low), older_ms)
    for ends in going:
        wanted = [max(pair) for pair in zip(wanted, _padded(ends, low), strict=True)]
    if settled_ms is not None and wanted != list(low):
        high = tuple(groups.offsets_at(services.admin, bounds.topic, len(low), settled_ms))
        high = tuple(min(pair) for pair in zip(high, bounds.high, strict=True))
    wanted = [min(pair) for pair in zip(wanted, high, strict=True)]
    limit, blocked = list(high), []
    for info in infos:
        if all(start >= want for start, want in zip(info.start.offsets, wanted, strict=False)):
            continue  # it begins behind what goes
        needed = _needed_from(services, info, low)
        if needed is None:
            continue
        if any(need < want for need, want in zip(needed, wanted, strict=False)):
            blocked.append(str(stream_id(info)))
        limit = [min(pair) for pair in zip(limit, _padded(needed, high), strict=True)]
    return Trim(
        detector=detector,
        topic=bounds.topic,
        low=low,
        high=bounds.high,
        to=tuple(max(a, min(w, b)) for a, w, b in zip(low, wanted, limit, strict=True)),
        blocked=tuple(blocked),
    )


def _padded(offsets: Sequence[int], rest: Sequence[int]) -> list[int]:
    """Return a value per partition: a topic may have got more since a stream began."""
    return [*offsets[: len(rest)], *rest[len(offsets) :]]


def _needed_from(services: Services, info: StreamInfo, low: Sequence[int]) -> list[int] | None:
    """Return the offsets from which a stream needs its records; None if it needs none."""
    if info.deleted:
        return None
    ends = info.end_offsets
    if ends is not None and all(at <= first for at, first in zip(ends, low, strict=False)):
        return None  # nothing of it is on the topic
    try:
        if info.is_sealed and info.seal is not None:
            _check_whole(services, info.seal.key)
            return None
        return known_parts(info, services.store).covered
    except (BlobNotFoundError, WireError) as error:
        # Its records on the topic are the last place where it can be read.
        log.error("manifest of %s cannot be relied on: %s", stream_id(info), error)
        return list(info.start.offsets)


def _check_whole(services: Services, seal: str) -> None:
    """Raise BlobNotFoundError or WireError if a sealed manifest lacks a part."""
    for part in load_seal(services.store, seal).parts:
        if services.store.size(part.key) != part.nbytes:
            raise WireError("part is not as long as the seal says", where=part.key)


def end_of(info: StreamInfo) -> Sequence[int]:
    """Return the offsets behind a stream's last records, empty if nobody knows."""
    ends = info.end_offsets
    if ends is None and info.tombstone is not None:
        return info.tombstone.offsets
    return ends or ()


def carry_out(services: Services, trim: Trim) -> Mapping[int, int]:
    """Trim the topic; return partition to the offset before which records went.

    Does it again without harm: the broker passes over what is gone.
    """
    before = {
        partition: to
        for partition, (low, to) in enumerate(zip(trim.low, trim.to, strict=True))
        if to > low
    }
    if before:
        services.admin.delete_records(trim.topic, before)
        log.info("records trimmed topic=%s records=%d", trim.topic, trim.records)
    return before
