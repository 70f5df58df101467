"""A detector whose modules have writers of their own, one of which falls silent; real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StreamTimeoutError
from pipeline.frame import Module
from pipeline.session import Session, connect

LIMIT_S = 60.0
MODULES = tuple(Module(index=i, shape=(2, 2), position=(2 * i, 0)) for i in range(2))


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def test_frames_of_a_silent_module_are_given_at_the_deadline_and_counted(
    session: Session, beamtime: str
) -> None:
    address = (beamtime, "lambda", "s")
    with (
        session.publish(*address, modules=MODULES, module=0, rate_hz=100) as one,
        session.publish(*address, modules=MODULES, module=1, rate_hz=100) as two,
    ):
        for out, numbers in ((one, range(4)), (two, range(2))):
            for number in numbers:
                out.write(np.full((2, 2), number, np.uint16), number=number)
            out.flush()
        stream = session.stream(*address)
        patient = stream.ordered(timeout_s=0)
        assert [next(patient).number for _ in range(2)] == [0, 1]
        with pytest.raises(StreamTimeoutError):
            next(patient)
        hasty = stream.ordered(timeout_s=LIMIT_S, min_modules=1, deadline_s=0.1)
        given = [next(hasty) for _ in range(4)]
        assert [frame.missing_modules for frame in given] == [(), (), (1,), (1,)]
        assert given[3].array.tolist() == [[3, 3], [3, 3], [65535, 65535], [65535, 65535]]
        with stream.shared("g", timeout_s=LIMIT_S, min_modules=1, deadline_s=0.1) as frames:  # type: ignore[attr-defined]  # a SharedFrames
            found = {}
            while len(found) < 4:
                delivery = next(frames)
                found[delivery.frame.number] = delivery.frame.missing_modules
                delivery.ack()
            assert found == {0: (), 1: (), 2: (1,), 3: (1,)}
            assert frames.share.counts.incomplete == 2
        two.write(np.full((2, 2), 2, np.uint16), number=2)
    assert list(hasty) == []
    assert (hasty.incomplete, hasty.late) == ([[2, 3]], [[2, 2]])
    assert stream.account()["incomplete"] == [[3, 3]]
