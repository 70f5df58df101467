"""An Eiger's legacy stream (V1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eiger_device import SHAPE, EigerDevice

_RAW = bytes(2 * SHAPE[0] * SHAPE[1])


class Rig(EigerDevice):
    stream_format = "legacy"

    def hostile(self) -> Mapping[str, Callable[[], None]]:
        def image(
            shape: object = SHAPE[::-1],
            dtype: object = "uint16",
            encoding: object = "<",
            blob: bytes = _RAW,
            **more: object,
        ) -> Callable[[], None]:
            def harm() -> None:
                head = self.json(htype="dimage-1.0", series=self.unit.series, frame=900, hash="")
                data = self.json(
                    htype="dimage_d-1.0",
                    shape=shape,
                    type=dtype,
                    encoding=encoding,
                    **{"size": len(blob), **more},
                )
                self.unit.send([head, data, blob, self.json(htype="dconfig-1.0")])

            return harm

        return {
            "empty message": self.send(b""),
            "no JSON": self.send(b"\xff\xfe{"),
            "JSON of an array": self.send(b"[1, 2]"),
            "JSON of a thousand brackets": self.send(b"[" * 100_000),
            "unknown type": self.send(self.json(htype="dfoo-1.0", series=1)),
            "series that is a text": self.send(self.json(htype="dimage-1.0", series="x", frame=0)),
            "end of another series": self.send(self.json(htype="dseries_end-1.0", series=77)),
            "image without its parts": self.send(
                self.json(htype="dimage-1.0", series=1, frame=900)
            ),
            "negative frame": self.send(self.json(htype="dimage-1.0", series=1, frame=-1), b"{}"),
            "unknown encoding": image(encoding="gzip<"),
            "big-endian": image(encoding=">"),
            "compressed rubbish": image(encoding="bs16-lz4<", blob=b"\x01" * 300),
            "compressed with a header that lies": image(
                encoding="bs16-lz4<", blob=(10**12).to_bytes(8, "big") + b"\0\0\x20\0" + bytes(99)
            ),
            "more bytes than announced": image(size=10),
            "shape of other images": image(shape=[5, 5], blob=bytes(50)),
            "shape that is no list": image(shape="24x16"),
            "shape of one axis": image(shape=[384]),
            "shape with a zero": image(shape=[0, 16], blob=b""),
            "shape of other pixels": image(dtype="uint32", blob=bytes(4 * 384)),
            "size of terabytes": image(shape=[10**6, 10**6]),
            "size beyond counting": image(shape=[2**62, 2**62]),
        }
