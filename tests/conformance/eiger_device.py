"""An Eiger for the fault script: the simulator's control unit, one message at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipeline.detectors.eiger.sim import EigerSimulator
from pipeline.testing.conformance import Sent

SHAPE = (16, 24)


class EigerDevice:
    adapter = "eiger"
    keeps = False
    stream_format = ""
    channels: tuple[str, ...] = ("threshold_1",)
    unsupported: ClassVar[Mapping[str, str]] = {}
    #: The stream does not tell an abort from an end.
    states: ClassVar[Mapping[str, tuple[str, ...]]] = {"abort": ("complete",)}

    def __init__(self, folder: Path) -> None:
        self.simulator = EigerSimulator(
            frames=0,
            rate_hz=100,
            stream_format=self.stream_format,
            header_detail="all",
            shape=SHAPE,
            channels=self.channels,
        )
        self.unit = self.simulator.unit
        self.unit._stamped = True
        self.unit.initialize()

    def settings(self) -> dict[str, Any]:
        return {
            "endpoint": f"http://127.0.0.1:{self.simulator.port}",
            "stream_endpoint": f"tcp://127.0.0.1:{self.simulator.stream_port}",
            "lost_after_s": 30.0,
        }

    def ready(self, timeout_s: float) -> None:
        assert self.unit.wait_for_reader(timeout_s), "nobody reads the stream"

    def begin(self) -> str:
        return f"series {self.unit.arm()}"

    def begin_silently(self) -> str:
        return f"series {self.unit.arm(silently=True)}"

    def frames(self, count: int) -> list[Sent]:
        return [sent for _ in range(count) for sent in self._expose()]

    def _expose(self) -> Iterable[Sent]:
        number = self.unit._number
        images = [self.unit._image(name, number) for name in self.channels]
        self.unit.expose()
        return [Sent(number, image.sha256, module) for module, image in enumerate(images)]

    def lose(self, count: int) -> list[int]:
        return [self.unit.expose(lost=True)[0] for _ in range(count)]

    def end(self, how: str = "complete") -> None:
        self.unit.abort() if how == "aborted" else self.unit.disarm()

    def end_silently(self) -> None:
        self.unit.disarm(silently=True)

    def end_again(self) -> None:
        self.unit.send(self.unit.end_message())

    def disconnect(self) -> None:
        self.unit.unplug()

    def reconnect(self) -> None:
        self.unit.plug()

    def restart(self) -> None:
        self.unit.reboot()

    def close(self) -> None:
        self.simulator.close()

    # -- bad messages ---------------------------------------------------------------------------

    def send(self, *parts: bytes) -> Callable[[], None]:
        """Return what sends a message as it is."""

        def harm() -> None:
            self.unit.send(list(parts))

        return harm

    def json(self, **values: Any) -> bytes:
        return json.dumps(values).encode()
