"""HiDRA's wire on loopback, into the real broker and the real store."""

from __future__ import annotations

import hashlib
import socket
import threading
from typing import Any

import numpy as np
import pytest

from pipeline.detectors.hidra.adapter import HidraAdapter
from pipeline.detectors.hidra.sim import HidraSimulator
from pipeline.errors import SourceError
from pipeline.ingest import run
from pipeline.local.processes import wait_until
from pipeline.session import connect


@pytest.fixture
def session(home_env):
    with connect() as made:
        yield made


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make_adapter(simulator: HidraSimulator, **settings: Any) -> HidraAdapter:
    return HidraAdapter(
        endpoint=simulator.endpoint,
        data_port=free_port(),
        receive_host="127.0.0.1",
        bind="127.0.0.1",
        **settings,
    )


class Ingest:
    """An adapter that runs in a thread until one stream has ended."""

    def __init__(self, session: Any, adapter: HidraAdapter, beamtime: str, **options: Any) -> None:
        self.report: Any = None
        self.error: BaseException | None = None
        self._adapter = adapter
        self._call = (session, beamtime, options)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        session, beamtime, options = self._call
        options = {"streams": 1, "stream": "S", "idle_end_s": 1.5} | options
        try:
            self.report = run(session, self._adapter, beamtime=beamtime, detector="h", **options)
        except BaseException as error:
            self.error = error
        finally:
            self._adapter.close()

    def __enter__(self) -> Ingest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30.0)
        assert not self._thread.is_alive()


def digests(session: Any, beamtime: str) -> dict[int, str]:
    with session.stream(beamtime, "h", "S") as stream:
        return {
            frame.number: hashlib.sha256(np.ascontiguousarray(frame.array)).hexdigest()
            for frame in stream.ordered(timeout_s=20.0)
        }


def wanted(lines: list[dict[str, Any]]) -> dict[int, str]:
    return {line["number"]: line["pixels_sha256"] for line in lines if not line.get("lost")}


def test_interleaved_chunks_repeats_and_a_lost_first_chunk(session, beamtime):
    simulator = HidraSimulator(
        shape=(60, 100), chunk_nbytes=7000, streams=3, repeat_every=5, lose_every=7
    )
    adapter = make_adapter(simulator_open(simulator), chunk_timeout_s=1.0)
    try:
        with Ingest(session, adapter, beamtime) as ingest:
            assert simulator.wait_registered(20.0)
            lines = [line for _ in range(6) for line in simulator.make(3)]
        assert ingest.error is None
    finally:
        simulator.close()
    assert (ingest.report.frames, ingest.report.quarantined) == (16, 2)
    assert digests(session, beamtime) == wanted(lines)
    assert simulator.targets == []


def simulator_open(simulator: HidraSimulator) -> HidraSimulator:
    simulator.open()
    return simulator


def test_files_are_confirmed_once_they_are_durable_and_a_restarted_sender_is_found(
    session, beamtime
):
    port = free_port()
    simulator = HidraSimulator(
        shape=(60, 100), chunk_nbytes=9000, confirmations=f"127.0.0.1:{port}"
    )
    adapter = make_adapter(simulator_open(simulator), confirmation_port=port, after="delete")
    try:
        with Ingest(session, adapter, beamtime, durability="disk", idle_end_s=3.0) as ingest:
            assert simulator.wait_registered(20.0)
            lines = simulator.make(4)
            chunks = -(-len(simulator._file()[1]) // 9000)
            assert wait_until(lambda: len(simulator.confirmed) == 4 * chunks, timeout_s=20.0)
            simulator.close()
            simulator.open()
            assert simulator.wait_registered(20.0)
            lines += simulator.make(4)
        assert ingest.error is None
    finally:
        simulator.close()
    assert digests(session, beamtime) == wanted(lines)


def test_a_refusal_is_an_error_that_says_what_to_do(session, beamtime):
    simulator = HidraSimulator(refuse="NO_VALID_HOST")
    adapter = make_adapter(simulator_open(simulator))
    try:
        with pytest.raises(SourceError, match="whitelist"):
            adapter.check()
        with Ingest(session, adapter, beamtime) as ingest:
            pass
        assert isinstance(ingest.error, SourceError)
    finally:
        simulator.close()
