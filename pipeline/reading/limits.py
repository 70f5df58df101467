"""Arguments that readers share, checked once at the door."""

from __future__ import annotations

import math

from pipeline.errors import InvalidArgumentError
from pipeline.frame import INT64_MAX


def check_timeout(timeout_s: object, field: str = "timeout_s") -> float | None:
    """Return ``timeout_s``; None waits for ever, 0 does not wait."""
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
        raise InvalidArgumentError(field, f"must be seconds or None, not {timeout_s!r}")
    if math.isnan(timeout_s) or timeout_s < 0:
        raise InvalidArgumentError(field, f"{timeout_s} must not be negative")
    return None if math.isinf(timeout_s) else float(timeout_s)


def check_number(field: str, value: object, *, least: int = 0) -> int:
    """Return ``value`` as an integer of at least ``least`` (numpy's integers are fine)."""
    try:
        number = value.__index__()  # type: ignore[attr-defined]  # asked of any object on purpose
    except AttributeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InvalidArgumentError(field, f"must be an integer, not {type(value).__name__}")
    if not least <= number <= INT64_MAX:
        raise InvalidArgumentError(field, f"{number} is outside {least} to {INT64_MAX}")
    return int(number)
