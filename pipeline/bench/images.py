"""Frames whose content tells their number and when they were given to the publisher."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.reading.frame import Frame

#: Different images that take turns, so that a frame in a neighbour's place is noticed.
_BASES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSize:
    """Rows and columns of 16-bit pixels; a multiple of eight bytes."""

    label: str
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return 2 * self.rows * self.columns


SIZES = {
    size.label: size
    for size in (
        ImageSize(label="1200kB", rows=600, columns=1000),
        ImageSize(label="300kB", rows=300, columns=500),
        ImageSize(label="64KiB", rows=128, columns=256),
        ImageSize(label="4KiB", rows=32, columns=64),
    )
}


class Images:
    """Makes and checks the frames of one size; the same in every process."""

    def __init__(self, size: ImageSize) -> None:
        self._bases = []
        for seed in range(_BASES):
            noise = np.random.default_rng(seed).integers(0, 2**16, size.nbytes // 2, np.uint16)
            self._bases.append(noise.reshape(size.rows, size.columns))
        self._words = [base.reshape(-1).view(np.uint64) for base in self._bases]
        self._rest = [words[2:].copy() for words in self._words]

    def make(self, number: int, given_ns: int | None = None) -> npt.NDArray[Any]:
        """Return frame ``number``, stamped; valid until the next one of its kind is made."""
        which = number % _BASES
        words = self._words[which]
        words[0] = number
        words[1] = time.monotonic_ns() if given_ns is None else given_ns
        return self._bases[which]

    def check(self, frame: Frame, number: int) -> int:
        """Compare every byte; return when the frame was given (monotonic ns).

        Reading the payload has checked its CRC-32C. Raises PipelineError when it is another frame.
        """
        words = np.frombuffer(frame.payload, np.uint64)
        same = words[2:] == self._rest[number % _BASES]
        if frame.number != number or words[0] != number or not same.all():
            raise PipelineError(f"frame {frame.number} is not frame {number} as it was published")
        return int(words[1])
