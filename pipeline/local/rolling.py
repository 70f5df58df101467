"""Restarting servers one by one, so that their clients go on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import KafkaSettings, load
from pipeline.errors import InvalidArgumentError, PipelineError, RuntimeUnavailableError
from pipeline.local.locks import locked
from pipeline.local.processes import stop, wait_until
from pipeline.local.progress import Progress, quiet
from pipeline.local.runtime import LOCK_FILE, Starter
from pipeline.local.state import RuntimeInfo, ServerState, State


def restart(
    home: Path,
    names: Sequence[str] = (),
    *,
    timeout_s: float = 120.0,
    prepare_timeout_s: float = 900.0,
    progress: Progress | None = None,
) -> RuntimeInfo:
    """Restart servers of a runtime one after the other; the next goes when all is in order again.

    A broker is stopped only while all replicas on the other brokers are in sync, and counts as
    restarted when its own are: with three brokers nothing that was acknowledged is lost, and two
    always answer.  A single one is away for seconds.  What does not run is started first.

    Parameters
    ----------
    home:
        Directory of the runtime.
    names:
        ``broker-1``, ``gateway-2`` and so on; empty: all brokers, then all gateways.
    timeout_s:
        Limit for another ``up`` or ``down`` to finish, and again for each step of each server.
    prepare_timeout_s:
        Limit for each download, should one be needed again.
    progress:
        Called with a line of text at each step.

    Raises
    ------
    RuntimeUnavailableError
        If a server does not start, or replicas do not get in sync; the servers after it are left
        as they were.
    InvalidArgumentError
        For a name that no server of this home has.
    """
    home = home.expanduser().absolute()
    if not home.is_dir():
        raise RuntimeUnavailableError(f"{home} does not exist: `lichtstrom up` first")
    starter = Starter(
        home=home,
        timeout_s=timeout_s,
        prepare_timeout_s=prepare_timeout_s,
        tell=progress or quiet,
    )
    with locked(home / LOCK_FILE, timeout_s=timeout_s):
        return _restart(starter, names)


def _restart(starter: Starter, names: Sequence[str]) -> RuntimeInfo:
    known = _servers(State.load(starter.home))
    for name in names:
        if name not in known:
            raise InvalidArgumentError("server", f"no {name} here, but {', '.join(known)}")
    want_s3 = any(name.startswith("gateway") for name in known)
    info = starter.run(want_s3=want_s3)
    for name in names or known:
        starter.tell(f"restarting {name}")
        if name.startswith("broker"):
            _wait_in_sync(starter, without=int(name.partition("-")[2]))
        stop(_servers(State.load(starter.home))[name].process, timeout_s=starter.timeout_s)
        info = starter.run(want_s3=want_s3)
        if name.startswith("broker"):
            _wait_in_sync(starter)
    return info


def _servers(state: State) -> dict[str, ServerState]:
    """Return brokers and gateways by name; gateways only if they were started."""
    brokers = {f"broker-{n}": x for n, x in enumerate(state.brokers, start=1)}
    gateways = {f"gateway-{n}": x for n, x in enumerate(state.gateways, start=1)}
    return brokers | (gateways if any(x.process for x in state.gateways) else {})


def _wait_in_sync(starter: Starter, *, without: int | None = None) -> None:
    """Wait until every replica is in sync, but for those of the broker ``without``."""
    # What runs here, whatever a lichtstrom.toml in the current folder names.
    environment = {"LICHTSTROM_HOME": str(starter.home), "LICHTSTROM_CONFIG": os.devnull}
    settings = load(environment=environment).kafka
    lagging: list[str] = []

    def in_sync() -> bool:
        lagging[:] = out_of_sync(settings, without=without)
        return not lagging

    if not wait_until(in_sync, timeout_s=starter.timeout_s):
        shown = ", ".join(lagging[:5]) + (" ..." if len(lagging) > 5 else "")
        raise RuntimeUnavailableError(
            f"replicas were not in sync after {starter.timeout_s:g} s, so no broker may be stopped:"
            f" {shown}"
        )


def out_of_sync(settings: KafkaSettings, *, without: int | None = None) -> list[str]:
    """Return the partitions that have a replica out of sync, but for those of one broker.

    Blocks up to ``settings.timeout_s``.  A cluster that does not answer has one entry that says so.
    """
    from pipeline.kafka.admin import Admin  # half a second, and `up` does not need it

    admin = Admin(settings)
    try:
        return [
            f"{topic}/{partition} on broker {', '.join(map(str, sorted(missing)))}"
            for topic, partition, missing in admin.lagging_replicas()
            if missing - {without}
        ]
    except PipelineError as error:
        return [str(error)]
    finally:
        admin.close()
