"""Restart at any moment: whatever the order of files, deaths and outages, nothing twice or lost."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fakes import FakeBroker, FakeSession, Killed

from pipeline.detectors.files import FileHeader, FilesAdapter
from pipeline.ingest import run, waiting, writers


class PlainAdapter(FilesAdapter):
    """Reads any file as a row of bytes; its time is the file's."""

    def readers(self) -> dict[str, Any]:
        return {
            ".tif": lambda payload: FileHeader(shape=(1, 4), dtype="uint8", encoding="raw"),
        }


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_S", 0.0)
    monkeypatch.setattr(waiting, "ROOM_S", 0.0)
    monkeypatch.setattr(writers, "_END_TIMEOUT_S", 0.0)


class Directory:
    """Files that are written between and during runs, each content once in the world."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.count = 0
        self.written: list[tuple[str, int, bytes]] = []

    def write(self, prefix: str, number: int) -> None:
        self.count += 1
        content = f"{self.count:04d}".encode()
        temporary = self.path / f"{prefix}.tmp"
        temporary.write_bytes(content)
        os.utime(temporary, ns=(self.count, self.count))
        temporary.rename(self.path / f"{prefix}_{number}.tif")
        self.written.append((prefix, number, content))


actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("run"), st.integers(1, 30), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.parametrize("after", ["keep", "delete"])
@pytest.mark.parametrize("wanted", ["S", None])
@settings(max_examples=60, deadline=None)
@given(actions=actions)
def test_every_file_is_published_once_whatever_happens(
    actions: list[tuple[Any, ...]], after: str, wanted: str | None
) -> None:
    with tempfile.TemporaryDirectory() as path:
        directory, broker = Directory(path), FakeBroker()
        seen: set[bytes] = set()
        for action in actions:
            if action[0] == "write":
                directory.write(*action[1:])
            else:
                seen |= on_disk(path)
                ingest(broker, path, after, wanted, dies_at=action[1], lag=action[2])
        seen |= on_disk(path)
        ingest(broker, path, after, wanted, dies_at=None, lag=1)
        records = [
            (stream.name.stream, number, payload)
            for stream in broker.ordered
            for number, payload, _ in stream.records
        ]
        payloads = [payload for _, _, payload in records]
        numbers = [(stream, number) for stream, number, _ in records]
        assert len(set(numbers)) == len(numbers), "a number twice in one stream"
        assert len(set(payloads)) == len(payloads), "a file published twice"
        # what was there when no run was there to see it must be published if it was not replaced
        assert on_disk(path) <= set(payloads)
        assert after == "keep" or not on_disk(path)
        assert {(n, c) for _, n, c in records} <= {(n, c) for _, n, c in directory.written}
        assert all(stream.state == "complete" for stream in broker.ordered)


def on_disk(path: str) -> set[bytes]:
    return {file.read_bytes() for file in Path(path).glob("*.tif")}


def ingest(
    broker: FakeBroker, path: str, after: str, wanted: str | None, *, dies_at: int | None, lag: int
) -> None:
    """Run until all series have ended, or die at the given step."""
    steps = iter(range(10**6))

    def step(_: str) -> None:
        if dies_at is not None and next(steps) == dies_at:
            raise Killed

    broker.on_step = step
    chance = random.Random(dies_at)
    adapter = PlainAdapter(
        watch=path, after=after, idle_end_s=0.0, method="poll", poll_every_s=1e-9
    )
    adapter._watcher._stable_polls = 0
    session = FakeSession(broker, room=2, lag=lag)
    done = Until(adapter)
    try:
        run(session, done, beamtime="b", detector="d", stream=wanted, durability="disk")
    except Killed:
        broker.away = chance.choice([0, 0, 2])
    finally:
        adapter.close()


class Until:
    """An adapter that is over when its directory has been looked at and all series have ended."""

    name = "files"

    def __init__(self, adapter: FilesAdapter) -> None:
        self.adapter = adapter
        self.after = adapter.after
        self.idle_end_s = adapter.idle_end_s
        self.acknowledge = adapter.acknowledge
        self.owns = adapter.owns

    def events(self, *, poll_s: float) -> Any:
        quiet = 0
        for event in self.adapter.events(poll_s=0.0):
            quiet = quiet + 1 if event is None else 0
            if quiet > 2 and not self.adapter._series:
                return
            yield event
