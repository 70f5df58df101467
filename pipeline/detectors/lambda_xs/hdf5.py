"""What a Lambda's NeXus file says: its images, the module's place, the settings.

The layout is that of the Tango server LambdaDS: ``/entry/instrument/detector/data`` (n, rows,
columns), ``.../translation/distance`` (x, y, z in pixels), ``.../collection`` or
``.../acquisition``.  Values may be scalars or arrays of length 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from pipeline.detectors import h5index, h5values
from pipeline.errors import InvalidFrameError
from pipeline.frame import INT64_MAX, AttributeValue

if TYPE_CHECKING:
    import h5py

_DETECTOR = "entry/instrument/detector"
_COLLECTIONS = (f"{_DETECTOR}/collection", f"{_DETECTOR}/acquisition", _DETECTOR)
#: Name -> (where, what, unit we tell, unit of a file that does not tell).
_QUANTITIES = {
    "exposure_s": ((_DETECTOR,), "count_time", "s", "s"),
    "shutter_time_s": (_COLLECTIONS, "shutter_time", "s", "ms"),
    "readout_time_s": ((_DETECTOR,), "detector_readout_time", "s", "s"),
    "delay_time_s": (_COLLECTIONS, "delay_time", "s", "ms"),
    "sensor_thickness_m": ((_DETECTOR,), "sensor_thickness", "m", "um"),
    "x_pixel_size_m": ((_DETECTOR,), "x_pixel_size", "m", "um"),
    "y_pixel_size_m": ((_DETECTOR,), "y_pixel_size", "m", "um"),
    "distance_m": ((_DETECTOR,), "distance", "m", "mm"),
    "threshold_eV": ((_DETECTOR,), "threshold_energy", "eV", "eV"),
    "energy_eV": (_COLLECTIONS, "beam_energy", "eV", "eV"),
}
_VALUES = {
    "detector_description": ((_DETECTOR,), "description"),
    "local_name": ((_DETECTOR,), "local_name"),
    "layout": ((_DETECTOR,), "layout"),
    "detector_serial": ((_DETECTOR,), "serial_number"),
    "saturation_value": ((_DETECTOR,), "saturation_value"),
    "sensor_material": ((_DETECTOR,), "sensor_material"),
    "bit_depth_readout": ((_DETECTOR,), "bit_depth_readout"),
    "flatfield_applied": ((_DETECTOR,), "flatfield_applied"),
    "pixel_mask_applied": ((_DETECTOR,), "pixel_mask_applied"),
    "frames_announced": (_COLLECTIONS, "frame_numbers"),
    "total_loss_frames": (_COLLECTIONS, "total_loss_frames"),
    "trigger_mode": (_COLLECTIONS, "trigger_mode"),
    "operating_mode": (_COLLECTIONS, "operating_mode"),
    "end_time": (("entry",), "end_time"),
    "start_time": (("entry",), "start_time"),
}
_ARRAYS = ("pixel_mask", "flatfield")
#: A pixel is micrometres wide, whatever the unit: below this it is in metres.
_PIXEL_IN_METRES = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class NxsFile:
    """One file: the images of one module (or of the stitched detector).

    Parameters
    ----------
    numbers:
        The frame number of each position; None where the file does not tell.
    error_codes:
        What the receiver says of each position, 0 for a good image; None as before.
    position:
        Row and column of the first pixel in the assembled image; None where the file does not tell.
    started_ns:
        ``start_time`` of the run, None where the file does not tell.
    period_s:
        From one frame to the next, None where the file does not tell.
    """

    index: h5index.ImageIndex
    metadata: Mapping[str, AttributeValue]
    attachments: Mapping[str, Any]
    numbers: tuple[int, ...] | None = None
    error_codes: tuple[int, ...] | None = None
    position: tuple[int, int] | None = None
    started_ns: int | None = None
    period_s: float | None = None


def read_nxs(
    path: str | os.PathLike[str], *, timezone: tzinfo = UTC, crashed_writer: bool = False
) -> NxsFile:
    """Read a file; raises InvalidFrameError for one that is damaged, unfinished or not a Lambda's.

    Parameters
    ----------
    timezone:
        Of a ``start_time`` that names none.
    crashed_writer:
        Read also a file that is marked as being written.
    """
    with h5index.opened(path, crashed_writer=crashed_writer) as file:
        data = h5index.find(file, f"{_DETECTOR}/data")
        if data is None or not hasattr(data, "shape"):
            raise InvalidFrameError("file", f"HDF5: no dataset /{_DETECTOR}/data")
        index = h5index.index_images(data)
        if index.channels > 1:
            raise InvalidFrameError("shape", f"{index.channels} images a frame")
        metadata = _metadata(file)
        arrays = ((name, h5values.array(file, f"{_DETECTOR}/{name}")) for name in _ARRAYS)
        start = metadata.get("start_time")
        return NxsFile(
            index=index,
            metadata=metadata,
            attachments={name: found for name, found in arrays if found is not None},
            numbers=_numbers(file, index.count),
            error_codes=_column(file, "error_code", index.count),
            position=_position(file),
            started_ns=time_ns(start, timezone) if isinstance(start, str) else None,
            period_s=_period_s(metadata),
        )


def _metadata(file: h5py.File) -> dict[str, AttributeValue]:
    metadata: dict[str, AttributeValue] = {}
    units: dict[str, AttributeValue] = {}
    for name, (groups, item, unit, default) in _QUANTITIES.items():
        said = default
        for group in groups:
            path = f"{group}/{item}"
            if item.endswith("pixel_size") and _is_small(h5values.value(file, path)):
                said = "m"
            found = h5values.quantity(file, path, unit, default=said)
            if found is not None:
                metadata[name], units[name] = found, unit
                break
    for name, (groups, item) in _VALUES.items():
        values = (h5values.value(file, f"{group}/{item}") for group in groups)
        value = next((value for value in values if value not in (None, "")), None)
        if value is not None:
            metadata[name] = value
    if units:
        metadata["units"] = units
    return metadata


def _is_small(value: object) -> bool:
    return isinstance(value, float) and value < _PIXEL_IN_METRES


def _numbers(file: h5py.File, count: int) -> tuple[int, ...] | None:
    """Return the frame number of each position, from the dataset some writers add."""
    numbers = _column(file, "sequence_number", count)
    if numbers is None:
        return None
    if min(numbers) < 0 or max(numbers) >= INT64_MAX or len(set(numbers)) != count:
        raise InvalidFrameError("number", "sequence_number repeats itself, or is out of range")
    return numbers


def _column(file: h5py.File, name: str, count: int) -> tuple[int, ...] | None:
    """Return one integer for each position, None where the file has not as many."""
    for group in _COLLECTIONS:
        found = h5values.array(file, f"{group}/{name}")
        if found is not None and found.dtype.kind in "iu" and found.size == count:
            return tuple(int(item) for item in found.reshape(-1))
    return None


def _position(file: h5py.File) -> tuple[int, int] | None:
    """Return row and column; the file says x, y and perhaps z, flat or in one row."""
    found = h5values.array(file, f"{_DETECTOR}/translation/distance")
    if found is None or found.dtype.kind not in "iuf" or found.size not in (2, 3):
        return None
    x, y = (float(value) for value in found.reshape(-1)[:2])
    if not (abs(x) < 1e6 and abs(y) < 1e6):  # false for NaN, too
        return None
    return round(y), round(x)


def _period_s(metadata: Mapping[str, AttributeValue]) -> float | None:
    exposure = metadata.get("exposure_s", metadata.get("shutter_time_s"))
    if not isinstance(exposure, float) or not 0 < exposure < 1e6:
        return None
    pauses = (metadata.get(name) for name in ("readout_time_s", "delay_time_s"))
    return exposure + sum(pause for pause in pauses if isinstance(pause, float) and pause > 0)


def time_ns(text: str, timezone: tzinfo) -> int | None:
    """Return a date and time as ns since 1970 (UTC), None if it is none after that."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    found = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    return found if found > 0 else None
