"""What the messages of an Eiger's streams say, whichever version they came by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from pipeline.frame import AttributeValue, Buffer

#: Pixels of the largest detector, 16M with its gaps, and some room.
MAX_PIXELS = 1 << 26
#: A larger image number is no number of a detector.
MAX_IMAGE = 1 << 40
_MAX_TEXT = 4096
_MAX_LIST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A series begins.

    Parameters
    ----------
    unique:
        The text by which no other series is called; None where the firmware gives none.
    shape:
        Pixels as (rows, columns); None where it is not told.
    announced:
        How many images it was set up for: an upper bound.
    attachments:
        Masks, flat fields and tables, each with its axes slow first.
    problems:
        What could not be read of it.
    """

    series: int
    unique: str | None = None
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    frame_time_s: float | None = None
    announced: int | None = None
    attachments: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """One picture of an image message: one for each threshold channel."""

    channel: str
    shape: tuple[int, int]
    dtype: str
    encoding: str
    payload: Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image.

    Parameters
    ----------
    number:
        The detector's own, from 0.
    start_ns:
        Start of the exposure by the detector's clock, which began to run at some time.
    epoch_ns:
        When that clock was at zero, ns since 1970 (UTC); None where it is not told.
    """

    series: int
    number: int
    pixels: tuple[Pixels, ...]
    unique: str | None = None
    start_ns: int | None = None
    epoch_ns: int | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A series is over: complete, disarmed, cancelled or aborted, which is not told."""

    series: int
    unique: str | None = None


Message = Start | Image | End

#: What the configuration calls it, and the well-known name.
_KNOWN = {
    "count_time": "exposure_s",
    "frame_time": "frame_time_s",
    "photon_energy": "energy_eV",
    "incident_energy": "energy_eV",
    "wavelength": "wavelength_A",
    "incident_wavelength": "wavelength_A",
    "detector_distance": "distance_m",
    "x_pixel_size": "x_pixel_size_m",
    "y_pixel_size": "y_pixel_size_m",
    "pixel_size_x": "x_pixel_size_m",
    "pixel_size_y": "y_pixel_size_m",
    "sensor_thickness": "sensor_thickness_m",
    "description": "detector_description",
    "detector_number": "detector_serial",
    "detector_serial_number": "detector_serial",
    "countrate_correction_count_cutoff": "saturation_value",
}


def fact(value: Any, *, depth: int = 2) -> AttributeValue:
    """Return a value that metadata can hold; None for anything else, which is left out."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, (int, float)):
        return value if is_number(value) else None
    if isinstance(value, (list, tuple)) and depth and len(value) <= _MAX_LIST:
        return [fact(item, depth=depth - 1) for item in value]
    return None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tell whether it is a number that 64 bits hold; infinity, NaN, True and False are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 63


def shown(value: Any) -> str:
    """Return a value for a reason, cut short: some of those that are sent cannot be printed."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def known_names(config: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the configuration under the well-known names, the rest under its own.

    Values are in SI units but for eV and Angstrom, as the vendor has them.
    """
    found: dict[str, AttributeValue] = {}
    for key, value in config.items():
        name = _KNOWN.get(key, key.lower())
        if name == "threshold_energy" and is_number(value):
            name = "threshold_eV"
        found[name] = value
    return found


def rotation(increments: Mapping[str, tuple[Any, Any]]) -> dict[str, AttributeValue]:
    """Return start and increment of the one axis that turns, if there is one.

    Parameters
    ----------
    increments:
        (start, increment) in degrees, by axis.
    """
    turning = {
        axis: (start, step)
        for axis, (start, step) in increments.items()
        if is_number(start) and is_number(step) and step
    }
    if len(turning) != 1:
        return {}
    axis, (start, step) = next(iter(turning.items()))
    return {"rotation_axis": axis, "start_angle_deg": start, "angle_increment_deg": step}
