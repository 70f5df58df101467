"""The NXmx layout around the frames of a finished table; ``docs/sinks/hdf5.md`` lists it.

A field is written when its value is known and left out otherwise: a validator then says what the
stream's metadata lacks.
"""

from __future__ import annotations

import time
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.sinks.hdf5.columns import as_text, link_name
from pipeline.sinks.hdf5.facts import Facts, utc
from pipeline.sinks.hdf5.finished import Finished
from pipeline.sinks.hdf5.nodes import attribute, field, group

#: The scan axis in the McStas frame (z along the beam, y up): horizontal, as DECTRIS' file writer
#: has it; ``rotation_axis`` of the metadata overrides it.
_ROTATION_AXIS = (-1.0, 0.0, 0.0)
_DET_Z = "/entry/instrument/detector/transformations/det_z"
_MODULE_OFFSET = "/entry/instrument/detector/module/module_offset"
_OMEGA = "/entry/sample/transformations/omega"


def write_layout(done: Finished, facts: Facts, name: str) -> None:
    """Write everything but the provenance; the table is complete."""
    file = done.file
    attribute(file, default="entry", file_name=name, file_time=utc(time.time_ns()))
    attribute(file, creator="lichtstrom")
    entry = group(file, "entry", "NXentry")
    attribute(entry, default="data", version=1.0)
    _entry(entry, facts, len(done))
    _data(group(entry, "data", "NXdata"), done)
    _beamline(entry, facts)
    detector = group(entry["instrument"], "detector", "NXdetector")
    _detector(detector, done, facts)
    _units(detector, facts)
    if len(done.layout.shape) == 2:
        _image_detector(detector, done, facts)
    _sample(entry, done, facts)
    _metadata(group(entry, "metadata", "NXcollection"), facts)


def _entry(entry: Any, facts: Facts, count: int) -> None:
    start = facts.info.start
    field(entry, "definition", "NXmx")
    field(entry, "title", facts.text("title", default=f"{start.detector} {start.stream}"))
    began = facts.earliest_ns or start.created_ns
    field(entry, "start_time", utc(began))
    exposure = facts.number("exposure_s") or 0.0
    observed = max(facts.latest_ns, began) + round(exposure * 1e9)
    period = facts.number("frame_time_s")
    planned = began + round(count * period * 1e9) if period else observed
    field(entry, "end_time_estimated", utc(planned))
    if facts.info.state == "complete":
        field(entry, "end_time", utc(observed))


def _data(data: Any, done: Finished) -> None:
    axes = len(done.layout.shape)
    attribute(data, axes=["frame_number", *["."] * axes], frame_number_indices=0)
    if done.layout.images is None:
        # without pixels: the plot of times over numbers
        data["timestamp"] = h5py.SoftLink("/entry/instrument/detector/timestamp")
        attribute(data, signal="timestamp")
        return
    attribute(data, signal="data")
    attribute(data["data"], image_nr_low=1, image_nr_high=len(done))
    if axes >= 2:
        attribute(data["data"], interpretation="image")


def _beamline(entry: Any, facts: Facts) -> None:
    source = group(entry, "source", "NXsource")
    field(source, "name", facts.text("source_name", default="unknown"))
    field(source, "type", facts.text("source_type"))
    field(source, "probe", facts.text("probe"))
    instrument = group(entry, "instrument", "NXinstrument")
    field(instrument, "name", facts.text("instrument_name", default="unknown"))
    field(instrument, "time_zone", "+00:00")
    beam = group(instrument, "beam", "NXbeam")
    field(beam, "incident_wavelength", facts.wavelength_A, units="angstrom")
    field(beam, "total_flux", facts.number("total_flux_Hz"), units="Hz")


def _detector(detector: Any, done: Finished, facts: Facts) -> None:
    serial = facts.text("detector_serial", default="unknown")
    description = facts.text("detector_description", default=facts.info.start.detector)
    field(detector, "description", description)
    field(detector, "type", facts.text("detector_type", default="Pixel"))
    field(detector, "serial_number", serial)
    field(detector, "detector_number", serial)
    field(detector, "sensor_material", facts.text("sensor_material"))
    thickness = facts.number("sensor_thickness_m")
    field(detector, "sensor_thickness", thickness, units="m")
    distance = facts.number("distance_m")
    field(detector, "distance", distance, units="m")
    field(detector, "detector_distance", distance, units="m")
    field(detector, "distance_derived", None if distance is None else np.int8(0))
    for name in ("beam_center_x", "beam_center_y"):
        field(detector, name, facts.number(name), units="pixel")
    _times(detector, facts)
    _counts(detector, done, facts)


def _times(detector: Any, facts: Facts) -> None:
    exposure, period = facts.number("exposure_s"), facts.number("frame_time_s")
    field(detector, "count_time", exposure, units="s")
    field(detector, "frame_time", period, units="s")
    if exposure is not None and period is not None and period >= exposure:
        field(detector, "detector_readout_time", period - exposure, units="s")


