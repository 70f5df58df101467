"""Waiting for what a connector makes, or for its failure."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.connectors.errors import (
    ConnectError,
    ConnectorNotFoundError,
    ConnectTimeoutError,
)
from pipeline.connectors.rest import ConnectRest

_LOOK_S = 0.5


def identity(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def wait_for_file(
    rest: ConnectRest,
    name: str,
    path: Path,
    *,
    before: tuple[int, int] | None = None,
    timeout_s: float | None,
) -> None:
    """Return when the connector's file is there, another one than ``before``.

    Blocks up to ``timeout_s`` (None: as long as the stream goes on).  A rebalance is waited out.

    Raises
    ------
    ConnectError
        With the first lines of its trace when the connector or a task has failed.
    ConnectorNotFoundError
        When somebody removed it.
    ConnectTimeoutError
        After ``timeout_s``; the connector goes on.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = False
    while True:
        now = identity(path)
        if now is not None and now != before:
            return
        status = rest.status(name)
        if status is None and seen:
            raise ConnectorNotFoundError(name, url=rest.url)
        seen = seen or status is not None
        if status is not None and status.failure:
            raise ConnectError(f"connector {name} failed: {status.failure}")
        if deadline is not None and time.monotonic() >= deadline:
            raise ConnectTimeoutError(name, path=path, timeout_s=timeout_s or 0.0)
        time.sleep(_LOOK_S)
