"""Series of devices on real servers: announced before their frames, missed, left open, killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.frame import FrameHeader
from pipeline.ingest import IngestReport, run
from pipeline.protocols import SeriesBegin, SeriesEnd, SourceFrame
from pipeline.session import Session, connect

MASK = np.eye(3, dtype=np.uint8)


class Device:
    """Gives prepared events; makes one series at a time."""

    name = "device"
    exclusive = True

    def __init__(self, *events: Any) -> None:
        self._events = events
        self.acknowledged: list[Any] = []

    def events(self, *, poll_s: float) -> Iterator[Any]:
        for event in self._events:
            yield event() if callable(event) else event

    def owns(self, run: Any) -> bool:
        return run.get("adapter") == self.name

    def acknowledge(self, tokens: Any) -> None:
        self.acknowledged.extend(tokens)

    def check(self) -> Any:
        return {}

    def close(self) -> None:
        pass


def frame(number: int, series: str = "1") -> SourceFrame:
    header = FrameHeader(number=number, timestamp_ns=9, shape=(2, 2), dtype="uint8", encoding="raw")
    return SourceFrame(series=series, header=header, payload=bytes([number] * 4))


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as opened:
        yield opened


def ingest(session: Session, beamtime: str, *events: Any, **options: Any) -> IngestReport:
    return run(session, Device(*events), beamtime=beamtime, detector="d", **options)


def accounts(session: Session, beamtime: str) -> list[tuple[str, int]]:
    found = sorted(session.streams(f"{beamtime}/d/*"), key=lambda s: s.info.position)
    result = []
    for summary in found:
        name = summary.name
        with session.stream(name.beamtime, name.detector, name.stream) as stream:
            result.append((stream.state, stream.account()["received"]))
    return result


def test_a_series_with_a_rate_is_there_before_its_frames_with_all_that_is_known(
    session: Session, beamtime: str
) -> None:
    seen = []

    def look() -> None:
        seen.extend(summary.info.state for summary in session.streams(f"{beamtime}/d/*"))

    begin = SeriesBegin(
        series="1",
        name="1",
        run={"adapter": "device", "id": 1},
        rate_hz=100.0,
        expected=2,
        metadata={"energy_eV": 1.0},
        attachments={"mask": MASK},
    )
    end = SeriesEnd(series="1", expected=2, metadata={"device_dropped": 0})
    ingest(session, beamtime, begin, look, frame(1), frame(2), end, stream="s")
    assert seen == ["open"]
    with session.stream(beamtime, "d", "s") as stream:
        assert stream.metadata == {"energy_eV": 1.0, "device_dropped": 0}
        assert np.array_equal(stream.attachment("mask"), MASK)
        assert stream.account()["complete"]


def test_a_late_series_joins_what_was_left_open_and_the_next_one_ends_it(
    session: Session, beamtime: str
) -> None:
    stop = threading.Event()
    facts = {"adapter": "device", "id": 7}
    begin = SeriesBegin(series="7", name="7", run={**facts, "started": "now"})
    ingest(session, beamtime, begin, frame(1, "7"), stop.set, stop=stop)
    assert accounts(session, beamtime) == [("open", 1)]

    late = SeriesBegin(series="7", run=facts, late=True)
    following = SeriesBegin(series="8", name="8", run={"adapter": "device", "id": 8})
    ingest(session, beamtime, late, frame(2, "7"), following, SeriesEnd(series="8"))
    assert accounts(session, beamtime) == [("lost", 2), ("complete", 0)]
