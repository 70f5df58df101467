"""When a PCO camera was armed again: counters, clocks and names of files, in every disorder."""

from __future__ import annotations

from typing import Any

from pipeline.detectors.files import FoundFile
from pipeline.detectors.pco.series import PcoSeries
from pipeline.detectors.pco.wire import Image, Stamp
from pipeline.detectors.watch import ReadyFile
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFrame


def feed(series: PcoSeries, file: int, counter: int, second: int, *, inode: int = 0) -> str:
    """Return what a file gives, in short: b(egin), e(nd), q(uarantined), or the frame's number."""
    token = ReadyFile(f"/d/x_{file}.tif", inode or file, 10, 1)
    found = FoundFile(prefix="x", number=file, extension=".tif", token=token, payload=b"0123456789")
    image = Image(
        page=0,
        shape=(1, 14),
        dtype="uint16",
        offset=0,
        nbytes=28,
        stamp=Stamp(counter=counter, timestamp_ns=second * 10**9),
        empty=False,
        problem="",
        encoding="tiff",
    )
    return "".join(map(short, series.take(found, [image], source=f"x_{file}", facts={})))


def short(event: Any) -> str:
    if isinstance(event, SourceFrame):
        return str(event.header.number)
    return {SeriesBegin: "b", SeriesEnd: "e", Quarantined: "q"}[type(event)]


def fed(*frames: tuple[int, int, int]) -> list[str]:
    series = PcoSeries("x", keeps=True)
    return [feed(series, *frame) for frame in frames]


def test_a_counter_that_starts_again_is_a_new_series():
    assert fed((1, 1, 100), (2, 2, 101), (3, 1, 110), (4, 2, 111)) == ["b1", "2", "eb1", "2"]


def test_also_if_the_clock_was_set_back_between():
    assert fed((1, 1, 100), (2, 2, 101), (3, 1, 50), (4, 2, 51)) == ["b1", "2", "eb1", "2"]


def test_also_if_names_are_used_again():
    assert fed((8, 1, 100), (9, 2, 101), (1, 1, 110), (2, 2, 111)) == ["b1", "2", "eb1", "2"]


def test_a_clock_set_back_in_a_series_does_not_end_it():
    assert fed((1, 1, 100), (2, 2, 50), (3, 3, 51), (4, 4, 200)) == ["b1", "2", "3", "4"]


def test_a_file_that_comes_late_belongs_to_its_series():
    assert fed((1, 1, 100), (3, 3, 102), (2, 2, 101), (4, 4, 103)) == ["b1", "3", "2", "4"]


def test_a_series_may_be_attached_from_its_middle_backwards():
    assert fed((5, 5, 104), (4, 4, 103), (6, 6, 105)) == ["b5", "4", "6"]


def test_a_file_of_the_series_before_does_not_mix_into_the_next():
    assert fed((1, 1, 100), (3, 1, 110), (4, 2, 111), (2, 2, 101)) == ["b1", "eb1", "2", "q"]


def test_one_image_of_each_arming_is_a_series_of_its_own():
    assert fed((1, 1, 100), (2, 1, 101), (3, 1, 102)) == ["b1", "eb1", "eb1"]


def test_a_file_that_is_found_twice_gives_its_frame_once():
    assert fed((1, 1, 100), (2, 2, 101), (1, 1, 100)) == ["b1", "2", ""]


def test_a_name_that_is_used_again_for_another_image_gives_that_too():
    series = PcoSeries("x", keeps=True)
    assert feed(series, 1, 1, 100) == "b1"
    assert feed(series, 1, 2, 101, inode=77) == "2"
