"""The fake of the unit tests passes the suite of the real logs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from log_contract import Entry, LogFactory, StreamLogContract

from pipeline.protocols import StreamLog
from pipeline.records import Start, State
from pipeline.testing.memory_log import MemoryLog, make_mark


@pytest.fixture
def log_factory() -> LogFactory:
    def make(start: Start, entries: Sequence[Entry], state: State | None) -> StreamLog:
        log = MemoryLog(start)
        for partition, value in entries:
            log.append(partition, value)
        if state is not None:
            log.end(state)
        return log

    return make


class TestMemoryLog(StreamLogContract):
    def test_a_waiting_cursor_wakes_up_when_something_is_appended(self) -> None:
        log = MemoryLog()
        cursor = log.cursor()
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.extend(cursor.poll(20.0)))
        thread.start()
        log.append(0, make_mark())
        thread.join(10.0)
        assert len(found) == 1
