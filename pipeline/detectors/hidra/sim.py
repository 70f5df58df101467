"""A stand-in for HiDRA's sender: signal port, and files in chunks to whoever has registered."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import zmq

from pipeline.detectors.options import Option
from pipeline.detectors.pilatus.sim_files import tiff_file
from pipeline.detectors.scene import ring_images, stamp
from pipeline.errors import InvalidArgumentError

log = logging.getLogger(__name__)
_VERSION = b"4.4.3"
_CYCLE = 4


class HidraSimulator:
    """Sends TIFF files as HiDRA 4.4 does with ``number_of_streams`` streams.

    Parameters
    ----------
    bind:
        Address of the signal port.
    signal_port:
        0 takes a free one; :attr:`endpoint` says which.
    frames:
        How many files.
    rate_hz:
        Files per second; 0 is as fast as they are taken.
    chunk_nbytes:
        Files are sent in pieces of this size.
    streams:
        Files of which chunks are sent in turns.
    repeat_every:
        Every so many files a chunk is sent twice; 0: never.
    lose_every:
        Every so many files the first chunk is never sent; 0: never.
    refuse:
        Answer registrations so, such as ``NO_VALID_HOST``.
    confirmations:
        ``HOST:PORT`` where receipts come from; files then ask for them.
    stamped:
        Put its number into each image.
    wait_s:
        How long to wait for a registration.
    truth:
        A file that gets a JSON line for each image.

    Raises
    ------
    InvalidArgumentError
        Names the parameter that is out of range.
    """

    def __init__(
        self,
        *,
        bind: str = "127.0.0.1",
        signal_port: int = 0,
        frames: int = 100,
        rate_hz: float = 10.0,
        prefix: str = "sim",
        directory: str = "current/raw",
        shape: tuple[int, int] = (600, 1000),
        first_number: int = 1,
        chunk_nbytes: int = 10 << 20,
        streams: int = 1,
        repeat_every: int = 0,
        lose_every: int = 0,
        refuse: str = "",
        confirmations: str = "",
        stamped: bool = True,
        wait_s: float = 10.0,
        truth: Path | None = None,
        seed: int = 0,
    ) -> None:
        if frames < 0 or streams < 1 or chunk_nbytes < 1 or min(repeat_every, lose_every) < 0:
            raise InvalidArgumentError("frames", "counts cannot be negative")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if min(shape) < 8 or max(shape) > 20_000:
            raise InvalidArgumentError("shape", f"{shape} is outside 8 to 20000 rows and columns")
        self.frames, self.rate_hz, self.prefix = frames, rate_hz, prefix
        self.directory, self.shape, self.number = directory, shape, first_number - 1
        self.chunk_nbytes, self.streams = chunk_nbytes, streams
        self.repeat_every, self.lose_every = repeat_every, lose_every
        self.refuse, self.confirmations = refuse, confirmations
        self.stamped, self.wait_s, self.truth, self.seed = stamped, wait_s, truth, seed
        self.confirmed: set[tuple[str, int]] = set()
        self.targets: list[str] = []
        self._bind, self._port = bind, signal_port
        self._registered = Event()
        self._stop = Event()
        self._images: list[Any] = []
        self._encoded: dict[int, tuple[bytes, str]] = {}
        self._context: zmq.Context[Any] | None = None
        self._thread: Thread | None = None
        self._data: dict[str, zmq.Socket[bytes]] = {}

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(name="bind", default="127.0.0.1", help="address to listen on", unit="IP"),
            Option(
                name="signal_port", type=int, default=50000, help="for registration", unit="PORT"
            ),
            Option(name="frames", type=int, default=100, help="how many files", unit="N"),
            Option(name="rate_hz", type=float, default=10.0, help="files per second", unit="HZ"),
            Option(name="prefix", default="sim", help="how file names begin", unit="TEXT"),
            Option(
                name="chunk_nbytes", type=int, default=10 << 20, help="size of pieces", unit="N"
            ),
            Option(name="streams", type=int, default=1, help="files sent in turns", unit="N"),
            Option(
                name="repeat_every",
                type=int,
                default=0,
                help="every Nth has a chunk twice",
                unit="N",
            ),
            Option(
                name="lose_every",
                type=int,
                default=0,
                help="every Nth lacks its first chunk",
                unit="N",
            ),
            Option(name="truth", type=Path, help="file for a JSON line per image", unit="FILE"),
            Option(name="seed", type=int, default=0, help="of the random numbers", unit="N"),
        ]

    # -- the sender, step by step ---------------------------------------------------------------

    @contextmanager
    def serving(self) -> Iterator[HidraSimulator]:
        """Listen for registrations; :attr:`endpoint` says where."""
        self.open()
        try:
            yield self
        finally:
            self.close()

    def open(self) -> None:
        """Begin to listen."""
        self._stop.clear()
        self._context = zmq.Context()
        signals = self._context.socket(zmq.REP)
        signals.setsockopt(zmq.LINGER, 0)
        signals.bind(f"tcp://{self._bind}:{self._port or '*'}")
        bound = signals.getsockopt_string(zmq.LAST_ENDPOINT)
        self._port = int(bound.rpartition(":")[2])
        self._thread = Thread(target=self._listen, args=(signals,), name="hidra-signals")
        self._thread.start()

    def close(self, *, linger_s: float = 2.0) -> None:
        """Stop; registrations are forgotten, as the real sender forgets them."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
            self._thread = None
        for socket in self._data.values():
            socket.close(linger=round(linger_s * 1000))
        self._data = {}
        self.targets = []
        self._registered.clear()
        if self._context is not None:
            self._context.term()
            self._context = None

    @property
    def endpoint(self) -> str:
        """HOST:PORT of the signal port."""
        return f"{self._bind}:{self._port}"

    def wait_registered(self, timeout_s: float) -> bool:
        """Wait until somebody wants files."""
        return self._registered.wait(timeout_s)

    def _listen(self, signals: zmq.Socket[bytes]) -> None:
        assert self._context is not None
        receipts = self._context.socket(zmq.SUB)
        receipts.setsockopt(zmq.LINGER, 0)
        receipts.setsockopt(zmq.SUBSCRIBE, b"simulated_1")
        if self.confirmations:
            receipts.connect(f"tcp://{self.confirmations}")
        poller = zmq.Poller()
        poller.register(signals, zmq.POLLIN)
        poller.register(receipts, zmq.POLLIN)
        while not self._stop.is_set():
            ready = dict(poller.poll(50))
            if signals in ready:
                signals.send_multipart(self._answer(signals.recv_multipart()))
            if receipts in ready:
                _, name, *number = receipts.recv_multipart()  # old versions tell no chunk
                self.confirmed.add((name.decode(), int(number[0]) if number else 0))
        signals.close(linger=0)
        receipts.close(linger=0)

    def _answer(self, message: list[bytes]) -> list[bytes]:
        if self.refuse:
            return [self.refuse.encode()]
        if len(message) != 4:
            return [b"NO_VALID_SIGNAL"]
        _, _, signal, targets = message
        names = [target[0] for target in json.loads(targets)]
        if signal == b"START_STREAM":
            self.targets = list(dict.fromkeys((*self.targets, *names)))
            self._registered.set()
        elif signal == b"STOP_STREAM":
            self.targets = [name for name in self.targets if name not in names]
        elif signal == b"GET_VERSION":
            return [signal, _VERSION]
        return [signal]

    def make(self, count: int = 1, *, lost: bool = False) -> list[dict[str, Any]]:
        """Make the next files and send their chunks in turns; return their lines of the truth.

        ``lost``: their first chunks are never sent.
        """
        made = [self._file() for _ in range(count)]
        queues = [self._chunks(line, content, lost=lost) for line, content in made]
        while queues:
            for queue in list(queues):
                message = next(queue, None)
                if message is None:
                    queues.remove(queue)
                else:
                    self.send(message)
        return [{**line, "lost": True} if lost or line.get("lost") else line for line, _ in made]

    def send(self, message: list[bytes]) -> None:
        """Send a message to everybody who has registered, as it is."""
        assert self._context is not None
        for target in self.targets:
            if target not in self._data:
                socket = self._data[target] = self._context.socket(zmq.PUSH)
                socket.setsockopt(zmq.SNDHWM, 20)
                socket.setsockopt(zmq.SNDTIMEO, 20_000)
                socket.connect(f"tcp://{target}")
            self._data[target].send_multipart(message, copy=False)

    def _file(self) -> tuple[dict[str, Any], bytes]:
        self.number += 1
        if not self._images:
            self._images = ring_images(
                self.shape, count=_CYCLE, seed=self.seed, dtype="int32", mean=20.0
            )
        place = self.number % _CYCLE
        if self.stamped or place not in self._encoded:
            image = self._images[place]
            image = stamp(image, self.number) if self.stamped else image
            digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
            self._encoded[place] = (tiff_file(image, ["# simulated"]), digest)
        content, digest = self._encoded[place]
        line = {
            "series": self.prefix,
            "number": self.number,
            "name": f"{self.prefix}_{self.number:05d}.tif",
            "timestamp_ns": time.time_ns() // 1000 * 1000,
            "pixels_sha256": digest,
        }
        return line, content

    def _chunks(self, line: dict[str, Any], content: bytes, *, lost: bool) -> Iterator[list[bytes]]:
        number = line["number"]
        loses = lost or bool(self.lose_every and number % self.lose_every == 0)
        twice = bool(self.repeat_every and number % self.repeat_every == 0)
        metadata = {
            "source_path": "/simulated",
            "relative_path": self.directory,
            "filename": line["name"],
            "filesize": len(content),
            "file_mod_time": line["timestamp_ns"] / 1e9,
            "file_create_time": line["timestamp_ns"] / 1e9,
            "chunksize": self.chunk_nbytes,
            "confirmation_required": "simulated_1" if self.confirmations else False,
            "version": _VERSION.decode(),
        }
        if loses:
            line["lost"] = True
        view = memoryview(content)
        for index, start in enumerate(range(0, len(content), self.chunk_nbytes)):
            if loses and index == 0:
                continue
            head = json.dumps({**metadata, "chunk_number": index}).encode()
            part: Any = view[start : start + self.chunk_nbytes]
            yield [head, part]
            if twice and index == 0:
                yield [head, part]

    # -- by itself ------------------------------------------------------------------------------

    def run(self, stop: Event | None = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Send the files and return how many were made; waits ``wait_s`` for a registration."""
        stop = stop or Event()
        truth = self.truth.open("w", encoding="utf-8") if self.truth else None
        made = 0
        try:
            with self.serving():
                if not self.wait_registered(self.wait_s):
                    log.warning("nobody reads: what is made now is lost")
                begin_s = time.monotonic()
                while made < self.frames:
                    due_s = begin_s + (made / self.rate_hz if self.rate_hz else 0.0)
                    if stop.wait(max(0.0, due_s - time.monotonic())):
                        break
                    for line in self.make(min(self.streams, self.frames - made)):
                        made += 1
                        if truth:
                            truth.write(json.dumps(line) + "\n")
                        if on_frame:
                            on_frame(line["number"])
        finally:
            if truth:
                truth.close()
        return made
