"""How the runtime tells what it is doing: one line per step, to whoever wants it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]


def quiet(_line: str) -> None:
    """Say nothing."""
