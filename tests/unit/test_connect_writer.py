"""What a task of Kafka Connect says to its writer, and what the writer makes of it."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors import messages
from pipeline.connectors.feeding import _ROOM_NBYTES, FedRecords
from pipeline.connectors.hdf5 import Job, Task, is_retriable
from pipeline.connectors.messages import Ask, RawRecord, Trouble, read_question
from pipeline.errors import (
    InvalidArgumentError,
    SinkBusyError,
    SinkError,
    SinkRefusedError,
    StoreUnavailableError,
    UnknownSchemaError,
    WireError,
)
from pipeline.naming import record_key
from pipeline.records import StreamInfo
from pipeline.testing.memory_log import STREAM_KEY, make_segment, make_start
from pipeline.wire import codec

SETTINGS = {
    "stream": "c1/pilatus/scan_7",
    "out.dir": "/data",
    "layout": "nxmx",
    "compression": "bslz4",
    "check": "framing",
    "frames.per.file": "0",
    "tasks.max": "2",
    "overwrite": "false",
}


def packed(data: bytes | None) -> bytes:
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def question(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


def hello(settings: Mapping[str, str], version: int = messages.VERSION) -> bytes:
    pairs = b"".join(packed(text.encode()) for pair in settings.items() for text in pair)
    return question(Ask.HELLO, struct.pack(">ii", version, len(settings)) + pairs)


def records_question(records: list[RawRecord]) -> bytes:
    body = struct.pack(">i", len(records))
    for each in records:
        body += struct.pack(">iqq", each.partition, each.offset, each.timestamp_ms)
        body += packed(each.key) + packed(each.value)
    return question(Ask.RECORDS, body)


BYTES = st.none() | st.binary(max_size=40)
RECORDS = st.lists(
    st.builds(
        RawRecord,
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**63 - 1),
        st.integers(-1, 2**63 - 1),
        BYTES,
        BYTES,
    ),
    max_size=5,
)


@given(RECORDS)
def test_records_come_as_they_were_sent(records: list[RawRecord]) -> None:
    found = read_question(io.BytesIO(records_question(records)))
    assert found is not None
    assert list(found.records) == records


@given(RECORDS, st.data())
def test_a_message_that_was_cut_is_an_error_and_no_other(
    records: list[RawRecord], data: st.DataObject
) -> None:
    whole = records_question(records)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(WireError):
        read_question(io.BytesIO(whole[:cut]))


@given(st.binary(max_size=80))
def test_rubbish_is_an_error_or_a_message_and_nothing_else(body: bytes) -> None:
    with contextlib.suppress(WireError):
        read_question(io.BytesIO(struct.pack(">I", len(body)) + body))


def test_lengths_that_lie_take_no_memory() -> None:
    for body in (
        struct.pack(">Bi", Ask.RECORDS, 2**31 - 1),
        struct.pack(">Bi", Ask.OPEN, -1),
        struct.pack(">Biii", Ask.HELLO, 1, 1, 2**31 - 1),
    ):
        with pytest.raises(WireError):
            read_question(io.BytesIO(struct.pack(">I", len(body)) + body))
    with pytest.raises(WireError, match="bytes"):
        read_question(io.BytesIO(struct.pack(">I", 2**32 - 1)))


def test_the_end_of_the_connection_is_no_error() -> None:
    assert read_question(io.BytesIO(b"")) is None


# -- records that were fed ----------------------------------------------------------------------


@pytest.fixture
def fed() -> FedRecords:
    start = make_start(partitions=2)
    found = FedRecords("topic", StreamInfo(start=start), None)
    found.begin([10, 20])
    return found


def raw(partition: int, offset: int, value: bytes | None = None, key: bytes | None = None) -> Any:
    given = codec.encode(make_segment([offset])) if value is None else value
    return RawRecord(partition, offset, 5, key or record_key(STREAM_KEY, offset), given)


def test_records_are_returned_once_and_in_order(fed: FedRecords) -> None:
    for offset in (10, 11, 11, 10, 12):
        assert fed.feed(raw(0, offset), 0)
    assert [located.offset for located in fed.poll(0)] == [10, 11, 12]
    assert fed.positions() == [13, 20]
    assert fed.poll(0) == []
    assert fed.feed(raw(0, 12), 0)
    assert fed.poll(0) == []


def test_records_of_other_streams_are_passed_over(fed: FedRecords) -> None:
    assert fed.feed(raw(0, 10, b"damaged", record_key(b"another!", 1)), 0)
    assert fed.poll(0) == []
    assert fed.positions() == [11, 20]
    assert fed.take_troubles() == []


def test_what_cannot_be_read_holds_restarts_back_until_it_was_told(fed: FedRecords) -> None:
    assert fed.feed(raw(0, 10), 0)
    assert fed.feed(raw(0, 11, b"damaged"), 0)
    assert fed.feed(raw(1, 20, b"", b"foreign"), 0)
    assert fed.feed(raw(0, 12), 0)
    located = fed.poll(0)
    assert [(entry.partition, entry.offset) for entry in located] == [(0, 10), (0, 12)]
    fed.damaged(located[1], 12, "cut")
    assert fed.safe([13, 21]) == [11, 20]
    troubles = fed.take_troubles()
    assert [(t.partition, t.offset) for t in troubles] == [(0, 11), (1, 20), (0, 12)]
    assert troubles[2].reason == "frame 12: cut"
    assert fed.take_troubles() == []
    fed.reported(0, 11)
    assert not fed.settled(0)
    assert fed.safe([13, 21]) == [12, 20]
    fed.reported(1, 20)
    fed.reported(0, 12)
    assert fed.settled(0)
    assert fed.safe([13, 21]) == [13, 21]


def test_after_the_end_nothing_waits_and_everything_is_passed(fed: FedRecords) -> None:
    assert fed.feed(raw(0, 10), 0)
    fed.pass_over()
    for offset in range(11, 3000):  # whole batches of other streams, and nobody takes them
        assert fed.feed(raw(0, offset, bytes(100_000), record_key(b"another!", 1)), 0)
    assert fed.poll(0) == []
    assert fed.positions() == [3000, 20]


def test_a_record_of_a_newer_version_is_not_passed_over(fed: FedRecords) -> None:
    with pytest.raises(UnknownSchemaError):
        fed.feed(raw(0, 10, b"\xc3\x01" + b"newer..." + b"body"), 0)
    assert fed.positions() == [10, 20]


def test_no_more_records_wait_than_there_is_room_for(fed: FedRecords) -> None:
    foreign, nbytes = record_key(b"another!", 1), _ROOM_NBYTES // 4
    taken = 0
    while fed.feed(raw(0, 10 + taken, bytes(nbytes), foreign), 0):
        taken += 1
    assert taken == 4
    fed.poll(0)
    assert fed.feed(raw(0, 10 + taken, bytes(nbytes), foreign), 0)


# -- the task -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layout", "tiff"),
        ("compression", ""),
        ("check", "none"),
        ("out.dir", "relative"),
        ("frames.per.file", "x"),
        ("stream", "c1/pilatus"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(name: str, value: str) -> None:
    assert Job.of(SETTINGS).options.by_partition
    with pytest.raises((InvalidArgumentError, ValueError), match=name.partition(".")[0]):
        Job.of({**SETTINGS, name: value})


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (hello(SETTINGS, version=9), "version 9"),
        (question(Ask.OPEN, struct.pack(">ii", 1, 0)), "HELLO comes first"),
        (hello({}), "layout"),
        (question(99), "damaged message"),
    ],
)
def test_a_task_that_asks_wrongly_is_told_and_the_writer_ends(sent: bytes, reason: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        Task(SimpleNamespace()).serve(ours)  # type: ignore[arg-type]
        answer = theirs.recv(10_000)
    assert answer[4] == messages.Answer.FAILED
    assert answer[5] == 0
    assert reason in answer.decode(errors="replace")


def test_a_task_that_goes_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        Task(SimpleNamespace()).serve(ours)  # type: ignore[arg-type]


def test_what_may_pass_is_tried_again() -> None:
    assert is_retriable(SinkError("no room left"))
    assert is_retriable(SinkBusyError("being written"))
    assert is_retriable(StoreUnavailableError("s3", "away"))
    assert not is_retriable(SinkRefusedError("exists"))
    assert not is_retriable(InvalidArgumentError("layout", "?"))


def test_answers_have_the_fields_that_the_other_side_reads() -> None:
    answer = messages.state({3: 7}, [Trouble(3, 6, "why")], is_full=True, done="/x")
    assert answer[:4] == struct.pack(">I", len(answer) - 4)
    assert answer[4:] == (
        b"\x02\x01"
        + packed(b"/x")
        + struct.pack(">iiq", 1, 3, 7)
        + struct.pack(">iiq", 1, 3, 6)
        + packed(b"why")
    )
    assert messages.ready("/x")[4:] == b"\x01" + packed(b"/x")
