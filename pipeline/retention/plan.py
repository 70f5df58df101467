"""What a policy means now: which records, which objects, which streams go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.policy import Policy
from pipeline.publishing import trimming
from pipeline.publishing.trimming import Trim
from pipeline.records import StreamInfo
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id

#: Between asking where a topic ends and its start record a stream lets milliseconds pass; longer
#: only where the broker is away.
SETTLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What lies in the store under one stream's prefix."""

    objects: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiring:
    """A stream that goes: why, and what it is.

    ``ready``: its records will have left the topic; else they, and with them its objects, wait
    for the streams that :class:`pipeline.publishing.trimming.Trim` names.
    """

    info: StreamInfo
    reason: str
    held: Held
    frames: int
    ready: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run does in one beamtime.

    Parameters
    ----------
    trims:
        Per topic, those included where nothing goes.
    expiring:
        Streams that go with everything, those that ended first before the others.
    leftovers:
        Deleted streams, objects of which are still there.
    nbytes:
        Of all objects of the beamtime.
    """

    beamtime: str
    policy: Policy | None
    trims: tuple[Trim, ...] = ()
    expiring: tuple[Expiring, ...] = ()
    leftovers: tuple[tuple[StreamInfo, Held], ...] = ()
    nbytes: int = 0


def make_plan(services: Services, beamtime: str, *, settle_s: float = SETTLE_S) -> Plan:
    """Return what the policy in force asks for now; changes nothing.

    Parameters
    ----------
    settle_s:
        No record younger than this leaves a topic, whatever the policy says.

    Lists the beamtime's objects, and asks the broker a few questions a topic and an open stream.

    Raises
    ------
    TopicMissingError, BrokerUnavailableError, StoreUnavailableError, StoreDeniedError
    """
    catalogue = services.catalogue(beamtime)
    known = catalogue.look()
    every = [*known.streams(), *known.deleted()]
    bounds = trimming.bounds_of(services, beamtime, {i.start.detector for i in every})
    prefixes, total = _listed(services, beamtime)
    now_ms = catalogue.clock_ms()
    known = catalogue.look()
    live, gone = known.streams(), known.deleted()
    policy = known.policy
    held = {i.start.stream_key: prefixes.get(services.prefix(i), Held()) for i in [*live, *gone]}
    leftovers = [(i, held[i.start.stream_key]) for i in gone if held[i.start.stream_key].objects]
    chosen = []
    if policy is not None:
        kept = total - sum(h.nbytes for _, h in leftovers)
        chosen = _chosen(policy, live, held, kept, now_ms)
    older_ms = None
    if policy is not None and policy.records_age_s is not None:
        older_ms = now_ms - int(policy.records_age_s * 1000)
    trims = []
    ends = [*gone, *(e.info for e in chosen)]
    for detector, infos in trimming.by_detector([*live, *gone]).items():
        if detector in bounds:
            going = [trimming.end_of(i) for i in ends if i.start.detector == detector]
            trims.append(
                trimming.plan_trim(
                    services,
                    detector,
                    bounds[detector],
                    infos,
                    going=going,
                    older_ms=older_ms,
                    settled_ms=now_ms - int(settle_s * 1000),
                )
            )
    return Plan(
        beamtime=beamtime,
        policy=policy,
        trims=tuple(trims),
        expiring=tuple(_marked(chosen, trims)),
        leftovers=tuple(leftovers),
        nbytes=total,
    )


def _listed(services: Services, beamtime: str) -> tuple[dict[str, Held], int]:
    """Return what lies under each stream's prefix, and all bytes."""
    counts: dict[str, list[int]] = {}
    total = 0
    for blob in services.store.list(f"{services.names.bucket(beamtime)}/"):
        total += blob.nbytes
        parts = blob.key.split("/", 3)
        if len(parts) == 4:
            entry = counts.setdefault(f"{parts[0]}/{parts[1]}/{parts[2]}/", [0, 0])
            entry[0] += 1
            entry[1] += blob.nbytes
    return {p: Held(objects=n, nbytes=b) for p, (n, b) in counts.items()}, total


def _chosen(
    policy: Policy,
    live: Iterable[StreamInfo],
    held: dict[bytes, Held],
    total: int,
    now_ms: int,
) -> list[Expiring]:
    """Return the sealed streams, none of them held, that age or size have go."""
    able = [i for i in live if i.is_sealed and not policy.holds(str(stream_id(i)))]
    able.sort(key=lambda info: (info.ended_ms, info.position))
    found = []
    for info in able:
        lies = held[info.start.stream_key]
        age_s = (now_ms - info.ended_ms) / 1000
        if policy.age_s is not None and age_s >= policy.age_s:
            reason = f"ended {age_s:.0f} s ago, age {policy.age_s:.0f} s"
        elif policy.nbytes is not None and total > policy.nbytes:
            reason = f"{total} bytes in the beamtime, size {policy.nbytes}"
        else:
            continue
        total -= lies.nbytes
        frames = info.seal.frames if info.seal is not None else 0
        found.append(Expiring(info=info, reason=reason, held=lies, frames=frames))
    return found


def _marked(chosen: Iterable[Expiring], trims: Sequence[Trim]) -> Iterable[Expiring]:
    """Say which streams will have no record left on a topic."""
    topics = {trim.detector: trim for trim in trims}
    for one in chosen:
        trim = topics.get(one.info.start.detector)
        yield Expiring(
            info=one.info,
            reason=one.reason,
            held=one.held,
            frames=one.frames,
            ready=trim is None or trim.passes(trimming.end_of(one.info)),
        )


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return the plan for other programs; times are ns since 1970."""
    ready = [e for e in plan.expiring if e.ready]
    return {
        "beamtime": plan.beamtime,
        "nbytes": plan.nbytes,
        "records": sum(trim.records for trim in plan.trims),
        "streams": len(ready),
        "frames": sum(e.frames for e in ready),
        "objects": sum(e.held.objects for e in ready),
        "going_nbytes": sum(e.held.nbytes for e in ready),
        "oldest_ns": min((e.info.start.created_ns for e in ready), default=None),
        "topics": [
            {
                "topic": trim.topic,
                "records": trim.records,
                "low": list(trim.low),
                "to": list(trim.to),
                "blocked_by": list(trim.blocked),
            }
            for trim in plan.trims
        ],
        "expiring": [
            {
                "stream": str(stream_id(e.info)),
                "key": e.info.start.stream_key.hex(),
                "reason": e.reason,
                "frames": e.frames,
                "objects": e.held.objects,
                "nbytes": e.held.nbytes,
                "created_ns": e.info.start.created_ns,
                "ended_ns": e.info.ended_ms * 10**6,
                "waits": not e.ready,
            }
            for e in plan.expiring
        ],
        "leftovers": [
            {"stream": str(stream_id(i)), "objects": h.objects, "nbytes": h.nbytes}
            for i, h in plan.leftovers
        ],
    }
