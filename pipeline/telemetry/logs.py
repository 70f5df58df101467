"""The log of a process on stderr: a line of text for people, or one JSON object for programs."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

Form = Literal["text", "json"]
#: What a line is about, where it is known; in this order.
FIELDS = ("beamtime", "detector", "stream", "group", "frame")
#: Our messages carry their values so: ``stream ended stream=c1/det/scan frames=12``.
_PAIR = re.compile(r"\b(beamtime|detector|stream|group|frame|number)=([^\s,;]+)")
_FRAME = re.compile(r"\bframe (\d+)\b")


class LogSettings(NamedTuple):
    """How this process logs; processes that it starts get the same."""

    level: int
    form: Form


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what it is about, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "pid": record.process,
        }
        line |= about(record, message)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def about(record: logging.LogRecord, message: str) -> dict[str, Any]:
    """Return beamtime, detector, stream, group and frame, as far as a record tells them.

    They come from ``extra=``, from a stream's name among the arguments, and from ``stream=...`` in
    the text, the former first.
    """
    found: dict[str, Any] = {}
    for name, value in _PAIR.findall(message):
        found["frame" if name == "number" else name] = value
    if (numbered := _FRAME.search(message)) is not None:
        found.setdefault("frame", numbered[1])
    for argument in record.args if isinstance(record.args, tuple) else ():
        if all(hasattr(argument, name) for name in FIELDS[:3]):  # a StreamId, named below us
            found |= {name: getattr(argument, name) for name in FIELDS[:3]}
    found |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    _split(found)
    frame = str(found.get("frame", ""))
    if frame.isdecimal():
        found["frame"] = int(frame)
    return {name: found[name] for name in FIELDS if name in found}


def _split(found: dict[str, Any]) -> None:
    """Take beamtime/detector/stream apart where the text has the whole name."""
    parts = str(found.get("stream", "")).split("/")
    if len(parts) == len(FIELDS[:3]):
        found |= dict(zip(FIELDS, parts, strict=False))


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at the moment: a progress line may stand in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 -- as logging's own handlers do
            self.handleError(record)


def set_up_logging(settings: LogSettings) -> None:
    """Send our log to stderr; a second call replaces what the first one has set up."""
    logger = logging.getLogger("pipeline")
    for handler in [h for h in logger.handlers if isinstance(h, _Stderr)]:
        logger.removeHandler(handler)
    handler = _Stderr()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if settings.form == "json" else text)
    logger.addHandler(handler)
    logger.setLevel(settings.level)


def current() -> LogSettings | None:
    """Return how this process logs; None where our log was not set up (a library in use)."""
    logger = logging.getLogger("pipeline")
    ours = [h for h in logger.handlers if isinstance(h, _Stderr)]
    if not ours:
        return None
    form: Form = "json" if isinstance(ours[0].formatter, JsonFormatter) else "text"
    return LogSettings(logger.level, form)
