"""Drafts: frames packed into one buffer, cut at chunks, and turned into records within limits."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from drafts import LAYOUT, content, make_draft, payload
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codecs.checksum import crc32c
from pipeline.config import MAX_INLINE_NBYTES
from pipeline.frame import MAX_ATTRIBUTES_NBYTES
from pipeline.publishing.draft import (
    MAX_COLUMNS_NBYTES,
    BufferPool,
    Draft,
    digest_of,
    draft_of,
    known_frames,
)
from pipeline.records import Located, Segment
from pipeline.testing.memory_log import STREAM_KEY, make_mark, make_segment
from pipeline.wire import codec
from pipeline.wire.columns import check_attributes, most_nbytes

#: What a producer takes (librdkafka's message.max.bytes as we set it), less Kafka's own framing.
RECORD_NBYTES = 1_000_000 - 1000


def as_segment(draft: Draft, *, inline: bytes = b"", **changes: object) -> Segment:
    values = {"epoch": 3, "floor": 1, "ceil": 2, "blob": "" if inline else "b/d/x", **changes}
    return draft.segment(stream_key=STREAM_KEY, inline=inline, **values)  # type: ignore[arg-type]


# -- packing ------------------------------------------------------------------------------------


def test_the_checksum_is_of_the_copy() -> None:
    data = payload(1)
    draft = make_draft()
    checksum = draft.add(data, number=1, timestamp_ns=1, attributes={}, digest=0, token=None)
    data[:] = 99
    assert bytes(draft.payload) == bytes(payload(1))
    assert checksum == crc32c(bytes(payload(1)))


def test_frames_lie_back_to_back() -> None:
    draft = make_draft(5, 6, 9)
    segment = as_segment(draft, inline=bytes(draft.payload))
    assert len(draft) == len(segment) == 3
    assert segment.offsets.tolist() == [0, 2, 4]
    for row, number in enumerate((5, 6, 9)):
        offset = int(segment.offsets[row])
        assert segment.inline[offset : offset + 2] == bytes(payload(number))


@pytest.mark.parametrize(
    ("layout", "number", "nbytes", "attribute_nbytes", "takes"),
    [
        (LAYOUT, 7, 2, 0, True),
        (LAYOUT, 6, 2, 0, False),
        (LAYOUT, 5, 2, 0, False),
        (((3,), "uint8", "raw", 0), 7, 2, 0, False),
        (((2,), "int8", "raw", 0), 7, 2, 0, False),
        (((2,), "uint8", "cbf", 0), 7, 2, 0, False),
        (((2,), "uint8", "raw", 1), 7, 2, 0, False),
        (LAYOUT, 7, 996, 0, True),
        (LAYOUT, 7, 997, 0, False),
        (LAYOUT, 7, 2, MAX_COLUMNS_NBYTES, False),
    ],
)
def test_a_draft_takes_what_rises_has_its_layout_and_fits(
    layout, number: int, nbytes: int, attribute_nbytes: int, takes: bool
) -> None:
    assert make_draft(5, 6).takes(layout, number, nbytes, attribute_nbytes) is takes


WORST = {
    "texts of control characters": {"a": "\x01" * (MAX_ATTRIBUTES_NBYTES - 1)},
    "texts of four bytes a character": {"a": "\U0001f600" * (MAX_ATTRIBUTES_NBYTES // 4 - 1)},
    "many names": {f"{i:05d}": i for i in range(4000)},
    "long names": {f"{i:0190d}": float(i) for i in range(300)},
    "quotes": {"a": '"' * 60_000},
    "lists": {"a": [0.1] * 12_000},
    "one number": {"a": 1},
    "nothing": {},
}


@pytest.mark.parametrize("attributes", WORST.values(), ids=WORST.keys())
@pytest.mark.parametrize("mixed", [False, True], ids=["alike", "mixed"])
def test_a_draft_that_is_full_of_attributes_still_makes_a_record_that_fits(
    attributes: dict, mixed: bool
) -> None:
    draft = make_draft(nbytes=MAX_INLINE_NBYTES)
    one = dict(check_attributes(attributes))
    # A value of another kind under one name sends that column to JSON; own names make it sparse.
    other = dict.fromkeys(one) if mixed else one
    number = 0
    while True:
        row = one if number % 3 else {**other, f"own {number}": number} if mixed else one
        nbytes = most_nbytes(row)
        if draft.numbers and not draft.takes(LAYOUT, number, 2, nbytes):
            break
        draft.add(
            payload(number), number=number, timestamp_ns=0, attributes=row, digest=0, token=None
        )
        draft.attribute_nbytes += nbytes
        number += 1
    record = codec.encode(as_segment(draft, inline=bytes(MAX_INLINE_NBYTES)))
    assert len(record) < RECORD_NBYTES


def test_the_digest_does_not_depend_on_the_order_of_attributes() -> None:
    one = digest_of((2, 3), "uint16", "raw", {"a": 1, "b": [1, {"c": 2}]})
    assert one == digest_of((2, 3), "uint16", "raw", {"b": [1, {"c": 2}], "a": 1})
    others = [
        digest_of((3, 2), "uint16", "raw", {"a": 1, "b": [1, {"c": 2}]}),
        digest_of((2, 3), "uint32", "raw", {"a": 1, "b": [1, {"c": 2}]}),
        digest_of((2, 3), "uint16", "cbf", {"a": 1, "b": [1, {"c": 2}]}),
        digest_of((2, 3), "uint16", "raw", {"a": 1.5, "b": [1, {"c": 2}]}),
        digest_of((2, 3), "uint16", "raw", {}),
    ]
    assert len({one, *others}) == 6


# -- cutting ------------------------------------------------------------------------------------

NUMBERS = st.sets(st.integers(0, 60), min_size=1, max_size=20).map(sorted)


@given(NUMBERS, st.integers(1, 20))
def test_parts_cross_no_chunk_and_hold_every_frame_once_in_order(
    numbers: list[int], chunk: int
) -> None:
    draft = make_draft(*numbers, omega=0.5)
    whole = content(draft)
    parts = draft.split(chunk)
    for part in parts:
        assert len({number // chunk for number in part.numbers}) == 1
        assert part.layout == LAYOUT
    assert len({part.numbers[0] // chunk for part in parts}) == len(parts)
    for name in ("numbers", "timestamps_ns", "lengths", "checksums", "digests", "attributes"):
        assert [value for part in parts for value in content(part)[name]] == whole[name]
    assert b"".join(bytes(part.payload) for part in parts) == whole["payload"]
    assert [token for part in parts for token in part.tokens] == [f"t{n}" for n in numbers]
    for part in parts:
        assert [crc32c(bytes(payload(n))) for n in part.numbers] == part.checksums


@given(NUMBERS, st.integers(1, 20))
def test_the_shared_buffer_is_returned_with_the_last_part(numbers: list[int], chunk: int) -> None:
    parts = make_draft(*numbers).split(chunk)
    assert [part.returned() for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_draft_within_a_chunk_is_not_cut() -> None:
    draft = make_draft(4, 5, 7)
    assert draft.split(4) == [draft]
    assert draft.returned()


# -- records and back ---------------------------------------------------------------------------


def test_a_draft_is_made_again_from_its_record_and_payload() -> None:
    draft = make_draft(5, 6, 9, omega=0.5, flag=True, note="é")
    draft.skipped, draft.rejected = [7], [8]
    segment = as_segment(draft, epoch=4)
    back = codec.decode(codec.encode(segment))
    assert isinstance(back, Segment)
    again = draft_of(back, memoryview(bytes(draft.payload)))
    assert content(again) == content(draft)
    assert again.epoch == 4
    assert again.tokens == [None] * 3


def test_what_waited_in_a_spool_keeps_the_epoch_under_which_it_was_taken() -> None:
    draft = make_draft(1)
    assert as_segment(draft, epoch=7).epoch == 7
    draft.epoch = 3
    assert as_segment(draft, epoch=7).epoch == 3
    assert [part.epoch for part in draft.split(1)] == [3]


def test_known_frames_are_those_of_the_module() -> None:
    records = [
        Located(partition=0, offset=i, timestamp_ms=0, value=value)
        for i, value in enumerate(
            [
                make_segment([1, 2], payloads=[b"ab", b"c"]),
                make_mark(),
                make_segment([3], module=1),
            ]
        )
    ]
    assert list(known_frames(records, 0)) == [(1, 2, crc32c(b"ab"), 7), (2, 1, crc32c(b"c"), 7)]
    assert [number for number, *_ in known_frames(records, 1)] == [3]


# -- buffers ------------------------------------------------------------------------------------


def test_buffers_are_lent_up_to_their_number_and_used_again() -> None:
    pool = BufferPool(2, 10)
    first, second = pool.acquire(10), pool.acquire(1)
    assert first is not None
    assert second is not None
    assert pool.acquire(1) is None
    pool.release(first)
    assert pool.acquire(5) is first


def test_a_large_frame_counts_as_many_and_at_most_as_all() -> None:
    pool = BufferPool(4, 10)
    large = pool.acquire(25)
    assert large is not None
    assert len(large) == 25
    small = pool.acquire(10)
    assert small is not None
    assert pool.acquire(1) is None
    pool.release(large)
    assert pool.acquire(1000) is None
    pool.release(small)
    alone = pool.acquire(1000)
    assert alone is not None
    assert len(alone) == 1000
    assert pool.acquire(1) is None
    pool.release(alone)
    assert pool.acquire(10) is not None


@given(st.lists(st.integers(1, 60), max_size=30))
def test_what_is_lent_and_kept_never_exceeds_the_pool(sizes: list[int]) -> None:
    pool = BufferPool(4, 10)
    lent: list[np.ndarray] = []
    for index, size in enumerate(sizes):
        buffer = pool.acquire(size)
        if buffer is None:
            assert lent, "an empty pool has room for any frame"
            pool.release(lent.pop(index % len(lent)))
            continue
        lent.append(buffer)
        held = sum(-(-len(b) // 10) for b in lent) + len(pool._spare)
        assert held <= 4 or len(lent) == 1
    for buffer in lent:
        pool.release(buffer)
    assert pool._left == 4


def test_waiting_for_room_ends_when_a_buffer_comes_back_or_with_its_limit() -> None:
    pool = BufferPool(1, 10)
    buffer = pool.acquire(1)
    assert buffer is not None
    pool.wait(0.01, 1)
    thread = threading.Thread(target=pool.wait, args=(30.0, 1))
    thread.start()
    pool.release(buffer)
    thread.join(10.0)
    assert not thread.is_alive()
