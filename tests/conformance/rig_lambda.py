"""A Lambda of two modules by xspd: one ZeroMQ port each, states by REST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipeline.detectors.lambda_xs.sim_server import Detector, Server
from pipeline.local.processes import wait_until
from pipeline.testing.conformance import FAULTS, Sent

SHAPE = (16, 24)
_NBYTES = 2 * SHAPE[0] * SHAPE[1]


class Rig:
    adapter = "lambda"
    keeps = False
    unsupported: ClassVar[Mapping[str, str]] = {
        "missing_start": "the server sends no message of a start",
        "missing_end": "the server sends no message of an end",
        "doubled_end": "the server sends no message of an end",
    }
    #: Frames are asked for without end here, so that every end is a stop.
    states: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(FAULTS, ("aborted",))
    splits: ClassVar[Mapping[str, str]] = {
        "kill": "numbers of one byte: nobody knows which 256 a run that is joined late has reached"
    }

    def __init__(self, folder: Path) -> None:
        self.detector = Detector(
            modules=2,
            shape=SHAPE,
            bit_depth=12,
            compressor="none",
            dual=False,
            seed=3,
            stamped=True,
        )
        self.detector.prepare()
        self.detector.variables.update(n_frames=1_000_000, shutter_time=10.0)
        self._server = Server(self.detector, 0)
        self._server.__enter__()

    def settings(self) -> dict[str, Any]:
        return {
            "endpoint": f"http://127.0.0.1:{self._server.port}",
            "status_every_s": 0.1,
            "lost_after_s": 30.0,
        }

    def ready(self, timeout_s: float) -> None:
        assert self.detector.wait_for_readers(timeout_s), "nobody reads the ports"

    def begin(self) -> str:
        self.detector.begin()
        return f"run {self.detector.runs}"

    begin_silently = begin

    def frames(self, count: int) -> list[Sent]:
        made = [image for _ in range(count) for image in self.detector.expose()]
        return [Sent(number, digest, module) for number, module, digest in made]

    def lose(self, count: int) -> list[int]:
        return [self.detector.expose(lost=True)[0][0] for _ in range(count)]

    def end(self, how: str = "complete") -> None:
        self.detector.finish()
        # a detector takes its time between two runs: an adapter that listens asks meanwhile
        asked = self.detector.asked
        wait_until(lambda: self.detector.asked >= asked + 2, timeout_s=2.0)

    def end_silently(self) -> None:
        self.end()

    def end_again(self) -> None:
        self.detector.finish()

    def disconnect(self) -> None:
        self.detector.unplug()

    def reconnect(self) -> None:
        self.detector.plug()

    def restart(self) -> None:
        self.detector.unplug()
        self.detector.finish()
        self.detector.plug()

    def close(self) -> None:
        self._server.__exit__()
        self.detector.close()

    def hostile(self) -> Mapping[str, Callable[[], None]]:
        def send(*parts: bytes) -> Callable[[], None]:
            return lambda: self.detector._sockets[0].send_multipart(list(parts))

        def image(payload: bytes) -> Callable[[], Any]:
            def harm() -> list[int]:
                """Lose module 0 of a number: rubbish comes in its place."""
                head = bytes((self.detector.number % 256, 0, 0, 0))
                self.detector._sockets[0].send_multipart([b"", head, payload])
                return self.lose(1)

            return harm

        return {
            "one part": send(b"x"),
            "five parts": send(b"", bytes(4), b"", b"", b""),
            "header of one byte": send(b"", b"\x07", bytes(_NBYTES)),
            "empty header": send(b"", b"", bytes(_NBYTES)),
            "counter of the dual mode": send(b"", bytes((1, 1, 0, 0)), bytes(_NBYTES)),
            "no pixels": image(b""),
            "shape of other images": image(bytes(50)),
            "size of ten images": image(bytes(10 * _NBYTES)),
        }
