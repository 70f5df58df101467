"""A stage that works in order and goes on exactly behind its last output; on the real broker."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InvalidArgumentError, PipelineError
from pipeline.session import Session, connect

LIMIT_S = 60.0
FRAMES = 60

#: Sums up all frames, and knows the sum so far from its last output.
_STAGE = """
    import sys
    from pipeline.session import connect
    beamtime, hang = sys.argv[1], int(sys.argv[2])
    with connect() as session:
        source = session.stream(beamtime, "lambda", "s")
        with session.sequential(source, "sums", timeout_s=60) as stage:
            total = stage.last.attributes["total"] if stage.last is not None else 0
            print("from", stage.resumed_at, flush=True)
            for frame in stage:
                total += int(frame.array[0, 0])
                if frame.number == hang:
                    print("hang", flush=True)
                    sys.stdin.read()
                stage.write(frame, None, attributes={"total": total})
                if frame.number == hang - 5:
                    stage.flush()
"""


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(session: Session, beamtime: str, numbers: list[int] | range) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        for number in numbers:
            out.write(np.full((2, 2), number, np.uint16), number=number)


def run_until_hang(beamtime: str, hang: int) -> list[str]:
    """Run the stage until it hangs with a frame in hand, and kill it; return what it said."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_STAGE), beamtime, str(hang)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    said = []
    with child, child.stdin, child.stdout:
        for line in child.stdout:
            said.append(line.strip())
            if said[-1] == "hang":
                break
        child.kill()
    return said


def test_a_killed_stage_goes_on_behind_its_last_output(session: Session, beamtime: str) -> None:
    publish(session, beamtime, range(FRAMES))
    assert run_until_hang(beamtime, 20) == ["from None", "hang"]
    begun, _ = run_until_hang(beamtime, 40)
    assert 16 <= int(begun.split()[1]) <= 20  # 15 and all before it were flushed
    source = session.stream(beamtime, "lambda", "s")
    with session.sequential(source, "sums", timeout_s=LIMIT_S) as stage:
        assert stage.last is not None
        assert stage.last.number + 1 == stage.resumed_at
        total = stage.last.attributes["total"]
        for frame in stage:
            total += int(frame.array[0, 0])
            stage.write(frame, None, attributes={"total": total})
    made = session.stream(beamtime, "sums", "s")
    outputs = {frame.number: frame.attributes["total"] for frame in made.ordered()}
    assert outputs == {n: n * (n + 1) // 2 for n in range(FRAMES)}
    account = made.account()
    assert account["complete"]
    assert account["redelivered"] == 0
    with session.sequential(source, "sums", timeout_s=LIMIT_S) as again:
        assert list(again) == []


def test_what_has_no_output_is_skipped_and_holes_are_none_of_its_own(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, [*range(5), *range(8, 20)])
    source = session.stream(beamtime, "lambda", "s")
    seen = []
    for limit in (10, 100):
        with session.sequential(source, "odd", timeout_s=LIMIT_S) as stage:
            for frame in stage:
                seen.append(frame.number)
                if frame.number % 2:
                    stage.write(frame, frame.array)
                    with pytest.raises(InvalidArgumentError):
                        stage.write(frame, frame.array)
                if frame.number == limit:
                    break
    made = session.stream(beamtime, "odd", "s")
    assert [f.number for f in made.ordered()] == [1, 3, 9, 11, 13, 15, 17, 19]
    assert made.state == "complete"
    skipped = [n for first, last in made.account()["skipped"] for n in range(first, last + 1)]
    assert skipped == [0, 2, 4, 8, 10, 12, 14, 16, 18]
    # the frame in hand when the block was left had no output, and came again
    assert seen == [*range(5), 8, 9, 10, *range(10, 20)]


def test_a_stream_that_is_no_stages_is_left_alone(session: Session, beamtime: str) -> None:
    publish(session, beamtime, range(3))
    with session.publish(beamtime, "sums", "s", frames_per_chunk=4) as out:
        out.write(np.zeros((2, 2), np.uint16))
    source = session.stream(beamtime, "lambda", "s")
    with pytest.raises(PipelineError, match="was not made from"):
        session.sequential(source, "sums")
