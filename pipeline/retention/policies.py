"""Reading and changing the policy of a beamtime, from any process."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pipeline.errors import InvalidArgumentError, PipelineError, TopicMissingError
from pipeline.naming import new_nonce
from pipeline.policy import Policy
from pipeline.publishing.claims import holder
from pipeline.services import Services

#: Somebody else may change the policy at the same moment, but not for ever.
_TRIES = 20


def require_broker(services: Services) -> None:
    """Raise PipelineError for a session on stored streams: there is no catalogue to keep to."""
    if not services.has_broker:
        raise PipelineError(
            f"retention needs the broker that knows the streams, and {services.store.url} is open"
            " without one: run it where the beamtime was taken, without --store URL"
        )


def current(services: Services, beamtime: str) -> Policy | None:
    """Return the policy in force, None if nobody set one.

    Raises TopicMissingError when there is no such beamtime.
    """
    require_broker(services)
    return services.catalogue(beamtime).look().policy


def change(
    services: Services,
    beamtime: str,
    *,
    hold: Iterable[str] = (),
    release: Iterable[str] = (),
    **values: Any,
) -> Policy:
    """Set some fields of the policy and leave the others; return the one now in force.

    When this returns, no stream goes by an older policy any more: a hold holds.

    Parameters
    ----------
    hold, release:
        Patterns ``detector/stream`` to add and to take away.
    values:
        Fields of :class:`pipeline.policy.Policy`: ``records_age_s``, ``age_s``, ``nbytes``,
        ``archive``.

    Raises
    ------
    InvalidArgumentError
        A pattern to release is not held, or a value makes no sense.
    TopicMissingError, BrokerUnavailableError
    """
    require_broker(services)
    catalogue = services.catalogue(beamtime)
    services.schemas.publish(services.producer, again=False)  # older programs must read it
    for _ in range(_TRIES):
        before = catalogue.look().policy
        wanted = _changed(before, tuple(hold), tuple(release), values)
        catalogue.append(wanted)
        if wanted in catalogue.look().policies:  # others may have built on it already
            return wanted
    raise PipelineError(f"the policy of {beamtime} is changed by others all the time: try again")


def _changed(
    before: Policy | None, hold: tuple[str, ...], release: tuple[str, ...], values: dict[str, Any]
) -> Policy:
    base = before or Policy(nonce="")
    unknown = set(release) - set(base.hold)
    if unknown:
        known = ", ".join(base.hold) or "none"
        raise InvalidArgumentError("release", f"{sorted(unknown)[0]!r} is not held; held: {known}")
    for pattern in hold:
        if pattern.count("/") != 1:
            raise InvalidArgumentError("hold", f"{pattern!r} must be written detector/stream")
    kept = [pattern for pattern in base.hold if pattern not in release]
    changed = replace(
        base,
        **values,
        hold=(*kept, *(p for p in hold if p not in kept)),
        nonce=new_nonce(),
        previous=base.nonce,
        by=holder(),
        at_ns=time.time_ns(),
    )
    _check(changed)
    return changed


def _check(policy: Policy) -> None:
    for name in ("records_age_s", "age_s", "nbytes"):
        value = getattr(policy, name)
        if value is not None and not value > 0:
            raise InvalidArgumentError(name, f"{value} is not more than nothing")
    records, age = policy.records_age_s, policy.age_s
    if records is not None and age is not None and records > age:
        raise InvalidArgumentError(
            "records_age_s",
            f"records cannot stay longer ({records} s) than their objects ({age} s)",
        )


def beamtimes(services: Services) -> list[str]:
    """Return the beamtimes of the broker that have a policy."""
    require_broker(services)
    found = []
    for name in services.admin.beamtimes():
        try:
            if services.catalogue(name).look().policy is not None:
                found.append(name)
        except TopicMissingError:  # deleted since it was listed
            continue
    return found
