"""Frames of a file: checked one by one, known ones left out, cut into segments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codecs.checksum import crc32c
from pipeline.errors import InvalidFrameError
from pipeline.frame import FrameHeader
from pipeline.protocols import PlacedFrame
from pipeline.publishing.container import (
    Row,
    checked_rows,
    drafts_of,
    fresh_rows,
    suffix_of,
)
from pipeline.publishing.inputs import LayoutChecks
from pipeline.publishing.tally import Known
from pipeline.testing.memory_log import make_start

DATA = bytes(range(200))


def placed(number: int, offset: int = 0, nbytes: int = 4, **fields: Any) -> PlacedFrame:
    known = {"shape": (nbytes,), "dtype": "uint8", "encoding": "raw", "timestamp_ns": 7}
    header = FrameHeader(number=number, **{**known, **fields})
    return PlacedFrame(header=header, offset=offset, nbytes=nbytes)


def rows(*frames: PlacedFrame, checksums: Any = None, modules: Any = (0, 1, 2)) -> list[Row]:
    return checked_rows(
        memoryview(DATA),
        frames,
        checksums,
        start=make_start(),
        modules=modules,
        layouts=LayoutChecks(),
    )


def cut(found: list[Row], chunk: int = 1000, nbytes: int = 1000) -> list[Any]:
    return list(drafts_of(found, "b/key.h5", frames_per_chunk=chunk, segment_nbytes=nbytes))


def test_a_row_has_the_checksum_of_its_range() -> None:
    (row,) = rows(placed(3, 10, 6, attributes={"omega": 0.5}))
    assert (row.number, row.offset, row.nbytes) == (3, 10, 6)
    assert row.checksum == crc32c(DATA[10:16])
    assert row.attributes == {"omega": 0.5}


def test_checksums_that_are_known_are_not_computed_again() -> None:
    assert rows(placed(3), checksums=[5])[0].checksum == 5
    with pytest.raises(InvalidFrameError, match="checksums"):
        rows(placed(3), placed(4), checksums=[5])


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (placed(9, 198, 4), "offset"),
        (placed(9, -1, 4), "offset"),
        (replace(placed(9), nbytes=-1), "offset"),
        (placed(9, 2**70, 4), "offset"),
        (placed(9, 0, 4, shape=(5,)), "payload"),
        (placed(9, 0, 4, module=3), "module"),
        (placed(9, 0, 4, encoding="bslz4"), "payload"),
        (placed(9, 0, 4, encoding="nonsense"), "encoding"),
        (placed(9, 0, 4, attributes={"x": object()}), "attributes"),
    ],
)
def test_a_frame_that_is_none_is_told_by_number_and_field(frame: PlacedFrame, field: str) -> None:
    with pytest.raises(InvalidFrameError, match="frame 9") as caught:
        rows(placed(8), frame)
    assert caught.value.field == field
    assert caught.value.frame == (9, frame.header.module)


def test_a_frame_longer_than_a_record_can_say_is_refused() -> None:
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2**32 + 8,), (0,))
    frame = replace(placed(1), nbytes=2**32)
    with pytest.raises(InvalidFrameError, match="at most"):
        checked_rows(
            memoryview(huge),
            [frame],
            [0],
            start=make_start(),
            modules=(0,),
            layouts=LayoutChecks(),
        )


def test_frames_that_are_known_are_left_out_and_others_of_their_number_refused() -> None:
    known = Known()
    one, two = rows(placed(1), placed(2, 4))
    known.add(0, 1, one.content)
    assert fresh_rows([one, two], known) == [two]
    known.add(0, 2, (4, 0, 0))
    with pytest.raises(InvalidFrameError, match="other content") as caught:
        fresh_rows([one, two], known)
    assert caught.value.frame == (2, 0)


def test_a_frame_that_the_file_holds_twice_is_one_frame_if_it_is_the_same() -> None:
    assert len(fresh_rows(rows(placed(1, 8), placed(1, 8)), Known())) == 1
    with pytest.raises(InvalidFrameError, match="other content"):
        fresh_rows(rows(placed(1, 8), placed(1, 12)), Known())


def test_offsets_may_have_gaps_overlap_and_fall() -> None:
    (draft,) = cut(rows(placed(1, 100), placed(2, 50), placed(3, 52), placed(4, 50)))
    assert draft.offsets == [100, 50, 52, 50]
    segment = draft.segment(
        stream_key=b"\1" * 8, epoch=1, floor=0, ceil=4, blob=draft.blob, inline=b""
    )
    assert segment.blob == "b/key.h5"
    assert segment.offsets.tolist() == [100, 50, 52, 50]
    assert segment.lengths.tolist() == [4] * 4


def test_segments_are_cut_at_chunks_sizes_and_layouts() -> None:
    by_chunk = cut(rows(*(placed(n) for n in range(10))), chunk=4)
    assert [d.numbers for d in by_chunk] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    by_size = cut(rows(*(placed(n) for n in range(5))), nbytes=8)
    assert [d.numbers for d in by_size] == [[0, 1], [2, 3], [4]]
    one_large = cut(rows(placed(0, 0, 100), placed(1, 0, 100)), nbytes=8)
    assert [d.numbers for d in one_large] == [[0], [1]]
    mixed = cut(rows(placed(0), placed(1, shape=(2, 2)), placed(2)))
    assert [d.layout[0] for d in mixed] == [(4,), (2, 2), (4,)]


def test_attributes_never_make_a_record_too_large() -> None:
    frames = [placed(n, attributes={"text": "x" * 30_000}) for n in range(60)]
    drafts = cut(fresh_rows(rows(*frames), Known()))
    assert [n for d in drafts for n in d.numbers] == list(range(60))
    assert max(d.attribute_nbytes for d in drafts) < 750_000


def test_files_have_the_suffix_by_which_programs_know_them() -> None:
    assert suffix_of(memoryview(b"\x89HDF\r\n\x1a\nrest")) == ".h5"
    assert suffix_of(memoryview(b"II*\0rest")) == ".tif"
    assert suffix_of(memoryview(b"anything")) == ".bin"
    assert suffix_of(memoryview(b"")) == ".bin"


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 190)),
        unique_by=lambda t: t[:2],
        max_size=40,
    ),
    st.sampled_from([1, 4, 64]),
    st.sampled_from([1, 9, 1000]),
)
def test_every_frame_is_in_one_segment_in_order_at_its_place(
    given_frames: list[tuple[int, int, int]], chunk: int, nbytes: int
) -> None:
    frames = [placed(n, offset, module=module) for n, module, offset in given_frames]
    drafts = cut(fresh_rows(rows(*frames), Known()), chunk, nbytes)
    seen = {}
    for draft in drafts:
        assert len({n // chunk for n in draft.numbers}) == 1
        assert draft.numbers == sorted(set(draft.numbers))
        for number, offset in zip(draft.numbers, draft.offsets, strict=True):
            seen[number, draft.layout[3]] = offset
    assert seen == {(n, module): offset for n, module, offset in given_frames}
    assert sum(len(draft) for draft in drafts) == len(frames)
