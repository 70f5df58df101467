"""A Pilatus: camserver's CBF files, made by the simulator, their pixels read by fabio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fabio
from file_device import FileDevice

from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.testing.conformance import pixels_sha256


class Rig(FileDevice):
    adapter = "pilatus"
    ending = ".cbf"

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "timezone": "UTC"}

    def image_file(self, path: Path, number: int, shape: tuple[int, int]) -> str:
        simulator = PilatusSimulator(
            path.parent,
            frames=1,
            rate_hz=0,
            prefix=self._prefix.rstrip("_"),
            shape=shape,
            start_number=number,
            stamp=True,
            seed=self.seed,
        )
        simulator.run()
        with fabio.open(str(path)) as image:
            return pixels_sha256(image.data)

    def hostile(self) -> dict[str, Any]:
        return {
            **super().hostile(),
            "size of a terabyte in the header": lambda: self._damaged(
                lambda data: data.replace(b"Fastest-Dimension: 16", b"Fastest-Dimension: 16000000")
            ),
            "size of the binary section beyond the file": lambda: self._damaged(
                lambda data: data.replace(b"X-Binary-Size: ", b"X-Binary-Size: 9999")
            ),
        }
