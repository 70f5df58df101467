"""Devices: series that begin unseen, end unseen, come again, and say what cannot be kept."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ingest_fakes import FakeAdapter, FakeBroker, FakeSession, Killed, file, frame

from pipeline.errors import StreamExistsError
from pipeline.ingest import IngestReport, loop, run, waiting, writers
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd

MASK = np.zeros((2, 3), np.uint8)


def begin(series: str = "s", **fields: Any) -> SeriesBegin:
    run = fields.pop("run", {"adapter": "fake", "endpoint": "tcp://d", "series_id": series})
    return SeriesBegin(series=series, name=series, run=run, **fields)


def end(series: str = "s", **fields: Any) -> SeriesEnd:
    return SeriesEnd(series=series, **fields)


class Device(FakeAdapter):
    """One series at a time."""

    exclusive = True

    def owns(self, run: Any) -> bool:
        return run.get("adapter") == "fake"


def ingest(broker: FakeBroker, *events: Any, lag: int = 0, **options: Any) -> IngestReport:
    return run(FakeSession(broker, lag=lag), Device(events), beamtime="b", detector="d", **options)


def streams(broker: FakeBroker) -> list[tuple[str, list[int]]]:
    return [(stream.state, sorted(stream.frames)) for stream in broker.ordered]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_S", 0.0)
    monkeypatch.setattr(waiting, "ROOM_S", 0.0)
    monkeypatch.setattr(writers, "_END_TIMEOUT_S", 0.0)


def dying(broker: FakeBroker, *events: Any, **options: Any) -> None:
    """Run until the process dies behind the last event."""

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        ingest(broker, *events, die, **options)
    for stream in broker.ordered:
        stream.holder = ""


# -- what begins --------------------------------------------------------------------------------


def test_a_series_with_a_rate_is_a_stream_before_its_first_frame(broker):
    seen = []
    look = lambda: seen.append(len(broker.streams))  # noqa: E731 -- an event that is called
    ingest(broker, begin("a"), look, begin("b", rate_hz=10.0), look, frame(1, series="b"), end("b"))
    assert seen == [0, 2]  # the zero-frame series "a" ended when "b" began
    assert streams(broker) == [("lost", []), ("complete", [1])]


def test_a_name_that_somebody_takes_while_a_stream_with_a_rate_opens_is_left_to_him(broker):
    session = FakeSession(broker)
    publish, rivals = session.publish, ["S"]

    def late(*names: str, **settings: Any) -> Any:
        if rivals:
            other = {**settings, "run": {"adapter": "other", "run_id": "theirs"}}
            publish(*names[:2], rivals.pop(), **other)
        return publish(*names, **settings)

    session.publish = late
    events = [begin(rate_hz=5.0), frame(1), end()]
    run(session, Device(events), beamtime="b", detector="d", stream="S")
    assert [(s.name.stream, s.state, sorted(s.frames)) for s in broker.ordered] == [
        ("S", "open", []),
        ("S.2", "complete", [1]),
    ]


def test_a_begin_again_adds_metadata_and_a_late_one_takes_nothing_away(broker):
    first = begin(metadata={"energy_eV": 1.0}, attachments={"mask": MASK})
    again = begin(metadata={"title": "more"})
    ingest(broker, first, frame(1), again, replace(again, late=True, metadata={}), frame(2), end())
    (stream,) = broker.ordered
    assert stream.metadata == {"energy_eV": 1.0, "title": "more"}
    assert stream.frames.keys() == {1, 2}


def test_a_series_known_by_its_facts_goes_on_under_another_name_of_the_adapter(broker):
    facts = {"adapter": "fake", "unique_id": "7"}
    other = replace(begin("connection 2", run=facts), name="s")
    ingest(
        broker,
        begin("connection 1", run=facts),
        frame(1, series="connection 1"),
        other,
        frame(2, series="connection 2"),
        end("connection 2"),
    )
    assert streams(broker) == [("complete", [1, 2])]


# -- late ---------------------------------------------------------------------------------------


def test_a_late_series_goes_on_in_the_stream_that_the_killed_adapter_left(broker):
    facts = {"adapter": "fake", "series_id": 4}
    whole = begin(run={**facts, "started": "12:00"}, metadata={"energy_eV": 2.0})
    dying(broker, whole, frame(1), frame(2))
    late = SeriesBegin(series="s", run=facts, late=True)
    report = ingest(broker, late, frame(2), frame(3), end())
    assert streams(broker) == [("complete", [1, 2, 3])]
    assert (report.frames, report.skipped) == (1, 1)
    assert broker.ordered[0].metadata == {"energy_eV": 2.0}


def test_a_late_series_never_joins_an_ended_stream_of_the_same_number(broker):
    facts = {"adapter": "fake", "series_id": 1}
    ingest(broker, begin(run=facts), frame(1), end())
    ingest(broker, SeriesBegin(series="s", run=facts, late=True), frame(1), end())
    assert streams(broker) == [("complete", [1]), ("complete", [1])]


def test_a_late_series_that_is_interrupted_is_found_again_by_a_late_begin(broker):
    late = SeriesBegin(series="s", run={"adapter": "fake", "series_id": 1}, late=True)
    dying(broker, late, frame(5))
    ingest(broker, late, frame(6), end())
    assert streams(broker) == [("complete", [5, 6])]


def test_a_late_series_without_facts_takes_nobodys_stream(broker):
    dying(broker, begin(), frame(1))
    ingest(broker, SeriesBegin(series="s", late=True), frame(2), end())
    assert [numbers for _, numbers in streams(broker)] == [[1], [2]]


def test_two_late_series_are_two_streams(broker):
    events = []
    for number in (1, 2):
        run = {"adapter": "fake", "series_id": number}
        events += [SeriesBegin(series=str(number), run=run, late=True)]
        events += [frame(1, series=str(number)), end(str(number))]
    ingest(broker, *events)
    assert streams(broker) == [("complete", [1]), ("complete", [1])]


# -- exclusive ----------------------------------------------------------------------------------


def test_a_new_series_of_an_exclusive_device_ends_the_one_before_as_lost(broker):
    ingest(broker, begin("a"), frame(1, series="a"), begin("b"), frame(1, series="b"), end("b"))
    assert streams(broker) == [("lost", [1]), ("complete", [1])]


def test_a_series_left_open_by_a_killed_adapter_is_lost_when_the_next_one_begins(broker):
    dying(broker, begin("a"), frame(1, series="a"))
    ingest(broker, begin("b"), frame(1, series="b"), end("b"))
    assert streams(broker) == [("lost", [1]), ("complete", [1])]


def test_a_frame_without_a_begin_ends_what_was_open_of_an_exclusive_device(broker):
    dying(broker, begin("a"), frame(1, series="a"))
    ingest(broker, frame(7, series="unknown"), end("unknown"))
    assert streams(broker) == [("lost", [1]), ("complete", [7])]


def test_the_same_series_beginning_again_is_not_lost(broker):
    dying(broker, begin("a"), frame(1, series="a"))
    ingest(broker, begin("a"), frame(2, series="a"), begin("a"), frame(3, series="a"), end("a"))
    assert streams(broker) == [("complete", [1, 2, 3])]


def test_an_ended_series_that_begins_again_ends_another_one_that_is_open(broker):
    ingest(
        broker,
        *(begin("a"), frame(1, series="a"), end("a")),
        *(begin("b"), frame(1, series="b")),
        *(begin("a"), frame(2, series="a"), end("a")),
    )
    assert streams(broker) == [("complete", [1]), ("lost", [1]), ("complete", [2])]


# -- ends ---------------------------------------------------------------------------------------


def test_a_series_without_frames_is_a_stream_with_its_facts(broker):
    start = begin(metadata={"energy_eV": 3.0}, attachments={"mask": MASK}, expected=10)
    report = ingest(broker, start, end(state="aborted", expected=0, metadata={"reason": "door"}))
    (stream,) = broker.ordered
    assert (stream.state, stream.expected, stream.frames) == ("aborted", 0, {})
    assert stream.metadata == {"energy_eV": 3.0, "reason": "door"}
    assert [name for name, _ in stream.attached] == ["mask"]
    assert len(report.ended) == 1


def test_what_is_known_only_at_the_end_is_written_before_it(broker):
    order = []
    broker.on_step = order.append
    ingest(broker, begin(), frame(1), end(metadata={"device_dropped": 2}))
    assert broker.ordered[0].metadata["device_dropped"] == 2
    assert order[-2:] == ["end", "ended"]


def test_a_second_end_and_an_end_without_a_begin_change_nothing(broker):
    report = ingest(broker, end("other"), begin(), frame(1), end(), end(state="aborted"))
    assert streams(broker) == [("complete", [1])]
    assert len(report.ended) == 1


def test_the_token_of_an_end_comes_back_when_it_is_written(broker):
    adapter = Device([begin(), frame(1), end(token="master file")])
    run(FakeSession(broker), adapter, beamtime="b", detector="d")
    assert adapter.acknowledged == ["s1", "master file"]


def test_an_end_waits_for_its_broker_with_all_that_belongs_to_it(broker):
    def away() -> None:
        broker.away = 1

    # `away` runs as an event, so that the next contact is the end's
    ingest(broker, begin(attachments={"mask": MASK}), frame(1), away, end(metadata={"n": 1}))
    (stream,) = broker.ordered
    assert (stream.state, stream.metadata["n"]) == ("complete", 1)
    assert [name for name, _ in stream.attached] == ["mask"]


def test_the_end_of_a_spooled_series_does_not_hold_up_the_next_one(broker):
    states = []

    def spool(count: int) -> None:
        broker.spooled = count
        states.append([stream.state for stream in broker.ordered])

    ingest(
        broker,
        *(begin("a"), frame(1, series="a"), lambda: spool(1), end("a", metadata={"n": 1})),
        *(begin("b"), frame(1, series="b"), lambda: spool(0), None, end("b")),
        spool="/spool",
    )
    assert states == [["open"], ["open", "open"]]
    assert streams(broker) == [("complete", [1]), ("complete", [1])]
    assert broker.ordered[0].metadata["n"] == 1


def test_what_belongs_beside_the_frames_waits_while_they_are_spooled(broker):
    contacts = []

    def spool(count: int) -> None:
        broker.spooled = count
        contacts.append(broker.contacts)

    more = begin(metadata={"title": "t"}, attachments={"mask": MASK})
    bad = Quarantined(series="s", source="m", reason="bad")
    events = [begin(), frame(1), lambda: spool(1), more, bad, None, None, lambda: spool(0)]
    ingest(broker, *events, None, frame(2), end(), spool="/spool")
    (stream,) = broker.ordered
    assert contacts[0] == contacts[1]
    assert stream.metadata == {"title": "t"}
    assert [note["source"] for note in stream.quarantined] == ["m"]
    assert [name for name, _ in stream.attached] == ["mask"]


# -- attachments --------------------------------------------------------------------------------


def test_attachments_are_stored_once_also_after_a_restart(broker):
    start = begin(attachments={"mask": MASK, "flat": MASK})
    dying(broker, start, frame(1), None, frame(2))
    ingest(broker, start, frame(3), end())
    names = [name for name, _ in broker.ordered[0].attached]
    assert sorted(names) == ["flat", "mask"]


def test_attachments_that_come_later_are_stored_too(broker):
    ingest(broker, begin(), frame(1), begin(attachments={"mask": MASK}), frame(2), end())
    assert [name for name, _ in broker.ordered[0].attached] == ["mask"]


# -- what cannot be kept ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"metadata": {"energy_eV": 1.0, "bad": object()}}, "bad"),
        ({"metadata": {"energy_eV": 1.0, "long": "x" * 70_000}}, "'long'"),
        ({"rate_hz": -5.0, "metadata": {"energy_eV": 1.0}}, "rate_hz"),
        ({"rate_hz": float("nan"), "metadata": {"energy_eV": 1.0}}, "rate_hz"),
        ({"expected": -1, "metadata": {"energy_eV": 1.0}}, "expected"),
        ({"attachments": {"o": np.array([{}])}, "metadata": {"energy_eV": 1.0}}, "attachment"),
        ({"attachments": {"": MASK}, "metadata": {"energy_eV": 1.0}}, "attachment"),
    ],
)
def test_a_fact_that_cannot_be_kept_is_named_and_costs_no_frame(broker, fields, named):
    report = ingest(broker, begin(**fields), frame(1), end())
    (stream,) = broker.ordered
    assert (stream.state, sorted(stream.frames)) == ("complete", [1])
    assert stream.metadata == {"energy_eV": 1.0}
    assert report.quarantined == 1
    assert named in stream.quarantined[0]["reason"]


def test_facts_at_the_end_that_cannot_be_kept_are_named(broker):
    ingest(broker, begin(), frame(1), end(expected=-3, metadata={"ok": 1, "bad": {1, 2}}))
    (stream,) = broker.ordered
    assert (stream.state, stream.expected, stream.metadata) == ("complete", None, {"ok": 1})
    assert "bad" in stream.quarantined[0]["reason"]


def test_a_name_that_cannot_be_one_is_replaced(broker):
    ingest(broker, replace(begin(), name="a\0b"), frame(1), end())
    assert broker.ordered[0].name.stream.startswith("run_")


def test_bad_things_without_number_are_counted_and_named_up_to_a_limit(broker, monkeypatch):
    monkeypatch.setattr(loop, "_MAX_NOTES", 5)
    bad = [Quarantined(series="s", source=f"m{n}", reason="bad") for n in range(30)]
    report = ingest(broker, begin(), frame(1), *bad, end())
    notes = broker.ordered[0].quarantined
    assert report.quarantined == 30
    assert len(notes) == 6
    assert "not named" in notes[-1]["reason"]


# -- memory -------------------------------------------------------------------------------------


def test_series_that_are_over_are_forgotten(broker, monkeypatch):
    kept = []
    tick = loop.Ingest._tick

    def seen(ingest: loop.Ingest, event: Any) -> None:
        kept.append(ingest)
        tick(ingest, event)

    monkeypatch.setattr(loop.Ingest, "_tick", seen)
    events = []
    for number in range(100):
        events += [begin(str(number)), frame(1, series=str(number)), end(str(number))]
    report = ingest(broker, *events)
    assert len(report.ended) == 100
    sources = list(kept[0].register)
    assert len(sources) < 40
    assert all(stream.frames is None for s in sources for stream in s.streams)


# -- files of many frames -----------------------------------------------------------------------


def files(broker: FakeBroker) -> list[int]:
    return [len(stream.files) for stream in broker.ordered]


def test_a_file_is_stored_once_and_let_go_once(broker):
    adapter = Device([begin(), file(1, 2, 3), file(4, 5), end()])
    report = run(FakeSession(broker, lag=3), adapter, beamtime="b", detector="d")
    assert (streams(broker), files(broker)) == ([("complete", [1, 2, 3, 4, 5])], [2])
    assert adapter.acknowledged == ["x1.h5", "x4.h5"]
    assert (report.frames, report.confirmed, report.nbytes) == (5, 5, 10)


def test_a_file_is_not_let_go_before_all_its_frames_are_safe(broker):
    safe = []
    adapter = Device([begin(), file(1, 2, 3), lambda: safe.append(list(adapter.acknowledged))])
    run(FakeSession(broker, lag=1), adapter, beamtime="b", detector="d")
    assert safe == [[]]
    assert adapter.acknowledged == ["x1.h5"]


@pytest.mark.parametrize("step", ["stored", "published"])
def test_a_file_whose_publication_was_cut_off_is_published_to_the_end(broker, step):
    left = [1]

    def die(at: str) -> None:
        if at == step:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

    if step == "stored":
        left[0] = 0
    broker.on_step = die
    with pytest.raises(Killed):
        ingest(broker, begin(), file(1, 2, 3))
    broker.on_step = lambda _: None
    broker.ordered[0].holder = ""
    adapter = Device([begin(), file(1, 2, 3), end()])
    report = run(FakeSession(broker), adapter, beamtime="b", detector="d")
    assert streams(broker) == [("complete", [1, 2, 3])]
    assert report.skipped == (2 if step == "published" else 0)
    assert [row[0] for row in broker.ordered[0].records] == [1, 2, 3]  # nothing twice
    assert adapter.acknowledged == ["x1.h5"]


def test_a_file_without_news_is_let_go_and_not_stored(broker):
    ingest(broker, begin(), file(1, 2), end(), stream="S")
    adapter = Device([begin(), file(1, 2), end()])
    report = run(FakeSession(broker), adapter, beamtime="b", detector="d", stream="S")
    assert (files(broker), report.skipped, adapter.acknowledged) == ([1], 2, ["x1.h5"])


def test_a_file_given_again_while_its_frames_are_on_their_way_is_let_go_with_them(broker):
    adapter = Device([begin(), file(1, 2, 3), file(1, 2, 3), end()])
    run(FakeSession(broker, lag=8), adapter, beamtime="b", detector="d")
    assert (streams(broker), files(broker)) == ([("complete", [1, 2, 3])], [1])
    assert adapter.acknowledged.count("x1.h5") == 2


def test_what_is_wrong_in_a_file_is_named_the_rest_is_published_and_the_file_kept(broker):
    outside = file(7, 8)
    frames = (outside.frames[0], replace(outside.frames[1], nbytes=10**9))
    adapter = Device([begin(), file(1, 2, 3, wrong=2), replace(outside, frames=frames), end()])
    report = run(FakeSession(broker), adapter, beamtime="b", detector="d")
    assert streams(broker) == [("complete", [1, 3, 7])]
    assert report.quarantined == 2
    assert [note["source"] for note in broker.ordered[0].quarantined] == ["x1.h5#2", "x7.h5#8"]
    assert adapter.acknowledged == []


def test_a_file_of_other_content_goes_to_a_new_stream(broker, caplog):
    with caplog.at_level(logging.WARNING):
        ingest(broker, begin(), file(1, 2), file(2, 3, content="y"), end())
    assert streams(broker) == [("complete", [1, 2]), ("complete", [2, 3])]
    assert files(broker) == [1, 1]


def test_a_file_waits_where_it_is_while_broker_or_queue_refuse_it_also_with_a_spool(broker):
    def away() -> None:
        broker.away = 3

    ingest(broker, begin(), file(1, 2), away, file(3, 4), end(), spool="/spool")
    assert streams(broker) == [("complete", [1, 2, 3, 4])]
    assert files(broker) == [2]


def test_a_file_without_frames_is_let_go(broker):
    adapter = Device([begin(), frame(1), file(), end()])
    run(FakeSession(broker), adapter, beamtime="b", detector="d")
    assert files(broker) == [0]
    assert "empty.h5" in adapter.acknowledged


def test_a_stream_ended_by_somebody_else_costs_no_file(broker):
    refused = []

    def refuse(step: str) -> None:
        if step == "write" and broker.streams and broker.ordered[0].frames and not refused:
            refused.append(step)
            broker.ordered[0].state = "complete"
            raise StreamExistsError(broker.ordered[0].name, "complete")

    broker.on_step = refuse
    ingest(broker, begin(), file(1, 2), None, file(3, 4), end())
    assert refused
    assert [numbers for _, numbers in streams(broker)] == [[1, 2], [3, 4]]
