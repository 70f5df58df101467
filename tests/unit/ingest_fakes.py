"""A broker, a session and an adapter in memory, with deaths and outages on demand."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import (
    BrokerUnavailableError,
    InvalidFrameError,
    QueueFullError,
    StreamExistsError,
)
from pipeline.frame import FrameHeader
from pipeline.naming import StreamId
from pipeline.protocols import PlacedFrame, SourceFile, SourceFrame


class Killed(BaseException):
    """The process dies here."""


@dataclass(eq=False)
class FakeStream:
    name: StreamId
    run: Mapping[str, Any]
    position: int
    created_ns: int
    metadata: dict[str, Any] = field(default_factory=dict)
    state: str = "open"
    #: As on the log: number, payload, timestamp; twice if published twice.
    records: list[tuple[int, bytes, int]] = field(default_factory=list)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    #: As they were stored, copies of a name included.
    attached: list[tuple[str, Any]] = field(default_factory=list)
    #: Files that were stored, whole.
    files: list[bytes] = field(default_factory=list)
    expected: int | None = None
    holder: str = ""
    instances: list[str] = field(default_factory=list)

    @property
    def info(self) -> Any:
        claim = SimpleNamespace(holder=self.holder) if self.holder else None
        return SimpleNamespace(
            state=self.state,
            position=self.position,
            quarantined=self.quarantined,
            attachments={name: "key" for name, _ in self.attached},
            modules={0: SimpleNamespace(claim=claim)},
            start=SimpleNamespace(run=self.run, created_ns=self.created_ns, modules=()),
        )

    def table(self) -> Any:
        rows = sorted({row[0]: row for row in self.records}.values())
        return SimpleNamespace(
            numbers=np.array([r[0] for r in rows], np.int64),
            nbytes=np.array([len(r[1]) for r in rows], np.int64),
            checksums=np.array([crc32c(r[1]) for r in rows], np.uint32),
            timestamps_ns=np.array([r[2] for r in rows], np.int64),
            modules=np.zeros(len(rows), np.int64),
            merged=lambda: SimpleNamespace(rows=np.arange(len(rows))),
        )

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def frames(self) -> dict[int, bytes]:
        return {number: payload for number, payload, _ in self.records}


class FakeBroker:
    """What survives the death of a process."""

    def __init__(self) -> None:
        self.streams: dict[str, FakeStream] = {}
        self.away = 0  # so many contacts fail
        self.spooled = 0
        self.clock_ns = itertools.count(10**18)
        self.contacts = 0
        #: Called at each step of a publisher with its name; may raise Killed.
        self.on_step: Callable[[str], None] = lambda step: None

    def contact(self) -> None:
        self.contacts += 1
        if self.away:
            self.away -= 1
            raise BrokerUnavailableError("localhost:1", "test")

    def __getitem__(self, name: str) -> FakeStream:
        return self.streams[name]

    @property
    def ordered(self) -> list[FakeStream]:
        return sorted(self.streams.values(), key=lambda s: s.position)


class FakeSession:
    """Publishes into a FakeBroker; ``room`` frames fit into each queue."""

    def __init__(self, broker: FakeBroker, *, room: int = 8, lag: int = 0) -> None:
        self.broker = broker
        self.room = room
        self.lag = lag
        self.settings: list[dict[str, Any]] = []

    def publish(self, beamtime: str, detector: str, stream: str, **settings: Any) -> FakePublisher:
        self.broker.contact()
        self.settings.append(settings)
        name = StreamId(beamtime, detector, stream)
        known = self.broker.streams.get(stream)
        if known is not None and known.state != "open":
            raise StreamExistsError(name, known.state)
        return FakePublisher(self, name, settings, known)

    def streams(self, pattern: str) -> list[Any]:
        self.broker.contact()
        return [SimpleNamespace(name=s.name, info=s.info) for s in self.broker.ordered]

    def stream(self, beamtime: str, detector: str, stream: str) -> FakeStream:
        self.broker.contact()
        return self.broker.streams[stream]


class FakePublisher:
    """Frames are published ``lag`` writes later, and confirmed after that."""

    def __init__(
        self, session: FakeSession, name: StreamId, settings: dict[str, Any], known: Any
    ) -> None:
        self.session, self.name, self.settings = session, name, settings
        self.broker = session.broker
        self.fake: FakeStream | None = None
        self.queue: list[tuple[int, bytes, int, Any]] = []
        self.confirmed: list[Any] = []
        self.closed = False
        if known is not None or settings["rate_hz"]:
            self._claim()

    @property
    def info(self) -> Any:
        return self.fake.info if self.fake else None

    @property
    def position(self) -> Any:
        return SimpleNamespace(queued=len(self.queue), spooled=self.broker.spooled)

    def _claim(self) -> FakeStream:
        if self.fake is None:
            self.broker.on_step("start")
            streams = self.broker.streams
            created_ns = next(self.broker.clock_ns)
            self.fake = streams.setdefault(
                self.name.stream,
                FakeStream(self.name, dict(self.settings["run"]), len(streams), created_ns),
            )
            self.fake.metadata.update(self.settings["metadata"])
            self.fake.holder = f"{socket.gethostname()}:{os.getpid()}"
            self.fake.instances.append(self.settings["instance"])
        return self.fake

    def write(self, data: bytes, *, number: int, timestamp_ns: int, token: Any, **_: Any) -> None:
        assert not self.closed
        self.broker.contact()
        self.broker.on_step("write")
        fake = self._claim()
        if len(self.queue) >= self.session.room:
            self.move(1)
            if self.settings["when_full"] == "refuse":
                raise QueueFullError("full")
        if fake.frames.get(number, data) != data:
            raise AssertionError(f"frame {number} given with other content")
        if number in fake.frames or any(number == entry[0] for entry in self.queue):
            self.confirmed.append(token)  # repeated: known to the publisher
            return
        self.queue.append((number, bytes(data), timestamp_ns, token))
        if len(self.queue) > self.session.lag:
            self.move(1)

    def write_file(
        self, payload: Any, frames: Sequence[PlacedFrame], *, checksums: Any, token: Any
    ) -> int:
        self.broker.contact()
        self.broker.on_step("write")
        data = bytes(payload)
        fake = self._claim()
        if len(self.queue) >= self.session.room:
            self.move(1)
            raise QueueFullError("full")
        new = []
        for index, placed in enumerate(frames):
            header = placed.header
            content = data[placed.offset : placed.offset + placed.nbytes]
            assert crc32c(content) == checksums[index]
            if len(content) != header.shape[-1]:
                error = InvalidFrameError("payload", "of another length")
                error.frame = (header.number, header.module)
                raise error
            given = {number: payload for number, payload, *_ in self.queue}
            if fake.frames.get(header.number, given.get(header.number)) is None:
                new.append((header.number, content, header.timestamp_ns))
        if new:
            fake.files.append(data)
            self.broker.on_step("stored")
            self.queue += [(*row, None) for row in new]
            self.queue[-1] = (*new[-1], token)
        else:
            self.confirmed.append(token)
        self.move(max(0, len(self.queue) - self.session.lag))
        return len(new)

    def attach(self, name: str, array: Any) -> None:
        self.broker.contact()
        self._claim().attached.append((name, array))

    def move(self, count: int) -> None:
        """Publish and confirm the oldest frames of the queue."""
        for _ in range(min(count, len(self.queue))):
            number, data, timestamp_ns, token = self.queue.pop(0)
            self._claim().records.append((number, data, timestamp_ns))
            self.broker.on_step("published")
            if token is not None:
                self.confirmed.append(token)

    def take_confirmed(self) -> list[Any]:
        taken, self.confirmed = self.confirmed, []
        return taken

    def flush(self, timeout_s: float) -> None:
        self.move(len(self.queue))

    def update_metadata(self, metadata: Mapping[str, Any]) -> None:
        self._claim().metadata.update(metadata)

    def quarantine(self, source: str, reason: str) -> None:
        self.broker.contact()
        self._claim().quarantined.append({"source": source, "reason": reason})

    def end(self, state: str, *, expected: int | None, timeout_s: float) -> None:
        self.broker.contact()
        self._claim()
        self.flush(timeout_s)
        self.closed = True
        self.broker.on_step("end")
        self._claim().state = state
        self._claim().expected = expected
        self.broker.on_step("ended")

    def close(self, timeout_s: float = 1.0) -> None:
        self.flush(timeout_s)
        self.closed = True

    def abandon(self) -> None:
        self.closed = True


class FakeAdapter:
    """Gives prepared events; keeps what was acknowledged."""

    name = "fake"

    def __init__(self, events: Iterable[Any], *, after: str = "keep") -> None:
        self._events = list(events)
        self.after = after
        self.acknowledged: list[Any] = []
        self.closed = False

    def events(self, *, poll_s: float) -> Iterator[Any]:
        for event in self._events:
            yield event() if callable(event) else event

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        self.acknowledged.extend(tokens)

    def check(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        self.closed = True


def frame(number: int, content: str = "x", *, series: str = "s", time_ns: int = 5) -> SourceFrame:
    payload = f"{content}{number}".encode()
    header = FrameHeader(
        number=number, timestamp_ns=time_ns, shape=(1, len(payload)), dtype="uint8", encoding="raw"
    )
    return SourceFrame(
        series=series,
        header=header,
        payload=payload,
        token=f"{series}{number}",
        source=f"{series}_{number}.cbf",
    )


def file(*numbers: int, content: str = "x", series: str = "s", wrong: int = -1) -> SourceFile:
    """Return a file of frames as :func:`frame` gives them, with a head and gaps."""
    data, frames = b"HEAD", []
    for number in numbers:
        single = frame(number, content, series=series)
        header = single.header
        if number == wrong:
            header = replace(header, shape=(1, 99))
        frames.append(PlacedFrame(header=header, offset=len(data), nbytes=len(single.payload)))
        data += bytes(single.payload) + b"gap"
    name = f"{content}{numbers[0]}.h5" if numbers else "empty.h5"
    return SourceFile(series=series, payload=data, frames=tuple(frames), token=name, source=name)
