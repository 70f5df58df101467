"""Every string and key that leaves the process: topics, buckets, blob keys, group ids.

Names given by users may hold any characters.  On the way out they are escaped reversibly:

* topics, groups, blob keys: ``A-Za-z0-9`` stand for themselves, ``-`` becomes ``--``, every other
  byte of the UTF-8 text ``-hh``.  Dots only separate, so an access rule on ``lichtstrom.c1.`` can
  never catch ``lichtstrom.c12``.  There is no ``_``: Kafka refuses a topic that equals another one
  but for ``.`` and ``_``.
* buckets (lower case only): ``a-z0-9`` stand for themselves, everything else is ``-hh``.
"""

from __future__ import annotations

import re
import secrets
import string
import struct
from dataclasses import dataclass
from urllib.parse import quote, unquote

from pipeline.errors import InvalidNameError

#: Kafka's limit (org.apache.kafka.common.internals.Topic.MAX_NAME_LENGTH).
MAX_TOPIC_LENGTH = 249
#: Amazon S3 bucket naming rules.
MAX_BUCKET_LENGTH = 63
#: Longest name accepted for a beamtime, detector, stream or group, in characters.
MAX_NAME_LENGTH = 200
DEFAULT_PREFIX = "lichtstrom"
_PREFIX = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")
_RESERVED_DETECTORS = frozenset({"catalogue"})
_KEY = struct.Struct(">8sQ")
#: Key of a dead letter's settling: that of the letter, then the letter's offset.
_SETTLED_KEY = struct.Struct(">8sQQ")
#: Bytes that stand for themselves, and the one that introduces the others.
_PLAIN = {ord(c): c for c in string.ascii_letters + string.digits} | {ord("-"): "--"}


