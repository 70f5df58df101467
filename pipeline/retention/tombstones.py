"""What is left of streams that are gone: account, lineage, when and why they went."""

from __future__ import annotations

from typing import Any

from pipeline.records import StreamInfo
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id


def tombstones(services: Services, beamtime: str) -> list[dict[str, Any]]:
    """Return what the catalogue keeps of deleted streams, in the order they began."""
    gone = services.catalogue(beamtime).look().deleted()
    return [tombstone_facts(info) for info in sorted(gone, key=lambda info: info.position)]


def tombstone_facts(info: StreamInfo) -> dict[str, Any]:
    """Return one of them; ``policy`` is the version of the policy by which it went, or null."""
    mark = info.tombstone
    start = info.start
    account = dict(info.seal.account) if info.seal is not None else {}
    return {
        "stream": str(stream_id(info)),
        "key": start.stream_key.hex(),
        "state": info.state,
        "created_ns": start.created_ns,
        "ended_ns": info.ended_ms * 10**6 or None,
        "at_ns": mark.at_ns if mark is not None else 0,
        "by": mark.by if mark is not None else "",
        "why": (mark.reason if mark is not None else "") or "deleted",
        "policy": (mark.policy if mark is not None else "") or None,
        "frames": mark.frames if mark is not None else 0,
        "objects": mark.objects if mark is not None else 0,
        "nbytes": mark.nbytes if mark is not None else 0,
        "archive": (mark.archive if mark is not None else "") or None,
        "receipt": (mark.receipt if mark is not None else "") or None,
        "metadata": {**start.metadata, **info.metadata},
        "lineage": dict(start.lineage),
        "account": account,
    }
