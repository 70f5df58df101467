"""Where the local runtime keeps its data and what it downloads."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """Directory of the runtime: ``LICHTSTROM_HOME``, else below the user's data directory."""
    named = os.environ.get("LICHTSTROM_HOME")
    if named:
        return Path(named).expanduser().absolute()
    return _xdg("XDG_DATA_HOME", ".local/share") / "lichtstrom"


def cache_dir() -> Path:
    """Directory of what was downloaded or built once for all runtimes of this user."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "lichtstrom"


def _xdg(variable: str, default: str) -> Path:
    # The XDG specification: relative values are invalid and must be ignored.
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else Path.home() / default
