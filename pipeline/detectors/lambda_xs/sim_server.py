"""A simulated xspd: a detector of several modules, its REST interface, a PUB socket per module.

It shares no code with the readers.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import zmq

from pipeline.detectors.scene import ring_images, stamp

COMPRESSORS = ("none", "zlib", "blosc/lz4", "blosc/zstd", "blosc/blosclz")
#: Bit depth to the type of a pixel on delivery.
BITS = {1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}
_CYCLE = 4
_WRAP = 256
_DEVICE = "lambda01"
_DETECTOR = "lambda"


class Detector:
    """Modules beside each other that are started and stopped; safe for several threads.

    Parameters
    ----------
    shape:
        Pixels of a module as (rows, columns).
    dual:
        Two thresholds: two images with each number.
    lose:
        Numbers that no module sends.
    lose_module:
        Numbers that module 0 does not send.
    bad_status:
        Numbers that module 0 sends as missing (status 2).
    stamped:
        Plant run and number into the first pixels of every image.
    """

    def __init__(
        self,
        *,
        modules: int,
        shape: tuple[int, int],
        bit_depth: int,
        compressor: str,
        dual: bool,
        seed: int,
        lose: tuple[int, ...] = (),
        lose_module: tuple[int, ...] = (),
        bad_status: tuple[int, ...] = (),
        truth: IO[str] | None = None,
        stamped: bool = False,
        queue: int = 1000,
    ) -> None:
        self.lock = threading.RLock()
        self.shape, self.modules, self.counters = shape, modules, 2 if dual else 1
        self.status = "ready"
        self.number = 0
        self.runs = 0
        #: How often somebody has asked for the status.
        self.asked = 0
        self.variables: dict[str, Any] = {
            "n_frames": 1,
            "shutter_time": 0.5,
            "bit_depth": bit_depth,
            "counter_mode": "DUAL" if dual else "SINGLE",
            "thresholds": [6.0, 12.0] if dual else [6.0],
            "beam_energy": 12.4,
            "trigger_mode": "SOFTWARE",
            "gating_mode": "OFF",
            "charge_summing": "OFF",
            "roi_rows": shape[0],
            "summed_frames": 1,
            "compressor": compressor,
            "compression_level": 5,
            "shuffle_mode": "BYTE_SHUFFLE",
            "saturation_flag": "OFF",
            "user_data": "",
        }
        self._lose, self._lose_module = frozenset(lose), frozenset(lose_module)
        self._bad_status = frozenset(bad_status)
        self._truth, self._stamped, self._seed = truth, stamped, seed
        self._coded: dict[tuple[int, int], tuple[npt.NDArray[Any], bytes, str]] = {}
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._queue = queue
        self._sockets: list[zmq.Socket[bytes]] = []
        self.ports: list[int] = []
        self.plug()

    # -- the network ----------------------------------------------------------------------------

    def plug(self) -> None:
        """Open the data ports, at the same addresses as before."""
        self._heard = [False] * self.modules
        for index in range(self.modules):
            # XPUB: as PUB, but it hears of subscribers, so that a test can wait for one
            socket = self._context.socket(zmq.XPUB)
            socket.setsockopt(zmq.SNDHWM, self._queue)
            socket.setsockopt(zmq.LINGER, 2000)
            self._sockets.append(socket)
            if len(self.ports) <= index:
                self.ports.append(int(socket.bind_to_random_port("tcp://127.0.0.1")))
            else:
                self._bind_again(socket, self.ports[index])

    @staticmethod
    def _bind_again(socket: zmq.Socket[bytes], port: int) -> None:
        for _ in range(500):
            try:
                socket.bind(f"tcp://127.0.0.1:{port}")
            except zmq.ZMQError:
                time.sleep(0.01)  # the socket that was here before is closed in the background
            else:
                return
        raise OSError(f"port {port} is not free")

    def unplug(self) -> None:
        """Take the data ports off the network."""
        for socket in self._sockets:
            socket.close(linger=200)
        self._sockets.clear()

    def wait_for_readers(self, timeout_s: float) -> bool:
        """Wait until somebody has subscribed at every port; False if nobody came."""
        deadline_s = time.monotonic() + timeout_s
        for index, socket in enumerate(self._sockets):
            # what comes from a subscriber is 1 for his coming and 0 for his going
            while socket.poll(0) or not self._heard[index]:
                if not socket.poll(max(0, int((deadline_s - time.monotonic()) * 1000))):
                    return False
                self._heard[index] = socket.recv()[:1] == b"\x01"
        return True

    def close(self) -> None:
        """Leave the network; may be called twice."""
        self._stop.set()
        self.unplug()
        self._context.term()

    # -- runs -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Get busy: numbers are counted from 0."""
        with self.lock:
            self.status, self.number = "busy", 0
            self.runs += 1
            self._stop.clear()

    def finish(self) -> None:
        """Be ready again."""
        with self.lock:
            self.status = "ready"

    def start(
        self,
        stop: threading.Event | None = None,
        on_frame: Callable[[int], None] | None = None,
    ) -> int:
        """Make ``n_frames`` at the shutter time; return how many."""
        self.begin()
        period_s = self.variables["shutter_time"] / 1e3
        begun_s, made = time.monotonic(), 0
        for index in range(self.variables["n_frames"]):
            ahead_s = begun_s + index * period_s - time.monotonic()
            if ahead_s > 0.0002:
                self._stop.wait(ahead_s)
            if self._stop.is_set() or (stop is not None and stop.is_set()):
                break
            with self.lock:
                self.expose()
            made += 1
            if on_frame is not None:
                on_frame(index)
        self.finish()
        return made

    def stop(self) -> None:
        """Stop a run."""
        self._stop.set()

    def expose(self, *, lost: bool = False) -> list[tuple[int, int, str]]:
        """Make the images of one number; return (number, module, sha256 of the pixels) of each."""
        number, self.number = self.number, self.number + 1
        made = []
        for module in range(self.modules):
            for counter in range(self.counters):
                key = module * self.counters + counter
                payload, digest = self._image(key, number)
                gone = lost or number in self._lose or (module == 0 and number in self._lose_module)
                bad = module == 0 and number in self._bad_status
                if not gone and self._sockets:
                    head = bytes((number % _WRAP, counter, 2 if bad else 0, 0))
                    self._sockets[module].send_multipart([b"", head, b"" if bad else payload])
                self._tell(number, key, digest, lost=gone or bad)
                made.append((number, key, digest))
        return made

    def _tell(self, number: int, module: int, digest: str, *, lost: bool) -> None:
        if self._truth is not None:
            entry: dict[str, Any] = {
                "series": self.runs,
                "number": number,
                "module": module,
                "timestamp_ns": time.time_ns(),
                "pixels_sha256": digest,
            }
            self._truth.write(json.dumps({**entry, "lost": True} if lost else entry) + "\n")

    # -- images ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the images, so that the first does not come late."""
        for key in range(self.modules * self.counters):
            self._image(key, 0)

    def _image(self, key: int, number: int) -> tuple[bytes, str]:
        """Return payload and digest; a few images take turns, because coding takes its time."""
        index = number % _CYCLE
        if (key, index) not in self._coded:
            dtype = BITS[self.variables["bit_depth"]]
            saturation = (1 << self.variables["bit_depth"]) - 1
            for at, picture in enumerate(
                ring_images(
                    self.shape,
                    count=_CYCLE,
                    seed=self._seed + key,
                    dtype=dtype,
                    saturation=saturation,
                )
            ):
                self._coded[key, at] = (picture, *self._code(picture))
        picture, payload, digest = self._coded[key, index]
        if self._stamped:
            return self._code(stamp(picture, self.runs * 100_000 + number))
        return payload, digest

    def _code(self, picture: npt.NDArray[Any]) -> tuple[bytes, str]:
        raw = np.ascontiguousarray(picture).tobytes()
        kind, _, codec = str(self.variables["compressor"]).partition("/")
        payload = raw
        if kind == "zlib":
            payload = zlib.compress(raw, 1)
        elif kind == "blosc":
            import blosc

            payload = blosc.compress(raw, typesize=picture.dtype.itemsize, clevel=5, cname=codec)
        return payload, hashlib.sha256(raw).hexdigest()


