from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from ingest_fakes import FakeAdapter, FakeBroker, FakeSession, frame

from pipeline.errors import InvalidArgumentError, WriterActiveError, WriterSupersededError
from pipeline.ingest import IngestReport, run, waiting, writers
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd

RUN = {"adapter": "fake", "directory": "/d", "prefix": "s", "host": "h"}
BEGIN = SeriesBegin(series="s", name="scan", run=RUN, metadata={"energy_eV": 1.0})
END = SeriesEnd(series="s")


def ingest(broker: FakeBroker, *events: Any, lag: int = 0, **options: Any) -> IngestReport:
    session = FakeSession(broker, lag=lag)
    return run(session, FakeAdapter(events), beamtime="b", detector="d", **options)


def contents(broker: FakeBroker) -> dict[str, dict[int, bytes]]:
    return {name: stream.frames for name, stream in broker.streams.items()}


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_S", 0.0)
    monkeypatch.setattr(waiting, "ROOM_S", 0.0)
    monkeypatch.setattr(writers, "_END_TIMEOUT_S", 0.0)


def test_a_series_becomes_a_stream_with_its_run_facts_and_metadata(broker):
    report = ingest(broker, BEGIN, frame(3), frame(4), END, stream="S")
    stream = broker["S"]
    assert stream.frames == {3: b"x3", 4: b"x4"}
    assert stream.state == "complete"
    assert stream.metadata == {"energy_eV": 1.0}
    assert stream.run.items() >= {**RUN, "stream": "S", "durability": "process"}.items()
    assert (report.frames, report.nbytes, report.confirmed, report.not_flushed) == (2, 4, 2, 0)
    assert report.ended == ["b/d/S"]


def test_without_a_name_a_stream_is_called_after_series_and_run(broker):
    ingest(broker, BEGIN, frame(1), END)
    (name,) = broker.streams
    prefix, _, run_id = name.rpartition("_")
    assert prefix == "scan"
    assert broker[name].run["run_id"] == run_id
    assert len(run_id) == len("20261122T101530-ab12")


def test_a_stream_left_open_is_continued_and_nothing_comes_twice(broker):
    stop = threading.Event()
    ingest(broker, BEGIN, frame(1), frame(2), stop.set, frame(3), stop=stop)
    (name,) = broker.streams
    assert broker[name].state == "open"
    report = ingest(broker, BEGIN, frame(1), frame(2), frame(3), END)
    assert list(broker.streams) == [name]
    assert [row[0] for row in broker[name].records] == [1, 2, 3]
    assert (report.frames, report.skipped) == (1, 2)
    assert broker[name].state == "complete"


def test_kept_files_of_an_ended_stream_are_recognised(broker):
    ingest(broker, BEGIN, frame(1), frame(2), END, stream="S")
    report = ingest(broker, BEGIN, frame(1), frame(2), END, stream="S")
    assert contents(broker) == {"S": {1: b"x1", 2: b"x2"}}
    assert (report.frames, report.skipped, report.ended) == (0, 2, ["b/d/S"])


def test_a_name_used_again_with_other_content_opens_a_new_stream_and_says_so(broker, caplog):
    with caplog.at_level(logging.WARNING):
        ingest(broker, BEGIN, frame(1), frame(2), frame(1, "y"), frame(2, "y"), END, stream="S")
    assert contents(broker) == {"S": {1: b"x1", 2: b"x2"}, "S.2": {1: b"y1", 2: b"y2"}}
    assert {s.state for s in broker.streams.values()} == {"complete"}
    assert any("S.2" in message and "other content" in message for message in caplog.messages)


def test_after_a_restart_old_and_new_content_are_each_recognised(broker):
    ingest(broker, BEGIN, frame(1), frame(2), frame(3), frame(1, "y"), END, stream="S")
    # files 2 and 3 have not been written again
    report = ingest(broker, BEGIN, frame(1, "y"), frame(2), frame(3), END, stream="S")
    assert (report.frames, report.skipped) == (0, 3)
    assert contents(broker) == {"S": {1: b"x1", 2: b"x2", 3: b"x3"}, "S.2": {1: b"y1"}}


