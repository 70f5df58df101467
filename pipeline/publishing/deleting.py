"""Deleting a stream: a lasting record first, then its records on the topic, then the blobs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipeline.errors import InvalidArgumentError
from pipeline.naming import manifest_prefix, new_nonce
from pipeline.publishing import claims, trimming
from pipeline.records import Deleted, StreamInfo
from pipeline.services import Services

_BATCH = 1000


def delete(services: Services, info: StreamInfo, *, force: bool) -> int:
    """Delete a stream and return the number of blobs removed.

    Its records go first, but for those that lie behind what an open stream needs.

    An open stream is claimed first, so that its writer stops (``force``) or refuses.
    A crash in between leaves blobs without a stream, which `lichtstrom retention gc` removes.

    Raises WriterActiveError; InvalidArgumentError for a stream that the retention policy holds.
    """
    stop_writers(services, info, force=force)
    mark(services, info)
    trim_gone(services, [info])
    return remove_blobs(services, services.prefix(info))


def stop_writers(services: Services, info: StreamInfo, *, force: bool) -> None:
    """Refuse what may not go, else claim an open stream, so that its writer stops."""
    start, name = info.start, claims.name_of(info.start)
    policy = services.catalogue(start.beamtime).look().policy
    if policy is not None and policy.holds(str(name)):
        raise InvalidArgumentError(
            "stream",
            f"{name} is held by the retention policy: `lichtstrom retention set"
            f" {start.beamtime} --release PATTERN` first ({', '.join(policy.hold)} are held)",
        )
    if info.state == "open":
        for module in start.module_indices:
            claims.claim(services, info, module, takeover=force, closing=True)


def mark(
    services: Services,
    info: StreamInfo,
    *,
    by: str = "",
    at_ns: int = 0,
    objects: int = 0,
    nbytes: int = 0,
    receipt: str = "",
) -> None:
    """Write the lasting record that a stream is gone; its writers have stopped."""
    # Older programs must understand that it is gone.
    services.schemas.publish(services.producer, again=False)
    record = Deleted(
        stream_key=info.start.stream_key,
        nonce=new_nonce(),
        by=by or claims.holder(),
        at_ns=at_ns or time.time_ns(),
        reason="deleted by hand",
        offsets=_end_of(services, info),
        frames=info.seal.frames if info.seal is not None else 0,
        objects=objects,
        nbytes=nbytes,
        receipt=receipt,
    )
    services.catalogue(info.start.beamtime).append(record)


def _end_of(services: Services, info: StreamInfo) -> tuple[int, ...]:
    """Return the offsets behind the stream's last records; its writer has stopped."""
    live = services.log(info)
    try:
        return tuple(live.bounds()[1])
    finally:
        live.close()


def trim_gone(services: Services, infos: Sequence[StreamInfo]) -> dict[bytes, int]:
    """Trim the streams' records; return by id how many offsets up to the end are left."""
    left = {info.start.stream_key: 0 for info in infos}
    for detector, ours in trimming.by_detector(infos).items():
        beamtime = ours[0].start.beamtime
        bounds = trimming.bounds_of(services, beamtime, [detector])
        known = services.catalogue(beamtime).look()
        every = [i for i in (*known.streams(), *known.deleted()) if i.start.detector == detector]
        gone = [i for i in every if i.start.stream_key in left]
        if detector not in bounds or not gone:
            continue
        ends = {i.start.stream_key: trimming.end_of(i) for i in gone}
        trim = trimming.plan_trim(
            services, detector, bounds[detector], every, going=ends.values(), older_ms=None
        )
        trimming.carry_out(services, trim)
        for info in gone:
            key = info.start.stream_key
            begin = [max(pair) for pair in zip(info.start.offsets, trim.to, strict=False)]
            left[key] = sum(max(0, e - at) for e, at in zip(ends[key], begin, strict=False))
    return left


def remove_blobs(services: Services, prefix: str) -> int:
    """Remove every blob below ``prefix``; return how many there were."""
    count = 0
    keys = [blob.key for blob in services.store.list(prefix)]
    # Seals first: without one nobody lists what is half gone.
    keys.sort(key=lambda key: not key.startswith(f"{manifest_prefix(prefix)}seal-"))
    for first in range(0, len(keys), _BATCH):
        services.store.delete(keys[first : first + _BATCH])
        count += len(keys[first : first + _BATCH])
    return count
