"""What the FileWriter's HDF5 files say: the master's facts, the images of a data file.

Layout: SIMPLON API reference 1.8, "HDF5 file structure" (formats ``hdf5 nexus legacy nxmx`` and
``hdf5 nexus v2024.2 nxmx``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.detectors import h5index, h5values
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue

if TYPE_CHECKING:
    import h5py

_DETECTOR = "entry/instrument/detector"
_SPECIFIC = f"{_DETECTOR}/detectorSpecific"
_BEAM = "entry/instrument/beam"
#: Well-known name -> (unit, where in either layout).
_QUANTITIES = {
    "exposure_s": ("s", f"{_DETECTOR}/count_time"),
    "frame_time_s": ("s", f"{_DETECTOR}/frame_time"),
    "beam_center_x": ("pixel", f"{_DETECTOR}/beam_center_x"),
    "beam_center_y": ("pixel", f"{_DETECTOR}/beam_center_y"),
    "distance_m": ("m", f"{_DETECTOR}/detector_distance", f"{_DETECTOR}/distance"),
    "sensor_thickness_m": ("m", f"{_DETECTOR}/sensor_thickness"),
    "threshold_eV": (
        "eV",
        f"{_DETECTOR}/threshold_energy",
        f"{_DETECTOR}/threshold_1_channel/threshold_energy",
    ),
    "x_pixel_size_m": ("m", f"{_DETECTOR}/x_pixel_size"),
    "y_pixel_size_m": ("m", f"{_DETECTOR}/y_pixel_size"),
    "wavelength_A": ("A", f"{_BEAM}/incident_wavelength"),
    "energy_eV": ("eV", f"{_SPECIFIC}/photon_energy", f"{_BEAM}/incident_energy"),
}
#: Name -> where, as they stand.
_VALUES = {
    "detector_description": (f"{_DETECTOR}/description",),
    "detector_serial": (f"{_DETECTOR}/detector_number", f"{_DETECTOR}/serial_number"),
    "saturation_value": (f"{_DETECTOR}/saturation_value",),
    "sensor_material": (f"{_DETECTOR}/sensor_material",),
    "bit_depth_image": (f"{_DETECTOR}/bit_depth_image",),
    "countrate_correction_applied": (f"{_DETECTOR}/countrate_correction_applied",),
    "flatfield_correction_applied": (
        f"{_DETECTOR}/flatfield_correction_applied",
        f"{_DETECTOR}/flatfield_applied",
    ),
    "pixel_mask_applied": (f"{_DETECTOR}/pixel_mask_applied",),
    "virtual_pixel_correction_applied": (
        f"{_DETECTOR}/virtual_pixel_correction_applied",
        f"{_DETECTOR}/virtual_pixel_interpolation_applied",
    ),
    "nimages": (f"{_SPECIFIC}/nimages",),
    "ntrigger": (f"{_SPECIFIC}/ntrigger",),
    "trigger_mode": (f"{_SPECIFIC}/trigger_mode",),
    "compression": (f"{_SPECIFIC}/compression",),
    "eiger_fw_version": (f"{_SPECIFIC}/eiger_fw_version",),
    "software_version": (f"{_SPECIFIC}/software_version",),
    "data_collection_date": (f"{_SPECIFIC}/data_collection_date", "entry/start_time"),
    "auto_summation": (f"{_SPECIFIC}/auto_summation",),
    "number_of_excluded_pixels": (f"{_SPECIFIC}/number_of_excluded_pixels",),
    "x_pixels_in_detector": (f"{_SPECIFIC}/x_pixels_in_detector",),
    "y_pixels_in_detector": (f"{_SPECIFIC}/y_pixels_in_detector",),
}
#: Attachment -> paths where it may lie.
_ARRAYS = {
    "pixel_mask": (f"{_DETECTOR}/pixel_mask", f"{_SPECIFIC}/pixel_mask"),
    "flatfield": (f"{_DETECTOR}/flatfield", f"{_SPECIFIC}/flatfield"),
    "threshold_1_pixel_mask": (f"{_DETECTOR}/threshold_1_channel/pixel_mask",),
    "threshold_2_pixel_mask": (f"{_DETECTOR}/threshold_2_channel/pixel_mask",),
    "threshold_1_flatfield": (f"{_DETECTOR}/threshold_1_channel/flatfield",),
    "threshold_2_flatfield": (f"{_DETECTOR}/threshold_2_channel/flatfield",),
}
_ONE_IMAGE_A_TRIGGER = ("inte", "exte")
_MASTER = re.compile(r"(?P<series>.+)_master\.h5")
_DATA = re.compile(r"(?P<series>.+)_data_(?P<part>[0-9]{1,9})\.h5")
#: A listing of more names than any control unit's memory holds is not believed.
MAX_NAMES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileName:
    """A file of the FileWriter: ``part`` 0 is the master, data files count from 1."""

    name: str
    series: str
    part: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """What a master file says.

    Parameters
    ----------
    announced:
        Images of the series as it was set up: an upper bound where it is stopped early; None where
        the file does not tell.
    date:
        ``data_collection_date`` as it stands, "" without one.
    started_ns:
        The same as time, None where it cannot be read.
    frame_time_s:
        None where the file does not tell.
    holds_images:
        Whether images lie in the master itself (``nimages_per_file`` is 0).
    channels:
        Names of the images of one exposure (``threshold_1``, ...); empty in the legacy layout.
    """

    metadata: Mapping[str, AttributeValue]
    attachments: Mapping[str, Any] = field(default_factory=dict)
    announced: int | None = None
    date: str = ""
    started_ns: int | None = None
    frame_time_s: float | None = None
    holds_images: bool = False
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataImages:
    """The images of one dataset: image ``i`` of the index has number ``first + i``.

    ``first`` is None where the file does not tell (no attribute ``image_nr_low``).
    """

    index: h5index.ImageIndex
    first: int | None


def parse_names(answer: Any) -> list[FileName]:
    """Return the files of a listing: a bare list (1.6), or an object with ``value`` (1.8).

    ``null`` is an empty listing: firmware before the end of 2021.  Names that are none of the
    FileWriter's, or could leave a directory, are left out.

    Raises
    ------
    InvalidFrameError
        It is no listing.
    """
    names = answer.get("value") if isinstance(answer, Mapping) else answer
    if names is None:
        return []
    if not isinstance(names, list) or len(names) > MAX_NAMES:
        raise InvalidFrameError("files", f"no listing of files: {str(answer)[:100]!r}")
    found = {split_name(name) for name in names if isinstance(name, str)}
    return sorted((item for item in found if item), key=lambda item: (item.series, item.part))


def split_name(name: str) -> FileName | None:
    """Return what the name of a file says; None if it is none of the FileWriter's."""
    parts = name.split("/")
    if len(name) > 255 or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        return None
    if any(ord(char) < 32 for char in name):
        return None
    if (found := _MASTER.fullmatch(name)) is not None:
        return FileName(name=name, series=found["series"], part=0)
    if (found := _DATA.fullmatch(name)) is not None and int(found["part"]) > 0:
        return FileName(name=name, series=found["series"], part=int(found["part"]))
    return None


