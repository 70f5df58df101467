"""HiDRA's messages built by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.detectors.hidra import wire
from pipeline.detectors.hidra.assembly import Assembly
from pipeline.errors import InvalidFrameError, SourceError

CONTENT = bytes(range(250))


def message(number: int = 0, **changed: Any) -> list[memoryview]:
    fields = {
        "source_path": "/data/source",
        "relative_path": "current/raw/sub",
        "filename": "t_0001.cbf",
        "filesize": len(CONTENT),
        "file_mod_time": 1_790_000_000.25,
        "file_create_time": 1_790_000_000.5,
        "chunksize": 100,
        "chunk_number": number,
        "confirmation_required": False,
        "version": "4.4.3",
    } | changed
    part = CONTENT[number * 100 : number * 100 + 100] if isinstance(number, int) else b""
    return [memoryview(json.dumps(fields).encode()), memoryview(part)]


def chunk(number: int = 0, **changed: Any) -> wire.Chunk:
    found = wire.parse_message(message(number, **changed))
    assert isinstance(found, wire.Chunk)
    return found


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_chunk_says_of_which_file_it_is():
    found = chunk(2)
    assert found.file.path == "current/raw/sub/t_0001.cbf"
    assert found.file.mtime_ns == 1_790_000_000_250_000_000
    assert (found.number, found.count, found.payload.nbytes) == (2, 3, 50)


def test_other_messages_are_known():
    assert wire.parse_message([memoryview(b"ALIVE_TEST")]) is None
    closed = wire.parse_message([memoryview(b"CLOSE_FILE"), memoryview(b"x.h5")])
    assert closed == wire.Closed(name="x.h5")


@pytest.mark.parametrize(
    "changed",
    [
        {"filesize": -1},
        {"filesize": 2**60},
        {"filesize": 249},
        {"chunksize": 0},
        {"chunksize": 1e300},
        {"chunk_number": 3},
        {"chunk_number": True},
        {"filename": "../x"},
        {"filename": ""},
        {"filename": None},
        {"relative_path": "current/../../etc"},
        {"relative_path": 7},
        {"filesize": 2**40, "chunksize": 1},
    ],
)
def test_a_message_that_contradicts_itself_is_refused(changed):
    with pytest.raises(InvalidFrameError):
        wire.parse_message(message(2, **changed))


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"[" * 60_000, b"x" * 70_000])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(InvalidFrameError):
        wire.parse_message([memoryview(text), memoryview(b"")])


def test_chunks_of_two_files_in_any_order_become_files():
    assembly = Assembly(max_nbytes=10_000, timeout_s=1.0, monotonic=Clock())
    other = {"file_mod_time": 1_790_000_001.0}  # the name was used again
    for number, changed in ((2, {}), (2, other), (0, {}), (0, other), (0, {})):
        assert assembly.add(chunk(number, **changed)) is None
    assert bytes(assembly.add(chunk(1)) or b"") == CONTENT
    assert bytes(assembly.add(chunk(1, **other)) or b"") == CONTENT
    assert assembly.add(chunk(1)) is None
    assert assembly.repeated == 2
    assert assembly.given_up() == []


def test_a_file_that_is_not_finished_is_given_up_with_what_is_missing():
    clock = Clock()
    assembly = Assembly(max_nbytes=10_000, timeout_s=1.0, monotonic=clock)
    assembly.add(chunk(1))
    assert assembly.given_up() == []
    clock.now_s = 2.0
    (lost,) = assembly.given_up()
    assert "1 of 3 chunks came" in lost.reason
    assert "missing: 0, 2" in lost.reason


def test_memory_for_unfinished_files_is_bounded():
    assembly = Assembly(max_nbytes=250, timeout_s=1e9, monotonic=Clock())
    for place in range(3):
        assembly.add(chunk(0, filename=f"t_{place}.cbf"))
    assert [lost.file.name for lost in assembly.given_up()] == ["t_0.cbf"]


def test_signals_and_receipts_have_the_parts_that_senders_expect():
    signal = wire.make_signal(wire.START, appid="us", target="here:50101", pattern=".*")
    assert signal == [b"4.4.3", b"us", b"START_STREAM", b'[["here:50101", 1, ".*"]]']
    file = chunk().file
    path = b"current/raw/sub/t_0001.cbf"
    assert wire.make_confirmation(file, "pc_1", "4.4.3", 2) == [b"pc_1", path, b"2"]
    assert wire.make_confirmation(file, "pc_1", None, 2) == [b"pc_1", path]
    assert wire.make_confirmation(file, "pc_1", "4.0.7", 2) == [b"pc_1", path]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"NO_VALID_HOST", "whitelist"),
        (b"VERSION_CONFLICT", "does not speak"),
        (b"NO_VALID_SIGNAL", "no streams"),
        (b"what", "what"),
    ],
)
def test_a_refusal_says_what_to_do(answer, told):
    with pytest.raises(SourceError, match=told):
        wire.check_answer([answer], wire.START, target="here:50101")
