"""A series begun through camserver's port, in a stream: by the real broker and store."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path

import pytest

from pipeline.detectors.pilatus.adapter import PilatusAdapter
from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.detectors.pilatus.sim_camserver import CamserverSimulator
from pipeline.ingest import run
from pipeline.local.processes import wait_until
from pipeline.session import connect

pytestmark = pytest.mark.service


def test_a_series_told_by_camserver_is_a_stream_equal_to_the_truth(
    home_env: object, beamtime: str, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.jsonl"
    device = PilatusSimulator(
        tmp_path / "ramdisk", frames=60, rate_hz=100, shape=(40, 50), stamp=True, truth=truth
    )
    device.directory.mkdir()
    with CamserverSimulator(device) as camserver, connect() as session:
        with socket.create_connection(("127.0.0.1", camserver.port), timeout=10) as client:
            address = f"127.0.0.1:{camserver.port}"
            adapter = PilatusAdapter(watch=device.directory, timezone="UTC", camserver=address)

            def begin() -> None:
                # begun once camserver was looked at, so that the begin is seen
                wait_until(lambda: adapter._link and adapter._link.is_up, timeout_s=20.0)
                client.sendall(b"exposure scan_100.cbf\n")

            starter = threading.Thread(target=begin)
            starter.start()
            try:
                report = run(session, adapter, beamtime=beamtime, detector="p", streams=1)
            finally:
                starter.join(20)
                adapter.close()
        expected = {
            line["number"]: line["pixels_sha256"]
            for line in map(json.loads, truth.read_text().splitlines())
        }
        (name,) = report.ended
        with session.stream(*name.split("/")) as stream:
            found = {
                frame.number: hashlib.sha256(frame.array.astype("<i4").tobytes()).hexdigest()
                for frame in stream.ordered(timeout_s=20.0)
            }
            assert found == expected
            assert len(found) == 60
            assert stream.state == "complete"
            assert stream.metadata["images_announced"] == 60