def read_master(path: Path, *, timezone: tzinfo = UTC) -> Master:
    """Read a master file; raises InvalidFrameError for one that is damaged or not whole.

    Parameters
    ----------
    timezone:
        Of a ``data_collection_date`` that names none.
    """
    with h5index.opened(path) as file:
        if h5index.find(file, "entry") is None:
            raise InvalidFrameError("file", "HDF5: no group /entry")
        metadata = _metadata(file)
        arrays: dict[str, Any] = {}
        for name, places in _ARRAYS.items():
            found = [h5values.array(file, place) for place in places]
            arrays.update((name, item) for item in found if item is not None)
        date = metadata.get("data_collection_date")
        text = date if isinstance(date, str) else ""
        frame_time_s = metadata.get("frame_time_s")
        return Master(
            metadata=metadata,
            attachments=arrays,
            announced=_announced(metadata),
            date=text,
            started_ns=_time_ns(text, timezone),
            frame_time_s=frame_time_s if isinstance(frame_time_s, float) else None,
            holds_images=bool(_datasets(file)),
            channels=_channels(file),
        )


def read_images(path: Path) -> list[DataImages]:
    """Return where the images of a data file (or of a master that has them) lie.

    Raises
    ------
    InvalidFrameError
        There are none, or they are no ranges of bytes; the text says why.
    """
    with h5index.opened(path) as file:
        datasets = _datasets(file)
        if not datasets:
            raise InvalidFrameError("file", "HDF5: no images in /entry/data")
        return [
            DataImages(index=h5index.index_images(dataset), first=_first(dataset))
            for dataset in datasets
        ]


def _datasets(file: h5py.File) -> list[h5py.Dataset]:
    group = h5index.find(file, "entry/data")
    return h5index.image_datasets(group) if group is not None and hasattr(group, "keys") else []


def _channels(file: h5py.File) -> tuple[str, ...]:
    """Return the channels by their groups; ``difference`` is written behind the thresholds."""
    group = h5index.find(file, _DETECTOR)
    names = list(group) if group is not None and hasattr(group, "keys") else []
    found = [name.removesuffix("_channel") for name in names if name.endswith("_channel")]
    return tuple(sorted(found, key=lambda name: (name == "difference", name)))


def _first(dataset: h5py.Dataset) -> int | None:
    low = h5values.attribute(dataset, "image_nr_low")
    return low if isinstance(low, int) and not isinstance(low, bool) and low >= 0 else None


def _metadata(file: h5py.File) -> dict[str, AttributeValue]:
    metadata: dict[str, AttributeValue] = {}
    units: dict[str, AttributeValue] = {}
    for name, (unit, *paths) in _QUANTITIES.items():
        found = (h5values.quantity(file, path, unit) for path in paths)
        number = next((item for item in found if item is not None), None)
        if number is not None:
            metadata[name], units[name] = number, unit
    for name, places in _VALUES.items():
        values = (h5values.value(file, path) for path in places)
        value = next((item for item in values if item not in (None, "")), None)
        if value is not None:
            metadata[name] = value
    if units:
        metadata["units"] = units
    return metadata


def _announced(metadata: Mapping[str, AttributeValue]) -> int | None:
    images, triggers = metadata.get("nimages"), metadata.get("ntrigger")
    if metadata.get("trigger_mode") in _ONE_IMAGE_A_TRIGGER:
        images = 1
    if not isinstance(images, int) or images < 1:
        return None
    return images * triggers if isinstance(triggers, int) and triggers > 0 else images


def _time_ns(text: str, timezone: tzinfo) -> int | None:
    try:
        # 9 digits of a second were seen; Python 3.11 reads 6
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    time_ns = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    return time_ns if time_ns > 0 else None
