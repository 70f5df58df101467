"""The control unit of a simulated Eiger: states, series, images; no network but the stream."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

import numpy as np
import zmq

from pipeline.detectors.eiger import sim_messages as messages
from pipeline.detectors.scene import ring_images, stamp

#: Letters of a ULID.
_ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CYCLE = 8
#: How long an address that was ours may take to be free, seconds.
_REBIND_S = 5.0


class RefusedError(Exception):
    """The detector is in no state for this command."""


class Unit:
    """A detector that is armed, triggered and disarmed; safe for several threads.

    Parameters
    ----------
    shape:
        Pixels as (rows, columns).
    stream_format:
        ``legacy`` (V1) or ``cbor`` (V2).
    lose:
        Numbers of images that the detector drops, in every series.
    truth:
        Gets one line of JSON for each image.
    stamped:
        Plant series and number into the first pixels: every image is then another one, and takes
        its time to compress.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int],
        dtype: str,
        compression: str,
        stream_format: str,
        detail: str,
        channels: tuple[str, ...],
        stream_port: int,
        seed: int,
        mean: float = 20.0,
        lose: tuple[int, ...] = (),
        truth: IO[str] | None = None,
        queue: int = 1000,
        stamped: bool = False,
    ) -> None:
        self.lock = threading.RLock()
        self.state = "na"
        self.series = 0
        self.dropped = 0
        self.channels = channels
        self.stream: dict[str, Any] = {
            "mode": "enabled",
            "format": stream_format,
            "header_detail": detail,
        }
        self.config = _config(shape, dtype, compression)
        self._shape, self._dtype, self._seed, self._mean = shape, dtype, seed, mean
        self._lose, self._truth, self._stamped = frozenset(lose), truth, stamped
        self._unique, self._number, self._date = "", 0, datetime.now(UTC)
        self._coded: dict[tuple[str, int], messages.Coded] = {}
        self._tables = _tables(shape)
        self._cancelled = threading.Event()
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._queue = queue
        self.stream_port = self._listen(stream_port)

    # -- the stream -----------------------------------------------------------------------------

    def _listen(self, port: int) -> int:
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, self._queue)
        # what waits for a slow reader is sent before the program ends, as long as he is there
        self._socket.setsockopt(zmq.LINGER, 60_000)
        if not port:
            return int(self._socket.bind_to_random_port("tcp://127.0.0.1"))
        deadline_s = time.monotonic() + _REBIND_S
        while True:
            try:
                self._socket.bind(f"tcp://127.0.0.1:{port}")
            except zmq.ZMQError:
                # the socket that was here before is closed in the background
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)
            else:
                return port

    def unplug(self) -> None:
        """Take the stream off the network; what is made meanwhile is dropped."""
        with self.lock:
            if self._socket is not None:
                self._socket.close(linger=500)
                self._socket = None

    def plug(self) -> None:
        """Put it back, at the same address."""
        with self.lock:
            if self._socket is None:
                self._listen(self.stream_port)

    def wait_for_reader(self, timeout_s: float) -> bool:
        """Wait until somebody reads the stream; False if nobody came."""
        socket = self._socket
        return socket is not None and bool(socket.poll(int(timeout_s * 1000), zmq.POLLOUT))

    def send(self, parts: list[bytes]) -> bool:
        """Send a message, if there is room for it: a detector does not wait."""
        if self._socket is None or self.stream["mode"] != "enabled":
            return False
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    # -- commands -------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Start anew: series are counted from 1 again."""
        with self.lock:
            if self.state == "ready":
                self._end()
            self.state, self.series, self.dropped = "idle", 0, 0

    def arm(self, *, silently: bool = False) -> int:
        """Get ready for a series; return its id.  ``silently`` keeps its start back."""
        with self.lock:
            if self.state == "na":
                raise RefusedError("not initialised")
            if self.state != "idle":
                raise RefusedError(f"arm in state {self.state}")
            self.series, self.state = self.series + 1, "ready"
            self.dropped, self._number = 0, 0
            self._unique = "".join(secrets.choice(_ULID) for _ in range(26))
            self._date = datetime.now(UTC)
            self._cancelled.clear()
            if not silently:
                self.send(self.start_message())
            return self.series

    def start_message(self) -> list[bytes]:
        """Return the start of the present series."""
        detail = self.stream["header_detail"]
        if self.stream["format"] == "legacy":
            return messages.v1_start(self.series, self.config, detail, self._tables)
        return [
            messages.v2_start(
                self.series,
                self._unique,
                self.config,
                channels=self.channels,
                date=self._date,
                detail=detail,
                tables=self._tables,
            )
        ]

    def trigger(
        self,
        count: int | None = None,
        *,
        rate_hz: float | None = None,
        stop: threading.Event | None = None,
        on_frame: Callable[[int], None] | None = None,
    ) -> int:
        """Expose so many images (default ``nimages``), at the frame time; return how many."""
        wanted = self.config["nimages"] if count is None else count
        period_s = self.config["frame_time"] if rate_hz is None else 1 / rate_hz if rate_hz else 0
        with self.lock:
            if self.state != "ready":
                raise RefusedError(f"trigger in state {self.state}")
            self.state = "acquire"
        begun_s, made = time.monotonic(), 0
        for index in range(wanted):
            ahead_s = begun_s + index * period_s - time.monotonic()
            if ahead_s > 0.0002:
                self._cancelled.wait(ahead_s)
            if self._cancelled.is_set() or (stop is not None and stop.is_set()):
                break
            with self.lock:
                self.expose()
            made += 1
            if on_frame is not None:
                on_frame(self._number - 1)
        with self.lock:
            if self.state == "acquire":
                self.state = "ready"
        return made

    def expose(self, *, lost: bool = False) -> tuple[int, str]:
        """Make one image and send it; return its number and the SHA-256 of its pixels."""
        number, self._number = self._number, self._number + 1
        images = {name: self._image(name, number) for name in self.channels}
        times_ns = self._times_ns(number)
        if self.stream["format"] == "legacy":
            first = next(iter(images.values()))
            parts = messages.v1_image(
                self.series, number, first, self.config["compression"], times_ns
            )
        else:
            parts = [
                messages.v2_image(
                    self.series,
                    self._unique,
                    number,
                    images,
                    self.config["compression"],
                    date=self._date,
                    times_ns=times_ns,
                )
            ]
        sent = number not in self._lose and not lost and self.send(parts)
        if not sent:
            self.dropped += 1
        self._tell(number, images, sent=sent, time_ns=times_ns[0])
        return number, next(iter(images.values())).sha256

    def disarm(self, *, silently: bool = False) -> int:
        """End the series; return its id.  ``silently`` keeps its end back."""
        with self.lock:
            if self.state in ("ready", "acquire"):
                self._cancelled.set()
                if not silently:
                    self._end()
                self.state = "idle"
            return self.series

    cancel = abort = disarm

    def reboot(self) -> None:
        """Lose power in the midst of everything, and come back initialised."""
        with self.lock:
            self.unplug()
            self.state = "na"
            self.plug()
            self.initialize()

    def _end(self) -> None:
        self.send(self.end_message())

    def end_message(self) -> list[bytes]:
        """Return the end of the present series."""
        if self.stream["format"] == "legacy":
            return messages.v1_end(self.series)
        return [messages.v2_end(self.series, self._unique)]

    def close(self) -> None:
        """Leave the network; may be called twice."""
        with self.lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        self._context.term()

    # -- images ---------------------------------------------------------------------------------

    def _image(self, channel: str, number: int) -> messages.Coded:
        """Return an image: a few take turns, because compressing takes longer than a frame."""
        key = (channel, number % _CYCLE)
        if self._stamped and key in self._coded:
            made = stamp(self._coded[key].pixels, self.series * 1_000_000 + number)
            return messages.coded(made, self.config["compression"])
        if key not in self._coded:
            mask = self._tables["pixel_mask"] != 0
            seed = self._seed + 100 * self.channels.index(channel)
            pictures = ring_images(
                self._shape,
                count=_CYCLE,
                seed=seed,
                dtype=self._dtype,
                mean=self._mean,
                mask=mask,
            )
            for index, picture in enumerate(pictures):
                coded = messages.coded(picture, self.config["compression"])
                self._coded[channel, index] = coded
            return self._image(channel, number)
        return self._coded[key]

    def prepare(self) -> None:
        """Make the images, so that the first does not come late."""
        for channel in self.channels:
            self._image(channel, 0)

    def _times_ns(self, number: int) -> tuple[int, int, int]:
        period_ns = int(self.config["frame_time"] * 1e9)
        start = number * period_ns
        exposed = int(self.config["count_time"] * 1e9)
        return start, start + exposed, exposed

    def _tell(
        self, number: int, images: dict[str, messages.Coded], *, sent: bool, time_ns: int
    ) -> None:
        if self._truth is None:
            return
        for module, image in enumerate(images.values()):
            entry: dict[str, Any] = {
                "series": self.series,
                "number": number,
                "module": module,
                "timestamp_ns": int(self._date.timestamp() * 1e9) + time_ns,
                "pixels_sha256": image.sha256,
                "sha256": hashlib.sha256(image.framed).hexdigest(),
            }
            self._truth.write(json.dumps(entry if sent else {**entry, "lost": True}) + "\n")


