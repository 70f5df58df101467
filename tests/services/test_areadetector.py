"""areaDetector over PV Access, on loopback, into the real broker and the real store."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import numpy as np
import pytest

from pipeline.detectors.areadetector.adapter import AreaDetectorAdapter
from pipeline.detectors.areadetector.sim import AreaDetectorSimulator
from pipeline.errors import SourceError
from pipeline.ingest import run
from pipeline.session import connect


@pytest.fixture
def session(home_env):
    with connect() as made:
        yield made


def ingest(session: Any, beamtime: str, simulator: AreaDetectorSimulator, **settings: Any) -> Any:
    """Run the adapter on a simulator that is open, while that makes its series."""
    settings = {"channel": simulator.channel, "address": simulator.address} | settings
    adapter = AreaDetectorAdapter(**settings)
    done: list[Any] = []

    def follow() -> None:
        done.append(
            run(session, adapter, beamtime=beamtime, detector="a", streams=simulator.series)
        )

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        assert simulator.wait_watched(20.0, state="acquire_channel" in settings)
        lines = []
        for _ in range(simulator.series):
            lines += simulator.acquire(threading.Event())
        thread.join(30.0)
        assert not thread.is_alive()
    finally:
        adapter.close()
    return done[0], lines


def digests(session: Any, beamtime: str) -> list[dict[int, str]]:
    found = []
    for info in sorted(session.streams(f"{beamtime}/a/*"), key=lambda i: str(i.name)):
        with session.stream(beamtime, "a", info.name.stream) as stream:
            found.append(
                {
                    frame.number: hashlib.sha256(np.ascontiguousarray(frame.array)).hexdigest()
                    for frame in stream.ordered(timeout_s=20.0)
                }
            )
    return found


def wanted(lines: list[dict[str, Any]]) -> list[dict[int, str]]:
    serials = sorted({line["series"] for line in lines})
    return [
        {
            line["number"]: line["pixels_sha256"]
            for line in lines
            if line["series"] == serial and not line.get("lost")
        }
        for serial in serials
    ]


@pytest.mark.parametrize("codec", ["", "zlib", "lz4", "lz4-hdf5", "bslz4", "bslz4-hdf5", "blosc"])
def test_every_codec_arrives_as_the_pixels_that_were_made(session, beamtime, codec):
    simulator = AreaDetectorSimulator(frames=6, rate_hz=0, codec=codec, shape=(60, 100))
    with simulator.serving():
        report, lines = ingest(
            session, beamtime, simulator, acquire_channel=simulator.acquire_channel, grace_s=0.2
        )
    assert report.frames == 6
    assert digests(session, beamtime) == wanted(lines)


def test_gaps_repeats_and_a_second_series_are_told(session, beamtime):
    simulator = AreaDetectorSimulator(
        frames=20,
        rate_hz=0,
        series=2,
        shape=(60, 100),
        gap_every=7,
        repeat_every=5,
        late_clock=True,
        stamped=True,
    )
    with simulator.serving():
        report, lines = ingest(
            session,
            beamtime,
            simulator,
            acquire_channel=simulator.acquire_channel,
            counter_channel=simulator.counter_channel,
            grace_s=0.3,
        )
    assert digests(session, beamtime) == wanted(lines)
    for info in session.streams(f"{beamtime}/a/*"):
        with session.stream(beamtime, "a", info.name.stream) as stream:
            assert stream.metadata["device_dropped"] == 2
            assert stream.metadata["repeated"] == 4
            account = stream.account()
            assert account["expected"] == 20
            assert account["received"] == 18
    assert report.frames == 36


def test_series_end_when_numbers_start_again_and_by_silence(session, beamtime):
    simulator = AreaDetectorSimulator(frames=5, rate_hz=0, series=3, shape=(60, 100))
    with simulator.serving():
        report, lines = ingest(session, beamtime, simulator, idle_end_s=1.0)
    assert report.frames == 15
    assert digests(session, beamtime) == wanted(lines)


def test_a_channel_that_nobody_serves_is_an_error_that_says_what_to_do():
    adapter = AreaDetectorAdapter(channel="NOBODY:Image", address="127.0.0.1:1")
    with pytest.raises(SourceError, match="NOBODY:Image"):
        adapter.check()
