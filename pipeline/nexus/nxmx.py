"""The NXmx layout around the frames of a stream; ``docs/sinks/hdf5.md`` lists it.

A field is there when its value is known and left out otherwise: a validator then says what the
stream's metadata lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.nexus.facts import Facts
from pipeline.nexus.text import as_text, link_name, utc
from pipeline.nexus.tree import Array, Deferred, Group, Images, Int64s, PerFrame, Value

#: The scan axis in the McStas frame (z along the beam, y up): horizontal, as DECTRIS' file writer
#: has it; ``rotation_axis`` of the metadata overrides it.
_ROTATION_AXIS = (-1.0, 0.0, 0.0)
_DET_Z = "/entry/instrument/detector/transformations/det_z"
_MODULE_OFFSET = "/entry/instrument/detector/module/module_offset"
_OMEGA = "/entry/sample/transformations/omega"
#: What an integer attribute holds where the frame has none (NaN, "" in the others).
ABSENT = -(2**63)
#: Bits of ``frame_status``.
LATE_DUPLICATE, INVALID_PAYLOAD, NO_BLOB, INCOMPLETE = 1, 2, 4, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The frames of a stream by position; position i is frame number ``base`` + i.

    Parameters
    ----------
    shape:
        Of one frame.
    images:
        None for frames without pixels.
    timestamp, valid, status:
        uint64 ns since 1970, 0 where no frame is; uint8; uint32.
    attributes:
        What the frames say, by name: int64, float64 or text.
    mask:
        The pixel mask, (rows, columns) uint32; None: all pixels are good.
    """

    base: int
    count: int
    shape: tuple[int, ...]
    images: Images | None
    timestamp: PerFrame
    valid: PerFrame
    status: PerFrame
    attributes: Mapping[str, PerFrame] = field(default_factory=dict)
    mask: Array | Deferred | None = None


def nxmx(facts: Facts, frames: Frames) -> Group:
    """Return the tree of a file, all but the provenance."""
    root = Group()
    root.set(default="entry", creator="lichtstrom")
    entry = root.group("entry", "NXentry")
    entry.set(default="data", version=1.0)
    _entry(entry, facts, frames.count)
    _data(entry.group("data", "NXdata"), frames)
    instrument = _beamline(entry, facts)
    detector = instrument.group("detector", "NXdetector")
    _detector(detector, frames, facts)
    _rows(detector, frames, facts)
    if len(frames.shape) == 2:
        _image_detector(detector, frames, facts)
    _sample(entry, frames, facts)
    _metadata(entry.group("metadata", "NXcollection"), facts)
    return root


def _entry(entry: Group, facts: Facts, count: int) -> None:
    start = facts.info.start
    entry.field("definition", "NXmx")
    entry.field("title", facts.text("title", default=f"{start.detector} {start.stream}"))
    began = facts.earliest_ns or start.created_ns
    entry.field("start_time", utc(began))
    exposure = facts.number("exposure_s") or 0.0
    observed = max(facts.latest_ns, began) + round(exposure * 1e9)
    period = facts.number("frame_time_s")
    planned = began + round(count * period * 1e9) if period else observed
    entry.field("end_time_estimated", utc(planned))
    if facts.info.state == "complete":
        entry.field("end_time", utc(observed))


def _data(data: Group, frames: Frames) -> None:
    axes = len(frames.shape)
    data.field("frame_number", _numbers(frames))
    data.set(axes=["frame_number", *["."] * axes], frame_number_indices=0)
    if frames.images is None:
        # without pixels: the plot of times over numbers
        data.link("timestamp", "/entry/instrument/detector/timestamp")
        data.set(signal="timestamp")
        return
    data.set(signal="data")
    more = {"interpretation": "image"} if axes >= 2 else {}
    data.field("data", frames.images, image_nr_low=1, image_nr_high=frames.count, **more)


def _numbers(frames: Frames) -> PerFrame:
    return PerFrame(
        count=frames.count, dtype=np.dtype(np.int64), at=lambda places: places + frames.base
    )


