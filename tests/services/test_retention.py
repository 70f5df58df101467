"""One life for record and object on real servers: what goes, what stays, and who is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli.root import lichtstrom
from pipeline.errors import FrameExpiredError, InvalidArgumentError, StreamNotFoundError
from pipeline.local.processes import wait_until
from pipeline.publishing import sealing
from pipeline.publishing.trimming import bounds_of
from pipeline.records import Deleted
from pipeline.retention import policies
from pipeline.retention.applying import apply
from pipeline.retention.erasing import check_receipt
from pipeline.retention.plan import make_plan
from pipeline.session import Session, connect
from pipeline.sharing import buffer

FRAMES = 24
LIMIT_S = 60.0
#: Older than this is everything that is not on its way this very moment.
NOW_S = 0.001


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


def publish(session: Session, beamtime: str, name: str, *, count: int = FRAMES) -> None:
    with session.publish(beamtime, "lambda", name, frames_per_chunk=4) as out:
        for number in range(count):
            # Every other frame is an object of its own size, the others travel in records.
            shape = (200, 200) if number % 2 else (4, 4)
            out.write(np.full(shape, number, np.uint16), number=number)
            out.flush() if number % 8 == 0 else None


def lows(session: Session, beamtime: str) -> tuple[int, ...]:
    return bounds_of(session.services, beamtime, ["lambda"])["lambda"].low


def objects(session: Session, beamtime: str) -> list[str]:
    bucket = session.services.names.bucket(beamtime)
    return [blob.key for blob in session.services.store.list(f"{bucket}/")]


def run(*arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(lichtstrom, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout) if result.stdout else result.stderr


def test_records_leave_the_topic_and_all_readers_go_on_in_the_manifest(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, "s")
    policies.change(session.services, beamtime, records_age_s=NOW_S)
    before = objects(session, beamtime)
    follower = session.stream(beamtime, "lambda", "s").ordered(timeout_s=LIMIT_S)
    numbers = [next(follower).number for _ in range(3)]
    done = apply(session.services, beamtime, settle_s=0)
    info = session.stream(beamtime, "lambda", "s").info
    assert lows(session, beamtime) == info.end_offsets
    assert done.records == sum(info.end_offsets or ())
    assert objects(session, beamtime) == before
    account = session.stream(beamtime, "lambda", "s").verify()
    assert (account["complete"], account["received"]) == (True, FRAMES)
    assert session.stream(beamtime, "lambda", "s").frame(9).array[0, 0] == 9
    assert numbers + [frame.number for frame in follower] == list(range(FRAMES))


def test_nothing_is_trimmed_past_a_record_that_no_part_has(session: Session, beamtime: str) -> None:
    session.create_beamtime(beamtime, "lambda")
    with session.publish(beamtime, "lambda", "open", frames_per_chunk=4) as out:
        for number in range(FRAMES):
            out.write(np.full((4, 4), number, np.uint16), number=number)
        out.flush()
        publish(session, beamtime, "sealed")
        policies.change(session.services, beamtime, records_age_s=NOW_S)
        starts = session.stream(beamtime, "lambda", "open").start.offsets
        assert apply(session.services, beamtime, settle_s=0).records == 0
        assert lows(session, beamtime) == starts
        plan = make_plan(session.services, beamtime, settle_s=0)
        assert plan.trims[0].blocked == (f"{beamtime}/lambda/open",)
    apply(session.services, beamtime, settle_s=0)
    assert session.stream(beamtime, "lambda", "open").verify()["complete"]
    assert session.stream(beamtime, "lambda", "sealed").verify()["complete"]


def test_a_stream_goes_whole_and_leaves_account_and_reason(session: Session, beamtime: str) -> None:
    publish(session, beamtime, "old")
    publish(session, beamtime, "kept")
    version = policies.change(session.services, beamtime, age_s=NOW_S, hold=["lambda/k*"]).nonce
    (preview,) = run("retention", "apply", beamtime, "--dry-run", "--settle", "0s")
    assert (preview["streams"], preview["frames"]) == (1, FRAMES)
    assert preview["going_nbytes"] > 0
    assert preview["oldest_ns"] > 0
    assert len(session.streams(f"{beamtime}/*/*")) == 2
    (done,) = run("retention", "apply", beamtime, "--settle", "0s")
    assert done["streams"] == [f"{beamtime}/lambda/old"]
    (gone,) = run("retention", "show", beamtime)["gone"]
    assert (gone["policy"], gone["frames"]) == (version, FRAMES)
    assert gone["account"]["complete"]
    with pytest.raises(StreamNotFoundError, match=f"by policy {version} .ended"):
        session.stream(beamtime, "lambda", "old")
    assert session.stream(beamtime, "lambda", "kept").verify()["complete"]
    assert run("retention", "gc", beamtime, "--grace", "0s")["orphans"] == []


def test_above_its_size_the_streams_that_ended_first_go_but_what_is_held_stays(
    session: Session, beamtime: str
) -> None:
    for name in "abc":
        publish(session, beamtime, name)
    total = make_plan(session.services, beamtime, settle_s=0).nbytes
    policies.change(session.services, beamtime, nbytes=total - 1)
    assert apply(session.services, beamtime, settle_s=0).streams == [f"{beamtime}/lambda/a"]
    policies.change(session.services, beamtime, nbytes=1, hold=["lambda/b"])
    assert apply(session.services, beamtime, settle_s=0).streams == [f"{beamtime}/lambda/c"]
    with pytest.raises(InvalidArgumentError, match="--release"):
        session.delete(beamtime, "lambda", "b", force=True)
    policies.change(session.services, beamtime, release=["lambda/b"])
    session.delete(beamtime, "lambda", "b")


def test_the_archive_is_another_store_and_has_every_frame_before_the_first_object_goes(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime, "s")
    policies.change(session.services, beamtime, age_s=NOW_S, archive=session.services.store.url)
    assert "is the store itself" in str(apply(session.services, beamtime, settle_s=0).failed)
    with connect("s3") as other:  # another way to the same place
        assert "is the store itself" in str(apply(other.services, beamtime, settle_s=0).failed)
    archive = (tmp_path / "archive").as_uri()
    (tmp_path / "archive").mkdir()
    policies.change(session.services, beamtime, age_s=NOW_S, archive=archive)
    damaged = next(key for key in objects(session, beamtime) if "/000000/" in key)
    path = Path(session.services.store.url.removeprefix("file://")) / damaged
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    done = apply(session.services, beamtime, settle_s=0)
    assert "was changed or damaged" in done.failed[f"{beamtime}/lambda/s"]
    assert damaged in objects(session, beamtime)
    path.write_bytes(good)
    assert apply(session.services, beamtime, settle_s=0).archived == 1
    assert objects(session, beamtime) == []
    with pytest.raises(StreamNotFoundError, match=archive):
        session.stream(beamtime, "lambda", "s")
    with connect(archive) as copies:
        assert copies.stream(beamtime, "lambda", "s").verify()["complete"]


def test_what_another_applier_marked_and_did_not_finish_is_finished(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, "s")
    policy = policies.change(session.services, beamtime, age_s=NOW_S)
    info = session.stream(beamtime, "lambda", "s").info
    assert info.seal is not None
    mark = Deleted(
        stream_key=info.start.stream_key, nonce="x", policy=policy.nonce, seal=info.seal.key
    )
    session.services.catalogue(beamtime).append(mark)  # ... and was killed
    assert objects(session, beamtime)
    apply(session.services, beamtime, settle_s=0)
    assert objects(session, beamtime) == []
    assert lows(session, beamtime) == info.end_offsets


def test_a_writer_goes_on_in_a_stream_whose_records_have_all_left_the_topic(
    session: Session, beamtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_LOOK_EVERY_S", 0.05)
    defaults = sealing.ManifestWriter.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "part_age_s", 0.05)
    out = session.publish(beamtime, "lambda", "s", frames_per_chunk=4, instance="t")
    for number in range(FRAMES):
        out.write(np.full((4, 4), number, np.uint16), number=number)
    out.flush()
    policies.change(session.services, beamtime, records_age_s=NOW_S)
    stream = session.stream(beamtime, "lambda", "s")
    assert wait_until(
        lambda: sum(ref.frames for ref in stream.info.parts) == FRAMES, timeout_s=LIMIT_S
    )
    out.abandon()
    apply(session.services, beamtime, settle_s=0)
    with session.publish(beamtime, "lambda", "s", instance="t") as out:
        assert out.write(np.full((4, 4), 0, np.uint16)) is None
    account = session.stream(beamtime, "lambda", "s").verify()
    assert account["complete"], account
    assert (account["received"], account["duplicate"]) == (FRAMES + 1, [])


def test_a_stream_that_lost_records_before_any_part_can_be_ended_and_says_so(
    session: Session, beamtime: str
) -> None:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        for number in range(FRAMES):
            out.write(np.full((4, 4), number, np.uint16), number=number)
            out.flush()
        stream = session.stream(beamtime, "lambda", "s")
        starts = stream.start.offsets
        topic = session.services.names.topic(beamtime, "lambda")
        found = stream.log.find(2, timeout_s=LIMIT_S).records  # behind frames 0 and 1
        session.services.admin.delete_records(topic, {0: found[0].offset})
        with pytest.raises(FrameExpiredError):
            next(stream.ordered())
    account = session.stream(beamtime, "lambda", "s").verify()
    assert account["state"] == "complete"
    assert not account["complete"]
    assert account["received"] == FRAMES - 2
    (note,) = account["quarantined"]
    assert note["source"] == f"{topic} partition 0 offsets {starts[0]} to {found[0].offset - 1}"
    numbers = [frame.number for frame in session.stream(beamtime, "lambda", "s").ordered()]
    assert numbers == list(range(2, FRAMES))


def test_a_group_gets_from_the_manifest_what_left_the_topic(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, "s")
    with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=LIMIT_S) as frames:
        first = next(frames)
        assert first.frame.array[0, 0] == first.frame.number
        first.ack()
    policies.change(session.services, beamtime, records_age_s=NOW_S)
    apply(session.services, beamtime, settle_s=0)
    stream = session.stream(beamtime, "lambda", "s")
    assert stream.group("g").lag().frames == FRAMES - 1
    found = {first.frame.number}
    for delivery in stream.shared("g", timeout_s=LIMIT_S):
        assert delivery.frame.array[0, 0] == delivery.frame.number
        found.add(delivery.frame.number)
        delivery.ack()
    assert found == set(range(FRAMES))
    assert stream.group("g").lag().frames == 0
    stream.reset("g", 20)
    again = [delivery.frame.number for delivery in _acked(stream.shared("g", timeout_s=LIMIT_S))]
    assert sorted(again) == [20, 21, 22, 23]


def test_a_member_that_is_overtaken_by_the_trimming_goes_on_in_the_manifest(
    session: Session, beamtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "_MAX_FRAMES", 20)  # it reads no further than this
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=64, linger_s=0.0) as out:
        for number in range(400):
            out.write(np.full((4, 4), number, np.uint16), number=number)
            out.flush() if number % 4 == 0 else None
    policies.change(session.services, beamtime, records_age_s=NOW_S)
    with session.stream(beamtime, "lambda", "s").shared("g", timeout_s=LIMIT_S) as frames:
        first = next(frames)
        share = frames.share
        assert wait_until(lambda: share._paused, timeout_s=LIMIT_S)
        apply(session.services, beamtime, settle_s=0)
        first.ack()
        found = [first.frame.number]
        found += [delivery.frame.number for delivery in _acked(frames)]
    assert sorted(found) == list(range(400))


def _acked(frames: Any) -> Iterator[Any]:
    for delivery in frames:
        yield delivery
        delivery.ack()


def test_ordered_readers_of_a_pattern_pass_over_a_stream_that_goes_while_they_read(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, "a")
    publish(session, beamtime, "b")
    with session.follow_ordered("g", f"{beamtime}/lambda/*", timeout_s=LIMIT_S) as frames:
        seen = [next(frames)]
        seen[0].ack()
        session.delete(beamtime, "lambda", "a")
        publish(session, beamtime, "c")
        while {d.frame.number for d in seen if d.frame.stream.stream == "c"} < set(range(FRAMES)):
            seen.append(next(frames))
            seen[-1].ack()


def test_an_erase_leaves_a_receipt_that_tells_if_it_was_changed(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime, "s")
    stored = objects(session, beamtime)
    name, receipt = f"{beamtime}/lambda/s", tmp_path / "receipt.json"
    (done,) = run("delete", name, "--yes", "--receipt", str(receipt))
    assert (done["blobs"], done["records_left"]) == (len(stored), 0)
    body = json.loads(receipt.read_text())
    assert check_receipt(body)
    assert {entry["key"] for entry in body["objects"]} == set(stored)
    assert body["account"]["received"] == FRAMES
    assert not check_receipt({**body, "nbytes": 0})
    (gone,) = run("retention", "show", beamtime)["gone"]
    assert gone["receipt"] == body["sha256"]
    assert objects(session, beamtime) == []


def test_an_erase_that_was_killed_is_finished_by_the_same_command(
    session: Session, beamtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(session, beamtime, "s")
    name, receipt = f"{beamtime}/lambda/s", tmp_path / "receipt.json"
    from pipeline.publishing import deleting

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deleting, "remove_blobs", killed)
        CliRunner().invoke(lichtstrom, ["delete", name, "--yes", "--receipt", str(receipt)])
    assert not receipt.exists()
    assert objects(session, beamtime)
    run("delete", name, "--yes", "--receipt", str(receipt))
    assert check_receipt(json.loads(receipt.read_text()))
    assert objects(session, beamtime) == []


def test_two_who_change_the_policy_at_once_lose_nothing(session: Session, beamtime: str) -> None:
    session.create_beamtime(beamtime, "lambda")
    with connect() as other:
        threads = [
            threading.Thread(
                target=policies.change, args=(s.services, beamtime), kwargs={"hold": [f"d/{i}"]}
            )
            for i, s in enumerate([session, other] * 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    policy = policies.current(session.services, beamtime)
    assert policy is not None
    assert set(policy.hold) == {f"d/{i}" for i in range(8)}


def test_the_collector_finds_orphans_both_ways_and_leaves_copies_and_writers_alone(
    session: Session, beamtime: str
) -> None:
    publish(session, beamtime, "s")
    info = session.stream(beamtime, "lambda", "s").info
    store, prefix = session.services.store, session.services.prefix(info)
    with session.publish(beamtime, "lambda", "open", frames_per_chunk=4) as out:
        out.write(np.zeros((200, 200), np.uint16), number=0)
        out.flush()
        live = session.services.prefix(session.stream(beamtime, "lambda", "open").info)
        store.put(f"{live}0001.x/000000/lost.bin", [b"on its way"], durability="process")
        store.put(f"{prefix}0001.x/000000/lost.bin", [b"lost"], durability="process")
        unknown = prefix.replace(info.start.stream_key.hex(), "feedfeedfeedfeed")
        store.put(f"{unknown}0001.x/a.bin", [b"never started"], durability="process")
        copied = prefix.replace(info.start.stream_key.hex(), "c0c0c0c0c0c0c0c0")
        store.put(f"{copied}manifest/seal-00000001-x.avro", [b"?"], durability="process")
        taken = next(k for k in objects(session, beamtime) if k.startswith(prefix) and "/00-" in k)
        store.delete([taken])
        assert run("retention", "gc", beamtime, "--dry-run", status=1)["orphans"] == []  # young
        found = run("retention", "gc", beamtime, "--grace", "0s", status=1)
    assert {(o["kind"], o["key"]) for o in found["orphans"]} == {
        ("blob", f"{prefix}0001.x/000000/lost.bin"),
        ("stream", f"{unknown}0001.x/a.bin"),
    }
    assert [(d["key"], d["frames"] > 0) for d in found["dangling"]] == [(taken, True)]
    assert found["open"] == [f"{beamtime}/lambda/open"]
    left = objects(session, beamtime)
    assert f"{live}0001.x/000000/lost.bin" in left
    assert f"{copied}manifest/seal-00000001-x.avro" in left
