"""Stored data played as a live stream: what is taken from files, and when it is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from pipeline.codecs import decode
from pipeline.errors import InvalidArgumentError, SourceError
from pipeline.frame import FrameHeader
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.reading.choice import FrameChoice
from pipeline.reading.ranges import Ranges
from pipeline.replay.adapter import ReplayAdapter
from pipeline.replay.sources import path_events

S = 10**9
BSLZ4 = hdf5plugin.Bitshuffle(cname="lz4")


def images(count: int, first: int = 0) -> Any:
    ramp = np.arange(6 * 8, dtype=np.uint16).reshape(6, 8)
    return np.stack([ramp + 100 * (first + i) for i in range(count)])


def play(path: Path, dataset: str = "") -> tuple[SeriesBegin, list[SourceFrame]]:
    begin, *frames, end = [e for e in path_events(path, dataset) if e is not None]
    assert isinstance(begin, SeriesBegin)
    assert isinstance(end, SeriesEnd)
    return begin, [frame for frame in frames if isinstance(frame, SourceFrame)]


def pixels(frames: list[SourceFrame]) -> Any:
    return np.stack(
        [
            decode(
                memoryview(f.payload),
                encoding=f.header.encoding,
                shape=f.header.shape,
                dtype=f.header.dtype,
            )
            for f in frames
        ]
    )


# -- HDF5 -----------------------------------------------------------------------------------------


def test_any_stack_of_images_is_played_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/small", data=images(2))
        data = file.create_dataset("b/stack", data=images(5), chunks=(1, 6, 8), **BSLZ4)
        chunks = [data.id.read_direct_chunk((i, 0, 0))[1] for i in range(5)]
    begin, frames = play(path)
    assert (begin.name, [f.header.number for f in frames]) == ("scan", [0, 1, 2, 3, 4])
    assert {f.header.encoding for f in frames} == {"bslz4"}
    assert [bytes(f.payload) for f in frames] == chunks
    np.testing.assert_array_equal(pixels(frames), images(5))
    assert len(play(path, "/a/small")[1]) == 2


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", ">f4"])
@pytest.mark.parametrize("chunks", [(2, 6, 8), (3, 4, 5), (1, 4, 8), (1, 6, 8), None])
@pytest.mark.parametrize("filters", [{}, dict(BSLZ4), {"compression": "gzip", "shuffle": True}])
def test_images_that_no_range_of_bytes_holds_are_decoded(
    tmp_path: Path, dtype: str, chunks: Any, filters: dict[str, Any]
) -> None:
    if chunks is None and filters:
        return
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("stack", data=images(5).astype(dtype), chunks=chunks, **filters)
    _, frames = play(path)
    assert {f.header.dtype for f in frames} == {np.dtype(dtype).newbyteorder("<").name}
    np.testing.assert_array_equal(pixels(frames), images(5))


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        stack = file.create_dataset(
            "stack", (5, 6, 8), np.uint16, chunks=(2, 6, 8), fillvalue=7, **BSLZ4
        )
        stack[2:4] = images(2)
    _, frames = play(path)
    np.testing.assert_array_equal(pixels(frames)[2:4], images(2))
    assert (pixels(frames)[[0, 1, 4]] == 7).all()


def test_a_damaged_chunk_is_told_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        stack = file.create_dataset("stack", data=images(4), chunks=(2, 6, 8), **BSLZ4)
        place = stack.id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 4 : place + 12] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(SourceError, match="bslz4"):
        play(path)


def dectris(folder: Path, *, name: str = "s_data_{:06d}.h5") -> Path:
    """A master with two data files of three and two images."""
    for part, (first, count) in enumerate([(0, 3), (3, 2)], 1):
        with h5py.File(folder / f"s_data_{part:06d}.h5", "w") as file:
            data = file.create_dataset(
                "entry/data/data", data=images(count, first), chunks=(1, 6, 8), **BSLZ4
            )
            data.attrs["image_nr_low"] = first + 1
    master = folder / "s_master.h5"
    with h5py.File(master, "w") as file:
        for part in (1, 2):
            link = h5py.ExternalLink(name.format(part), "/entry/data/data")
            file[f"entry/data/data_{part:06d}"] = link
        detector = file.create_group("entry/instrument/detector")
        detector["count_time"], detector["frame_time"] = 0.09, 0.1
        detector["detectorSpecific/data_collection_date"] = "2026-11-23T10:00:00+00:00"
        detector["detectorSpecific/pixel_mask"] = np.eye(6, 8, dtype=np.uint32)
    return master


def test_a_dectris_master_is_followed_to_its_data_files(tmp_path: Path) -> None:
    begin, frames = play(dectris(tmp_path))
    assert begin.name == "s"
    assert begin.metadata["exposure_s"] == 0.09
    assert begin.attachments["pixel_mask"].sum() == 6
    np.testing.assert_array_equal(pixels(frames), images(5))
    stamps = [f.header.timestamp_ns for f in frames]
    assert np.diff(stamps).tolist() == [S // 10] * 4
    assert stamps[0] == 1795428000 * S  # the date of the master


@pytest.mark.parametrize("name", ["../elsewhere.h5", "/etc/hostname", "gone.h5"])
def test_a_master_cannot_name_files_outside_its_directory(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file.create_dataset("entry/data/data", data=images(1))
    master = dectris(inside, name=name)
    with pytest.raises(SourceError, match=r"outside its directory|not there"):
        play(master)


def test_virtual_stacks_are_followed_in_even_steps(tmp_path: Path, caplog: Any) -> None:
    layout = h5py.VirtualLayout(shape=(6, 6, 8), dtype=np.uint16)
    for part in (0, 1):  # frames 0 2 4 and 1 3 5
        with h5py.File(tmp_path / f"p{part}.h5", "w") as file:
            file.create_dataset("d", data=images(6)[part::2], chunks=(1, 6, 8), **BSLZ4)
        layout[part::2] = h5py.VirtualSource(f"p{part}.h5", "d", shape=(3, 6, 8))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    _, frames = play(tmp_path / "all.h5")
    assert [f.header.number for f in frames] == list(range(6))
    assert not caplog.records
    assert {f.header.encoding for f in frames} == {"bslz4"}
    np.testing.assert_array_equal(pixels(frames), images(6))


def test_virtual_images_put_together_of_parts_are_decoded(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(2, 12, 8), dtype=np.uint16)
    for part in (0, 1):
        with h5py.File(tmp_path / f"m{part}.h5", "w") as file:
            file.create_dataset("d", data=images(2, part), chunks=(1, 6, 8))
        rows = slice(6 * part, 6 * part + 6)
        layout[:, rows] = h5py.VirtualSource(f"m{part}.h5", "d", shape=(2, 6, 8))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    _, frames = play(tmp_path / "all.h5")
    np.testing.assert_array_equal(pixels(frames), np.concatenate([images(2), images(2, 1)], 1))


@pytest.mark.parametrize("kind", ["external", "virtual", "group"])
def test_pixels_outside_the_directory_are_never_read(tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file.create_dataset("entry/data/data", data=images(2))
    with h5py.File(inside / "bait.h5", "w") as file:
        data = file.create_group("entry/data")
        if kind == "external":
            pixels_in = [(str(tmp_path / "secret.h5"), 0, 96)]
            data.create_dataset("data", (1, 6, 8), np.uint16, external=pixels_in)
        elif kind == "virtual":  # put together of parts, which HDF5 would have to read
            layout = h5py.VirtualLayout(shape=(2, 12, 8), dtype=np.uint16)
            away = h5py.VirtualSource("../secret.h5", "entry/data/data", shape=(2, 6, 8))
            layout[:, :6] = away
            data.create_virtual_dataset("data", layout)
        else:
            file["away"] = h5py.ExternalLink("../secret.h5", "/")
            data["data"] = h5py.SoftLink("/away/entry/data/data")
    with pytest.raises(SourceError, match=r"outside its|not HDF5|leads to"):
        play(inside / "bait.h5")


def test_two_thresholds_of_an_image_are_its_modules(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        both = np.stack([images(3), images(3, 5)], axis=1)
        file.create_dataset("entry/data/data", data=both, chunks=(1, 1, 6, 8), **BSLZ4)
    begin, frames = play(path)
    assert [m.position for m in begin.modules] == [(0, 0), (6, 0)]
    assert [(f.header.number, f.header.module) for f in frames[:3]] == [(0, 0), (0, 1), (1, 0)]


def test_columns_that_do_not_fit_the_images_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data/data", data=images(3), chunks=(1, 6, 8))
        file["entry/data/frame_number"] = np.array([7, 8])
        attributes = file.create_group("entry/instrument/detector/attributes")
        attributes["omega"] = np.array([0.1, np.nan, 0.3])
        attributes["short"] = np.array([1])
        attributes["other_attributes"] = ['{"tags": [1]}', "", "no JSON"]
    _, frames = play(path)
    assert [f.header.number for f in frames] == [0, 1, 2]
    said = [dict(f.header.attributes) for f in frames]
    rest = {"other_attributes": "no JSON"}
    assert said == [{"omega": 0.1, "tags": [1]}, {}, {"omega": 0.3, **rest}]


@pytest.mark.parametrize("content", ["", "text", "h5"])
def test_what_has_no_images_says_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x"
    if content == "h5":
        with h5py.File(path, "w") as file:
            file["entry/title"] = "nothing"
    elif content:
        path.write_text(content)
    with pytest.raises(SourceError, match=r"no such file|no data set|neither HDF5"):
        list(path_events(path))


# -- directories ----------------------------------------------------------------------------------


def test_a_directory_is_played_series_by_series(tmp_path: Path) -> None:
    import tifffile

    for prefix, count in (("a_", 3), ("b_", 2)):
        for number in range(1, count + 1):
            tifffile.imwrite(tmp_path / f"{prefix}{number:04d}.tif", images(1, number)[0])
    (tmp_path / "b_0009.tif").write_bytes(b"no image")
    events = [e for e in path_events(tmp_path) if e is not None]
    told = [
        type(e).__name__ + (f" {e.header.number}" if isinstance(e, SourceFrame) else "")
        for e in events
    ]
    frames_a = ["SourceFrame 1", "SourceFrame 2", "SourceFrame 3"]
    assert told[:6] == ["SeriesBegin", *frames_a, "SeriesEnd", "SeriesBegin"]
    assert sorted(told[6:]) == ["Quarantined", "SeriesEnd", "SourceFrame 1", "SourceFrame 2"]
    assert any(isinstance(e, Quarantined) and e.source == "b_0009.tif" for e in events)
    assert {e.header.encoding for e in events if isinstance(e, SourceFrame)} == {"tiff"}
    with pytest.raises(SourceError, match="no images"):
        (tmp_path / "empty").mkdir()
        list(path_events(tmp_path / "empty"))


# -- the player -----------------------------------------------------------------------------------


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def source(numbers: list[int], stamps_s: list[float]) -> Any:
    def events() -> Iterator[Any]:
        yield SeriesBegin(series="s", name="s", expected=len(numbers))
        for number, stamp in zip(numbers, stamps_s, strict=True):
            header = FrameHeader(
                number=number,
                timestamp_ns=round(stamp * S),
                shape=(1, 1),
                dtype="uint8",
                encoding="raw",
            )
            yield SourceFrame(series="s", header=header, payload=b"x")
        yield SeriesEnd(series="s")

    return events


def played(given: list[int], stamps_s: list[float], **options: Any) -> list[Any]:
    """(when it was given, number, stamp in s) of each frame."""
    clock = Clock()
    adapter = ReplayAdapter(
        source(given, stamps_s),
        clock=lambda: clock.now_s,
        clock_ns=lambda: round(clock.now_s * S),
        sleep=clock.sleep,
        **options,
    )
    return [
        (round(clock.now_s, 6), e.header.number, e.header.timestamp_ns / S)
        for e in adapter.events(poll_s=0.2)
        if isinstance(e, SourceFrame)
    ]


def test_frames_come_at_the_rate_and_are_stamped_when_they_are_played() -> None:
    found = played([5, 6, 9], [10, 11, 12], rate_hz=4)
    assert found == [(100.0, 5, 100.0), (100.25, 6, 100.25), (100.5, 9, 100.5)]


def test_without_a_rate_they_come_as_they_were_recorded_but_for_breaks() -> None:
    found = played([0, 1, 2, 3], [10, 10.5, 1000, 1001], times="shift")
    assert found == [(100, 0, 100), (100.5, 1, 100.5), (110.5, 2, 1090), (111.5, 3, 1091)]
    assert [t for t, *_ in played([0, 1], [0, 0])] == [100, 100]


def test_numbers_and_times_can_be_kept_or_made_anew() -> None:
    assert played([5, 9], [10, 11], numbers="new", times="keep") == [(100, 0, 10), (101, 1, 11)]


def test_a_choice_of_frames_is_played() -> None:
    choice = FrameChoice.parse("::3")
    found = played(list(range(4, 14)), list(range(10)), rate_hz=1, frames=choice)
    assert [(t, n) for t, n, _ in found] == [(100, 4), (101, 7), (102, 10), (103, 13)]


def test_each_round_is_a_stream_of_its_own() -> None:
    adapter = ReplayAdapter(source([0], [0]), rounds=2)
    events = [e for e in adapter.events(poll_s=0.2) if e is not None]
    begins = [e for e in events if isinstance(e, SeriesBegin)]
    assert [e.series for e in events] == ["s#1"] * 3 + ["s#2"] * 3
    assert begins[0].run != begins[1].run
    with pytest.raises(InvalidArgumentError, match="rate"):
        ReplayAdapter(source([], []), rate_hz=0)


def test_a_player_that_is_stopped_ends_what_it_played_as_aborted() -> None:
    stop = threading.Event()
    adapter = ReplayAdapter(source([0, 1, 2], [0, 0, 0]), rounds=0, stop=stop)
    events = adapter.events(poll_s=0.2)
    assert [type(next(events)).__name__ for _ in range(2)] == ["SeriesBegin", "SourceFrame"]
    stop.set()
    left = [e for e in events if e is not None]
    assert [(e.series, e.state) for e in left if isinstance(e, SeriesEnd)] == [("s#1", "aborted")]
    assert len(left) == 1


# -- choosing frames ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("7", [7]),
        ("10:13", [10, 11, 12]),
        ("::10", [3, 13, 23]),
        ("5::10", [5, 15, 25]),
        (":6", [3, 4, 5]),
        ("28:", [28, 29]),
        ("4,6:8,::20", [3, 4, 6, 7, 23]),
        ("100:", []),
    ],
)
def test_a_choice_says_which_numbers(text: str, chosen: list[int]) -> None:
    numbers = np.arange(3, 30)
    choice = FrameChoice.parse(text)
    assert numbers[choice.mask(numbers, 3)].tolist() == chosen
    ranges = choice.of(Ranges([(3, 9), (10, 29)]), 3)
    assert [n for a, b in ranges for n in range(a, b + 1)] == chosen


@pytest.mark.parametrize("text", ["", "a", "1-5", "::0", "1:2:3:4", "1,,2", "-3:", "9" * 19])
def test_a_choice_that_makes_no_sense_is_told(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="frames"):
        FrameChoice.parse(text)
