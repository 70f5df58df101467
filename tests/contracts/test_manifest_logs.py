"""The contract of logs on what was sealed, and on a trimmed topic with its manifest."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import pytest
from log_contract import Entry, LogFactory, StreamLogContract

from pipeline.blobs.memory import MemoryStore
from pipeline.manifest import CombinedLog, ManifestWriter, StoredLog
from pipeline.naming import Names
from pipeline.protocols import StreamLog
from pipeline.records import Start, State
from pipeline.testing.memory_log import MemoryLog


class _TrimmedLog(MemoryLog):
    """A log of which everything below ``low`` must come from the manifest."""

    low: list[int]

    def available_from(self) -> list[int]:
        return self.low


def _filled(log: MemoryLog, entries: Sequence[Entry], state: State | None) -> None:
    for partition, value in entries:
        log.append(partition, value)
    if state is not None:
        log.end(state)


def _writer(log: StreamLog, start: Start) -> tuple[MemoryStore, str, ManifestWriter]:
    store = MemoryStore(f"contract-{secrets.token_hex(8)}")
    names = Names()
    store.create_bucket(names.bucket(start.beamtime))
    prefix = names.stream_prefix(start.beamtime, start.detector, start.stream_key)
    return store, prefix, ManifestWriter(log, store, prefix=prefix, epoch=1, nonce="0a0a0a0a")


class TestStoredLog(StreamLogContract):
    @pytest.fixture
    def log_factory(self) -> LogFactory:
        def make(start: Start, entries: Sequence[Entry], state: State | None) -> StreamLog:
            if state is None:
                pytest.skip("a sealed stream has ended")
            log = MemoryLog(start)
            _filled(log, entries, state)
            store, prefix, writer = _writer(log, start)
            writer.seal(log.info(refresh=True).ends[0], {})
            return StoredLog(store, prefix)

        return make


class TestCombinedLog(StreamLogContract):
    @pytest.fixture
    def log_factory(self) -> LogFactory:
        def make(start: Start, entries: Sequence[Entry], state: State | None) -> StreamLog:
            log = _TrimmedLog(start)
            _filled(log, entries, state)
            log.low = [high // 2 for high in log.bounds()[1]]
            store, _, writer = _writer(log, start)
            ref = writer.advance(log.low, final=True)
            writer.close()
            if ref is not None:
                log.change(parts=[ref])
            return CombinedLog(log, store)

        return make
