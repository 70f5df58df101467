"""Settings as they are typed, from text of the environment or values of TOML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError


def convert(kind: str, value: Any, where: str) -> Any:
    """Return a value as a field of type ``kind`` (an annotation's text) wants it.

    Raises ConfigError that begins with ``where``; of what may be a secret it tells the kind only.
    """
    if kind == "Secret" or kind.startswith("Mapping"):
        return _hidden(kind, value, where)
    if kind in {"int", "float"}:
        return converted(int if kind == "int" else float, value, where)
    if kind.startswith("tuple"):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise ConfigError(f"{where}: {value!r} is not a list")
        return tuple(str(part).strip() for part in parts)
    return converted(str, value, where)


def _hidden(kind: str, value: Any, where: str) -> Any:
    if kind == "Secret":
        if not isinstance(value, str):
            raise ConfigError(f"{where} must be text, in quotes")
        return value
    if isinstance(value, str):
        pairs = (pair.partition("=") for pair in value.split(",") if pair)
        return {k.strip(): v.strip() for k, _, v in pairs}
    if not isinstance(value, dict):
        what = value if isinstance(value, (int, float)) else type(value).__name__
        raise ConfigError(f"{where}: {what} is not a table")
    return {str(k): str(v) for k, v in value.items()}


def converted(kind: type[Any], value: Any, where: str) -> Any:
    """Return a value as ``kind``; raises ConfigError that begins with ``where``."""
    if kind is bool and isinstance(value, str):
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if value.lower() in known:
            return known[value.lower()]
        raise ConfigError(f"{where}: {value!r} is neither true nor false")
    wrong = ConfigError(f"{where}: {value!r} is not of type {kind.__name__}")
    # A float is no int, and a boolean no number; an int is a float.
    if not isinstance(value, (str, kind)) and not (kind is float and type(value) is int):
        raise wrong
    if isinstance(value, bool) and kind is not bool:
        raise wrong
    try:
        return kind(value)
    except ValueError as error:
        raise wrong from error


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """Return what to say of an unknown name."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