def test_equal_content_of_a_later_time_is_a_new_frame_where_it_is_missing(broker):
    again = [frame(1, "y", time_ns=7), frame(2, time_ns=8)]
    ingest(broker, BEGIN, frame(1), frame(2), *again, END, stream="S")
    assert contents(broker)["S.2"] == {1: b"y1", 2: b"x2"}
    report = ingest(broker, BEGIN, *again, END, stream="S")
    assert report.skipped == 2


def test_a_number_after_the_end_opens_a_new_stream(broker):
    ingest(broker, BEGIN, frame(1), END, stream="S")
    ingest(broker, BEGIN, frame(1), frame(2), END, stream="S")
    assert contents(broker) == {"S": {1: b"x1"}, "S.2": {2: b"x2"}}


def test_a_second_prefix_opens_the_next_name(broker, caplog):
    other = SeriesBegin(series="t", name="other", run={**RUN, "prefix": "t"})
    with caplog.at_level(logging.WARNING):
        ingest(broker, BEGIN, frame(1), other, frame(1, "z", series="t"), END, stream="S")
    assert contents(broker) == {"S": {1: b"x1"}, "S.2": {1: b"z1"}}
    assert any("S.2" in message for message in caplog.messages)


def test_another_wanted_name_is_another_run(broker):
    ingest(broker, BEGIN, frame(1), END, stream="S")
    ingest(broker, BEGIN, frame(1), END, stream="T")
    assert contents(broker) == {"S": {1: b"x1"}, "T": {1: b"x1"}}


def test_a_name_of_somebody_else_is_not_touched(broker):
    foreign = SeriesBegin(series="s", run={**RUN, "directory": "/elsewhere"})
    ingest(broker, foreign, frame(1, "z"), stream="S")
    ingest(broker, BEGIN, frame(1), stream="S")
    assert contents(broker) == {"S": {1: b"z1"}, "S.2": {1: b"x1"}}


def test_an_adapter_without_run_facts_never_continues_a_stream(broker):
    ingest(broker, SeriesBegin(series="s"), frame(1), stream="S")
    ingest(broker, SeriesBegin(series="s"), frame(2), stream="S")
    assert contents(broker) == {"S": {1: b"x1"}, "S.2": {2: b"x2"}}


def test_frames_without_a_begin_are_published_too(broker):
    ingest(broker, frame(7))
    assert [stream.frames for stream in broker.ordered] == [{7: b"x7"}]


def test_when_the_source_is_over_its_streams_are_ended(broker):
    ingest(broker, BEGIN, frame(1), stream="S")
    assert broker["S"].state == "complete"


def test_it_returns_after_so_many_ended_streams(broker):
    events = [BEGIN, frame(1), END, BEGIN, frame(2), END]
    report = ingest(broker, *events, stream="S", streams=1)
    assert report.ended == ["b/d/S"]
    assert list(broker.streams) == ["S"]


def test_silence_ends_the_series_of_an_adapter_that_does_not_do_it(broker):
    report = ingest(broker, BEGIN, frame(1), None, None, frame(2), stream="S", idle_end_s=0.0)
    assert report.ended == ["b/d/S", "b/d/S.2"]


def test_silence_is_left_to_an_adapter_that_knows_it(broker):
    adapter = FakeAdapter([BEGIN, frame(1), None, frame(2)])
    adapter.idle_end_s = None
    run(FakeSession(broker), adapter, beamtime="b", detector="d", stream="S", idle_end_s=0.0)
    assert adapter.idle_end_s == 0.0
    assert list(broker.streams) == ["S"]


# -- what could not be read ---------------------------------------------------------------------


def note(source: str = "s_2.cbf", reason: str = "cut short") -> Quarantined:
    return Quarantined(series="s", source=source, reason=reason)


def test_what_cannot_be_read_is_in_the_account_and_no_frame(broker):
    report = ingest(broker, BEGIN, frame(1), note(), frame(3), END, stream="S")
    assert broker["S"].quarantined == [{"source": "s_2.cbf", "reason": "cut short"}]
    assert (sorted(broker["S"].frames), report.quarantined) == ([1, 3], 1)


