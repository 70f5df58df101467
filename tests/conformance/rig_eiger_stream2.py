"""An Eiger's stream V2 (CBOR), with two thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cbor2
from eiger_device import SHAPE, EigerDevice

_RAW = bytes(2 * SHAPE[0] * SHAPE[1])


class Rig(EigerDevice):
    stream_format = "cbor"
    channels = ("threshold_1", "threshold_2")

    def hostile(self) -> Mapping[str, Callable[[], None]]:
        def image(data: Any = None, **more: Any) -> Callable[[], None]:
            def harm() -> None:
                message = {
                    "type": "image",
                    "series_id": self.unit.series,
                    "series_unique_id": self.unit._unique,
                    "image_id": 900,
                    "data": {"threshold_1": data} if data is not None else None,
                    **more,
                }
                self.unit.send([cbor2.dumps(message)])

            return harm

        def grid(dims: Any, payload: Any = _RAW, tag: int = 69) -> Any:
            return cbor2.CBORTag(40, [dims, cbor2.CBORTag(tag, payload)])

        def packed(algorithm: Any, size: Any, payload: bytes) -> Any:
            return grid(list(SHAPE), cbor2.CBORTag(56500, [algorithm, size, payload]))

        dims = list(SHAPE)
        return {
            "empty message": self.send(b""),
            "cut short": self.send(cbor2.dumps({"type": "image", "series_id": 1})[:-3]),
            "map without a type": self.send(cbor2.dumps({})),
            "unknown type": self.send(cbor2.dumps({"type": "foo", "series_id": 1})),
            "array of 2**60 announced": self.send(b"\xa1\x64type\x9b" + b"\x10" + bytes(7)),
            "bytes of 2**60 announced": self.send(b"\xa1\x64type\x5b" + b"\x10" + bytes(7)),
            "ten thousand arrays in each other": self.send(b"\xa1\x64type" + b"\x81" * 10_000),
            "many parts": self.send(b"\xa0", b"\xa0", b"\xa0"),
            "end of another series": self.send(
                cbor2.dumps({"type": "end", "series_id": 1, "series_unique_id": "OTHER"})
            ),
            "no data": image(),
            "data without channels": image(data={}, image_id=901),
            "negative number": image(grid(dims), image_id=-5),
            "number that is a text": image(grid(dims), image_id="7"),
            "unknown pixels": image(grid(dims, tag=99)),
            "big-endian": image(grid(dims, tag=65)),
            "unknown compression": image(packed("zip", 2, b"1234")),
            "compressed rubbish": image(packed("bslz4", 2, b"\x01" * 300)),
            "elements of another size": image(packed("bslz4", 8, b"\x01" * 300)),
            "header that lies": image(packed("lz4", 0, (10**12).to_bytes(8, "big") + bytes(99))),
            "shape of other images": image(grid([5, 5], bytes(50))),
            "shape that is no list": image(grid("16x24")),
            "shape of three axes": image(grid([2, 8, 24])),
            "shape with a zero": image(grid([0, 24], b"")),
            "shape that does not fit its bytes": image(grid([16, 25])),
            "size of terabytes": image(grid([10**6, 10**6])),
            "size beyond counting": image(grid([2**62, 2**62])),
        }