def _counts(detector: Any, done: Finished, facts: Facts) -> None:
    field(detector, "threshold_energy", facts.number("threshold_eV"), units="eV")
    saturation = facts.number("saturation_value")
    if saturation is not None and saturation.is_integer():
        field(detector, "saturation_value", int(saturation))
    else:
        field(detector, "saturation_value", saturation)
    if done.layout.images is not None:
        bits = np.dtype(done.layout.dtype).itemsize * 8
        field(detector, "bit_depth_image", bits)
        field(detector, "bit_depth_readout", int(facts.number("bit_depth_readout") or bits))


def _units(detector: Any, facts: Facts) -> None:
    """Write the units of the frames' attributes, where the metadata tells them."""
    attributes = group(detector, "attributes", "NXcollection")
    units = facts.info.metadata.get("units")
    for name, unit in units.items() if isinstance(units, dict) else ():
        if name in attributes:
            attribute(attributes[name], units=str(unit))


def _image_detector(detector: Any, done: Finished, facts: Facts) -> None:
    """Write what only a detector of two axes has: mask, pixel size, geometry."""
    height, width = done.layout.shape
    detector["data"] = h5py.SoftLink("/entry/data/data")
    specific = group(detector, "detectorSpecific", "NXcollection")
    mask = np.zeros((height, width), np.uint32) if facts.mask is None else facts.mask
    field(specific, "pixel_mask", mask.astype(np.uint32))  # contiguous, for XDS
    detector["pixel_mask"] = specific["pixel_mask"]
    field(detector, "pixel_mask_applied", np.int8(0))  # pixels are as the detector gave them
    field(specific, "nimages", len(done))
    field(specific, "ntrigger", 1)
    field(specific, "x_pixels_in_detector", width)
    field(specific, "y_pixels_in_detector", height)
    if facts.pixel_size_m is not None:
        field(detector, "x_pixel_size", facts.pixel_size_m[0], units="m")
        field(detector, "y_pixel_size", facts.pixel_size_m[1], units="m")
    _geometry(detector, (height, width), facts)


def _geometry(detector: Any, shape: tuple[int, int], facts: Facts) -> None:
    module = group(detector, "module", "NXdetector_module")
    field(module, "data_origin", np.array([0, 0]))
    field(module, "data_size", np.array(shape))
    field(module, "data_stride", np.array([1, 1]))
    center = facts.number("beam_center_x"), facts.number("beam_center_y")
    distance = facts.number("distance_m")
    if facts.pixel_size_m is None or distance is None or center[0] is None or center[1] is None:
        return  # a position that nobody knows is better absent than zero
    x_size, y_size = facts.pixel_size_m
    transformations = group(detector, "transformations", "NXtransformations")
    _translation(transformations, "det_z", np.array([distance]), (0, 0, 1), depends_on=".")
    field(detector, "depends_on", _DET_Z)
    corner = (center[0] * x_size, center[1] * y_size, 0.0)
    _translation(module, "module_offset", 0.0, (1, 0, 0), depends_on=_DET_Z, offset=corner)
    _translation(module, "fast_pixel_direction", x_size, (-1, 0, 0), depends_on=_MODULE_OFFSET)
    _translation(module, "slow_pixel_direction", y_size, (0, -1, 0), depends_on=_MODULE_OFFSET)


def _translation(
    parent: Any,
    name: str,
    value: Any,
    vector: tuple[float, float, float],
    *,
    depends_on: str,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    dataset = field(parent, name, value, units="m", transformation_type="translation")
    attribute(dataset, vector=np.array(vector, np.float64), depends_on=depends_on)
    attribute(dataset, offset=np.array(offset, np.float64), offset_units="m")


def _sample(entry: Any, done: Finished, facts: Facts) -> None:
    sample = group(entry, "sample", "NXsample")
    field(sample, "name", facts.text("sample", default=facts.info.start.stream))
    sample["beam"] = h5py.SoftLink("/entry/instrument/beam")
    increment = facts.number("angle_increment_deg")
    start = None if increment is None else facts.start_angle_deg(done.base, increment)
    if increment is None or start is None:
        field(sample, "depends_on", ".")
        return
    field(sample, "depends_on", _OMEGA)
    angles = _angles(done, start, increment)
    transformations = group(sample, "transformations", "NXtransformations")
    omega = field(transformations, "omega", angles, units="degree")
    attribute(omega, transformation_type="rotation", depends_on=".", vector=_axis(facts))
    field(transformations, "omega_end", angles + increment, units="degree")
    field(transformations, "omega_increment_set", increment, units="degree")


def _angles(done: Finished, start: float, increment: float) -> npt.NDArray[np.float64]:
    """Return each frame's start angle: its own word, else where it would be on the line."""
    count = len(done)
    line = start + increment * np.arange(count, dtype=np.float64)
    given = done.columns.numbers("start_angle_deg", count)
    if given is not None:
        there = ~np.isnan(given)
        line[there] = given[there]
    return line


def _axis(facts: Facts) -> npt.NDArray[np.float64]:
    given = facts.get("rotation_axis")
    try:
        axis = np.array(given, np.float64)
    except (TypeError, ValueError):
        axis = np.empty(0)
    return axis if axis.shape == (3,) else np.array(_ROTATION_AXIS)


def _metadata(collection: Any, facts: Facts) -> None:
    """Write all metadata of the stream under their own names, understood or not."""
    for name, value in facts.metadata.items():
        plain = isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63)
        if value is not None:
            field(collection, link_name(name), value if plain else as_text(value))
