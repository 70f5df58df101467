"""A record of a topic, as its consumers have it, into what it says and where it stands."""

from __future__ import annotations

from pipeline.naming import parse_record_key
from pipeline.records import Located, Mark, Segment
from pipeline.wire import codec


def decode_record(
    key: bytes | None,
    value: bytes,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    stream_key: bytes | None,
    resolve: codec.Resolver | None,
) -> Located | None:
    """Return a record of the stream (of any for None); None for one of others or of no frames.

    Raises
    ------
    UnknownSchemaError
        It was written by a newer version: frames may be in it.
    WireError
        It cannot be decoded.
    """
    parsed = parse_record_key(key)
    if parsed is None or (stream_key is not None and parsed[0] != stream_key):
        return None
    record = codec.decode(value, where=f"{topic}/{partition}@{offset}", resolve=resolve)
    if not isinstance(record, (Segment, Mark)):
        return None
    return Located(partition=partition, offset=offset, timestamp_ms=timestamp_ms, value=record)
