"""Names, values and times as NeXus files have them."""

from __future__ import annotations

import json
from datetime import UTC, datetime


def link_name(name: str) -> str:
    """Return ``name`` as the name of an HDF5 link: percent-encoded where it cannot be one."""
    text = name.encode("utf-8", "backslashreplace").decode()
    text = text.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return {"": "%", ".": "%2E"}.get(text, text)


def as_text(value: object) -> str:
    """Return a value as text that HDF5 takes: anything but text becomes JSON."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def utc(moment_ns: int) -> str:
    """Return a time as ISO 8601 in UTC, microseconds."""
    try:
        moment = datetime.fromtimestamp(moment_ns // 10**9, UTC)
    except (ValueError, OverflowError, OSError):  # past the year 9999
        moment, moment_ns = datetime.max.replace(tzinfo=UTC), 0
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ns % 10**9 // 1000:06d}Z"
