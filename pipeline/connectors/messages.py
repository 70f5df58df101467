"""What a task of Kafka Connect and its writer say to each other; ``docs/connect.md`` has the table.

Each message is its length (uint32, big-endian as all of them), a byte for its kind, and a body.
Texts and bytes are preceded by their length as int32, -1 for none.  The task asks and the writer
answers each question once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

from pipeline.errors import WireError

#: Raised with every change that an older side would not understand.
VERSION = 1
#: A batch of records of Kafka Connect, 500 of 1 MB at most, is sent in pieces of this size.
MAX_NBYTES = 64 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_INT = struct.Struct(">i")
_PLACE = struct.Struct(">iq")
_RECORD = struct.Struct(">iqq")


class Ask(IntEnum):
    """Questions of the task."""

    HELLO = 1
    OPEN = 2
    RECORDS = 3
    STATE = 4
    REPORTED = 5
    CLOSE = 6


class Answer(IntEnum):
    """Answers of the writer."""

    READY = 1
    STATE = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as the topic has it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None

    @property
    def nbytes(self) -> int:
        """How much of memory it takes."""
        return 100 + len(self.key or b"") + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Question:
    """One question: of these fields, those that its kind has."""

    kind: Ask
    version: int = 0
    settings: Mapping[str, str] | None = None
    partitions: Sequence[int] = ()
    records: Sequence[RawRecord] = ()
    places: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A record that is, or holds, something that cannot be written."""

    partition: int
    offset: int
    reason: str


def read_question(stream: BinaryIO) -> Question | None:
    """Return the next question, None at the end of the connection; blocks until there is one.

    Raises WireError for what is none.
    """
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise WireError("the connection ended within a message")
    (length,) = _LENGTH.unpack(head)
    if not 1 <= length <= MAX_NBYTES:
        raise WireError(f"a message of {length} bytes, 1 to {MAX_NBYTES} are possible")
    body = stream.read(length)
    if len(body) < length:
        raise WireError("the connection ended within a message")
    try:
        return _parse(body)
    except (struct.error, ValueError) as error:
        raise WireError(f"a damaged message: {error}") from error


def ready(path: str) -> bytes:
    """Return the answer to HELLO: the file to come."""
    return _message(Answer.READY, _packed(path.encode()))


def state(
    markers: Mapping[int, int], troubles: Sequence[Trouble], *, is_full: bool, done: str
) -> bytes:
    """Return how far the log is in the files, per open partition.

    ``is_full``: records of the last batch were not taken, they are to be given again.  ``done``:
    the finished file, empty before.
    """
    parts = [bytes([is_full]), _packed(done.encode()), _INT.pack(len(markers))]
    parts += [_PLACE.pack(*place) for place in markers.items()]
    parts.append(_INT.pack(len(troubles)))
    for trouble in troubles:
        place = _PLACE.pack(trouble.partition, trouble.offset)
        parts += [place, _packed(trouble.reason.encode())]
    return _message(Answer.STATE, *parts)


def failed(reason: str, *, retriable: bool) -> bytes:
    """Return that the writer cannot go on: not now, or not at all."""
    return _message(Answer.FAILED, bytes([retriable]), _packed(reason.encode()))


def _message(kind: Answer, *parts: bytes) -> bytes:
    body = b"".join((bytes([kind]), *parts))
    return _LENGTH.pack(len(body)) + body


def _packed(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def _parse(body: bytes) -> Question:
    fields = _Fields(body)
    kind = Ask(fields.take(1)[0])
    if kind is Ask.HELLO:
        version = fields.integer()
        settings = {fields.text(): fields.text() for _ in range(fields.count(8))}
        question = Question(kind, version=version, settings=settings)
    elif kind is Ask.OPEN:
        partitions = tuple(fields.integer() for _ in range(fields.count(_INT.size)))
        question = Question(kind, partitions=partitions)
    elif kind is Ask.RECORDS:
        records = [_record(fields) for _ in range(fields.count(_RECORD.size + 8))]
        question = Question(kind, records=records)
    elif kind is Ask.REPORTED:
        places = [_PLACE.unpack(fields.take(_PLACE.size)) for _ in range(fields.count(_PLACE.size))]
        question = Question(kind, places=places)
    else:
        question = Question(kind)
    fields.end()
    return question


def _record(fields: _Fields) -> RawRecord:
    partition, offset, timestamp_ms = _RECORD.unpack(fields.take(_RECORD.size))
    return RawRecord(partition, offset, timestamp_ms, fields.data(), fields.data())


class _Fields:
    """The fields of a message, one after the other; raises ValueError where they lie."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)
        self._next = 0

    def take(self, nbytes: int) -> memoryview:
        if not 0 <= nbytes <= len(self._body) - self._next:
            raise ValueError(f"{nbytes} bytes at {self._next} of {len(self._body)}")
        self._next += nbytes
        return self._body[self._next - nbytes : self._next]

    def integer(self) -> int:
        (value,) = _INT.unpack(self.take(_INT.size))
        return int(value)

    def count(self, least_nbytes: int) -> int:
        """Return how many follow, each of ``least_nbytes`` or more."""
        value = self.integer()
        if not 0 <= value * least_nbytes <= len(self._body) - self._next:
            raise ValueError(f"{value} entries in {len(self._body) - self._next} bytes")
        return value

    def data(self) -> bytes | None:
        nbytes = self.integer()
        return None if nbytes == -1 else bytes(self.take(nbytes))

    def text(self) -> str:
        return (self.data() or b"").decode()

    def end(self) -> None:
        if self._next != len(self._body):
            raise ValueError(f"{len(self._body) - self._next} bytes behind it")