def test_what_cannot_be_read_before_the_first_frame_waits_for_its_stream(broker):
    bare = SeriesBegin(series="s", name="scan", run=RUN)
    ingest(broker, bare, note("s_0.cbf"), BEGIN, frame(1), END, stream="S")
    assert broker["S"].quarantined == [{"source": "s_0.cbf", "reason": "cut short"}]
    assert broker["S"].metadata == {"energy_eV": 1.0}


def test_a_series_of_nothing_readable_gets_a_stream_with_the_reasons(broker):
    report = ingest(broker, BEGIN, note(), END, stream="S")
    assert broker["S"].quarantined
    assert broker["S"].state == "complete"
    assert report.ended == ["b/d/S"]


def test_a_restart_does_not_say_the_same_again(broker):
    ingest(broker, BEGIN, frame(1), note(), END, stream="S")
    report = ingest(broker, BEGIN, frame(1), note(), END, stream="S")
    assert len(broker["S"].quarantined) == 1
    assert report.quarantined == 0
    assert list(broker.streams) == ["S"]


def test_a_note_waits_for_a_broker_that_is_away(broker):
    def leave() -> Quarantined:
        broker.away = 1
        return note()

    ingest(broker, BEGIN, frame(1), leave, None, None, END, stream="S")
    assert len(broker["S"].quarantined) == 1


# -- letting go of sources ----------------------------------------------------------------------


def acknowledged(broker: FakeBroker, *events: Any, lag: int = 0, **options: Any) -> list[Any]:
    adapter = FakeAdapter(events, after=options.pop("after", "delete"))
    options.setdefault("durability", "disk")
    run(FakeSession(broker, lag=lag), adapter, beamtime="b", detector="d", stream="S", **options)
    return adapter.acknowledged


def test_only_confirmed_frames_are_let_go(broker):
    seen: list[Any] = []
    adapter = FakeAdapter([BEGIN, *(frame(i) for i in range(5)), None], after="delete")
    adapter._events.append(lambda: seen.extend(adapter.acknowledged))
    session = FakeSession(broker, lag=3)
    run(session, adapter, beamtime="b", detector="d", stream="S", durability="disk")
    assert seen == ["s0", "s1"]
    assert adapter.acknowledged == [f"s{i}" for i in range(5)]


def test_letting_go_needs_durability_disk(broker):
    with pytest.raises(InvalidArgumentError, match="durability"):
        acknowledged(broker, BEGIN, durability="process")
    assert not broker.streams


def test_what_an_earlier_run_has_put_on_disk_is_let_go(broker):
    acknowledged(broker, BEGIN, frame(1), END, after="keep")
    assert acknowledged(broker, BEGIN, frame(1), END) == ["s1"]


def test_what_an_earlier_run_has_not_put_on_disk_is_kept(broker, caplog):
    acknowledged(broker, BEGIN, frame(1), END, after="keep", durability="process")
    assert acknowledged(broker, BEGIN, frame(1), END) == []
    assert any("kept" in message for message in caplog.messages)


def test_a_file_written_again_with_equal_content_is_let_go_once_it_is_safe(broker):
    assert acknowledged(broker, BEGIN, frame(1), frame(1), END, lag=3) == ["s1", "s1"]
    assert len(broker["S"].records) == 1


# -- trouble ------------------------------------------------------------------------------------


def test_a_broker_away_at_the_start_is_waited_for(broker, caplog):
    broker.away = 3
    with caplog.at_level(logging.WARNING):
        ingest(broker, BEGIN, frame(1), END, stream="S")
    assert contents(broker) == {"S": {1: b"x1"}}
    assert any("does not answer" in message for message in caplog.messages)


def test_with_a_spool_nobody_waits_for_the_catalogue(broker):
    broker.away = 1
    adapter = FakeAdapter([BEGIN, lambda: setattr(broker, "away", 0), frame(1), END])
    session = FakeSession(broker)
    run(session, adapter, beamtime="b", detector="d", stream="S", spool="/spool")
    assert session.settings[0]["spool"] == "/spool"
    assert session.settings[0]["when_full"] == "refuse"
    assert broker.contacts < 8


