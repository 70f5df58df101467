"""HiDRA's sender: the stand-in, one file at a time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipeline.detectors.hidra.sim import HidraSimulator
from pipeline.testing.conformance import Sent

#: Files are sent in two or three chunks of this size.
_CHUNK = 2048


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Rig:
    adapter = "hidra"
    keeps = False
    idle_end_s = 1.5
    unsupported: ClassVar[Mapping[str, str]] = {
        "missing_start": "files have no message of a start",
        "missing_end": "files have no message of an end: silence is the end",
        "doubled_end": "files have no message of an end",
        "abort": "files have no message of an abort",
    }
    states: ClassVar[Mapping[str, tuple[str, ...]]] = {"restart": ("complete",)}
    tells_count = False

    def __init__(self, folder: Path) -> None:
        self.data_port, self.confirmation_port = free_port(), free_port()
        self.sender = HidraSimulator(
            shape=(16, 24),
            chunk_nbytes=_CHUNK,
            confirmations=f"127.0.0.1:{self.confirmation_port}",
        )
        self.sender.open()
        self.series = 0

    def settings(self) -> dict[str, Any]:
        return {
            "endpoint": self.sender.endpoint,
            "data_port": self.data_port,
            "confirmation_port": self.confirmation_port,
            "receive_host": "127.0.0.1",
            "bind": "127.0.0.1",
            "chunk_timeout_s": 1.0,
        }

    def ready(self, timeout_s: float) -> None:
        assert self.sender.wait_registered(timeout_s), "nobody has registered"

    def begin(self) -> str:
        self.series += 1
        # so that no two series have equal pixels
        self.sender.seed += 1
        self.sender._images = []
        self.sender.prefix, self.sender.number = f"scan{self.series}", 0
        return self.sender.prefix

    begin_silently = begin

    def frames(self, count: int) -> list[Sent]:
        return [self._sent(line) for _ in range(count) for line in self.sender.make()]

    def lose(self, count: int) -> list[int]:
        return [self.sender._file()[0]["number"] for _ in range(count)]

    def end(self, how: str = "complete") -> None:
        pass

    def end_silently(self) -> None:
        pass

    def end_again(self) -> None:
        pass

    def disconnect(self) -> None:
        self.sender.close()

    def reconnect(self) -> None:
        self.sender.open()

    def restart(self) -> None:
        self.sender.close()
        self.sender.open()
        self.series = 0

    def close(self) -> None:
        self.sender.close(linger_s=0.0)

    @staticmethod
    def _sent(line: Mapping[str, Any]) -> Sent:
        return Sent(line["number"], line["pixels_sha256"])

    # -- bad messages ---------------------------------------------------------------------------

    def send(self, *parts: bytes) -> Callable[[], None]:
        """Return what sends a message as it is."""
        return lambda: self.sender.send(list(parts))

    def chunk(self, payload: bytes = b"1234", **fields: Any) -> Callable[[], None]:
        """Return what sends a chunk of a file that the series does not have."""
        known = {
            "source_path": "/simulated",
            "relative_path": "current/raw",
            "filename": "scan1_09000.tif",
            "filesize": 4,
            "file_mod_time": time.time(),
            "chunksize": _CHUNK,
            "chunk_number": 0,
            "version": "4.4.3",
        }
        return self.send(json.dumps(known | fields).encode(), payload)

    def _next(self, change: Callable[[list[list[bytes]]], list[list[bytes]]]) -> Sent:
        """Send the chunks of the next file as ``change`` returns them."""
        line, content = self.sender._file()
        for message in change(list(self.sender._chunks(line, content, lost=False))):
            self.sender.send(message)
        return self._sent(line)

    def _odd(self, **fields: Any) -> Callable[[], list[Sent | int]]:
        """Return what sends the next file with something changed in all chunks' metadata."""

        def change(chunks: list[list[bytes]]) -> list[list[bytes]]:
            return [[json.dumps(json.loads(h) | fields).encode(), p] for h, p in chunks]

        return lambda: [self._next(change)]

    def _file(self, damage: Callable[[bytes], bytes]) -> Callable[[], list[Sent | int]]:
        """Return what sends the next file with damaged content."""

        def change(chunks: list[list[bytes]]) -> list[list[bytes]]:
            content = damage(b"".join(bytes(part) for _, part in chunks))
            head = json.loads(chunks[0][0]) | {"filesize": len(content), "chunksize": 1 << 20}
            return [[json.dumps(head).encode(), content]]

        return lambda: [self._next(change).number]

    def _closed(self) -> list[Sent | int]:
        return [self._next(lambda chunks: [chunks[0], [b"CLOSE_FILE", b"x"], *chunks[1:]])]

    def _other_shape(self) -> list[Sent | int]:
        shape, self.sender.shape, self.sender._images = self.sender.shape, (32, 24), []
        try:
            return [line["number"] for line in self.sender.make()]
        finally:
            self.sender.shape, self.sender._images = shape, []

    def _huge(self) -> list[Sent | int]:
        """Announce half a terabyte and send its first MiB."""

        def change(chunks: list[list[bytes]]) -> list[list[bytes]]:
            head = json.loads(chunks[0][0]) | {"filesize": 1 << 39, "chunksize": 1 << 20}
            return [[json.dumps(head).encode(), bytes(1 << 20)]]

        return [self._next(change).number]

    def hostile(self) -> Mapping[str, Callable[[], list[Sent | int] | None]]:
        return {
            "empty message": self.send(b""),
            "test of the connection": self.send(b"ALIVE_TEST"),
            "one part": self.send(b"{}"),
            "no JSON": self.send(b"\xff{", b"1234"),
            "JSON that is no object": self.send(b"[1]", b"1234"),
            "a thousand lists in each other": self.send(b"[" * 30_000, b"1234"),
            "metadata of a megabyte": self.send(b" " * (1 << 20) + b"{}", b"1234"),
            "number of five thousand digits": self.send(b'{"filesize":' + b"9" * 5000 + b"}", b""),
            "closed file without a name": self.send(b"CLOSE_FILE"),
            "closed file of odd bytes": self.send(b"CLOSE_FILE", b"\xff\x00"),
            "no name": self.chunk(filename=None),
            "empty name": self.chunk(filename=""),
            "name with a slash": self.chunk(filename="../scan1_09000.tif"),
            "name with a zero byte": self.chunk(filename="scan1_09000.tif\0"),
            "name of half a character": self.chunk(filename="scan1_\ud800_09000.tif"),
            "name of a thousand characters": self.chunk(filename="x" * 1000),
            "directory that leaves": self.chunk(relative_path="current/../../etc"),
            "directory of half a character": self.chunk(relative_path="\udfff"),
            "directory that is a list": self.chunk(relative_path=["current"]),
            "length that is missing": self.chunk(filesize=None),
            "length that is true": self.chunk(filesize=True),
            "length that is a text": self.chunk(filesize="4"),
            "negative length": self.chunk(filesize=-4),
            "length that is not what came": self.chunk(filesize=5),
            "chunk of size 0": self.chunk(chunksize=0),
            "chunk number beyond the file": self.chunk(chunk_number=1),
            "negative chunk number": self.chunk(chunk_number=-1),
            "no bytes": self.chunk(b""),
            "time beyond counting": self._odd(file_mod_time=10**400),
            "time that is no number": self._odd(file_mod_time=float("nan")),
            "time before all others": self._odd(file_mod_time=-5),
            "time that is a text": self._odd(file_mod_time="now"),
            "receipt to half a character": self._odd(confirmation_required="\ud800"),
            "receipt to a number": self._odd(confirmation_required=5),
            "version in odd digits": self._odd(version="\u00b2.4.3"),
            "version that is a list": self._odd(version=[4]),
            "chunks backwards": lambda: [self._next(lambda chunks: chunks[::-1])],
            "chunks three times": lambda: [self._next(lambda chunks: chunks * 3)],
            "closed in the midst": self._closed,
            "first chunk never": lambda: [self._next(lambda chunks: chunks[1:]).number],
            "last chunk never": lambda: [self._next(lambda chunks: chunks[:-1]).number],
            "half a file": self._file(lambda data: data[: len(data) // 2]),
            "file of no bytes": self._file(lambda data: b""),
            "random bytes": self._file(lambda data: bytes(range(256)) * 4),
            "text": self._file(lambda data: b"no image\n"),
            "shape other than the series'": self._other_shape,
            "size of half a terabyte": self._huge,
            "size beyond counting": self.chunk(filesize=2**62, chunksize=2**61),
            "size of a million chunks": self.chunk(b"1", filesize=2**32, chunksize=1),
        }
