"""Groups that filter, on the real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StreamTimeoutError
from pipeline.session import Session, connect

LIMIT_S = 60.0


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(session: Session, beamtime: str, count: int) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        for number in range(count):
            out.write(np.full((3, 4), number, np.uint16), attributes={"spots": number % 10})


def test_members_share_what_matches_and_the_rest_is_done(session: Session, beamtime: str) -> None:
    publish(session, beamtime, 200)
    stream = session.stream(beamtime, "lambda", "s")
    found = []
    with stream.shared("g", timeout_s=LIMIT_S, where="7 <= spots <= 8") as frames:  # type: ignore[attr-defined]  # a SharedFrames
        for delivery in frames:
            found.append(delivery.frame.number)
            delivery.ack()
        assert frames.share.counts.filtered == 160
    assert sorted(found) == [n for n in range(200) if n % 10 in (7, 8)]
    assert list(stream.shared("g", timeout_s=LIMIT_S)) == []


def test_what_is_kept_is_not_committed_before_it_is_settled(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, 40)
    stream = session.stream(beamtime, "lambda", "s")
    options = {"where": "spots < 0", "keep_filtered": True}
    for settle in (False, True):
        numbers: list[int] = []
        with stream.shared("g", timeout_s=0.1, **options) as frames:  # type: ignore[attr-defined]  # a SharedFrames
            while len(numbers) < 40:
                try:
                    assert next(frames, None) is None
                except StreamTimeoutError:
                    left_out = frames.take_filtered()
                    if left_out is not None:
                        numbers += left_out.numbers.tolist()
                        if settle:
                            left_out.ack()
            if settle:
                frames.timeout_s = LIMIT_S
                assert list(frames) == []
        assert sorted(numbers) == list(range(40))
