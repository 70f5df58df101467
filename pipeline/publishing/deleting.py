"""Deleting a stream: a lasting record first, then the blobs."""

from __future__ import annotations

from pipeline.naming import manifest_prefix, new_nonce
from pipeline.publishing import claims
from pipeline.records import Deleted, StreamInfo
from pipeline.services import Services

_BATCH = 1000


def delete(services: Services, info: StreamInfo, *, force: bool) -> int:
    """Delete a stream and return the number of blobs removed.

    An open stream is claimed first, so that its writer stops (``force``) or refuses.
    A crash in between leaves blobs without a stream, which `lichtstrom doctor --orphans` finds.
    """
    if info.state == "open":
        for module in info.start.module_indices:
            claims.claim(services, info, module, takeover=force, closing=True)
    record = Deleted(stream_key=info.start.stream_key, nonce=new_nonce(), by=claims.holder())
    services.catalogue(info.start.beamtime).append(record)
    return remove_blobs(services, services.prefix(info))


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
