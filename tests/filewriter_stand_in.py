"""A FileWriter over HTTP for tests: its files appear, grow and vanish when the test says so.

Built from the vendor's description of the interface and of both file layouts; it shares no code
with the reader.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import h5py
import hdf5plugin
import numpy as np

SHAPE = (30, 40)


def images(first: int, count: int, *, seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Return images that tell their number."""
    made = np.random.default_rng([seed, first]).poisson(3, (count, *shape)).astype(np.uint16)
    made[:, 0, 0] = np.arange(first, first + count)
    return made


def hashes(data: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in data]


def data_file(data: np.ndarray, first: int | None, **options: Any) -> bytes:
    """Return a data file of the legacy layout; of the other one if the images have channels."""
    options = options or dict(hdf5plugin.Bitshuffle(cname="lz4"))
    file = io.BytesIO()
    chunks = (*(1,) * (data.ndim - 2), *data.shape[-2:])
    with h5py.File(file, "w") as made:
        dataset = made.create_dataset("entry/data/data", data=data, chunks=chunks, **options)
        if first is not None:
            dataset.attrs["image_nr_low"] = np.int64(first)
            dataset.attrs["image_nr_high"] = np.int64(first + len(data) - 1)
    return file.getvalue()


def master_file(
    *,
    nimages: int = 10,
    ntrigger: int = 1,
    date: str = "2026-11-23T08:00:00.000000",
    frame_time_s: float = 0.01,
    name: str = "series_1",
    parts: int = 1,
    inside: np.ndarray | None = None,
    channels: tuple[str, ...] = (),
) -> bytes:
    """Return a master file; ``inside`` are images in the master itself."""
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        detector = made.create_group("entry/instrument/detector")
        values = (
            ("count_time", np.float32(frame_time_s), "s"),
            ("frame_time", np.float32(frame_time_s), "s"),
            ("detector_distance", np.float32(0.2), "m"),
            ("sensor_thickness", np.float32(450), "um"),
            ("threshold_energy", np.float32(6), "keV"),
            ("beam_center_x", np.float32(20.5), "pixel"),
        )
        for key, value, unit in values:
            detector[key] = value
            detector[key].attrs["units"] = np.bytes_(unit)
        detector["description"] = np.bytes_("Dectris EIGER2 Si 500K")
        detector["sensor_material"] = np.bytes_("Si")
        made["entry/instrument/beam/incident_wavelength"] = np.float32(1.0)
        specific = detector.create_group("detectorSpecific")
        specific["nimages"], specific["ntrigger"] = np.uint32(nimages), np.uint32(ntrigger)
        specific["trigger_mode"] = np.bytes_("ints")
        if date:
            specific["data_collection_date"] = np.bytes_(date)
        mask = np.zeros(SHAPE, np.uint32)
        mask[3] = 1
        specific.create_dataset(
            "pixel_mask", data=mask, chunks=SHAPE, **hdf5plugin.Bitshuffle(cname="lz4")
        )
        for channel in channels:
            detector[f"{channel}_channel/threshold_energy"] = np.float32(6000)
        data = made.create_group("entry/data")
        for part in range(1, parts + 1):
            target = f"{name}_data_{part:06d}.h5"
            data[f"data_{part:06d}"] = h5py.ExternalLink(target, "/entry/data/data")
        if inside is not None:
            data.create_dataset("data", data=inside, chunks=(1, *inside.shape[1:]))
    return file.getvalue()


class FileWriterStandIn:
    """What a control unit answers; ``files``, ``values`` and ``away`` may be set at any time."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.values: dict[str, Any] = {
            "filewriter/config/mode": "enabled",
            "filewriter/config/image_nr_start": 1,
            "filewriter/config/nimages_per_file": 1000,
            "filewriter/status/state": "ready",
            "filewriter/status/buffer_free": 10**9,
            "detector/status/state": "idle",
        }
        #: A bare list, as version 1.6 gives; null when there is nothing, as older firmware does.
        self.bare_list = self.null_list = False
        self.away = False
        self.requests: list[str] = []
        self.cut_at: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def active(self, active: bool) -> None:
        """Set what an acquisition changes."""
        self.values["filewriter/status/state"] = "acquire" if active else "ready"
        self.values["detector/status/state"] = "acquire" if active else "idle"

    def listing(self) -> Any:
        names: Any = sorted(self.files)
        if self.null_list and not names:
            names = None
        return names if self.bare_list else {"value": names, "value_type": "string[]"}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        unit = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                if self.command != "HEAD":
                    self.wfile.write(body[: unit.cut_at] if self.path[:6] == "/data/" else body)

            def do_GET(self) -> None:
                unit.requests.append(f"{self.command} {self.path}")
                if unit.away:
                    return self.answer(b"", 503)
                module, _, task = self.path.strip("/").replace("/api/1.8.0", "").partition("/")
                if module == "data":
                    content = unit.files.get(task)
                    return self.answer(b"", 404) if content is None else self.answer(content)
                if (module, task) == ("filewriter", "files"):
                    return self.answer(json.dumps(unit.listing()).encode())
                if f"{module}/{task}" not in unit.values:
                    return self.answer(b"", 404)
                return self.answer(json.dumps({"value": unit.values[f"{module}/{task}"]}).encode())

            do_HEAD = do_GET  # noqa: N815 -- http.server's name

            def do_DELETE(self) -> None:
                unit.requests.append(f"{self.command} {self.path}")
                unit.files.pop(self.path.removeprefix("/data/"), None)
                self.answer(b"")

        return Handler


@contextmanager
def running() -> Iterator[FileWriterStandIn]:
    """Give a FileWriter for the length of a test."""
    unit = FileWriterStandIn()
    try:
        yield unit
    finally:
        unit.close()