class Server:
    """The REST interface of a detector, on loopback while the block runs."""

    def __init__(self, detector: Detector, port: int) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(detector))
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, name="xspd")

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(detector: Detector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._answer(_read(detector, parts.path, parse_qs(parts.query)))

        def do_PUT(self) -> None:
            parts = urlsplit(self.path)
            self._answer(_write(detector, parts.path, parse_qs(parts.query)))

        def _answer(self, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(404 if value is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    return Handler


def _read(detector: Detector, path: str, query: dict[str, list[str]]) -> Any:
    """Return the answer to a GET, None if there is no such thing."""
    device = f"/api/v1/devices/{_DEVICE}"
    if path == "/api":
        return {"api version": "1", "xspd version": "1.4.2"}
    if path == "/api/v1/devices":
        return {"devices": [{"id": _DEVICE}]}
    if path == device:
        refs = [f"{_DETECTOR}/{index + 1}" for index in range(detector.modules)]
        return {
            "id": _DEVICE,
            "system": {
                "detectors": [{"id": _DETECTOR, "modules": [{"ref": ref} for ref in refs]}],
                "data-ports": [
                    {"ref": ref, "id": f"port-{index}", "ip": "0.0.0.0", "port": port}  # noqa: S104
                    for index, (ref, port) in enumerate(zip(refs, detector.ports, strict=True))
                ],
            },
        }
    if path == f"{device}/variables" and "path" in query:
        value = _variable(detector, query["path"][0])
        return None if value is None else {"path": query["path"][0], "value": value}
    return None


def _variable(detector: Detector, path: str) -> Any:
    parts = path.split("/")
    with detector.lock:
        if len(parts) == 2:
            detector.asked += parts[1] == "status"
            return {**detector.variables, "status": detector.status}.get(parts[1])
        if len(parts) == 3 and parts[1].isdigit():
            rows, columns = detector.shape
            index = int(parts[1]) - 1
            return {
                "frame_width": columns,
                "frame_height": rows,
                "frame_depth": 8 * np.dtype(BITS[detector.variables["bit_depth"]]).itemsize,
                "position": [0, index * (rows + 4), 0],
                "rotation": [0, 0, 0],
                "frames_queued": 0,
                "temperature": [30.0],
            }.get(parts[2])
    return None


def _write(detector: Detector, path: str, query: dict[str, list[str]]) -> Any:
    """Set a variable, or do a command; None if there is no such."""
    name = query.get("path", [""])[0].rpartition("/")[2]
    if path.endswith("/commands"):
        if name not in ("start", "stop", "reset"):
            return None
        if name == "start":
            threading.Thread(target=detector.start, name="run", daemon=True).start()
        else:
            detector.stop()
        return {"path": name}
    if path.endswith("/variables") and name in detector.variables and "value" in query:
        with detector.lock:
            kind = type(detector.variables[name])
            detector.variables[name] = kind(query["value"][0])
        return {"path": name, "value": detector.variables[name]}
    return None
