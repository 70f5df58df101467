"""Clocks of detectors that say the time without its zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from pipeline.errors import InvalidArgumentError


class LocalTime(tzinfo):
    """The time zone of this machine, summer time included."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return the offset that this machine has at that moment."""
        return moment.replace(tzinfo=None).astimezone().utcoffset() if moment else None

    def dst(self, moment: datetime | None) -> timedelta | None:
        """Return None: the offset includes it."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """Return what people read."""
        return "local"


def timezone_of(name: str) -> tzinfo:
    """Return where a clock is, given ``local``, ``UTC`` or a name like ``Europe/Berlin``."""
    if name == "local":
        return LocalTime()
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidArgumentError(
            "timezone", f"{name!r} is not local, UTC, or a name like Europe/Berlin"
        ) from error
