"""Which stream several adapter processes agree on, what they leave behind, and who ends it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline.errors import WriterActiveError
from pipeline.frame import Module
from pipeline.ingest import sharing
from pipeline.ingest.sources import Source
from pipeline.naming import StreamId, new_nonce, new_stream_key
from pipeline.protocols import SeriesBegin
from pipeline.records import Claim, End, ModuleState, Start, StreamInfo
from pipeline.session import StreamSummary

S = 1_000_000_000
FACTS = {"adapter": "lambda", "endpoint": "http://pc", sharing.FACT: True, "stream": ""}


def summary(name: str, at_s: int, *, written: tuple[int, ...] = (), **run: Any) -> StreamSummary:
    start = Start(
        stream_key=new_stream_key(),
        beamtime="b",
        detector="lambda",
        stream=name,
        created_ns=at_s * S,
        partitions=1,
        frames_per_chunk=1,
        offsets=(0,),
        modules=tuple(Module(index=i, shape=(2, 2), position=(2 * i, 0)) for i in range(3)),
        run={**FACTS, "run_id": name, **run},
        nonce=new_nonce(),
    )
    info = StreamInfo(start=start, position=at_s)
    info.modules = {i: ModuleState() for i in range(3)}
    for module in written:
        info.modules[module] = ModuleState(claim=claim(start, module))
    return StreamSummary(name=StreamId("b", "lambda", name), info=info)


def claim(start: Start, module: int) -> Claim:
    return Claim(
        stream_key=start.stream_key, module=module, epoch=1, nonce=new_nonce(), holder="else:1"
    )


def ended(known: StreamSummary, *modules: int) -> StreamSummary:
    for module in modules:
        held = claim(known.info.start, module)
        end = End(
            stream_key=held.stream_key,
            module=module,
            epoch=1,
            nonce=held.nonce,
            state="complete",
            offsets=(1,),
        )
        known.info.modules[module] = ModuleState(claim=held, end=end)
    return known


def source(*share: int, after_s: int = 0) -> Source:
    begin = SeriesBegin(series="run 1", share=share, after_ns=after_s * S)
    return Source(begin, dict(FACTS), [], 0.0)


def test_the_first_takes_the_next_name_and_the_others_find_it() -> None:
    known = [summary("run", 10, written=(0, 1, 2))]
    assert sharing.agreed_name(known, source(0, 2, after_s=20), "run") == "run.2"
    known.append(summary("run.2", 21, written=(0, 2)))
    assert sharing.agreed_name(known, source(1, after_s=20), "run") == "run.2"


def test_who_is_behind_takes_the_runs_in_their_order() -> None:
    known = [summary("run", 21, written=(0,)), summary("run.2", 25, written=(0,))]
    assert sharing.agreed_name(reversed(known), source(1, after_s=20), "run") == "run"


def test_a_run_that_was_over_before_is_not_taken_for_the_one_that_begins() -> None:
    known = [summary("run", 10, written=(0,))]
    assert sharing.agreed_name(known, source(1, after_s=12), "run") == "run.2"


def test_clocks_may_differ_by_a_second() -> None:
    known = [summary("run", 19, written=(0,))]
    assert sharing.agreed_name(known, source(1, after_s=20), "run") == "run"


@pytest.mark.parametrize(
    "other", [{"endpoint": "http://other"}, {"apart": "x"}, {"stream": "mine"}]
)
def test_streams_of_others_are_not_taken(other: dict[str, Any]) -> None:
    known = [summary("run", 21, **other)]
    assert sharing.agreed_name(known, source(1, after_s=20), "run") == "run.2"


def test_a_second_process_for_the_same_modules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing.RunStream, "writer_is_alive", property(lambda self: True))
    with pytest.raises(WriterActiveError, match="else:1"):
        sharing.agreed_name([summary("run", 21, written=(1,))], source(1, after_s=20), "run")


def test_only_modules_of_ours_that_have_not_ended_are_left_behind() -> None:
    known = [
        ended(summary("done", 1), 0, 1, 2),
        ended(summary("ours done", 2), 0, 1),
        ended(summary("half", 3, written=(1,)), 0),
        summary("foreign", 4, endpoint="http://other"),
    ]
    left = sharing.left_behind(
        known, "", lambda run: run["endpoint"] == "http://pc", lambda count: (0, 1)[:count]
    )
    assert [(str(s.streams[0].name), s.begin.share) for s in left] == [("b/lambda/half", (1,))]
    assert left[0].streams[0].holder == "else:1"


class Session:
    def __init__(self, *known: StreamSummary) -> None:
        self.known, self.alive, self.asked = list(known), False, 0

    def streams(self, pattern: str) -> list[StreamSummary]:
        self.asked += 1
        return self.known

    def end(self, beamtime: str, detector: str, stream: str) -> None:
        name = StreamId(beamtime, detector, stream)
        if self.alive:
            raise WriterActiveError(name, holder="else:1", age_s=1.0)
        (known,) = [s for s in self.known if s.name == name]
        ended(known, 0, 1, 2)


def others(session: Session, monkeypatch: pytest.MonkeyPatch) -> tuple[sharing.Others, list[float]]:
    now_s = [100.0]
    monkeypatch.setattr(sharing.time, "monotonic", lambda: now_s[0])
    return sharing.Others(session, 30.0), now_s  # type: ignore[arg-type]  # all that it needs


def test_a_stream_whose_other_writer_died_is_ended_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = ended(summary("run", 1, written=(1,)), 0)
    watched, now_s = others(Session(known), monkeypatch)
    watched.add(known.name)
    now_s[0] += 29
    watched.look()
    assert known.state == "open"
    now_s[0] += 2
    watched.look()
    assert known.state != "open"
    assert "does a process for each" in caplog.text


def test_a_writer_that_is_alive_is_left_alone_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = ended(summary("run", 1, written=(1,)), 0)
    session = Session(known)
    watched, now_s = others(session, monkeypatch)
    watched.add(known.name)
    session.alive = True
    now_s[0] += 31
    watched.look()
    assert known.state == "open"
    session.alive = False
    now_s[0] += 2
    watched.look()
    assert known.state != "open"


def test_a_stream_that_all_have_ended_is_waited_for_no_longer() -> None:
    known = ended(summary("run", 1), 0, 1, 2)
    session = Session(known)
    watched = sharing.Others(session, 30.0)  # type: ignore[arg-type]  # all that it needs
    watched.add(known.name)
    watched.wait(threading.Event())
    assert session.asked == 1