def _beamline(entry: Group, facts: Facts) -> Group:
    source = entry.group("source", "NXsource")
    source.field("name", facts.text("source_name", default="unknown"))
    source.field("type", facts.text("source_type"))
    source.field("probe", facts.text("probe"))
    instrument = entry.group("instrument", "NXinstrument")
    instrument.field("name", facts.text("instrument_name", default="unknown"))
    instrument.field("time_zone", "+00:00")
    beam = instrument.group("beam", "NXbeam")
    beam.field("incident_wavelength", facts.wavelength_A, units="angstrom")
    beam.field("total_flux", facts.number("total_flux_Hz"), units="Hz")
    return instrument


def _detector(detector: Group, frames: Frames, facts: Facts) -> None:
    serial = facts.text("detector_serial", default="unknown")
    description = facts.text("detector_description", default=facts.info.start.detector)
    detector.field("description", description)
    detector.field("type", facts.text("detector_type", default="Pixel"))
    detector.field("serial_number", serial)
    detector.field("detector_number", serial)
    detector.field("sensor_material", facts.text("sensor_material"))
    detector.field("sensor_thickness", facts.number("sensor_thickness_m"), units="m")
    distance = facts.number("distance_m")
    detector.field("distance", distance, units="m")
    detector.field("detector_distance", distance, units="m")
    detector.field("distance_derived", None if distance is None else np.int8(0))
    for name in ("beam_center_x", "beam_center_y"):
        detector.field(name, facts.number(name), units="pixel")
    _times(detector, facts)
    _counts(detector, frames, facts)


def _times(detector: Group, facts: Facts) -> None:
    exposure, period = facts.number("exposure_s"), facts.number("frame_time_s")
    detector.field("count_time", exposure, units="s")
    detector.field("frame_time", period, units="s")
    if exposure is not None and period is not None and period >= exposure:
        detector.field("detector_readout_time", period - exposure, units="s")


def _counts(detector: Group, frames: Frames, facts: Facts) -> None:
    detector.field("threshold_energy", facts.number("threshold_eV"), units="eV")
    saturation = facts.number("saturation_value")
    whole = saturation is not None and saturation.is_integer()
    detector.field("saturation_value", int(saturation or 0) if whole else saturation)
    if frames.images is not None:
        bits = frames.images.dtype.itemsize * 8
        detector.field("bit_depth_image", bits)
        detector.field("bit_depth_readout", int(facts.number("bit_depth_readout") or bits))


def _rows(detector: Group, frames: Frames, facts: Facts) -> None:
    """Describe each frame: when it was, is it valid, what befell it, how others number it."""

    def sequence(places: Int64s) -> Array:
        numbers = (places + frames.base) % 2**32
        return np.where(frames.valid.at(places), numbers, 2**32 - 1).astype(np.uint32)

    count = frames.count
    detector.field("timestamp", frames.timestamp, units="ns", start="1970-01-01T00:00:00Z")
    detector.field("sequence_number", PerFrame(count=count, dtype=np.dtype(np.uint32), at=sequence))
    detector.field("frame_valid", frames.valid)
    detector.field("frame_status", frames.status)
    attributes = detector.group("attributes", "NXcollection")
    units = facts.metadata.get("units")
    known = units if isinstance(units, dict) else {}
    for name, column in frames.attributes.items():
        link = link_name(name)
        more: dict[str, Any] = {"units": str(known[name])} if name in known else {}
        if column.dtype == np.int64:
            more["missing_value"] = np.int64(ABSENT)
        attributes.field(link, column, **more)


def _image_detector(detector: Group, frames: Frames, facts: Facts) -> None:
    """Describe what only a detector of two axes has: mask, pixel size, geometry."""
    height, width = frames.shape
    detector.link("data", "/entry/data/data")
    specific = detector.group("detectorSpecific", "NXcollection")
    specific.field("pixel_mask", _mask(frames))
    detector.link("pixel_mask", "/entry/instrument/detector/detectorSpecific/pixel_mask")
    detector.field("pixel_mask_applied", np.int8(0))  # pixels are as the detector gave them
    specific.field("nimages", frames.count)
    specific.field("ntrigger", 1)
    specific.field("x_pixels_in_detector", width)
    specific.field("y_pixels_in_detector", height)
    if facts.pixel_size_m is not None:
        detector.field("x_pixel_size", facts.pixel_size_m[0], units="m")
        detector.field("y_pixel_size", facts.pixel_size_m[1], units="m")
    _geometry(detector, (height, width), facts)


