"""A lock between processes: two ``up`` on one home, two builders of one tool."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import RuntimeUnavailableError
from pipeline.local.processes import wait_until


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``; waits up to ``timeout_s`` for another holder.

    The kernel frees it when its holder dies, so there are no stale locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if not wait_until(lambda: _try_lock(file), timeout_s=timeout_s):
            raise RuntimeUnavailableError(
                f"another process has held {path} for more than {timeout_s:g} s:"
                " wait for its `lichtstrom up` or `down` to finish, or end it"
            )
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
