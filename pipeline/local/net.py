"""Loopback ports for our own servers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

LOOPBACK = "127.0.0.1"


def free_ports(count: int, *, preferred: Sequence[int] = ()) -> tuple[int, ...]:
    """Return ``count`` loopback ports that are free now, the preferred ones if all of them are.

    Another program may take one before the server binds it: callers try again with others.
    """
    for wanted in (tuple(preferred), (0,) * count):
        if len(wanted) != count:
            continue
        with contextlib.ExitStack() as stack:
            try:
                # All are held until all are known, so that no port is given twice.
                sockets = [stack.enter_context(_bound(port)) for port in wanted]
            except OSError:
                continue
            return tuple(bound.getsockname()[1] for bound in sockets)
    raise OSError(f"no {count} free ports on {LOOPBACK}")


def _bound(port: int) -> socket.socket:
    server = socket.socket()
    try:
        # A restarted server must not wait for its old connections' TIME_WAIT.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, port))
    except OSError:
        server.close()
        raise
    return server
