"""Worker processes on the real broker: results, lineage, failures, crashes, stopping."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import worker_functions
from test_shared import LIMIT_S, _dead_letters

from pipeline.errors import PipelineError, PluginError, StreamNotFoundError
from pipeline.local.processes import wait_until
from pipeline.session import Session, connect
from pipeline.worker import WorkerReport, run_worker

FRAMES = 60


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


@pytest.fixture
def source(session: Session, beamtime: str) -> str:
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=4) as out:
        for number in range(FRAMES):
            out.write(np.full((3, 4), number, np.uint16), number=number, timestamp_ns=1000 + number)
    return f"{beamtime}/lambda/s"


def work(function, source: str, **options) -> WorkerReport:
    return run_worker(function, source, group="g", timeout_s=LIMIT_S, **options)


def test_results_are_a_derived_stream_with_the_sources_numbers_and_lineage(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.mean, source, out="means", processes=2)
    assert (report.frames, report.results, report.finished) == (FRAMES, FRAMES, True)
    assert len(report.processes) == 2
    derived = session.stream(beamtime, "means", "s")
    frames = list(derived.ordered(timeout_s=LIMIT_S))
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert [frame.attributes["mean"] for frame in frames] == list(range(FRAMES))
    assert [frame.timestamp_ns for frame in frames] == [1000 + n for n in range(FRAMES)]
    assert all(frame.encoding == "none" for frame in frames)
    lineage = derived.settings["lineage"]
    original = session.stream(beamtime, "lambda", "s")
    assert lineage["source"] == source
    assert lineage["source_id"] == original.start.stream_key.hex()
    assert lineage["group"] == "g"
    assert lineage["code"].startswith("worker_functions:mean sha256:")
    account = derived.account()
    assert (account["state"], account["received"]) == ("complete", FRAMES)
    assert account["complete"]


def test_frames_without_result_are_skipped_in_the_account(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.odd_only, source, out="odd")
    assert (report.results, report.skipped) == (FRAMES // 2, FRAMES // 2)
    account = session.stream(beamtime, "odd", "s").account()
    assert account["received"] == FRAMES // 2
    assert account["skipped"] == [[n, n] for n in range(0, FRAMES, 2)]
    assert account["missing"] == []
    assert account["complete"]


def test_arrays_and_attributes_come_back(session: Session, beamtime: str, source: str) -> None:
    work(worker_functions.both, source, out="doubled")
    frame = session.stream(beamtime, "doubled", "s").frame(21)
    assert (frame.array == 42).all()
    assert frame.attributes["doubled"]


def test_a_frame_that_always_fails_is_rejected_with_its_traceback(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.fails_on_five, source, out="fine", max_attempts=2)
    assert (report.rejected, report.retried, report.results) == (1, 1, FRAMES - 1)
    (letter,) = _dead_letters(session, beamtime)
    assert (letter.number, letter.attempt) == (5, 2)
    assert letter.reason == "ValueError: five is not to be had"
    assert "fails_on_five" in letter.trace
    account = session.stream(beamtime, "fine", "s").account()
    assert account["rejected"] == [[5, 5]]
    assert not account["complete"]


def test_what_is_no_result_is_rejected_too(session: Session, beamtime: str, source: str) -> None:
    report = work(worker_functions.nonsense, source, out="none", max_attempts=1)
    assert report.rejected == FRAMES
    assert "return None, a dict" in _dead_letters(session, beamtime)[0].reason


@pytest.mark.slow
def test_a_frame_that_kills_its_process_is_given_up_and_the_others_are_done(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.kills_its_process_on_three, source, out="fine", max_attempts=1)
    assert report.crashes in (1, 2)  # the second tells which frame of several in hand it is
    assert report.rejected == 1
    account = session.stream(beamtime, "fine", "s").account()
    assert account["rejected"] == [[3, 3]]
    assert account["received"] == FRAMES - 1
    assert account["conflict"] == []


@pytest.mark.slow
def test_of_frames_in_several_threads_only_the_one_that_kills_is_given_up(
    session: Session, beamtime: str, source: str
) -> None:
    function = worker_functions.kills_its_process_on_three
    report = work(function, source, out="fine", max_attempts=1, threads=3)
    assert (report.rejected, report.results) == (1, FRAMES - 1)
    assert session.stream(beamtime, "fine", "s").account()["rejected"] == [[3, 3]]


def test_a_process_that_dies_is_noticed_though_one_that_it_started_lives(
    session: Session,
    beamtime: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    function = worker_functions.leaves_a_process_behind_on_three
    report = work(function, source, out="fine", max_attempts=1)
    for left in (tmp_path / "left").read_text().split():
        os.kill(int(left), signal.SIGKILL)  # raises if it had ended before the work was done
    assert (report.rejected, report.results) == (1, FRAMES - 1)


def test_a_stopped_worker_finishes_the_frame_in_hand_and_another_goes_on(
    session: Session,
    beamtime: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    stop = threading.Event()
    first: list[WorkerReport] = []
    thread = threading.Thread(
        target=lambda: first.append(work(worker_functions.slow, source, out="slow", stop=stop))
    )
    thread.start()
    assert wait_until(lambda: len(list(tmp_path.iterdir())) >= 3, timeout_s=LIMIT_S)
    stop.set()
    thread.join(LIMIT_S)
    assert not first[0].finished
    assert session.stream(beamtime, "slow", "s").state == "open"
    second = work(worker_functions.slow, source, out="slow")
    assert first[0].frames + second.frames == FRAMES
    account = session.stream(beamtime, "slow", "s").account()
    assert account["complete"]
    assert account["redelivered"] == 0


def test_a_finished_group_has_nothing_left_to_do(source: str) -> None:
    assert work(worker_functions.mean, source, out="means").frames == FRAMES
    assert work(worker_functions.mean, source, out="means").frames == 0


def test_an_output_made_by_another_group_is_refused(source: str) -> None:
    work(worker_functions.odd_only, source, out="means")
    with pytest.raises(PipelineError, match="ended"):
        run_worker(worker_functions.mean, source, group="other", out="means", timeout_s=LIMIT_S)


def test_a_derived_stream_can_be_read_in_order_while_it_is_made(
    session: Session, beamtime: str
) -> None:
    out = session.publish(beamtime, "lambda", "s", frames_per_chunk=4)
    for number in range(FRAMES):
        if number != 30:  # a hole in the source
            out.write(np.full((3, 4), number, np.uint16), number=number)
    out.flush()
    stop = threading.Event()
    worker = threading.Thread(
        target=lambda: work(
            worker_functions.odd_only, f"{beamtime}/lambda/s", out="odd", processes=2, stop=stop
        )
    )
    worker.start()
    try:

        def begun() -> bool:
            return any(s.name.detector == "odd" for s in session.streams(f"{beamtime}/*/*"))

        assert wait_until(begun, timeout_s=LIMIT_S)
        derived = session.stream(beamtime, "odd", "s")
        frames = iter(derived.ordered(timeout_s=LIMIT_S))
        # Neither stream has ended: the group's progress alone tells that nothing comes between.
        assert [next(frames).number for _ in range(25)] == list(range(1, 51, 2))
        assert derived.state == "open"
        out.end()
        assert [frame.number for frame in frames] == list(range(51, FRAMES, 2))
    finally:
        stop.set()
        worker.join(LIMIT_S)


def test_stages_chain(session: Session, beamtime: str, source: str) -> None:
    work(worker_functions.both, source, out="doubled")
    work(worker_functions.mean, f"{beamtime}/doubled/s", out="means")
    frames = session.stream(beamtime, "means", "s").ordered(timeout_s=LIMIT_S)
    assert [frame.attributes["mean"] for frame in frames] == [2.0 * n for n in range(FRAMES)]


def test_a_class_is_made_and_closed_once_in_each_process(
    session: Session, beamtime: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    work(worker_functions.Noting, source, out="noted", processes=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["process-0.closed", "process-1.closed"]
    assert session.stream(beamtime, "noted", "s").frame(7).attributes["beamtime"] == beamtime


def test_a_function_that_cannot_be_made_is_an_error_of_the_plugin(source: str) -> None:
    with pytest.raises(PluginError, match="FileNotFoundError: no model here"):
        work(worker_functions.Unmakable, source)


def test_threads_of_one_process_work_at_the_same_time(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.in_threads, source, out="threads", threads=2)
    assert report.results == FRAMES
    frames = session.stream(beamtime, "threads", "s").ordered(timeout_s=LIMIT_S)
    assert all(frame.attributes["both"] for frame in frames)


def test_several_results_go_to_as_many_derived_streams(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.two_things, source, out=["means", "doubled"])
    assert (report.frames, report.results) == (FRAMES, FRAMES)
    means = session.stream(beamtime, "means", "s")
    doubled = session.stream(beamtime, "doubled", "s")
    assert means.account()["received"] == FRAMES
    assert [f.number for f in doubled.ordered(timeout_s=LIMIT_S)] == list(range(1, FRAMES, 2))
    assert (doubled.frame(5).array == 10).all()
    assert doubled.account()["complete"]


def test_what_a_worker_does_not_select_is_skipped_in_its_results(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.mean, source, out="high", where="number >= 50")
    assert (report.frames, report.results) == (FRAMES - 50, FRAMES - 50)
    account = session.stream(beamtime, "high", "s").account()
    assert account["skipped"] == [[0, 49]]
    assert account["complete"]


def test_chunks_come_in_order_and_the_last_one_is_shorter(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.chunk_mean, source, out="means", chunk=25, processes=2)
    assert (report.frames, report.results, report.skipped) == (FRAMES, 3, FRAMES - 3)
    means = session.stream(beamtime, "means", "s")
    found = [dict(frame.attributes) for frame in means.ordered(timeout_s=LIMIT_S)]
    assert [(f["first"], f["last"], f["of"]) for f in found] == [
        (0, 24, 25),
        (25, 49, 25),
        (50, 59, 10),
    ]
    assert means.account()["complete"]
    assert work(worker_functions.chunk_mean, source, out="means", chunk=25).frames == 0


def test_each_frame_of_a_chunk_may_have_a_result_and_a_stopped_worker_goes_on_between_chunks(
    session: Session, beamtime: str, source: str
) -> None:
    stop = threading.Event()
    first = work(
        worker_functions.each_of_chunk,
        source,
        out="each",
        chunk=7,
        stop=stop,
        progress=lambda report: stop.set() if report.results else None,
    )
    second = work(worker_functions.each_of_chunk, source, out="each", chunk=7)
    assert first.frames % 7 == 0 or first.frames == FRAMES
    assert first.frames + second.frames == FRAMES
    each = session.stream(beamtime, "each", "s")
    assert [f.attributes["of"] for f in each.ordered(timeout_s=LIMIT_S)] == [7] * 56 + [4] * 4


def test_a_chunk_that_fails_is_tried_again_and_its_frames_are_given_up_one_by_one(
    session: Session, beamtime: str, source: str
) -> None:
    report = work(worker_functions.nonsense, source, out="none", chunk=30, max_attempts=2)
    assert (report.rejected, report.retried) == (FRAMES, FRAMES)
    assert sorted(letter.number for letter in _dead_letters(session, beamtime)) == list(
        range(FRAMES)
    )


def test_a_new_group_begins_at_a_number_and_an_old_one_where_it_is(
    session: Session, beamtime: str, source: str
) -> None:
    assert work(worker_functions.mean, source, out="late", start=41).frames == FRAMES - 41
    assert work(worker_functions.mean, source, out="late", start=3).frames == 0
    assert session.stream(beamtime, "late", "s").account()["received"] == FRAMES - 41


def test_a_frame_that_takes_too_long_is_tried_again_and_its_process_replaced(
    session: Session, beamtime: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_TEST_DIR", str(tmp_path))
    report = work(worker_functions.hangs_on_three, source, out="fine", frame_limit_s=0.05)
    assert report.crashes
    assert session.stream(beamtime, "fine", "s").account()["complete"]


def test_streams_of_a_pattern_are_worked_on_as_they_begin_but_not_the_results(
    session: Session, beamtime: str, source: str
) -> None:
    stop = threading.Event()
    reports: list[WorkerReport] = []
    thread = threading.Thread(
        target=lambda: reports.append(
            work(worker_functions.mean, f"{beamtime}/*/*", out="means", stop=stop)
        )
    )
    thread.start()
    try:
        assert wait_until(lambda: _state(session, beamtime, "s") == "complete", timeout_s=LIMIT_S)
        with session.publish(beamtime, "lambda", "later") as out:
            out.write(np.ones((3, 4), np.uint16))
        assert wait_until(
            lambda: _state(session, beamtime, "later") == "complete", timeout_s=LIMIT_S
        )
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert sorted(reports[0].streams) == [f"{beamtime}/lambda/later", source]
    assert reports[0].results == FRAMES + 1


def _state(session: Session, beamtime: str, stream: str) -> str | None:
    found = session.streams(f"{beamtime}/means/{stream}")
    return found[0].state if found else None


def test_a_worker_may_start_before_its_stream_and_ends_when_idle(
    session: Session, beamtime: str
) -> None:
    thread = threading.Timer(0.5, lambda: _one_open(session, beamtime))
    thread.start()
    report = run_worker(
        worker_functions.mean, f"{beamtime}/lambda/new", group="g", wait_s=LIMIT_S, idle_exit_s=3.0
    )
    thread.join()
    assert (report.frames, report.finished) == (1, False)


def _one_open(session: Session, beamtime: str) -> None:
    out = session.publish(beamtime, "lambda", "new")
    out.write(np.ones((3, 4), np.uint16))
    out.flush()


def test_a_stream_that_does_not_come_is_an_error(session: Session, beamtime: str) -> None:
    with pytest.raises(StreamNotFoundError):
        run_worker(worker_functions.mean, f"{beamtime}/lambda/none", group="g", wait_s=0.2)


def test_the_shipped_function_counts_spots(session: Session, beamtime: str) -> None:
    image = np.random.default_rng(1).poisson(2.0, (100, 120)).astype(np.int32)
    image[40:50] = -1
    image[20, 30] = image[70, 80] = image[71, 81] = image[90, 5] = 400
    with session.publish(beamtime, "lambda", "s", frames_per_chunk=1) as out:
        out.write(image)
    work("pipeline.spots:count", f"{beamtime}/lambda/s", out="spots")
    frame = session.stream(beamtime, "spots", "s").frame(0)
    assert frame.attributes["spots"] == 3
