"""Headers and numbers of xspd's messages; bytes built by hand: number, counter, status, size."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.detectors.lambda_xs.live import LiveSource
from pipeline.detectors.lambda_xs.sim import LambdaSimulator
from pipeline.detectors.lambda_xs.wire import Head, Pace, Unwrapper, bytes4, encoding_of, parser_of
from pipeline.detectors.lambda_xs.xspd import Xspd
from pipeline.detectors.rest import Device
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.protocols import SeriesEnd, SourceFrame


def test_a_header_is_number_counter_and_status() -> None:
    assert bytes4(memoryview(bytes((7, 1, 2, 9)))) == Head(7, 1, 2)


def test_a_longer_header_is_read_all_the_same() -> None:
    assert bytes4(memoryview(bytes((7, 0, 0, 0)) + b"more of it")).number == 7


@pytest.mark.parametrize("nbytes", range(4))
def test_a_shorter_header_is_refused(nbytes: int) -> None:
    with pytest.raises(InvalidFrameError, match="header"):
        bytes4(memoryview(bytes(nbytes)))


def test_a_parser_of_another_package_can_be_named() -> None:
    assert parser_of("pipeline.detectors.lambda_xs.wire:bytes4") is bytes4


@pytest.mark.parametrize("name", ["", "bytes8", "no.such:thing", "os:name", ":x"])
def test_a_parser_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="header"):
        parser_of(name)


@pytest.mark.parametrize(
    ("compressor", "encoding"),
    [
        ("none", "raw"),
        ("", "raw"),
        ("zlib", "gzip"),
        ("blosc/lz4", "blosc"),
        ("blosc/zstd", "blosc"),
    ],
)
def test_compressors_have_our_names(compressor: str, encoding: str) -> None:
    assert encoding_of(compressor) == encoding


@pytest.mark.parametrize("compressor", ["blosc", "blosc/snappy", "lzma", "zlib/9"])
def test_other_compressors_are_refused(compressor: str) -> None:
    with pytest.raises(InvalidFrameError):
        encoding_of(compressor)


def whole(numbers: list[int], **more: float) -> list[int | None]:
    unwrapper = Unwrapper()
    return [unwrapper.whole(Head(number % 256, 0, 0), **more) for number in numbers]


def test_numbers_of_one_byte_are_unwrapped() -> None:
    assert whole(list(range(1000))) == list(range(1000))


def test_lost_frames_leave_holes() -> None:
    assert whole([0, 1, 5, 250, 260, 500]) == [0, 1, 5, 250, 260, 500]


def test_a_number_that_comes_twice_is_none() -> None:
    assert whole([0, 1, 1, 2]) == [0, 1, None, 2]


def test_more_than_256_lost_frames_are_found_by_the_time_that_passed() -> None:
    unwrapper = Unwrapper()
    assert unwrapper.whole(Head(10, 0, 0)) == 10
    assert unwrapper.whole(Head((10 + 700) % 256, 0, 0), passed=690.0) == 710


def test_a_late_message_alone_adds_no_256() -> None:
    unwrapper = Unwrapper()
    assert unwrapper.whole(Head(10, 0, 0)) == 10
    assert unwrapper.whole(Head(11, 0, 0), passed=100.0) == 11


def test_whole_numbers_are_taken_as_they_are() -> None:
    unwrapper = Unwrapper()
    heads = [Head(300, 0, 0, wrap=0), Head(900, 0, 0, wrap=0), Head(900, 0, 0, wrap=0)]
    assert [unwrapper.whole(head) for head in heads] == [300, 900, None]


def test_no_number_is_as_high_as_the_run_has_frames() -> None:
    unwrapper = Unwrapper()
    assert unwrapper.whole(Head(10, 0, 0)) == 10
    assert unwrapper.whole(Head(20, 0, 0), passed=900.0, frames=600) == 532


def test_a_pace_finds_what_was_lost_and_nothing_that_only_waited() -> None:
    pace = Pace(0.001)
    for number in range(0, 2000, 10):
        pace.arrived(number, number * 0.001)
    # nobody read for 10 s, then 10,000 frames at once, the last of them fresh
    assert pace.passed(11_990, 11.99) == 0.0
    # and so much was lost
    assert pace.passed(1990, 11.99) == pytest.approx(10_000)


def test_a_pace_goes_by_what_it_saw_not_by_what_was_announced() -> None:
    pace = Pace(0.001)
    for number in range(0, 2000, 10):
        pace.arrived(number, number * 0.00105)  # a readout that nobody has told
    assert pace.passed(11_990, 11_990 * 0.00105) == 0.0


def test_frames_that_waited_while_nobody_took_them_keep_their_numbers() -> None:
    simulator = LambdaSimulator(frames=700, rate_hz=700, shape=(4, 4), modules=1, pause_s=0.0)
    device = Device(f"http://127.0.0.1:{simulator.port}", timeout_s=2.0)
    source = LiveSource(Xspd(device), poll_every_s=0.05)
    thread = threading.Thread(target=simulator.run)
    numbers: list[int] = []
    events = source.events(poll_s=0.05)
    try:
        assert next(events) is None
        thread.start()
        deadline_s = time.monotonic() + 30
        for event in events:
            assert time.monotonic() < deadline_s
            if isinstance(event, SeriesEnd):
                break
            if isinstance(event, SourceFrame):
                numbers.append(event.header.number)
            while len(numbers) == 100 and simulator.detector.number < 600:
                assert time.monotonic() < deadline_s
                threading.Event().wait(0.01)  # the store is held up: nobody takes messages
    finally:
        source.close()
        device.close()
        thread.join(30)
    assert numbers == list(range(700))