def _config(shape: tuple[int, int], dtype: str, compression: str) -> dict[str, Any]:
    rows, columns = shape
    return {
        "beam_center_x": columns / 2,
        "beam_center_y": rows / 2,
        "bit_depth_image": 8 * np.dtype(dtype).itemsize,
        "compression": compression,
        "count_time": 0.0099,
        "countrate_correction_count_cutoff": 60000,
        "description": "Simulated Dectris EIGER 1M",
        "detector_distance": 0.2,
        "detector_number": "E-02-0000",
        "frame_time": 0.01,
        "nimages": 1,
        "ntrigger": 1,
        "omega_start": 0.0,
        "omega_increment": 0.1,
        "photon_energy": 12400.0,
        "sensor_material": "Si",
        "sensor_thickness": 0.00045,
        "software_version": "1.8.0",
        "threshold_energy": 6200.0,
        "trigger_mode": "ints",
        "wavelength": 0.99987,
        "x_pixel_size": 7.5e-5,
        "y_pixel_size": 7.5e-5,
        "x_pixels_in_detector": columns,
        "y_pixels_in_detector": rows,
    }


def _tables(shape: tuple[int, int]) -> dict[str, Any]:
    mask = np.zeros(shape, np.uint32)
    mask[shape[0] // 2 : shape[0] // 2 + 2] = 1  # a gap
    cutoffs = np.linspace(0, 6e4, 1000, dtype=np.float32)
    return {
        "flatfield": np.ones(shape, np.float32),
        "pixel_mask": mask,
        "countrate_table": np.stack([cutoffs, cutoffs * 1.01]).astype(np.float32),
    }
