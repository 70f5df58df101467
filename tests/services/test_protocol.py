"""The protocol of writers on the real broker: claims, resuming, ending, and death at every step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from pipeline.errors import (
    InvalidFrameError,
    PipelineError,
    StreamExistsError,
    StreamNotFoundError,
    WriterActiveError,
    WriterSupersededError,
)
from pipeline.naming import new_nonce
from pipeline.publishing import claims
from pipeline.records import Claim, End
from pipeline.session import Session, connect
from pipeline.wire.catalogue import Catalogue, key_of

HERE = Path(__file__).parent
FRAMES = 7


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


def image(number: int) -> np.ndarray:
    return np.full((200, 200), number, dtype=np.uint16)


def run_writer(beamtime: str, stream: str, step: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "dying_writer.py"), beamtime, stream, str(step), str(FRAMES)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_whole(session: Session, beamtime: str, stream: str) -> None:
    found = session.stream(beamtime, "detector", stream)
    account = found.verify()
    assert account["complete"], account
    assert account["received"] == FRAMES
    assert [int(f.array[0, 0]) for f in found.ordered(timeout_s=10)] == list(range(FRAMES))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_writer_may_die_at_every_step_and_the_next_one_goes_on(
    session: Session, beamtime: str
) -> None:
    whole = run_writer(beamtime, "undisturbed", 0)
    assert whole.returncode == 0, whole.stderr
    contacts = int(whole.stdout)
    # Every step of starting and ending, every third of publishing in between.
    steps = [k for k in range(1, contacts) if k < 40 or k > contacts - 40 or k % 3 == 0]
    stride = max(1, len(steps) // int(os.environ.get("LICHTSTROM_TEST_DEATHS", "24")))

    def die_and_go_on(step: int) -> str:
        stream = f"step {step}"
        died = run_writer(beamtime, stream, step)
        assert died.returncode in (0, 9), died.stderr
        went_on = run_writer(beamtime, stream, 0)
        if went_on.returncode != 0:  # it had ended just before it died
            assert "has ended" in went_on.stderr, went_on.stderr
        return stream

    with ThreadPoolExecutor(2) as pool:
        streams = list(pool.map(die_and_go_on, steps[::stride]))
    assert len(streams) >= 10
    for stream in streams:
        assert_whole(session, beamtime, stream)


def test_a_stopped_writer_whose_stream_was_ended_meanwhile_is_told_and_harms_nothing(
    session: Session, beamtime: str
) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pipeline.session import connect\n"
        "s = connect('file')\n"
        "out = s.publish(sys.argv[1], 'detector', 's', frames_per_chunk=2)\n"
        "out.write(np.zeros((200, 200), 'u2')); out.flush(); print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "out.write(np.ones((200, 200), 'u2'), token='second')\n"
        "try:\n"
        "    out.flush(20)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, out.take_confirmed(), flush=True)\n"
        "out.abandon(); s.close()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, beamtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        os.kill(child.pid, signal.SIGSTOP)
        with session.publish(beamtime, "detector", "s", takeover=True) as out:
            out.write(image(2), number=2)
        os.kill(child.pid, signal.SIGCONT)
        answer, _ = child.communicate("\n", timeout=60)
    finally:
        child.kill()
        child.wait(10)
    # Its record was acknowledged by the broker, but it is not success, and not in the account.
    assert answer == "WriterSupersededError []\n"
    account = session.stream(beamtime, "detector", "s").account()
    assert account["received"] == 2
    assert account["missing"] == [[1, 1]]
    assert account["late"] == account["conflict"] == []


def test_two_claims_of_one_epoch_give_one_winner_before_and_after_compaction(
    session: Session, beamtime: str
) -> None:
    out = session.publish(beamtime, "detector", "s", frames_per_chunk=1)
    info = out.info
    assert info is not None
    topic = session.services.catalogue(beamtime)
    rivals = [
        Claim(
            stream_key=info.start.stream_key,
            module=0,
            epoch=2,
            nonce=new_nonce(),
            holder=f"rival {i}",
        )
        for i in range(2)
    ]
    for rival in rivals:
        topic.append(rival)
    end = End(
        stream_key=info.start.stream_key,
        module=0,
        epoch=2,
        nonce=rivals[1].nonce,
        state="complete",
        offsets=info.start.offsets,
    )
    topic.append(end)  # from the loser: counts for nothing
    state = topic.look().by_key(info.start.stream_key)
    assert state is not None
    assert state.modules[0].claim == rivals[0]
    assert state.state == "open"
    # Compaction drops what the winner of epoch 3 tombstones, and nothing else.
    out.abandon()
    with session.publish(beamtime, "detector", "s", takeover=True) as newer:
        newer.write(image(0))
        held = newer.info
        assert held is not None
    compacted = Catalogue()
    compacted.apply(info.start, 0)
    kept = [record for record in (*rivals, end) if key_of(record) not in _tombstones(topic)]
    for position, record in enumerate(kept, 1):
        compacted.apply(record, position)
    again = compacted.by_key(info.start.stream_key)
    assert again is not None
    assert again.state == "open"
    assert_state_complete(session, beamtime)


def _tombstones(topic: object) -> set[bytes]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": topic._settings.bootstrap,  # type: ignore[attr-defined]
            "group.id": "test",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic.topic, 0, 0)])  # type: ignore[attr-defined]
    keys = set()
    try:
        while (message := consumer.poll(10)) is not None and message.error() is None:
            if message.value() is None:
                keys.add(message.key())
    finally:
        consumer.close()
    assert keys
    return keys


def assert_state_complete(session: Session, beamtime: str) -> None:
    account = session.stream(beamtime, "detector", "s").account()
    assert account["complete"]


def test_of_fifty_simultaneous_pairs_of_writers_one_each_goes_on(
    session: Session, beamtime: str
) -> None:
    session.create_beamtime(beamtime, "detector")
    barrier = Barrier(2)

    def start(index: int) -> tuple[int, PipelineError | None]:
        barrier.wait(30)
        try:
            out = session.publish(beamtime, "detector", f"s{index}", frames_per_chunk=4)
        except (WriterActiveError, StreamExistsError) as error:
            return 0, error
        out.write(image(index))
        out.end()
        return 1, None

    with ThreadPoolExecutor(2) as pool:
        for index in range(50):
            (first, error_1), (second, error_2) = pool.map(start, [index, index])
            # The slower one may also find the stream already ended by the faster.
            assert first + second == 1, (error_1, error_2)
    for summary in session.streams(f"{beamtime}/*/*"):
        assert summary.state == "complete"
    for index in range(50):
        account = session.stream(beamtime, "detector", f"s{index}").account()
        assert account["received"] == 1
        assert account["complete"]


def test_a_second_writer_by_mistake_is_refused_and_the_first_goes_on(
    session: Session, beamtime: str
) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(0))
        with pytest.raises(WriterActiveError, match="takeover"):
            session.publish(beamtime, "detector", "s")
        out.write(image(1))
    assert session.stream(beamtime, "detector", "s").account()["received"] == 2


def test_taking_over_stops_the_older_writer_with_a_clear_error(
    session: Session, beamtime: str
) -> None:
    old = session.publish(beamtime, "detector", "s", rate_hz=100)
    old.write(image(0), token="zero")
    old.flush()
    new = session.publish(beamtime, "detector", "s", takeover=True)
    with pytest.raises(WriterSupersededError, match="taken over"):
        old.write(image(1), token="one")
        old.flush(10)
    assert old.take_confirmed() == ["zero"]
    new.write(image(1), number=1)
    new.end()
    account = session.stream(beamtime, "detector", "s").account()
    assert account["received"] == 2


def test_a_name_is_used_once_unless_reopened(session: Session, beamtime: str) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(0))
    with pytest.raises(StreamExistsError, match="reopen"):
        session.publish(beamtime, "detector", "s")
    with session.publish(beamtime, "detector", "s", reopen=True) as out:
        out.write(image(1))
    account = session.stream(beamtime, "detector", "s").account()
    assert account["received"] == 2
    assert account["complete"]


def test_a_deleted_name_begins_anew(session: Session, beamtime: str) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(0))
    old = session.stream(beamtime, "detector", "s").info.start.stream_key
    assert session.delete(beamtime, "detector", "s") > 0
    with pytest.raises(StreamNotFoundError):
        session.stream(beamtime, "detector", "s")
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(5))
    fresh = session.stream(beamtime, "detector", "s")
    assert fresh.info.start.stream_key != old
    assert [int(f.array[0, 0]) for f in fresh.ordered(timeout_s=10)] == [5]


def test_a_restarted_writer_knows_what_is_published(session: Session, beamtime: str) -> None:
    out = session.publish(beamtime, "detector", "s", rate_hz=100, instance="a@b")
    for number in range(5):
        out.write(image(number), number=number)
    out.close()
    again = session.publish(beamtime, "detector", "s", instance="a@b")
    again.write(image(9))  # goes on with the next number
    again.end()
    found = session.stream(beamtime, "detector", "s")
    assert [f.number for f in found.ordered(timeout_s=10)] == [0, 1, 2, 3, 4, 5]


def test_one_number_with_other_content_is_refused_with_its_field(
    session: Session, beamtime: str
) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(0), number=3)
        out.write(image(0), number=3)  # the same again is harmless
        with pytest.raises(InvalidFrameError) as caught:
            out.write(image(1), number=3)
        assert caught.value.field == "number"
    account = session.stream(beamtime, "detector", "s").account()
    assert (account["received"], account["conflict"]) == (1, [])


def test_frames_of_2011_survive_any_retention_by_time(session: Session, beamtime: str) -> None:
    old_ns = 1_312_464_442_593_000_000
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(0), timestamp_ns=old_ns)
    topic = session.services.names.topic(beamtime, "detector")
    admin = session.services.admin
    from confluent_kafka.admin import (
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    entry = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.result(admin.client.incremental_alter_configs([resource])[resource])
    log = session.services.log(session.stream(beamtime, "detector", "s").info)
    try:
        # The broker judges by LogAppendTime, not by the frame's own time.
        found = log.find(0, timeout_s=5).records
        assert abs(found[0].timestamp_ms / 1000 - time.time()) < 3600
    finally:
        log.close()
    assert session.stream(beamtime, "detector", "s").frame(0).timestamp_ns == old_ns


def test_an_abandoned_stream_can_be_ended_by_anybody_once_its_writer_is_silent(
    session: Session, beamtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = session.publish(beamtime, "detector", "s", rate_hz=100)
    out.write(image(0))
    out.flush()
    with pytest.raises(WriterActiveError):
        session.end(beamtime, "detector", "s")
    out.abandon()
    monkeypatch.setattr(claims, "ALIVE_S", 0.0)
    session.end(beamtime, "detector", "s", state="lost")
    account = session.stream(beamtime, "detector", "s").account()
    assert (account["state"], account["received"], account["complete"]) == ("lost", 1, False)


def test_reopening_is_not_a_way_around_a_living_writer(session: Session, beamtime: str) -> None:
    with session.publish(beamtime, "detector", "s", rate_hz=100) as out:
        out.write(image(0))
        with pytest.raises(WriterActiveError):
            session.publish(beamtime, "detector", "s", reopen=True)
