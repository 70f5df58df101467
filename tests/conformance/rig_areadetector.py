"""An areaDetector IOC: the stand-in's camera, one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.detectors.areadetector.sim import AreaDetectorSimulator
from pipeline.testing.conformance import Sent

SHAPE = (16, 24)
Update = dict[str, Any]


class Rig:
    adapter = "areadetector"
    keeps = False
    unsupported: ClassVar[Mapping[str, str]] = {}
    tells_count = False
    #: Nothing but its silence ends a series whose start was not told: the next one may be sooner.
    states: ClassVar[Mapping[str, tuple[str, ...]]] = {"missing_start": ("complete", "lost")}

    def __init__(self, folder: Path) -> None:
        self.camera = AreaDetectorSimulator(shape=SHAPE)
        self.camera.open()

    def settings(self) -> dict[str, Any]:
        return {
            "channel": self.camera.channel,
            "address": self.camera.address,
            "acquire_channel": self.camera.state_channel,
            "counter_channel": self.camera.counter_channel,
            "grace_s": 0.3,
        }

    def ready(self, timeout_s: float) -> None:
        assert self.camera.wait_watched(timeout_s, state=True), "nobody watches the channels"

    def begin(self, *, told: bool = True) -> str:
        # so that no two series have equal pixels
        self.camera.seed += 1
        self.camera._images = []
        self.camera.begin(told=told)
        return f"acquisition {self.camera.serial}"

    def begin_silently(self) -> str:
        return self.begin(told=False)

    def frames(self, count: int) -> list[Sent]:
        return [self._sent(self.camera.make()) for _ in range(count)]

    def lose(self, count: int) -> list[int]:
        return [self.camera.make(sent=False)["number"] for _ in range(count)]

    def end(self, how: str = "complete") -> None:
        self.camera.end(state="Aborted" if how == "aborted" else "Idle")

    def end_silently(self) -> None:
        self.camera.end(told=False)

    def end_again(self) -> None:
        self.camera._pvs[self.camera.state_channel].post(0)

    def disconnect(self) -> None:
        self.camera.unplug()

    def reconnect(self) -> None:
        self.camera.plug()

    def restart(self) -> None:
        self.camera.close()
        self.camera.open()

    def close(self) -> None:
        self.camera.close()

    @staticmethod
    def _sent(line: Mapping[str, Any]) -> Sent:
        return Sent(line["number"], line["pixels_sha256"])

    # -- bad updates ----------------------------------------------------------------------------

    def _next(self, change: Callable[[Update], Any]) -> Sent:
        """Serve the next image with something changed."""
        camera = self.camera
        kept: list[Update] = []
        post, camera.post = camera.post, kept.append  # type: ignore[method-assign]
        try:
            sent = self._sent(camera.make())
        finally:
            camera.post = post  # type: ignore[method-assign]
        change(kept[0])
        camera.post(kept[0])
        return sent

    def hostile(self) -> Mapping[str, Callable[[], list[Sent | int]]]:
        def bad(**fields: Any) -> Callable[[], list[Sent | int]]:
            return lambda: [self._next(lambda update: update.update(fields)).number]

        def odd(**fields: Any) -> Callable[[], list[Sent | int]]:
            return lambda: [self._next(lambda update: update.update(fields))]

        def packed(codec: str, kind: int, payload: bytes, **more: Any) -> Any:
            fields = {
                "codec": {"name": codec, "parameters": kind},
                "value": ("ubyteValue", np.frombuffer(payload, np.uint8)),
                "compressedSize": len(payload),
                **more,
            }
            return bad(**fields)

        def again() -> list[Sent | int]:
            kept: list[Update] = []
            sent = self._next(lambda update: kept.append(dict(update)))
            self.camera.post(kept[0])
            self.camera.post(kept[0])
            return [sent]

        def extents(*sizes: int) -> list[dict[str, int]]:
            return [{"size": size} for size in sizes]

        def attributes(*pairs: tuple[str, Any]) -> Any:
            return odd(attribute=[{"name": name, "value": value} for name, value in pairs])

        def stamp(seconds: int, nanoseconds: int) -> dict[str, int]:
            return {"secondsPastEpoch": seconds, "nanoseconds": nanoseconds}

        def empty() -> list[Sent | int]:
            self.camera.post({})
            return []

        rubbish = bytes(range(256)) * 2
        plain = 2 * SHAPE[0] * SHAPE[1]
        return {
            "empty array": empty,
            "the same image three times": again,
            "truth values": bad(value=("booleanValue", [True, False])),
            "codec that is unknown": packed("zip", 6, rubbish),
            "codec of pixels that are wide": bad(codec={"name": "lz4", "parameters": 6}),
            "codec without a type": packed("lz4", 0, rubbish),
            "codec of another type": packed("lz4", 11, rubbish),
            "codec with a text for a type": packed("lz4", "uint16", rubbish),  # type: ignore[arg-type]
            "zlib rubbish": packed("zlib", 6, rubbish),
            # a bare LZ4 block says nothing of itself: rubbish in it shows when it is decoded
            "lz4hdf5 rubbish": packed("lz4hdf5", 6, rubbish),
            "bslz4 rubbish": packed("bslz4", 6, rubbish),
            "bslz4 that is cut": packed("bslz4", 6, b"\0"),
            "blosc rubbish": packed("blosc", 6, rubbish),
            "jpeg rubbish": packed("jpeg", 5, rubbish, uncompressedSize=plain // 2),
            "lz4 with a header and no more": packed("lz4", 6, plain.to_bytes(8, "big")),
            "more bytes announced than there are": packed("lz4", 6, rubbish, compressedSize=4096),
            "negative length": packed("lz4", 6, rubbish, compressedSize=-1),
            "no time": odd(dataTimeStamp=stamp(0, 0), timeStamp=stamp(0, 0)),
            "time with too many nanoseconds": odd(dataTimeStamp=stamp(1_700_000_000, 2**31 - 1)),
            "time before all others": odd(dataTimeStamp=stamp(-(2**62), -5)),
            "time in a far future": odd(dataTimeStamp=stamp(2**62, 5)),
            "attribute that is no number": attributes(("A", float("nan")), ("B", float("inf"))),
            "attributes by the hundred": attributes(*((f"A{n}", n) for n in range(400))),
            "attribute of a megabyte": attributes(("A", "x" * 10**6), ("ColorMode", 99)),
            "attributes of odd names": attributes(("", 1), ("a b", 2), ("x" * 999, 3), ("\t", 4)),
            "attribute with control characters": attributes(("A", "\x00\x01\x1b\x7f")),
            "attribute that is a list": attributes(("A", np.arange(10**5))),
            "shape of other images": bad(dimension=extents(5, 5), value=("ubyteValue", [0] * 25)),
            "shape turned round": bad(dimension=extents(*SHAPE)),
            "shape of four axes": bad(dimension=extents(24, 4, 2, 2)),
            "shape of nine axes": bad(dimension=extents(24, 16, *[1] * 7)),
            "shape with a zero": bad(dimension=extents(0, 16)),
            "shape with a minus": bad(dimension=extents(-24, -16)),
            "shape that is missing": bad(dimension=[]),
            "shape that does not fit its pixels": bad(dimension=extents(24, 17)),
            "size of terabytes": bad(dimension=extents(10**6, 10**6)),
            "size beyond counting": bad(dimension=extents(2**31 - 1, 2**31 - 1, 2**31 - 1)),
            "size of terabytes, compressed": packed(
                "bslz4", 6, rubbish, dimension=extents(10**6, 10**6), uncompressedSize=2 * 10**12
            ),
            "size of a gigabyte that is not there": packed(
                "lz4", 6, rubbish, dimension=extents(2**14, 2**15), uncompressedSize=2**30
            ),
        }
