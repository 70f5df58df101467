"""What HiDRA's senders and signal ports say: bytes to facts, no input or output.

Source: the wire of HiDRA 4.4.3 as its sender and its client speak it.  A data message has two
parts, a JSON object and a chunk of a file; signals are requests of four parts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InvalidFrameError, SourceError

#: Senders compare the major and minor part with theirs, and refuse others.
VERSION = "4.4.3"
START, STOP, GET_VERSION = b"START_STREAM", b"STOP_STREAM", b"GET_VERSION"
_MAX_METADATA_NBYTES = 64 * 1024
_MAX_PATH = 1024
_MAX_CHUNKS = 1_000_000
MAX_FILE_NBYTES = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class FileId:
    """One state of one file; a name that is used again has another time."""

    directory: str
    name: str
    mtime_ns: int
    nbytes: int

    @property
    def path(self) -> str:
        """The file as HiDRA names it: its directory below the sender's, and its name."""
        return f"{self.directory}/{self.name}" if self.directory else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a file.

    Parameters
    ----------
    count:
        How many chunks the file has.
    topic:
        To whom receipt is confirmed; empty where nobody asks.
    version:
        Of the sender; None up to 4.0.7, which knows no chunk numbers in confirmations.
    """

    file: FileId
    number: int
    count: int
    payload: memoryview
    topic: str = ""
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A sender says that a file is closed."""

    name: str


def parse_message(parts: Sequence[memoryview]) -> Chunk | Closed | None:
    """Return what a data message says, None for a test of the connection.

    Raises
    ------
    InvalidFrameError
        It is no message of HiDRA's, or contradicts itself.
    """
    if not parts:
        raise InvalidFrameError("message", "no parts")
    if parts[0].nbytes > _MAX_METADATA_NBYTES:
        raise InvalidFrameError("message", f"metadata of {parts[0].nbytes} bytes")
    first = bytes(parts[0])
    if first == b"ALIVE_TEST":
        return None
    if first == b"CLOSE_FILE":
        name = bytes(parts[1][:_MAX_PATH]) if len(parts) > 1 else b""
        return Closed(name=name.decode("utf-8", "replace"))
    if len(parts) < 2:
        raise InvalidFrameError("message", "one part: metadata or content is missing")
    return _chunk(_fields(first), parts[1])


def _fields(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFrameError("message", f"metadata is no JSON: {error!s:.80}") from error
    if not isinstance(fields, dict):
        raise InvalidFrameError("message", "metadata is no JSON object")
    return fields


def _chunk(fields: dict[str, Any], payload: memoryview) -> Chunk:
    file = FileId(
        directory=_directory(fields.get("relative_path")),
        name=_name(fields.get("filename")),
        mtime_ns=_time_ns(fields.get("file_mod_time")),
        nbytes=_integer(fields, "filesize", 0, MAX_FILE_NBYTES),
    )
    size = _integer(fields, "chunksize", 1, MAX_FILE_NBYTES)
    count = max(1, -(-file.nbytes // size))
    if count > _MAX_CHUNKS:
        raise InvalidFrameError("chunksize", f"{count} chunks of {size} bytes")
    number = _integer(fields, "chunk_number", 0, count - 1)
    wanted = min(size, file.nbytes - number * size)
    if payload.nbytes != wanted:
        raise InvalidFrameError(
            "payload", f"{file.path}: chunk {number} has {payload.nbytes} of {wanted} bytes"
        )
    topic, version = fields.get("confirmation_required"), fields.get("version")
    return Chunk(
        file=file,
        number=number,
        count=count,
        payload=payload,
        topic=topic[:_MAX_PATH] if isinstance(topic, str) and _is_text(topic) else "",
        version=version[:32] if isinstance(version, str) else None,
    )


def _directory(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_PATH:
        raise InvalidFrameError("relative_path", f"{value!r:.60}")
    path = value.replace("\\", "/").strip("/")
    if not _is_text(path) or "\0" in path or ".." in path.split("/"):
        raise InvalidFrameError("relative_path", f"{value!r:.60} leaves its directory")
    return path


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255 or "\0" in value or "/" in value:
        raise InvalidFrameError("filename", f"{value!r:.60}")
    if not _is_text(value):
        raise InvalidFrameError("filename", f"{value!a:.60} is no text")
    return value


def _is_text(value: str) -> bool:
    """Tell whether a text can leave here again: JSON can hold halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _time_ns(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    # seconds as a float of 64 bits: microseconds are exact, nanoseconds are not
    return round(value * 1e6) * 1000 if 0 < value < 1 << 33 else 0


def _integer(fields: dict[str, Any], name: str, low: int, high: int) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidFrameError(name, f"{value!r:.40} is no integer of {low} to {high}")
    return value


# -- signals ------------------------------------------------------------------------------------


def make_signal(signal: bytes, *, appid: str, target: str, pattern: str) -> list[bytes]:
    """Return the request that registers (or removes) ``target``, our HOST:PORT.

    The priority of 1 lets the sender go on when nobody receives; files match ``pattern``.
    """
    targets = json.dumps([[target, 1, pattern]]).encode()
    return [VERSION.encode(), appid.encode(), signal, targets]


def make_confirmation(file: FileId, topic: str, version: str | None, number: int) -> list[bytes]:
    """Return the message that tells a sender that a chunk is safe."""
    message = [topic.encode(), file.path.encode()]
    if version is None or _numbers(version) <= (4, 0, 7):
        return message
    return [*message, str(number).encode()]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(
        int(part) if part.isascii() and part.isdigit() else 0 for part in version.split(".")[:3]
    )


def check_answer(parts: Sequence[bytes], signal: bytes, *, target: str) -> None:
    """Raise SourceError, saying what to do, unless a signal was accepted."""
    answer = parts[0][:64] if parts else b""
    host = target.rpartition(":")[0]
    if answer.startswith(signal):
        return
    reasons = {
        b"NO_VALID_HOST": f"{host} is not in its whitelist: add the name there"
        " (general: whitelist), restart the sender, or set --receive-host to a name that is",
        b"VERSION_CONFLICT": f"it does not speak HiDRA {VERSION[:3]}"
        f" (its version: {parts[1][:20].decode('latin-1') if len(parts) > 1 else 'unknown'})",
        b"CONNECTION_ALREADY_OPEN": f"{target} is registered already: stop the other receiver",
        b"STORING_DISABLED": "storing is disabled there",
        b"NO_VALID_SIGNAL": "it takes no streams, or does not know the name of this host",
    }
    told = answer.decode("latin-1")
    reason = reasons.get(answer, f"it answered {told!r}")
    raise SourceError(f"HiDRA's sender refused {signal.decode()}: {reason}")
