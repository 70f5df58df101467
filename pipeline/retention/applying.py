"""Carrying out a policy.

Every step can be done again and by two processes at once: records go only when a durable part has
them, a stream is marked as gone before its first object goes, and what a killed run left of it is
the next run's to finish.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.blobs import open_store
from pipeline.errors import BlobNotFoundError, InvalidArgumentError, PipelineError
from pipeline.export import export
from pipeline.naming import new_nonce
from pipeline.policy import Policy
from pipeline.protocols import BlobStore
from pipeline.publishing import sealing, trimming
from pipeline.publishing.claims import holder
from pipeline.publishing.deleting import remove_blobs
from pipeline.records import Deleted, StreamInfo
from pipeline.retention.plan import SETTLE_S, Expiring, Plan, make_plan
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id

log = logging.getLogger(__name__)
#: A writer seals its own stream within seconds of the end; after this somebody else does.
SEAL_AFTER_S = 300.0


@dataclass(slots=True, kw_only=True)
class Applied:
    """What one run did in one beamtime; ``failed`` says for which streams it could not."""

    beamtime: str
    records: int = 0
    streams: list[str] = field(default_factory=list)
    frames: int = 0
    objects: int = 0
    nbytes: int = 0
    archived: int = 0
    sealed: int = 0
    waiting: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def apply(
    services: Services,
    beamtime: str,
    *,
    on_plan: Callable[[Plan], object] | None = None,
    seal_after_s: float = SEAL_AFTER_S,
    settle_s: float = SETTLE_S,
) -> Applied:
    """Carry out the policy of a beamtime once.

    In this order: streams that ended without being sealed are sealed; topics are trimmed; streams
    whose records are gone are copied to the archive, marked as gone, and their objects removed.

    Parameters
    ----------
    on_plan:
        Called with what will be done, before it is done.
    settle_s:
        As for :func:`pipeline.retention.plan.make_plan`.

    Raises
    ------
    TopicMissingError, BrokerUnavailableError, StoreUnavailableError, StoreDeniedError
        What concerns one stream only is in ``failed``.
    """
    done = Applied(beamtime=beamtime)
    _seal_left(services, beamtime, done, seal_after_s)
    plan = make_plan(services, beamtime, settle_s=settle_s)
    if on_plan is not None:
        on_plan(plan)
    for trim in plan.trims:
        if trimming.carry_out(services, trim):
            done.records += trim.records
    for info, _ in plan.leftovers:
        done.objects += remove_blobs(services, services.prefix(info))
    for expiring in plan.expiring:
        name = str(stream_id(expiring.info))
        if not expiring.ready or plan.policy is None:
            done.waiting.append(name)
            continue
        try:
            _expire(services, plan.policy, expiring, done)
        except PipelineError as error:
            log.error("stream stays stream=%s error=%s", name, error)
            done.failed[name] = str(error)
    return done


def _seal_left(services: Services, beamtime: str, done: Applied, after_s: float) -> None:
    """Seal what ended and was not sealed: its store was away then, or its writer died."""
    catalogue = services.catalogue(beamtime)
    left = [i for i in catalogue.look().streams() if i.ends and not i.is_sealed]
    if not left:
        return
    now_ms = catalogue.clock_ms()
    for info in left:
        if now_ms - info.ended_ms < after_s * 1000:
            continue
        try:
            sealed = sealing.seal(services, info, durability="disk", nonce=new_nonce())
            done.sealed += sealed is not None
        except PipelineError as error:
            done.failed[str(stream_id(info))] = str(error)


def _expire(services: Services, policy: Policy, expiring: Expiring, done: Applied) -> None:
    """Take one stream away; it stays if anything about it changed meanwhile."""
    info, name = expiring.info, str(stream_id(expiring.info))
    if info.seal is None:
        return
    if policy.archive:
        archive(services, info, policy.archive)
        done.archived += 1
    record = Deleted(
        stream_key=info.start.stream_key,
        nonce=new_nonce(),
        by=holder(),
        at_ns=time.time_ns(),
        reason=expiring.reason,
        policy=policy.nonce,
        seal=info.seal.key,
        offsets=info.end_offsets or (),
        frames=expiring.frames,
        objects=expiring.held.objects,
        nbytes=expiring.held.nbytes,
        archive=policy.archive,
    )
    catalogue = services.catalogue(info.start.beamtime)
    catalogue.append(record)
    fresh = catalogue.look().by_key(info.start.stream_key)
    if fresh is None or not fresh.deleted:
        log.info("stream stays: it or the policy changed meanwhile stream=%s", name)
        done.waiting.append(name)
        return
    done.objects += remove_blobs(services, services.prefix(info))
    if fresh.tombstone == record:  # else another run was faster, and has it in its own count
        done.streams.append(name)
        done.frames += expiring.frames
        done.nbytes += expiring.held.nbytes
    log.info("stream expired stream=%s reason=%s", name, expiring.reason)


def archive(services: Services, info: StreamInfo, url: str) -> None:
    """Copy a sealed stream to another store and compare every frame with its checksum.

    Run again it copies only what is not there.  Raises ConfigError, ChecksumError,
    BlobNotFoundError, StoreUnavailableError: then the copy is not whole; InvalidArgumentError if
    the other store is this one.
    """
    target = open_store(replace(services.settings.store, url=url))
    try:
        refuse_own_store(services, target, services.names.bucket(info.start.beamtime))
        export([info], services.store, target, names=services.names, verify=True)
    finally:
        target.close()


def refuse_own_store(services: Services, target: BlobStore, bucket: str) -> None:
    """Raise InvalidArgumentError if both are one storage, whatever way leads there.

    A copy onto itself would be found whole, and then be removed with its original.
    """
    key = f"{bucket}/lichtstrom-probe-{new_nonce()}"
    target.create_bucket(bucket)
    target.put(key, [b"is this one store?"], durability="process")
    try:
        services.store.size(key)
    except BlobNotFoundError:
        return
    finally:
        target.delete([key])
    raise InvalidArgumentError(
        "archive", f"{target.url} is the store itself, {services.store.url}: name another one"
    )
