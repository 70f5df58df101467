"""Options with units: durations (30d, 12h) and amounts of data (2TB)."""

from __future__ import annotations

import re

import click

#: What a unit means, in seconds.
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"B": 1} | {
    f"{letter}{i}B": (1024 if i else 1000) ** power
    for power, letter in enumerate("kMGTP", 1)
    for i in ("", "i")
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
#: How an option is taken back.
NEVER = "never"


class DurationParam(click.ParamType[float]):
    """``30d``, ``12h``, ``90min``, ``45s``: seconds; a bare number is refused.

    With ``or_never`` the word ``never`` is -1.
    """

    name = "DURATION"

    def __init__(self, *, or_never: bool = False) -> None:
        self._or_never = or_never

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if not isinstance(value, str):
            return value
        if self._or_never and value == NEVER:
            return -1.0
        found = _AMOUNT.fullmatch(value)
        if found is None or found[2] not in _SECONDS:
            self.fail(f"{value!r} is no duration: a number with s, min, h, d or w", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


class SizeParam(click.ParamType[int]):
    """``2TB``, ``500GB``, ``10GiB``: bytes; with ``or_never`` the word ``never`` is -1."""

    name = "SIZE"

    def __init__(self, *, or_never: bool = False) -> None:
        self._or_never = or_never

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return bytes."""
        if not isinstance(value, str):
            return value
        if self._or_never and value == NEVER:
            return -1
        found = _AMOUNT.fullmatch(value)
        if found is None or found[2] not in _BYTES:
            self.fail(f"{value!r} is no size: a number with B, kB, MB, GB, TB or GiB", param, ctx)
        return int(float(found[1]) * _BYTES[found[2]])


def duration_text(seconds: float | None) -> str:
    """Return a duration for people, in the largest unit that divides it."""
    if seconds is None:
        return NEVER
    for unit in ("d", "h", "min"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"
