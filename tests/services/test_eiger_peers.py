"""Programs that are not ours: what they send is read, and they read what the simulator sends."""

from __future__ import annotations

import importlib
import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
import zmq

from pipeline.codecs import decode
from pipeline.detectors.eiger.adapter import EigerAdapter
from pipeline.detectors.eiger.sim import EigerSimulator
from pipeline.ingest import run
from pipeline.session import connect


def peer(name: str, package: str) -> Any:
    """Import a module that is not ours; skip the test, and say so, without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"EIGER NOT TESTED AGAINST {package}: {error}; pip install {package}")


def multipart(stream: Any) -> list[list[bytes]]:
    """Return the legacy messages that wait in tickit's stream, in the parts that it sends."""
    messages: list[list[bytes]] = []
    for part in stream.consume_data():
        text = part if isinstance(part, bytes) else _json(part)
        kind = b"" if isinstance(part, bytes) else text
        if any(name in kind for name in (b"dheader-1.0", b"dimage-1.0", b"dseries_end")):
            messages.append([])
        messages[-1].append(text)
    return messages


def _json(part: Any) -> bytes:
    return (part.json() if hasattr(part, "json") else json.dumps(dict(part))).encode()


def published(beamtime: str, messages: list[list[bytes]]) -> Any:
    """Push messages to the adapter, which makes the stream S of them; return its report."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 10_000)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    adapter = EigerAdapter(stream_endpoint=f"tcp://127.0.0.1:{port}")
    found: list[Any] = []

    def ingest() -> None:
        with connect() as session, closing(adapter):
            options = {"beamtime": beamtime, "detector": "e", "streams": 1, "stream": "S"}
            found.append(run(session, adapter, poll_s=0.05, **options))

    thread = threading.Thread(target=ingest)
    thread.start()
    try:
        assert socket.poll(20_000, zmq.POLLOUT)
        for message in messages:
            socket.send_multipart(message)
    finally:
        socket.close()
        context.term()
        thread.join(30.0)
    assert not thread.is_alive()
    return found[0]


def test_messages_recorded_from_an_eiger2_16m(home_env, beamtime):
    # start, image and end as the detector sent them on 2023-10-03, without the start's arrays
    recorded = Path(*peer("tickit_devices.eiger.data", "tickit-devices").__path__) / "stream2"
    messages = [[(recorded / f"{kind}.cbor").read_bytes()] for kind in ("start", "image", "end")]
    report = published(beamtime, messages)
    assert (report.frames, report.quarantined) == (1, 0)
    with connect() as session, session.stream(beamtime, "e", "S") as stream:
        frame = stream.frame(0)
        assert (frame.array.shape, frame.array.dtype) == ((4362, 4148), np.uint16)
        assert (frame.array == 65535).mean() > 0.05  # the gaps between the modules
        assert frame.timestamp_ns == 1696348069434000000
        assert stream.metadata["detector_description"] == "Dectris EIGER2 Si 16M"
        assert stream.metadata["channels"] == ["threshold_1"]
        assert (stream.state, stream.account()["expected"]) == ("complete", 1)


def test_the_legacy_stream_of_tickit(home_env, beamtime):
    stream1 = peer("tickit_devices.eiger.stream.eiger_stream", "tickit-devices")
    settings = peer("tickit_devices.eiger.eiger_settings", "tickit-devices").EigerSettings()
    dummy = peer("tickit_devices.eiger.data.dummy_image", "tickit-devices").Image
    source = stream1.EigerStream()
    source.begin_series(settings, 3, "all")
    source.insert_image(dummy.create_dummy_image(0, (4362, 4148)), 3)
    source.end_series(3)
    report = published(beamtime, multipart(source))
    assert (report.frames, report.quarantined) == (1, 0)
    with connect() as session, session.stream(beamtime, "e", "S") as stream:
        assert stream.frame(0).array.dtype == np.uint16
        assert stream.attachment("pixel_mask").ndim == 2
        assert stream.attachment("flatfield").ndim == 2


@pytest.mark.parametrize("compression", ["bslz4", "lz4"])
def test_the_vendors_library_reads_the_simulators_pixels(compression):
    library = peer("dectris.compression", "dectris-compression")
    simulator = EigerSimulator(frames=0, shape=(514, 1030), compression=compression)
    context = zmq.Context()
    with closing(simulator), context, context.socket(zmq.PULL) as socket:
        socket.connect(f"tcp://127.0.0.1:{simulator.stream_port}")
        simulator.unit.initialize()
        assert simulator.unit.wait_for_reader(20.0)
        simulator.unit.arm()
        simulator.unit.expose()
        messages = []
        for _ in range(2):
            assert socket.poll(20_000)
            messages.append(socket.recv())
    image = cbor2.loads(messages[1])
    _, typed = image["data"]["threshold_1"].value
    algorithm, size, payload = typed.value.value
    pixels = library.decompress(payload, algorithm, elem_size=size)
    ours = decode(payload, encoding=algorithm, shape=(514, 1030), dtype="uint16")
    assert pixels == ours.tobytes()
    assert ours.any()
