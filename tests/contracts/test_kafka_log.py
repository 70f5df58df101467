"""A stream on the real broker passes the suite of every log."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from log_contract import Entry, LogFactory, StreamLogContract

from pipeline import config
from pipeline.naming import new_nonce, new_stream_key, record_key
from pipeline.protocols import StreamLog
from pipeline.publishing import claims
from pipeline.records import Claim, End, Segment, Start, State
from pipeline.services import Services
from pipeline.wire import codec

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def services(runtime_home: Path) -> Iterator[Services]:
    opened = Services(config.load("file", environment={"LICHTSTROM_HOME": str(runtime_home)}))
    assert opened.producer  # its thread lives as long as this module
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared_beamtime() -> str:
    return f"t{secrets.token_hex(5)}"


@pytest.fixture
def log_factory(services: Services, shared_beamtime: str) -> LogFactory:
    def make(start: Start, entries: Sequence[Entry], state: State | None) -> StreamLog:
        detector = f"d{secrets.token_hex(4)}"
        claims.create_beamtime(services, shared_beamtime, detector, partitions=start.partitions)
        ours = replace(start, beamtime=shared_beamtime, detector=detector)
        info = claims.find_or_start(services, ours)
        topic = services.names.topic(shared_beamtime, detector)
        records = []
        for partition, value in entries:
            first = int(value.numbers[0]) if isinstance(value, Segment) else max(value.ceil + 1, 0)
            key = record_key(start.stream_key, first)
            records.append((topic, partition, key, codec.encode(value)))
        ends = list(info.start.offsets)
        for answer in services.producer.append_all(records, 10.0):
            ends[answer.partition] = max(ends[answer.partition], answer.offset + 1)
        if state is not None:
            _end(services, info.start, state, ends)
            found = services.catalogue(shared_beamtime).look().by_key(start.stream_key)
            assert found is not None
            info = found
        return services.log(info)

    return make


def _end(services: Services, start: Start, state: State, offsets: Sequence[int]) -> None:
    catalogue = services.catalogue(start.beamtime)
    for module in start.module_indices:
        shared = {"stream_key": start.stream_key, "module": module, "epoch": 1}
        nonce = new_nonce()
        catalogue.append(Claim(holder="h:1", nonce=nonce, closing=True, **shared))
        catalogue.append(End(nonce=nonce, state=state, offsets=tuple(offsets), **shared))


class TestKafkaLog(StreamLogContract):
    """The suite, each test on a topic of its own."""

    def make_start(self) -> Start:
        return replace(super().make_start(), stream_key=new_stream_key())
