"""Avro object container files whose blocks can be read one at a time by byte range.

Source of the format: Apache Avro 1.12 specification, "Object Container Files".  The file header
may carry metadata of the application; ours holds the index of the blocks, so that a file says by
itself where everything in it lies, and any Avro tool still reads it from the start.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, parse_schema

from pipeline.errors import WireError

MAGIC = b"Obj\x01"
SYNC_NBYTES = 16
#: More than any header of ours: an index entry takes 60 bytes, a part has a few thousand blocks.
MAX_HEADER_NBYTES = 32 << 20
#: A block closes at 64 KiB; one record (900 kB at most) may be larger.
MAX_BLOCK_NBYTES = 16 << 20
#: Level 1 packs the numbers and times of frames nearly as well as 6, at a third of the time.
_DEFLATE_LEVEL = 1
#: Header entry with the SHA-256 of all others, since Avro itself checks nothing.
_DIGEST = "lichtstrom.sha256"


class IncompleteHeaderError(WireError):
    """The header goes on behind the bytes that were given."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an object container says before its first block."""

    schema: Any
    codec: str
    sync: bytes
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    #: Length of the header; the first block begins there.
    nbytes: int = 0


def header_bytes(schema: Any, *, sync: bytes, metadata: Mapping[str, bytes]) -> bytes:
    """Return the header of a container with deflated blocks of ``schema``."""
    entries = {
        "avro.schema": json.dumps(_public(schema)).encode(),
        "avro.codec": b"deflate",
        **metadata,
    }
    entries[_DIGEST] = _digest(entries)
    parts = [MAGIC, _long(len(entries))]
    for name, value in entries.items():
        parts += [_long(len(name.encode())), name.encode(), _long(len(value)), value]
    return b"".join([*parts, _long(0), sync])


def block_bytes(records: list[bytes], *, sync: bytes) -> bytes:
    """Return one block that holds these encoded records."""
    packer = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -15)  # -15: raw, as Avro wants it
    data = packer.compress(b"".join(records)) + packer.flush()
    return b"".join([_long(len(records)), _long(len(data)), data, sync])


def parse_header(data: memoryview, *, where: str) -> Header:
    """Return the header at the beginning of ``data``.

    Raises
    ------
    IncompleteHeaderError
        It does not end within ``data``.
    WireError
        Not an object container that we can read.
    """
    reader = _Reader(data, where)
    if reader.take(len(MAGIC)) != MAGIC:
        raise WireError("not an Avro object container", where=where)
    metadata: dict[str, bytes] = {}
    while count := reader.long():
        if count < 0:  # then the block's length in bytes follows, of use only for skipping it
            reader.long()
        for _ in range(min(abs(count), len(data))):
            name = reader.text()
            metadata[name] = bytes(reader.take(reader.long()))
    sync = bytes(reader.take(SYNC_NBYTES))
    if metadata.pop(_DIGEST, b"") != _digest(metadata):
        raise WireError("header does not match its SHA-256: damaged or not ours", where=where)
    codec = metadata.pop("avro.codec", b"null").decode("ascii", "replace")
    if codec not in ("null", "deflate"):
        raise WireError(f"blocks are packed with {codec!r}", where=where)
    schema = _parse_schema(metadata.pop("avro.schema", b""), where)
    return Header(schema, codec, sync, metadata, reader.position)


def parse_block(data: memoryview, header: Header, *, where: str) -> list[dict[str, Any]]:
    """Return the records of the one block that ``data`` holds, as dictionaries.

    Raises
    ------
    WireError
        Damaged, cut short, or of another file.
    """
    reader = _Reader(data, where)
    count = reader.long()
    packed = reader.take(reader.long())
    if reader.take(SYNC_NBYTES) != header.sync or reader.position != len(data):
        raise WireError("block does not end with the file's sync marker", where=where)
    body = io.BytesIO(_unpack(packed, header.codec, where))
    size = body.getbuffer().nbytes
    if not 0 <= count <= size:
        raise WireError(f"block of {size} bytes cannot hold {count} records", where=where)
    try:
        rows = [fastavro.schemaless_reader(body, header.schema, None) for _ in range(count)]
    except Exception as error:  # hostile bytes make fastavro raise nearly anything
        raise WireError(f"damaged block: {error!r:.200}", where=where) from error
    if body.tell() != size:
        raise WireError(f"{size - body.tell()} bytes left in a block", where=where)
    return rows  # type: ignore[return-value]  # the caller checks that they are dictionaries


def encode_row(schema: Any, row: Mapping[str, Any]) -> bytes:
    """Return one record as it stands in a block."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schema, row)
    return buffer.getvalue()


def _digest(entries: Mapping[str, bytes]) -> bytes:
    total = hashlib.sha256()
    for name in sorted(entries):
        total.update(hashlib.sha256(name.encode()).digest())
        total.update(hashlib.sha256(entries[name]).digest())
    return total.hexdigest().encode()


def _unpack(data: memoryview, codec: str, where: str) -> bytes:
    if codec == "null":
        return bytes(data)
    unpacker = zlib.decompressobj(-15)
    try:
        body = unpacker.decompress(data, MAX_BLOCK_NBYTES)
    except zlib.error as error:
        raise WireError(f"damaged block: {error}", where=where) from error
    if not unpacker.eof or unpacker.unused_data:
        raise WireError(f"block is not one deflated text below {MAX_BLOCK_NBYTES}", where=where)
    return body


def _parse_schema(text: bytes, where: str) -> Any:
    try:
        return parse_schema(json.loads(text))
    except (SchemaParseException, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"no Avro schema in the header: {error!r:.200}", where=where) from error


def _public(schema: Any) -> Any:
    """Return a parsed schema without fastavro's private marks."""
    if isinstance(schema, dict):
        return {k: _public(v) for k, v in schema.items() if not k.startswith("__")}
    return [_public(entry) for entry in schema] if isinstance(schema, list) else schema


def _long(value: int) -> bytes:
    rest = value << 1 if value >= 0 else (-value << 1) - 1  # zigzag
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


class _Reader:
    """Avro's primitive types, read from bytes that may be anything."""

    def __init__(self, data: memoryview, where: str) -> None:
        self._data = data
        self._where = where
        self.position = 0

    def take(self, nbytes: int) -> memoryview:
        if nbytes < 0 or nbytes > MAX_HEADER_NBYTES:
            raise WireError(f"a length of {nbytes} bytes", where=self._where)
        end = self.position + nbytes
        if end > len(self._data):
            raise IncompleteHeaderError(
                f"cut short after {len(self._data)} bytes", where=self._where
            )
        found = self._data[self.position : end]
        self.position = end
        return found

    def long(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value >> 1 if not value & 1 else -(value >> 1) - 1
            if shift > 63:
                raise WireError("a number of more than 64 bits", where=self._where)

    def text(self) -> str:
        try:
            return bytes(self.take(self.long())).decode()
        except UnicodeDecodeError as error:
            raise WireError("a name that is not UTF-8", where=self._where) from error
