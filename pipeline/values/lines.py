"""Values from lines of JSON, one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.value_publisher import ValuePublisher

#: The name that is no value but the time of the others, ns since 1970 (UTC).
TIME = "timestamp_ns"


def publish_lines(lines: Iterable[str], out: ValuePublisher) -> int:
    """Publish each line as values that hold from its ``timestamp_ns`` on (default: now).

    Returns how many lines there were, empty ones not counted.  Raises InvalidArgumentError that
    names the line that is wrong; those before it were published.
    """
    count = 0
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            stamp = values.pop(TIME, None) if isinstance(values, dict) else None
        except ValueError as error:
            raise InvalidArgumentError("line", f"{place} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise InvalidArgumentError("line", f"{place} is not a JSON object")
        try:
            out.put_all(values, stamp)
        except InvalidFrameError as error:
            raise InvalidArgumentError("line", f"{place}: {error}") from error
        count += 1
    return count
