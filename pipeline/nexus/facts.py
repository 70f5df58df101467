"""What is known of a stream beside its frames: metadata, first frame, times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from pipeline.frame import AttributeValue
from pipeline.nexus.text import as_text
from pipeline.records import StreamInfo

#: h c in eV angstrom, from the exact SI values of 2019.
HC_EV_A = 12398.419843320026
#: NXmx pixel_mask bits 0 and 1: gap without sensor, dead; camserver's pixel values for them.
_PILATUS_MASK = {-1: 1, -2: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the layout asks for.

    Values come from the stream's metadata, and where that lacks a name from the attributes of the
    first frame.

    Parameters
    ----------
    earliest_ns, latest_ns:
        Earliest and latest start of an exposure, ns since 1970; 0 before the first frame.
    """

    info: StreamInfo
    first_number: int = 0
    first_attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    earliest_ns: int = 0
    latest_ns: int = 0

    @property
    def metadata(self) -> dict[str, AttributeValue]:
        """What holds for the whole stream; what was added later wins."""
        return {**self.info.start.metadata, **self.info.metadata}

    def get(self, name: str) -> AttributeValue:
        """Return a value by its well-known name, or None."""
        value = self.metadata.get(name)
        return self.first_attributes.get(name) if value is None else value

    def number(self, *names: str) -> float | None:
        """Return the first of these that is a finite number, or None."""
        for name in names:
            value = self.get(name)
            if _is_number(value):
                return float(value)
        return None

    def text(self, *names: str, default: str | None = None) -> str | None:
        """Return the first of these that is there, as text."""
        for name in names:
            value = self.get(name)
            if value is not None and value != "":
                return as_text(value)
        return default

    @property
    def wavelength_A(self) -> float | None:  # noqa: N802 -- the unit is an angstrom
        """The wavelength, from the photon energy if need be."""
        wavelength = self.number("wavelength_A")
        if wavelength is not None and wavelength > 0:
            return wavelength
        energy = self.number("energy_eV")
        return HC_EV_A / energy if energy is not None and energy > 0 else None

    @property
    def pixel_size_m(self) -> tuple[float, float] | None:
        """Along x (fast axis) and along y (slow axis)."""
        x = self.number("x_pixel_size_m", "pixel_size_m")
        y = self.number("y_pixel_size_m", "pixel_size_m")
        return None if x is None or y is None else (x, y)

    def start_angle_deg(self, first: int, increment: float) -> float | None:
        """Return the angle of the frame with number ``first``.

        In the metadata it is that of the first frame; an attribute is that of its own frame.
        """
        angle = self.number("start_angle_deg")
        if angle is None or self.metadata.get("start_angle_deg") is not None:
            return angle
        return angle - (self.first_number - first) * increment

    def is_masked(self, dtype: np.dtype[Any]) -> bool:
        """Tell whether pixels of this type carry a mask, as a Pilatus' do.

        Negative pixels of other detectors, or of differences, are measured values.
        """
        description = self.text("detector_description", default="") or ""
        return dtype.kind == "i" and "pilatus" in description.lower()


def mask_of(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return the pixel mask that a frame of a Pilatus shows."""
    mask = np.zeros(pixels.shape, np.uint32)
    for value, bits in _PILATUS_MASK.items():
        mask[pixels == value] = bits
    return mask


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -1e300 < value < 1e300  # neither infinite nor NaN, and no integer past all floats