def test_a_stop_while_waiting_for_the_broker_is_heard(broker):
    broker.away = 10**9
    stop = threading.Event()
    stop.set()
    report = ingest(broker, BEGIN, frame(1), END, stop=stop)
    assert report.frames == 0


def test_an_end_that_fails_is_tried_again(broker):
    def leave() -> SeriesEnd:
        broker.away = 1
        return END

    report = ingest(broker, BEGIN, frame(1), leave, None, None, stream="S")
    assert broker["S"].state == "complete"
    assert report.ended == ["b/d/S"]


def test_a_full_queue_is_waited_for(broker):
    session = FakeSession(broker, room=2, lag=5)
    adapter = FakeAdapter([BEGIN, *(frame(i) for i in range(20)), END])
    report = run(session, adapter, beamtime="b", detector="d", stream="S")
    assert report.confirmed == 20
    assert sorted(broker["S"].frames) == list(range(20))


def test_a_stop_leaves_the_stream_open_and_flushed(broker):
    stop = threading.Event()
    report = ingest(broker, BEGIN, frame(1), stop.set, stop=stop, lag=5, stream="S")
    assert broker["S"].state == "open"
    assert (report.confirmed, report.not_flushed, report.ended) == (1, 0, [])


def test_many_series_at_a_time_use_few_publishers(broker):
    begins = [SeriesBegin(series=f"s{i}", run={**RUN, "prefix": str(i)}) for i in range(40)]
    adapter = FakeAdapter(
        [
            *begins,
            *(frame(n, series=f"s{i}") for n in range(2) for i in range(40)),
            *(SeriesEnd(series=f"s{i}") for i in range(40)),
        ]
    )
    session = FakeSession(broker, lag=3)
    report = run(session, adapter, beamtime="b", detector="d", stream="S")
    assert len(report.ended) == 40
    assert all(s.frames == {0: b"x0", 1: b"x1"} for s in broker.streams.values())
    assert all(len(s.records) == 2 for s in broker.streams.values())


def test_a_live_writer_of_this_host_is_not_taken_over_silently(broker, monkeypatch):
    ingest(broker, BEGIN, frame(1), stream="S", streams=5, stop=_set())
    monkeypatch.setattr("pipeline.ingest.runs.os.kill", lambda pid, signal: None)
    stop = threading.Event()
    events = [BEGIN, frame(1), stop.set]
    ingest(broker, *events, stream="S", stop=stop)
    broker["S"].holder = broker["S"].holder.rpartition(":")[0] + ":1"  # somebody alive
    ingest(broker, BEGIN, frame(1), frame(2), stream="S")
    *_, last = broker["S"].instances
    assert last == ""


def test_errors_of_the_publisher_reach_the_caller(broker):
    session = FakeSession(broker)

    def refuse(*_: Any, **__: Any) -> Any:
        raise WriterActiveError("b/d/S", holder="h:1", age_s=1.0)

    session.publish = refuse
    adapter = FakeAdapter([BEGIN, frame(1)])
    with pytest.raises(WriterActiveError, match="h:1"):
        run(session, adapter, beamtime="b", detector="d", stream="S")


def test_after_a_takeover_the_report_tells_what_is_not_flushed(broker):
    def step(name: str) -> None:
        if name == "write" and broker.streams and len(broker["S"].records) == 1:
            raise WriterSupersededError("b/d/S", by="h:2", superseded=3)

    broker.on_step = step
    report = IngestReport()
    adapter = FakeAdapter([BEGIN, *(frame(i) for i in range(9))])
    with pytest.raises(WriterSupersededError):
        run(
            FakeSession(broker, lag=3),
            adapter,
            beamtime="b",
            detector="d",
            stream="S",
            report=report,
        )
    assert report.not_flushed == 3
    assert adapter.acknowledged == ["s0"]


def test_progress_is_told(broker):
    seen: list[int] = []
    ingest(
        broker, BEGIN, frame(1), None, END, on_progress=lambda report: seen.append(report.frames)
    )
    assert seen[-1] == 1


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event
