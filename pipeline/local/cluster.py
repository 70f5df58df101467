"""Several brokers of one home: they need each other to start, and go one by one.

Each is broker and controller in one process, so three survive the loss of any one with three
processes; controllers of their own would be three more.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.kafka import KafkaServer, broker_ids
from pipeline.local.net import LOOPBACK, free_ports
from pipeline.local.processes import is_running, signal_to, wait_until
from pipeline.local.servers import (
    PORT_TAKEN,
    ensure_serving,
    failure,
    is_serving,
    output_from,
    output_size,
    stop_server,
)
from pipeline.local.state import ServerState

_ATTEMPTS = 3
#: A port that its broker has just left is free at once; one that a client took is not.
_PORT_WAIT_S = 5.0
#: What a broker that runs but does not answer may need: another `up` has just started it.
_STARTING_S = 10.0


def members(template: KafkaServer, states: Sequence[ServerState]) -> list[KafkaServer]:
    """Return the broker of each state; all of them know where the controllers are."""
    if len(states) == 1:
        return [template]
    ports = tuple(state.ports[1] if state.ports else 0 for state in states)
    return [
        replace(template, node=number, controller_ports=ports)
        for number, _ in enumerate(states, start=1)
    ]


def is_cluster_serving(template: KafkaServer, states: Sequence[ServerState]) -> bool:
    """Tell whether every broker runs and answers."""
    return all(map(is_serving, members(template, states), states))


def ensure_brokers(
    template: KafkaServer,
    states: Sequence[ServerState],
    *,
    save: Callable[[], None],
    timeout_s: float,
) -> None:
    """Make each state name a broker that answers; as ``ensure_serving``, for all of them.

    Returns when every broker knows all others.  Brokers that ran before are left as they are,
    also on failure.
    """
    if len(states) == 1:
        ensure_serving(template, states[0], save=save, timeout_s=timeout_s)
        return
    deadline = time.monotonic() + timeout_s
    _end_the_mute(template, states, save, min(_STARTING_S, timeout_s))
    fresh = not any(is_running(state.process) for state in states)
    for attempt in range(1, _ATTEMPTS + 1):
        _choose_ports(states, fresh=fresh, kept=attempt == 1)
        words = _start(template, states, save=save, deadline=deadline)
        if words is None:
            return
        if not fresh or attempt == _ATTEMPTS or not any(sign in words for sign in PORT_TAKEN):
            raise RuntimeUnavailableError(words)


def _end_the_mute(
    template: KafkaServer,
    states: Sequence[ServerState],
    save: Callable[[], None],
    timeout_s: float,
) -> None:
    """Stop what runs, but does not answer in its time."""
    pairs = [
        pair
        for pair in zip(members(template, states), states, strict=True)
        if is_running(pair[1].process)
    ]
    wait_until(lambda: all(is_serving(*pair) for pair in pairs), timeout_s=timeout_s)
    for server, state in pairs:
        if not is_serving(server, state):
            stop_server(state, save)


def _choose_ports(states: Sequence[ServerState], *, fresh: bool, kept: bool) -> None:
    """Give ports to the brokers that do not run: their last ones, or new ones for all.

    The ports of controllers are in the settings of every broker: while one runs they stay.
    """
    for number, state in enumerate(states, start=1):
        if is_running(state.process):
            continue
        if fresh:
            state.ports = free_ports(2, preferred=state.ports if kept else ())
        elif not wait_until(lambda s=state: _are_free(s.ports), timeout_s=_PORT_WAIT_S):  # type: ignore[misc]
            raise RuntimeUnavailableError(
                f"broker-{number} cannot start again: one of its ports {state.ports} has been taken"
                " by another program; end that, or `lichtstrom down` and `up` for new ones"
            )


def _are_free(ports: tuple[int, ...]) -> bool:
    return free_ports(len(ports), preferred=ports) == ports


def _start(
    template: KafkaServer,
    states: Sequence[ServerState],
    *,
    save: Callable[[], None],
    deadline: float,
) -> str | None:
    """Launch what does not run and wait; None when all answer, else why not, all ended again."""
    servers = members(template, states)
    pairs = [p for p in zip(servers, states, strict=True) if not is_running(p[1].process)]
    sizes = [output_size(server) for server, _ in pairs]
    limit_s = deadline - time.monotonic()
    try:
        for server, state in pairs:
            state.process = server.launch(state.ports)
            save()
        wait_until(
            lambda: (
                _know_each_other(states) or not all(is_running(state.process) for _, state in pairs)
            ),
            timeout_s=max(0.0, deadline - time.monotonic()),
        )
        if _know_each_other(states):
            return None
        mute = [not is_serving(*pair) for pair in pairs]
    except BaseException:
        for _, state in pairs:
            stop_server(state, save, timeout_s=0.0)
        raise
    for _, state in pairs:  # at once: without a majority none can leave in order
        stop_server(state, save, timeout_s=0.0)
    texts = [
        failure(server, output_from(server, size), limit_s, deadline)
        for (server, _), size, is_mute in zip(pairs, sizes, mute, strict=True)
        if is_mute
    ]
    return "\n".join(texts) or "the brokers answer, but do not know each other"


def _know_each_other(states: Sequence[ServerState]) -> bool:
    wanted = set(range(1, len(states) + 1))
    try:
        return all(
            wanted <= set(broker_ids(LOOPBACK, state.ports[0], timeout_s=1.0)) for state in states
        )
    except (OSError, ValueError):
        return False


def stop_brokers(home: Path, states: Sequence[ServerState], *, timeout_s: float) -> bool:
    """End all brokers together; False if none was running.

    SIGTERM to all at once: one after the other, the last would wait for the majority that could
    tell it that it may go (five minutes by default).  It waits five seconds more for followers to
    take over the metadata; what has closed its logs and finds no majority is killed instead.
    """
    pairs = [p for p in zip(_own(home, states), states, strict=True) if is_running(p[1].process)]
    for _, state in pairs:
        signal_to(state.process, signal.SIGTERM)
    majority = len(states) // 2 + 1

    def is_over() -> bool:
        left = [server for server, state in pairs if is_running(state.process)]
        return not left or (
            len(states) > 1 and len(left) < majority and all(server.has_closed for server in left)
        )

    wait_until(is_over, timeout_s=timeout_s)
    for _, state in pairs:
        signal_to(state.process, signal.SIGKILL)
        wait_until(lambda s=state: not is_running(s.process), timeout_s=5.0)  # type: ignore[misc]
    return bool(pairs)


def _own(home: Path, states: Sequence[ServerState]) -> list[KafkaServer]:
    return members(KafkaServer(home=home), states)
