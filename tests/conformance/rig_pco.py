"""A PCO camera: the recorder's TIFF files with time stamps in the pixels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from file_device import SHAPE, FileDevice

from pipeline.detectors.pco.sim import PcoSimulator


class Rig(FileDevice):
    adapter = "pco"
    ending = ".tif"

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "timezone": "UTC"}

    def name(self, number: int) -> str:
        return f"{self._prefix}{number:04d}{self.ending}"

    def image_file(self, path: Path, number: int, shape: tuple[int, int]) -> str:
        camera = PcoSimulator(
            path.parent,
            frames=0,
            rate_hz=0,
            prefix=self._prefix.rstrip("_"),
            shape=shape,
            timezone="UTC",
            seed=1000 * self.seed + number,
        )
        camera.arm()
        camera.counter = camera.file_number = number - 1
        return camera.take()[1]

    def hostile(self) -> dict[str, Any]:
        return {
            **super().hostile(),
            "size of a terabyte in the header": lambda: self._damaged(self._huge),
            "size of a directory of a million entries": lambda: self._damaged(self._many),
            "pixels without a stamp": lambda: self._damaged(self._unstamped),
            "pixels that are all zero": lambda: self._damaged(self._zeros),
            "the same frame in two files": self._twice,
        }

    @staticmethod
    def _huge(data: bytes) -> bytes:
        """Set ImageWidth, the second entry of the directory at byte 16."""
        return data[: 18 + 12 + 8] + struct.pack("<I", 2**31) + data[18 + 24 :]

    @staticmethod
    def _many(data: bytes) -> bytes:
        return data[:16] + b"\xff\xff" + data[18:]

    @staticmethod
    def _unstamped(data: bytes) -> bytes:
        first = len(data) - 2 * SHAPE[0] * SHAPE[1]
        return data[:first] + b"\xff" * 28 + data[first + 28 :]

    @staticmethod
    def _zeros(data: bytes) -> bytes:
        nbytes = 2 * SHAPE[0] * SHAPE[1]
        return data[:-nbytes] + bytes(nbytes)

    def _twice(self) -> list[Any]:
        path, sent = self._make()
        copy = path.with_name(f"{self._prefix}9{sent.number:04d}{self.ending}")
        copy.write_bytes(path.read_bytes())
        self._put((path, sent))
        self._put((copy, sent))
        return [sent]
