"""Groups from outside, on the real broker: lag, reset, dead letters, newest frames."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import worker_functions
from click.testing import CliRunner
from confluent_kafka import TopicPartition
from test_shared import LIMIT_S

from pipeline.cli.root import lichtstrom
from pipeline.errors import GroupActiveError, OutputEndedError, PipelineError
from pipeline.publishing.window import Role
from pipeline.session import Session, connect
from pipeline.sharing.letters import boxes
from pipeline.sharing.standing import standings
from pipeline.sinks.letters import DeadLetters
from pipeline.worker import run_worker

FRAMES = 40


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(session: Session, beamtime: str, name: str = "s") -> str:
    with session.publish(beamtime, "lambda", name, frames_per_chunk=4) as out:
        for n in range(FRAMES):
            out.write(np.full((3, 4), n, np.uint16), number=n, timestamp_ns=n * 10**9)
    return f"{beamtime}/lambda/{name}"


def drain(session: Session, beamtime: str, name: str = "s", *, group: str = "g") -> list[int]:
    found = []
    with session.stream(beamtime, "lambda", name).shared(group, timeout_s=LIMIT_S) as deliveries:  # type: ignore[attr-defined]  # a SharedFrames
        for delivery in deliveries:
            found.append(delivery.frame.number)
            delivery.ack()
    return sorted(found)


def reject(session: Session, beamtime: str, *numbers: int, name: str = "s") -> None:
    with session.stream(beamtime, "lambda", name).shared("g", timeout_s=LIMIT_S) as deliveries:  # type: ignore[attr-defined]  # a SharedFrames
        for delivery in deliveries:
            if delivery.frame.number in numbers:
                delivery.reject("no beam")
            else:
                delivery.ack()


def test_lag_counts_frames_that_were_not_acknowledged_and_frame_time(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    stream = session.stream(beamtime, "lambda", "s")
    lag = stream.group("g").lag()
    assert (lag.frames, lag.first, lag.seconds) == (FRAMES, 0, FRAMES - 1)
    kept = set()
    with stream.shared("g", timeout_s=LIMIT_S) as deliveries:  # type: ignore[attr-defined]  # a SharedFrames
        for _ in range(FRAMES):
            delivery = next(deliveries)
            if delivery.frame.number in (7, 21):
                kept.add(delivery.frame.number)
            elif delivery.frame.number == 11:
                delivery.retry(delay_s=1000)
            else:
                delivery.ack()
        assert stream.group("g").members()
    assert kept == {7, 21}
    assert stream.unacknowledged("g") == [7, 11, 21]
    lag = stream.group("g").lag()
    assert (lag.frames, lag.retries, lag.first) == (3, 1, 7)
    assert lag.seconds == FRAMES - 1 - 7
    assert stream.unacknowledged("another") == list(range(FRAMES))


def test_a_reset_moves_one_stream_of_one_group(session: Session, beamtime: str) -> None:
    for name in ("s", "t"):
        publish(session, beamtime, name)
    stream, other = (session.stream(beamtime, "lambda", name) for name in ("s", "t"))
    drain(session, beamtime)
    other.reset("g", 10)
    for to, expected in (
        ("start", range(FRAMES)),
        ("end", range(0)),
        ("1970-01-01T00:00:30", range(30, FRAMES)),
        (17, range(17, FRAMES)),
    ):
        assert stream.reset("g", to).frames == len(expected)
        assert stream.unacknowledged("g") == list(expected)
    assert other.unacknowledged("g") == list(range(10, FRAMES))
    assert stream.unacknowledged("another") == list(range(FRAMES))
    assert drain(session, beamtime) == list(range(17, FRAMES))


def test_a_group_may_be_set_before_it_begins_and_while_the_stream_is_taken(
    session: Session, beamtime: str
) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        for n in range(30):
            out.write(np.full((3, 4), n, np.uint16), number=n)
        out.flush(timeout_s=LIMIT_S)
        assert session.stream(beamtime, "lambda", "s").reset("g", 25).frames == 5
        out.write(np.full((3, 4), 30, np.uint16), number=30)
    assert drain(session, beamtime) == list(range(25, 31))


def test_a_group_with_members_is_not_reset_and_the_error_names_them(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    stream = session.stream(beamtime, "lambda", "s")
    with stream.shared("g", timeout_s=LIMIT_S) as deliveries:  # type: ignore[attr-defined]  # a SharedFrames
        next(deliveries).ack()
        (standing,) = standings(session.services, beamtime)
        assert (standing.group, standing.stream, standing.state) == ("g", stream.name, "stable")
        with pytest.raises(GroupActiveError, match="lichtstrom@") as caught:
            stream.reset("g", "start")
        assert caught.value.members == standing.members
        share = deliveries.share
        with pytest.raises(PipelineError, match="Unknown member"):
            session.services.admin.commit(share.group_id, [TopicPartition(share._topic, 0, 3)])
    assert standings(session.services, beamtime)[0].members == ()


def test_a_reset_ends_a_run_of_the_output_that_was_left_open(
    session: Session, beamtime: str
) -> None:
    source = publish(session, beamtime)
    stream = session.stream(beamtime, "lambda", "s")
    lineage = {"source": source, "source_id": stream.start.stream_key.hex(), "group": "g"}
    out = session.publish(
        beamtime, "means", "s", lineage=lineage, instance="group:g", role=Role(member="m")
    )
    out.write(None, number=0, attributes={"mean": 0.0})
    out.flush(timeout_s=LIMIT_S)
    out.close()
    assert session.stream(beamtime, "means", "s").state == "open"
    assert [name.stream for name in stream.reset("another", "start").runs] == []
    assert [name.stream for name in stream.reset("g", "start").runs] == ["s.r2"]
    derived = session.stream(beamtime, "means", "s")
    assert (derived.state, derived.metadata["next_run"]) == ("aborted", "s.r2")
    assert [frame.number for frame in derived.frames()] == [0]


def test_a_dropped_letter_is_gone_and_what_is_settled_from_the_beginning_is_deleted(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    reject(session, beamtime, 3, 4, 5)
    group = session.stream(beamtime, "lambda", "s").group("g")
    letters = {letter.number: letter for letter in group.dead_letters()}
    assert sorted(letters) == [3, 4, 5]
    assert letters[4].reason == "no beam"
    assert letters[4].attempts == 1
    assert letters[4].time_ns > 1.7e18
    by_age = sorted(letters, key=lambda number: letters[number].offset)
    assert group.drop([by_age[1]]) == 1
    assert [letter.number for letter in group.dead_letters()] == [by_age[0], by_age[2]]
    topic = session.services.names.dead_letters(beamtime, "lambda", "g")
    assert _first(session, topic) == 0  # an unsettled one lies before
    group.drop([by_age[0]])
    assert _first(session, topic) == 2
    assert group.drop() == 1
    assert group.dead_letters() == []
    assert boxes(session.services, f"{beamtime}/*/*")[0].read() == []


def _first(session: Session, topic: str) -> int:
    from pipeline.kafka.groups import first_offsets

    return first_offsets(session.services.admin, topic, 1)[0]


def test_replayed_frames_come_again_with_their_attempts_counted_anew(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime)
    reject(session, beamtime, 3, 4)
    stream = session.stream(beamtime, "lambda", "s")
    assert stream.group("g").replay([4]).numbers == (4,)
    assert [letter.number for letter in stream.group("g").dead_letters()] == [3]
    assert stream.unacknowledged("g") == [4]
    with stream.shared("g", timeout_s=LIMIT_S) as deliveries:  # type: ignore[attr-defined]  # a SharedFrames
        (again,) = [(d.frame.number, d.attempt, d.reject("again")) for d in deliveries]
    assert again[:2] == (4, 1)
    assert [letter.number for letter in stream.group("g").dead_letters()] == [3, 4]


def test_the_output_is_reopened_for_replayed_frames_and_a_reset_begins_its_next_run(
    session: Session, beamtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    source = publish(session, beamtime)

    def work() -> tuple[int, int]:
        report = run_worker(
            worker_functions.fails_until_told,
            source,
            group="g",
            out="means",
            timeout_s=LIMIT_S,
            max_attempts=1,
        )
        return report.frames, report.results

    assert work() == (FRAMES, FRAMES - 1)
    derived = session.stream(beamtime, "means", "s")
    assert derived.account()["rejected"] == [[5, 5]]
    group = session.stream(beamtime, "lambda", "s").group("g")
    with pytest.raises(OutputEndedError, match="means/s"):
        group.replay()
    assert [letter.number for letter in group.dead_letters()] == [5]
    (tmp_path / "well").touch()
    assert group.replay(reopen=True).reopened == (derived.name,)
    assert derived.state == "open"
    assert work() == (1, 1)
    account = session.stream(beamtime, "means", "s").account()
    assert (account["received"], account["rejected"], account["complete"]) == (FRAMES, [], True)

    for _ in range(2):  # a run that nobody has begun is not passed over
        assert [str(name) for name in group.reset(FRAMES - 4).runs] in (
            [f"{beamtime}/means/s.r2"],
            [],
        )
    assert derived.metadata["next_run"] == "s.r2"
    assert work() == (4, 4)
    again = session.stream(beamtime, "means", "s.r2")
    assert [frame.number for frame in again.frames()] == list(range(FRAMES - 4, FRAMES))
    lineage = again.settings["lineage"]
    assert (lineage["run"], lineage["source"], lineage["group"]) == (2, source, "g")
    assert [str(name) for name in group.reset("start").runs] == [f"{beamtime}/means/s.r3"]
    assert len(list(derived.frames())) == FRAMES


def test_letters_of_a_sink_can_be_seen_and_dropped_but_not_replayed(
    session: Session, beamtime: str
) -> None:
    source = publish(session, beamtime)
    stream = session.stream(beamtime, "lambda", "s")
    letters = DeadLetters(session.services, stream.start, group="hdf5")
    for number in (9, 10, 20):
        letters.send(number, f"no dtype {number}")
    with pytest.raises(PipelineError, match="no group of workers"):
        stream.group("hdf5").replay()
    (counted,) = json.loads(run("dlq", "list", f"{beamtime}/*/*", "--json"))
    assert (counted["stream"], counted["group"], counted["letters"]) == (source, "hdf5", 3)
    shown = run("dlq", "show", source, "--number", "9-12", "--json").splitlines()
    assert [json.loads(line)["reason"] for line in shown] == ["no dtype 9", "no dtype 10"]
    names = ("stream", "group", "number", "attempts", "reason", "trace", "member", "time_ns")
    assert json.loads(shown[0]).keys() == {*names, "offset"}
    assert "no dtype 20" in run("dlq", "show", source, "--group", "hdf5")
    assert run("dlq", "show", source, "--group", "another") == ""
    run("dlq", "drop", source, "--all", status=1)  # nobody says yes
    run("dlq", "drop", source, "--yes", status=2)
    run("dlq", "replay", source, "--group", "hdf5", "--all", status=1)
    assert run("dlq", "drop", source, "--number", "9", "--number", "20", "--yes") == "dropped 2\n"
    assert [letter.number for letter in stream.group("hdf5").dead_letters()] == [10]


def run(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(lichtstrom, arguments)
    assert done.exit_code == status, done.output
    return done.stdout


def test_the_commands_tell_lag_and_members_and_reset(session: Session, beamtime: str) -> None:
    source = publish(session, beamtime)
    done = json.loads(run("group", "reset", source, "--group", "g", "--to", "30", "--json"))
    assert done == {"stream": source, "group": "g", "frames": 10, "runs": []}
    (lag,) = json.loads(run("group", "lag", source, "--json"))
    assert (lag["group"], lag["frames"], lag["first"], lag["seconds"]) == ("g", 10, 30, 9.0)
    (listed,) = json.loads(run("group", "list", beamtime, "--json"))
    assert (listed["stream"], listed["group"], listed["members"]) == (source, "g", [])
    run("group", "reset", source, "--group", "g", "--to", "soon", status=1)


def test_each_newest_frame_goes_to_one_member_of_the_group(session: Session, beamtime: str) -> None:
    taken: list[list[int]] = [[], [], []]
    errors: list[BaseException] = []
    ready = threading.Barrier(len(taken) + 1)

    def follow(mine: list[int]) -> None:
        try:
            with connect() as own:
                frames = own.stream(beamtime, "lambda", "s").newest("g", timeout_s=LIMIT_S)
                ready.wait(LIMIT_S)
                mine += [frame.number for frame in frames]
        except BaseException as error:
            errors.append(error)

    with session.publish(beamtime, "lambda", "s", frames_per_chunk=1) as out:
        threads = [threading.Thread(target=follow, args=(mine,)) for mine in taken]
        for thread in threads:
            thread.start()
        ready.wait(LIMIT_S)
        for n in range(FRAMES):
            out.write(np.full((3, 4), n, np.uint16), number=n)
            out.flush(timeout_s=LIMIT_S)
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert errors == []
    every = Counter(n for mine in taken for n in mine)
    assert set(every.values()) == {1}
    assert FRAMES - 1 in every
    assert all(mine == sorted(mine) for mine in taken)
    assert list(session.stream(beamtime, "lambda", "s").newest("g", timeout_s=1)) == []
    (last,) = session.stream(beamtime, "lambda", "s").newest("another", timeout_s=LIMIT_S)
    assert last.number == FRAMES - 1