def _mask(frames: Frames) -> Value:
    if frames.mask is None:
        return np.zeros(frames.shape, np.uint32)
    if frames.mask.shape != frames.shape:
        raise ValueError(f"pixel_mask has shape {frames.mask.shape}, the frames {frames.shape}")
    return frames.mask


def _geometry(detector: Group, shape: tuple[int, int], facts: Facts) -> None:
    module = detector.group("module", "NXdetector_module")
    module.field("data_origin", np.array([0, 0]))
    module.field("data_size", np.array(shape))
    module.field("data_stride", np.array([1, 1]))
    center = facts.number("beam_center_x"), facts.number("beam_center_y")
    distance = facts.number("distance_m")
    if facts.pixel_size_m is None or distance is None or center[0] is None or center[1] is None:
        return  # a position that nobody knows is better absent than zero
    x_size, y_size = facts.pixel_size_m
    transformations = detector.group("transformations", "NXtransformations")
    _translation(transformations, "det_z", np.array([distance]), (0, 0, 1), depends_on=".")
    detector.field("depends_on", _DET_Z)
    corner = (center[0] * x_size, center[1] * y_size, 0.0)
    _translation(module, "module_offset", 0.0, (1, 0, 0), depends_on=_DET_Z, offset=corner)
    _translation(module, "fast_pixel_direction", x_size, (-1, 0, 0), depends_on=_MODULE_OFFSET)
    _translation(module, "slow_pixel_direction", y_size, (0, -1, 0), depends_on=_MODULE_OFFSET)


def _translation(
    parent: Group,
    name: str,
    value: Any,
    vector: tuple[float, float, float],
    *,
    depends_on: str,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    parent.field(
        name,
        value,
        units="m",
        transformation_type="translation",
        vector=np.array(vector, np.float64),
        depends_on=depends_on,
        offset=np.array(offset, np.float64),
        offset_units="m",
    )


def _sample(entry: Group, frames: Frames, facts: Facts) -> None:
    sample = entry.group("sample", "NXsample")
    sample.field("name", facts.text("sample", default=facts.info.start.stream))
    sample.link("beam", "/entry/instrument/beam")
    increment = facts.number("angle_increment_deg")
    start = None if increment is None else facts.start_angle_deg(frames.base, increment)
    if increment is None or start is None:
        sample.field("depends_on", ".")
        return
    sample.field("depends_on", _OMEGA)
    _scan(sample.group("transformations", "NXtransformations"), frames, facts, (start, increment))


def _scan(axes: Group, frames: Frames, facts: Facts, line: tuple[float, float]) -> None:
    start, increment = line
    given = frames.attributes.get("start_angle_deg")

    def angles(places: Int64s) -> Array:
        """Return each frame's start angle: its own word, else where it would be on the line."""
        found = start + increment * places.astype(np.float64)
        if given is not None and given.dtype.kind in "if":
            values = given.at(places)
            there = values != ABSENT if given.dtype.kind == "i" else ~np.isnan(values)
            found[there] = values[there]
        return found

    def column(at: Any) -> PerFrame:
        return PerFrame(count=frames.count, dtype=np.dtype(np.float64), at=at)

    axes.field(
        "omega",
        column(angles),
        units="degree",
        transformation_type="rotation",
        depends_on=".",
        vector=_axis(facts),
    )
    axes.field("omega_end", column(lambda places: angles(places) + increment), units="degree")
    axes.field("omega_increment_set", increment, units="degree")


def _axis(facts: Facts) -> npt.NDArray[np.float64]:
    given: Any = facts.get("rotation_axis")
    try:
        axis = np.array(given, np.float64)
    except (TypeError, ValueError):
        axis = np.empty(0)
    return axis if axis.shape == (3,) else np.array(_ROTATION_AXIS)


def _metadata(collection: Group, facts: Facts) -> None:
    """Take in all metadata of the stream under their own names, understood or not."""
    for name, value in facts.metadata.items():
        plain = isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63)
        if value is not None:
            collection.field(link_name(name), value if plain else as_text(value))
