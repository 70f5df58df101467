"""What becomes of an Eiger's messages: series, modules, what is refused; without a socket."""

from __future__ import annotations

import itertools
import json
from typing import Any

import cbor2

from pipeline.detectors.eiger.streams import StreamSource
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFrame


class Feed:
    """A source that is given its messages by hand."""

    def __init__(self, **settings: Any) -> None:
        self.source = StreamSource("tcp://127.0.0.1:1", **settings)

    def parts(self, *parts: bytes) -> list[Any]:
        return list(self.source._message([memoryview(part) for part in parts]))

    def cbor(self, kind: str, series: int = 1, **more: Any) -> list[Any]:
        message = {"type": kind, "series_id": series, "series_unique_id": f"U{series}", **more}
        return self.parts(cbor2.dumps(message))

    def json(self, *parts: Any) -> list[Any]:
        return self.parts(*(p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts))


def grid(shape: tuple[int, int] = (2, 3), typed: int = 69) -> Any:
    nbytes = shape[0] * shape[1] * {64: 1, 69: 2}[typed]
    return cbor2.CBORTag(40, [list(shape), cbor2.CBORTag(typed, bytes(nbytes))])


SIZE = {"image_size_x": 3, "image_size_y": 2}


def test_channels_that_the_start_does_not_tell_are_modules_all_the_same():
    feed = Feed()
    assert feed.cbor("start", **SIZE) == []
    begin, *frames = feed.cbor("image", image_id=0, data={"a": grid(), "b": grid()})
    assert isinstance(begin, SeriesBegin)
    assert [module.position for module in begin.modules] == [(0, 0), (2, 0)]
    assert [frame.header.module for frame in frames] == [0, 1]


def test_channels_of_other_names_are_told_by_their_place():
    feed = Feed()
    (begin,) = feed.cbor("start", **SIZE, channels=["threshold_1", "threshold_2"])
    assert len(begin.modules) == 2
    frames = feed.cbor("image", image_id=0, data={"1": grid(), "2": grid()})
    assert [frame.header.module for frame in frames] == [0, 1]


def test_more_channels_than_announced_are_refused_by_name():
    feed = Feed()
    feed.cbor("start", **SIZE, channels=["threshold_1"])
    (refused,) = feed.cbor("image", image_id=0, data={"a": grid(), "b": grid()})
    assert isinstance(refused, Quarantined)
    assert "['a', 'b']" in refused.reason
    (end,) = feed.cbor("end")
    assert end.metadata == {"bad_messages": 1}


def test_an_image_unlike_the_others_is_refused():
    feed = Feed()
    feed.cbor("start", **SIZE, channels=["t"])
    feed.cbor("image", image_id=0, data={"t": grid()})
    for odd in (grid((3, 2)), grid(typed=64)):
        (refused,) = feed.cbor("image", image_id=1, data={"t": odd})
        assert isinstance(refused, Quarantined)


def test_times_beyond_all_clocks_are_refused():
    feed = Feed()
    feed.cbor("start", **SIZE, channels=["t"])
    far = {"start_time": [2**63 - 1, 10**9], "series_date": "2100-01-01T00:00:00Z"}
    (refused,) = feed.cbor("image", image_id=0, data={"t": grid()}, **far)
    assert isinstance(refused, Quarantined)
    assert "timestamp_ns" in refused.reason


def test_the_detectors_count_of_drops_makes_the_number_expected():
    # of 0, 1 and 4 two are missing: a count below that is of a series armed since
    for dropped, highest, expected in ((2, 4, 5), (3, 4, 6), (1, 4, None), (None, 4, None)):
        feed = Feed(dropped=lambda dropped=dropped: dropped)
        feed.cbor("start", **SIZE, channels=["t"], number_of_images=100)
        for number in (0, 1, highest):
            feed.cbor("image", image_id=number, data={"t": grid()})
        (end,) = feed.cbor("end")
        assert (end.state, end.expected) == ("complete", expected)


def test_without_an_answer_the_announced_number_counts_when_its_last_image_came():
    feed = Feed()
    feed.cbor("start", **SIZE, channels=["t"], number_of_images=5)
    feed.cbor("image", image_id=4, data={"t": grid()})
    (end,) = feed.cbor("end")
    assert end.expected == 5


def test_a_second_end_is_ignored_and_a_new_start_ends_a_series():
    feed = Feed()
    feed.cbor("start", **SIZE, channels=["t"])
    assert len(feed.cbor("end")) == 1
    assert feed.cbor("end") == []
    feed.cbor("start", 2, **SIZE, channels=["t"])
    end, begin = feed.cbor("start", 3, **SIZE, channels=["t"])
    assert isinstance(end, SeriesEnd)
    assert (end.state, end.metadata) == ("lost", {"stray_messages": 1})
    assert isinstance(begin, SeriesBegin)


def test_a_series_whose_start_was_missed_is_late_without_a_unique_id():
    image = (
        {"htype": "dimage-1.0", "series": 4, "frame": 9},
        {"shape": [3, 2], "type": "uint16", "encoding": "<"},
        bytes(12),
    )
    begin, frame = Feed().json(*image)
    assert (begin.late, begin.run["series"], frame.header.number) == (True, 4, 9)
    begin, frame = Feed().cbor("image", image_id=9, data={"t": grid()})
    assert (begin.late, begin.run["unique"]) == (False, "U1")
    assert isinstance(frame, SourceFrame)


def test_the_clock_of_the_legacy_stream_is_anchored_once():
    feed = Feed()
    feed.json({"htype": "dheader-1.0", "series": 4, "header_detail": "none"})
    stamps = []
    for number, start_ns in enumerate((7_000_000_000, 7_010_000_000, 7_020_000_000)):
        events = feed.json(
            {"htype": "dimage-1.0", "series": 4, "frame": number},
            {"shape": [3, 2], "type": "uint16", "encoding": "<"},
            bytes(12),
            {"htype": "dconfig-1.0", "start_time": start_ns},
        )
        stamps.append(events[-1].header.timestamp_ns)
    assert [b - a for a, b in itertools.pairwise(stamps)] == [10_000_000] * 2


def test_messages_of_the_other_version_are_refused_if_one_is_chosen():
    feed = Feed(interface="stream1")
    assert feed.cbor("start", **SIZE, channels=["t"]) == []
    assert feed.source._stray == 1
