"""Records to bytes and back; hostile bytes, named by what is wrong, are a WireError and no more."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from wire_samples import KEY, plain, samples, segment

from pipeline import records
from pipeline.errors import UnknownSchemaError, WireError
from pipeline.frame import DTYPES, INT64_MAX
from pipeline.wire import codec
from pipeline.wire.columns import pack
from pipeline.wire.schemas import by_fingerprint, make_schema, shipped

SAMPLES = samples()
KINDS = sorted(SAMPLES, key=lambda kind: kind.__name__)
ENCODED = {kind: codec.encode(record) for kind, record in SAMPLES.items()}
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


# -- round trips --------------------------------------------------------------------------------


def test_every_record_that_has_a_schema_has_a_sample() -> None:
    assert set(SAMPLES) == set(shipped())


@by_kind
def test_a_record_is_read_back_as_it_was(kind: type) -> None:
    found = codec.decode(ENCODED[kind])
    assert type(found) is kind
    assert plain(found) == plain(SAMPLES[kind])
    assert codec.encode(found) == ENCODED[kind]


@by_kind
def test_a_record_begins_with_the_marker_of_its_schema(kind: type) -> None:
    data = ENCODED[kind]
    assert data[:2] == b"\xc3\x01"
    assert by_fingerprint()[data[2:10]][0] is kind


ATTRIBUTES = st.dictionaries(
    st.sampled_from(["omega", "n", "note", "é"]),
    st.one_of(
        st.integers(-INT64_MAX, INT64_MAX),
        st.floats(allow_nan=False),
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.booleans(),
        st.none(),
        st.lists(st.integers(0, 9), max_size=2),
    ),
    max_size=4,
)


@given(
    data=st.data(),
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=4),
    numbers=st.sets(st.integers(0, INT64_MAX - 1), min_size=1, max_size=6),
    inline=st.booleans(),
)
def test_segments_of_any_dtype_shape_and_attributes_are_read_back(
    data: st.DataObject, dtype: str, shape: tuple[int, ...], numbers: set[int], inline: bool
) -> None:
    count = len(numbers)
    rows = data.draw(st.lists(ATTRIBUTES, min_size=count, max_size=count))
    images = [data.draw(hnp.arrays(dtype, shape)) for _ in range(count)]
    payload = b"".join(image.tobytes() for image in images)
    nbytes = len(payload) // count
    columns, extra = pack(rows)
    made = segment(
        shape=shape,
        dtype=dtype,
        blob="" if inline else "b/d/x.bin",
        inline=payload if inline else b"",
        numbers=np.array(sorted(numbers), np.int64),
        timestamps_ns=np.arange(count),
        offsets=np.arange(count) * nbytes,
        lengths=np.full(count, nbytes, np.uint32),
        checksums=np.arange(count, dtype=np.uint32),
        digests=np.arange(count, dtype=np.uint32),
        columns=columns,
        extra=tuple(extra),
    )
    assert plain(codec.decode(codec.encode(made))) == plain(made)


def test_big_endian_and_strided_columns_are_written_little_endian() -> None:
    made = segment(numbers=np.array([10, 0, 11, 0, 14, 0], ">i8")[::2])
    assert codec.encode(made) == codec.encode(segment())


def test_a_segment_without_frames_only_tells_what_gave_no_result() -> None:
    none = np.empty(0, np.int64)
    made = segment(
        numbers=none,
        timestamps_ns=none,
        offsets=none,
        lengths=none.astype(np.uint32),
        checksums=none.astype(np.uint32),
        digests=none.astype(np.uint32),
        columns=(),
        extra=(),
        inline=b"",
    )
    assert plain(codec.decode(codec.encode(made))) == plain(made)


# -- hostile bytes ------------------------------------------------------------------------------


@by_kind
def test_a_record_cut_anywhere_is_a_wire_error(kind: type) -> None:
    data = ENCODED[kind]
    for length in range(len(data)):
        with pytest.raises(WireError):
            codec.decode(data[:length])


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(KINDS), at=st.integers(10, 10**4), value=st.integers(0, 255))
def test_a_changed_byte_is_a_record_or_a_wire_error(kind: type, at: int, value: int) -> None:
    data = bytearray(ENCODED[kind])
    data[10 + at % (len(data) - 10)] = value
    _decode_or_wire_error(bytes(data))


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=200))
def test_any_bytes_behind_a_marker_are_a_record_or_a_wire_error(kind: type, body: bytes) -> None:
    _decode_or_wire_error(ENCODED[kind][:10] + body)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_a_wire_error(data: bytes) -> None:
    _decode_or_wire_error(data)
    assume(data[:2] != b"\xc3\x01")
    with pytest.raises(WireError, match=r"^t/0@7: "):
        codec.decode(data, where="t/0@7")


def _decode_or_wire_error(data: bytes) -> None:
    failure, found = None, None
    try:
        found = codec.decode(data, where="t/0@7", resolve=lambda _: None)
    except WireError as error:
        failure = error
    if failure is not None:
        assert failure.where == "t/0@7"
        assert str(failure).startswith("t/0@7: ")
        assert len(str(failure)) < 500
    if isinstance(found, records.Start):
        assert 0 <= found.partition_of(10**9) < found.partitions


def _varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 127:
        out.append(zigzag & 127 | 128)
        zigzag >>= 7
    return bytes([*out, zigzag])


def _avro(kind: type, **changes: Any) -> bytes:
    """Encode a record with values that our own classes would never hold."""
    schema = shipped()[kind]
    buffer = io.BytesIO()
    buffer.write(schema.marker)
    fastavro.schemaless_writer(buffer, schema.parsed, {**codec.to_plain(SAMPLES[kind]), **changes})
    return buffer.getvalue()


def _numbers(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


_DELETED = ENCODED[records.Deleted]
_MARKER = ENCODED[records.Segment][:10]
HOSTILE = {
    "nothing": b"",
    "one byte": b"\xc3",
    "a marker cut short": _MARKER[:9],
    "a marker alone": _MARKER,
    "the marker of Confluent's framing without a registry": b"\0\0\0\0\1abc",
    "text": b"hello, world",
    "a gzip file": b"\x1f\x8b\x08\0\0\0\0\0\0\0\0",
    "an Avro file": b"Obj\x01" + bytes(60),
    "a fingerprint that nobody knows": b"\xc3\x01" + b"\xee" * 8 + b"x",
    "bytes behind the record": _DELETED + b"x",
    "two records in one": _DELETED + _DELETED,
    "a text of negative length": _DELETED[:18] + _varint(-1) + b"abcdef",
    "a text of 2**62 bytes": _DELETED[:18] + _varint(2**62) + b"abcdef",
    "a varint without end": _DELETED[:18] + b"\xff" * 40,
    "an array of 2**60 items": _MARKER + KEY + _varint(1) * 4 + _varint(2**60) + b"\0" * 40,
    "an array of a negative count": _MARKER + KEY + _varint(1) * 4 + _varint(-(2**60)) + b"\1" * 40,
    "text that is not UTF-8": _DELETED[:18] + _varint(2) + b"\xff\xff" + _varint(0),
    "numbers that fall": _avro(records.Segment, numbers=_numbers(11, 10, 14)),
    "numbers that stand still": _avro(records.Segment, numbers=_numbers(10, 10, 14)),
    "a negative number": _avro(records.Segment, numbers=_numbers(-1, 10, 14)),
    # The difference of the two wraps around to 1.
    "numbers that wrap around": _avro(records.Segment, numbers=_numbers(5, INT64_MAX, -(2**63))),
    "numbers cut inside a value": _avro(records.Segment, numbers=_numbers(10, 11, 14)[:-1]),
    "more numbers than timestamps": _avro(records.Segment, numbers=_numbers(10, 11, 12, 13)),
    "fewer lengths than numbers": _avro(records.Segment, lengths=b"\0" * 8),
    "fewer checksums than numbers": _avro(records.Segment, checksums=b"\0" * 8),
    "fewer digests than numbers": _avro(records.Segment, digests=b""),
    "a negative offset": _avro(records.Segment, offsets=_numbers(-1, 12, 24)),
    # The end of the payload wraps around to below zero.
    "an offset that wraps around": _avro(records.Segment, offsets=_numbers(0, 12, INT64_MAX)),
    "an offset that wraps around in an object": _avro(
        records.Segment, offsets=_numbers(0, 12, INT64_MAX), blob="b/d/x", inline=b""
    ),
    "a payload behind the end of the record": _avro(records.Segment, inline=bytes(35)),
    "fewer texts of attributes than frames": _avro(records.Segment, extra=["{}"]),
    "attributes that are not JSON": _avro(records.Segment, extra=["{", "", ""]),
    "attributes that are a JSON list": _avro(records.Segment, extra=["[1]", "", ""]),
    "a column of another length": _avro(
        records.Segment,
        columns=[{"name": "a", "kind": "int64", "values": b"\0" * 8, "present": b""}],
    ),
    "a column of a kind that nobody knows": _avro(
        records.Segment,
        columns=[{"name": "a", "kind": "quantity", "values": b"\0" * 24, "present": b""}],
    ),
    "metadata that are not JSON": _avro(records.Start, metadata="{"),
    "metadata that are a JSON list": _avro(records.Start, metadata="[]"),
    "metadata that are JSON's null": _avro(records.UserMetadata, metadata="null"),
    "metadata nested too deeply": _avro(records.Start, metadata="[" * 100_000),
    "an account that is a number": _avro(records.End, account="5"),
    "a number of 5000 digits in the metadata": _avro(
        records.Start, metadata='{"a": ' + "9" * 5000 + "}"
    ),
    "no partitions": _avro(records.Start, partitions=0, offsets=[]),
    "negative partitions": _avro(records.Start, partitions=-2),
    "chunks of no frames": _avro(records.Start, frames_per_chunk=0),
    "fewer offsets than partitions": _avro(records.Start, offsets=[0]),
    "a stream that begins at a negative offset": _avro(records.Start, offsets=[0, -5]),
    "two modules of one index": _avro(
        records.Start,
        modules=[{"index": 1, "shape": [1, 1], "position": [0, 0], "rotation_deg": 0.0}] * 2,
    ),
    "an end in no known state": _avro(records.End, state="open"),
    "an end in a state of its own": _avro(records.End, state="finished"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError, match=r"^topic/3@99: ") as caught:
        codec.decode(data, where="topic/3@99")
    assert caught.value.where == "topic/3@99"
    assert len(str(caught.value)) < 500


def test_the_corpus_is_made_of_good_records() -> None:
    for kind in KINDS:
        assert plain(codec.decode(_avro(kind))) == plain(SAMPLES[kind])


# -- schemas of others --------------------------------------------------------------------------


def _grown(kind: type, *more: dict[str, Any], **changes: Any) -> tuple[str, bytes]:
    """Return (the text of a later schema of ``kind``, a record's Avro body in it)."""
    definition = json.loads(shipped()[kind].text)
    definition["fields"] += more
    for field in definition["fields"]:
        field.update(changes.get(field["name"], {}))
    text = json.dumps(definition)
    buffer = io.BytesIO()
    values = codec.to_plain(SAMPLES[kind])
    fastavro.schemaless_writer(buffer, make_schema(text).parsed, values)
    return text, buffer.getvalue()


_FUTURE = {"name": "colour", "type": ["null", "string"], "default": None}


@by_kind
def test_a_later_schema_is_read_when_it_can_be_resolved(kind: type) -> None:
    text, body = _grown(kind, _FUTURE)
    data = make_schema(text).marker + body
    assert plain(codec.decode(data, resolve=lambda _: text)) == plain(SAMPLES[kind])
    with pytest.raises(UnknownSchemaError, match="update lichtstrom") as caught:
        codec.decode(data, where="t/0@1")
    assert caught.value.fingerprint == data[2:10].hex()


def test_confluents_framing_is_read_when_a_registry_resolves_it() -> None:
    text, body = _grown(records.Claim)
    data = b"\0" + (1234).to_bytes(4, "big") + body
    asked: list[bytes | int] = []

    def resolve(key: bytes | int) -> str:
        asked.append(key)
        return text

    assert codec.decode(data, resolve=resolve) == SAMPLES[records.Claim]
    assert asked == [1234]
    with pytest.raises(UnknownSchemaError, match="1234"):
        codec.decode(data, resolve=lambda _: None)
    with pytest.raises(WireError, match="not a record of ours"):
        codec.decode(data[:4], resolve=resolve)


_TWISTED = {
    "a schema that is no JSON": "{",
    "a schema that is a list": "[]",
    "a schema that is a bare type": '"string"',
    "a schema of an array": '{"type": "array", "items": "long"}',
    "a schema of a type that Avro has not": '{"type": "record", "name": "Claim", "fields": 5}',
    "a schema nested too deeply": "[" * 100_000,
    "a record of another name": json.dumps({"type": "record", "name": "Other", "fields": []}),
    "a record without our fields": json.dumps({"type": "record", "name": "Claim", "fields": []}),
    "a segment whose numbers are an array": json.dumps(
        {
            "type": "record",
            "name": "Segment",
            "fields": [{"name": "numbers", "type": {"type": "array", "items": "long"}}],
        }
    ),
}


@pytest.mark.parametrize("text", _TWISTED.values(), ids=_TWISTED.keys())
def test_a_twisted_schema_is_a_wire_error(text: str) -> None:
    for data in (b"\0\0\0\0\5" + bytes(40), b"\xc3\x01abcdefgh" + bytes(40)):
        with pytest.raises(WireError, match=r"^t/0@1: "):
            codec.decode(data, where="t/0@1", resolve=lambda _: text)


def test_a_segment_whose_columns_changed_their_type_is_a_wire_error() -> None:
    longs = {"type": "array", "items": "long"}
    definition = json.loads(shipped()[records.Segment].text)
    for field in definition["fields"]:
        if field["name"] in {"numbers", "offsets"}:
            field["type"] = longs
    schema = make_schema(json.dumps(definition))
    values = codec.to_plain(replace(SAMPLES[records.Segment], columns=()))
    buffer = io.BytesIO()
    fastavro.schemaless_writer(
        buffer, schema.parsed, {**values, "numbers": [10, 11, 14], "offsets": [0, 12, 24]}
    )
    with pytest.raises(WireError, match="t/0@1"):
        codec.decode(
            schema.marker + buffer.getvalue(), where="t/0@1", resolve=lambda _: schema.text
        )


def test_a_fingerprint_that_resolves_to_another_schema_is_unknown() -> None:
    text, body = _grown(records.Claim, _FUTURE)
    with pytest.raises(UnknownSchemaError):
        codec.decode(b"\xc3\x01" + b"\xee" * 8 + body, resolve=lambda _: text)
