"""Any detector that writes TIFF files: made by tifffile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from file_device import FileDevice

from pipeline.testing.conformance import pixels_sha256


class Rig(FileDevice):
    adapter = "files"
    ending = ".tif"

    def image_file(self, path: Path, number: int, shape: tuple[int, int]) -> str:
        pixels = np.random.default_rng([self.seed, number]).integers(0, 2**16, shape, np.uint16)
        tifffile.imwrite(path, pixels)
        return pixels_sha256(pixels)

    def hostile(self) -> dict[str, Any]:
        return {
            **super().hostile(),
            "size of a terabyte in the header": lambda: self._damaged(self._huge),
        }

    @staticmethod
    def _huge(data: bytes) -> bytes:
        """Set ImageWidth (tag 256), a SHORT or LONG entry of the first directory, to 2**31."""
        where = int.from_bytes(data[4:8], "little")
        count = int.from_bytes(data[where : where + 2], "little")
        changed = bytearray(data)
        for entry in range(where + 2, where + 2 + 12 * count, 12):
            if int.from_bytes(data[entry : entry + 2], "little") == 256:
                changed[entry + 2 : entry + 4] = (4).to_bytes(2, "little")
                changed[entry + 8 : entry + 12] = (2**31).to_bytes(4, "little")
        return bytes(changed)