def check_name(field: str, value: object) -> str:
    """Return ``value`` if it can name something, else raise InvalidNameError for ``field``."""
    if not isinstance(value, str):
        raise InvalidNameError(field, value, f"must be text, not {type(value).__name__}")
    if not value:
        raise InvalidNameError(field, value, "must not be empty")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidNameError(field, value, f"has more than {MAX_NAME_LENGTH} characters")
    if "\x00" in value:
        raise InvalidNameError(field, value, "holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(field, value, "is not valid Unicode") from error
    return value


def escape(name: str) -> str:
    """Return ``name`` with only characters that Kafka topics and object keys allow."""
    return "".join(_PLAIN.get(byte, f"-{byte:02x}") for byte in name.encode())


def unescape(text: str) -> str:
    """Undo :func:`escape`.

    Raises InvalidNameError for a text that it does not return.
    """
    data = re.sub(
        rb"-(-|[0-9a-f]{2})",
        lambda found: b"-" if found[1] == b"-" else bytes([int(found[1], 16)]),
        text.encode(errors="replace"),
    )
    name = data.decode(errors="replace")
    if escape(name) != text:
        raise InvalidNameError("escaped name", text, "was not escaped by lichtstrom")
    return name


def has_wildcards(text: str) -> bool:
    """Whether this is a shell pattern rather than a name."""
    return not {"*", "?", "["}.isdisjoint(text)


@dataclass(frozen=True, slots=True, order=True)
class StreamId:
    """The name of a stream: beamtime / detector / stream.

    As text the parts are joined by ``/``; a ``/`` or ``%`` inside a part is percent-encoded.
    """

    beamtime: str
    detector: str
    stream: str

    def __post_init__(self) -> None:
        check_name("beamtime", self.beamtime)
        check_name("detector", self.detector)
        check_name("stream", self.stream)
        if self.detector in _RESERVED_DETECTORS:
            raise InvalidNameError("detector", self.detector, "is a reserved name")

    def __str__(self) -> str:
        return "/".join(quote_part(p) for p in (self.beamtime, self.detector, self.stream))

    @classmethod
    def parse(cls, text: str) -> StreamId:
        """Return the id that ``text`` (``beamtime/detector/stream``) names."""
        parts = text.split("/")
        if len(parts) != 3:
            raise InvalidNameError("stream", text, "must be written beamtime/detector/stream")
        try:
            return cls(*(unquote(part, errors="strict") for part in parts))
        except UnicodeDecodeError as error:
            raise InvalidNameError("stream", text, "is not valid Unicode once unquoted") from error


def quote_part(name: str) -> str:
    """Return one part of a stream's name as it stands between the slashes."""
    return name.replace("%", "%25").replace("/", "%2F")


def file_name(name: str) -> str:
    """Return ``name`` as a file name that every file system takes (percent-encoded)."""
    quoted = quote(name, safe=" ,;=@+()[]{}!#$&'~^")
    # Some file systems drop dots and spaces at the end, and "." and ".." are folders everywhere.
    return f"{quoted[:-1]}%{ord(quoted[-1]):02X}" if quoted.endswith((".", " ")) else quoted


@dataclass(frozen=True, slots=True)
class Names:
    """The names on the wire that share one prefix.

    Raises
    ------
    InvalidNameError
        When a result would be longer than Kafka or S3 allow; the text says which part to shorten.
    """

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise InvalidNameError("prefix", self.prefix, "must match " + _PREFIX.pattern)

    def topic(self, beamtime: str, detector: str) -> str:
        """Return the topic of a detector's segments and marks."""
        if detector in _RESERVED_DETECTORS:
            raise InvalidNameError("detector", detector, "is a reserved name")
        return self._join("detector", detector, beamtime, detector)

    def catalogue(self, beamtime: str) -> str:
        """Return the compacted topic that says which streams a beamtime has."""
        check_name("beamtime", beamtime)
        return self._limit("beamtime", beamtime, f"{self.prefix}.{escape(beamtime)}.catalogue")

    def schemas(self) -> str:
        """Return the compacted topic of the schemas in use."""
        return f"{self.prefix}.schemas"

    def connect_topic(self, kind: str) -> str:
        """Return a topic of our Kafka Connect workers: ``configs``, ``offsets`` or ``status``.

        No name of a detector's topic, which has a dot more.
        """
        return f"{self.prefix}.connect-{kind}"

    def connect_group(self) -> str:
        """Return the group that our Kafka Connect workers form."""
        return f"{self.prefix}.connect"

    def work(self, beamtime: str, detector: str, group: str) -> str:
        """Return the topic of a group's retried frames, one pointer a record."""
        return self._join("group", group, beamtime, detector, group, "work")

    def dead_letters(self, beamtime: str, detector: str, group: str) -> str:
        """Return the topic of what a group has given up."""
        return self._join("group", group, beamtime, detector, group, "dlq")

    def turns(self, beamtime: str, group: str) -> str:
        """Return the topic, and the Kafka group, that split streams among ordered readers.

        No name of a detector's topic, which has a dot less, nor of a group's, which have one more.
        """
        check_name("beamtime", beamtime)
        check_name("group", group)
        return self._limit(
            "group", group, f"{self.prefix}.{escape(beamtime)}.{escape(group)}.turns"
        )

    def newest(self, beamtime: str, detector: str, group: str) -> str:
        """Return the compacted topic that says which newest frames a group has had."""
        return self._join("group", group, beamtime, detector, group, "newest")

    def parse_dead_letters(self, topic: str) -> tuple[str, str, str] | None:
        """Return (beamtime, detector, group) of a topic of dead letters, None for others."""
        return self._parse(topic, r"([^.]+)\.([^.]+)\.([^.]+)\.dlq")

    def parse_group(self, group_id: str) -> tuple[str, str, bytes] | None:
        """Return (beamtime, group, stream id) of a Kafka group of ours, None for others."""
        found = self._parse(group_id, r"([^.]+)\.([^.]+)\.([0-9a-f]{16})")
        return (found[0], found[1], bytes.fromhex(found[2])) if found else None

    def _parse(self, text: str, pattern: str) -> tuple[str, str, str] | None:
        found = re.fullmatch(rf"{re.escape(self.prefix)}\.{pattern}", text)
        try:
            return (unescape(found[1]), unescape(found[2]), unescape(found[3])) if found else None
        except InvalidNameError:
            return None

    def group(self, beamtime: str, group: str, stream_key: bytes) -> str:
        """Return the Kafka group id of (group, stream): progress belongs to both."""
        check_name("group", group)
        return self._limit(
            "group",
            group,
            f"{self.prefix}.{escape(beamtime)}.{escape(group)}.{stream_key.hex()}",
        )

    def bucket(self, beamtime: str) -> str:
        """Return the bucket (first part of every blob key) of a beamtime."""
        check_name("beamtime", beamtime)
        plain = string.ascii_lowercase + string.digits
        escaped = "".join(chr(b) if chr(b) in plain else f"-{b:02x}" for b in beamtime.encode())
        name = f"{self.prefix}-{escaped}"
        if len(name) > MAX_BUCKET_LENGTH:
            raise InvalidNameError(
                "beamtime",
                beamtime,
                f"makes a bucket name of {len(name)} characters, S3 allows {MAX_BUCKET_LENGTH}",
            )
        return name

    def beamtime_of_bucket(self, bucket: str) -> str | None:
        """Return the beamtime whose bucket this is; None for a bucket that is not ours."""
        head, _, escaped = bucket.partition(f"{self.prefix}-")
        if head or not escaped or not re.fullmatch(r"(?:[a-z0-9]|-[0-9a-f]{2})+", escaped):
            return None
        data = re.sub(rb"-([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), escaped.encode())
        name = data.decode(errors="replace")
        try:
            return name if self.bucket(name) == bucket else None
        except InvalidNameError:
            return None

    def beamtime_of_catalogue(self, topic: str) -> str | None:
        """Return the beamtime whose catalogue this topic is; None for any other topic."""
        found = re.fullmatch(rf"{re.escape(self.prefix)}\.([^.]+)\.catalogue", topic)
        try:
            return check_name("beamtime", unescape(found[1])) if found else None
        except InvalidNameError:
            return None

    def stream_prefix(self, beamtime: str, detector: str, stream_key: bytes) -> str:
        """Return what the keys of all blobs of a stream begin with, slash included."""
        return f"{self.bucket(beamtime)}/{escape(detector)}/{stream_key.hex()}/"

    def _join(self, field: str, value: str, *parts: str) -> str:
        for name, part in zip(("beamtime", "detector", "group"), parts, strict=False):
            check_name(name, part)
        return self._limit(field, value, ".".join((self.prefix, *map(escape, parts))))

    @staticmethod
    def _limit(field: str, value: str, topic: str) -> str:
        if len(topic) > MAX_TOPIC_LENGTH:
            raise InvalidNameError(
                field,
                value,
                f"makes a topic name of {len(topic)} characters, Kafka allows {MAX_TOPIC_LENGTH}",
            )
        return topic


def new_stream_key() -> bytes:
    """Return a random 64-bit stream id: one incarnation of a name."""
    return secrets.token_bytes(8)


def new_nonce() -> str:
    """Return eight random hex digits that tell two claims of one epoch apart."""
    return secrets.token_hex(4)


def record_key(stream_key: bytes, first_number: int) -> bytes:
    """Return the Kafka key of a segment or mark: stream id + big-endian first frame number."""
    return _KEY.pack(stream_key, first_number)


def parse_record_key(key: bytes | None) -> tuple[bytes, int] | None:
    """Return (stream id, first frame number), or None for a key that is not ours."""
    if key is None or len(key) != _KEY.size:
        return None
    stream_key, number = _KEY.unpack(key)
    return stream_key, number


def settled_key(letter_key: bytes, offset: int) -> bytes:
    """Return the key of the record that settles the dead letter at ``offset``."""
    return _SETTLED_KEY.pack(*_KEY.unpack(letter_key), offset)


def parse_settled_key(key: bytes | None) -> int | None:
    """Return the offset of the dead letter that a record settles, None for other records."""
    if key is None or len(key) != _SETTLED_KEY.size:
        return None
    return int(_SETTLED_KEY.unpack(key)[2])


def segment_key(
    prefix: str, *, epoch: int, nonce: str, module: int, first: int, sequence: int, suffix: str
) -> str:
    """Return the unique blob key of a segment; epoch and nonce keep two writers apart.

    Folders of 4096 objects keep listings of the plain directory usable.
    """
    folder = f"{epoch:04d}.{nonce}/{sequence // 4096:06d}"
    return f"{prefix}{folder}/{module:02d}-{first:012d}-{sequence:08d}{suffix}"


def manifest_prefix(prefix: str) -> str:
    """Return what the keys of a stream's manifest objects begin with."""
    return f"{prefix}manifest/"


def stream_prefix_of(manifest_key: str) -> str:
    """Return what the keys of all blobs of a stream begin with, from its seal's or a part's."""
    return manifest_key.rpartition("manifest/")[0]


def seal_key(prefix: str, *, epoch: int, nonce: str) -> str:
    """Return the key of the object that seals a stream's manifest; the highest epoch wins."""
    return f"{manifest_prefix(prefix)}seal-{epoch:08d}-{nonce}.avro"


def part_key(prefix: str, *, epoch: int, nonce: str, part: int) -> str:
    """Return the key of one part of a manifest."""
    return f"{manifest_prefix(prefix)}{epoch:08d}-{nonce}-part-{part:06d}.avro"


def attachment_key(prefix: str, *, name: str, nonce: str) -> str:
    """Return the key of an attachment (mask, flat field, settings)."""
    return f"{prefix}attachments/{escape(name)}-{nonce}.npy"
