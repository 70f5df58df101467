"""Deleting a stream: a lasting record first, then the blobs."""

from __future__ import annotations

import time

from pipeline.errors import InvalidArgumentError
from pipeline.naming import manifest_prefix, new_nonce
from pipeline.publishing import claims
from pipeline.records import Deleted, StreamInfo
from pipeline.services import Services

_BATCH = 1000


def delete(services: Services, info: StreamInfo, *, force: bool) -> int:
    """Delete a stream and return the number of blobs removed.

    An open stream is claimed first, so that its writer stops (``force``) or refuses.
    A crash in between leaves blobs without a stream, which `lichtstrom retention gc` removes.

    Raises WriterActiveError; InvalidArgumentError for a stream that the retention policy holds.
    """
    stop_writers(services, info, force=force)
    mark(services, info)
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
