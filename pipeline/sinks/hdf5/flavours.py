"""What becomes of the NXmx tree in other layouts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.nexus.facts import HC_EV_A, Facts
from pipeline.nexus.text import utc
from pipeline.nexus.tree import Array, Field, Group, PerFrame
from pipeline.sinks.hdf5.finished import Finished

LayoutKind = Literal["nxmx", "nxdata", "nxtomo", "dectris"]
#: Values of NXtomo's ``image_key``.
_PROJECTION, _INVALID = 0, 3
_DETECTOR = "entry/instrument/detector"


def shape_tree(
    kind: LayoutKind, tree: Group, done: Finished, facts: Facts, mask: Array | None
) -> None:
    """Change the tree of an NXmx file to that of another kind; moves what is in the file."""
    if kind == "dectris":
        _by_links(tree)
    elif kind == "nxdata":
        _generic(tree, done, facts, mask)
    elif kind == "nxtomo":
        _tomography(tree, done, facts)


def _by_links(tree: Group) -> None:
    """Let the images be ``data_000001`` and on: never both, fabio counts the frames twice."""
    data = _group(tree, "entry", "data")
    if data.nodes.pop("data", None) is not None:
        data.set(signal="data_000001")
        _group(tree, "entry", "instrument", "detector").nodes.pop("data", None)


def _generic(tree: Group, done: Finished, facts: Facts, mask: Array | None) -> None:
    """Leave out what makes it NXmx, and add the time axis of a plain NXdetector."""
    entry = _group(tree, "entry")
    detector = _group(entry, "instrument", "detector")
    del entry.nodes["definition"]
    _drop(detector, "detectorSpecific", "pixel_mask")
    if mask is not None:
        detector.field("pixel_mask", mask)
    begin = facts.earliest_ns
    times = done.rows.timestamps_ns.astype(np.float64)
    seconds = np.where(times > 0, (times - begin) / 1e9, np.nan)
    detector.field("start_time", column(seconds), units="s", start=utc(begin))
    # where the generic classes have it
    _group(entry, "instrument").nodes["source"] = entry.nodes.pop("source")


def _tomography(tree: Group, done: Finished, facts: Facts) -> None:
    """Let it be NXtomo: images in the detector, what each is for, and the angle of the sample."""
    entry = _group(tree, "entry")
    instrument, sample = _group(entry, "instrument"), _group(entry, "sample")
    detector, data = _group(instrument, "detector"), _group(entry, "data")
    entry.field("definition", "NXtomo")
    entry.attributes.pop("version", None)  # nxtomo takes it for that of the definition
    instrument.nodes["source"] = entry.nodes.pop("source")
    _energy(_group(instrument, "beam"), facts)
    _drop(detector, "detectorSpecific", "pixel_mask", "module", "transformations", "depends_on")
    keys = column(_image_keys(done))
    detector.field("image_key", keys)
    detector.field("image_key_control", keys)
    _rotation(sample, done)
    if done.layout.images is not None:
        for name in ("data", "frame_number"):
            done.file.move(f"entry/data/{name}", f"{_DETECTOR}/{name}")
            detector.nodes[name] = data.nodes[name]
        data.nodes.clear()
        data.attributes.pop("axes", None)
        data.attributes.pop("frame_number_indices", None)
        data.link("data", f"/{_DETECTOR}/data")
        data.link("frame_number", f"/{_DETECTOR}/frame_number")
    data.link("image_key", f"/{_DETECTOR}/image_key")
    if "rotation_angle" in sample.nodes:
        data.link("rotation_angle", "/entry/sample/rotation_angle")


def _energy(beam: Group, facts: Facts) -> None:
    wavelength = facts.wavelength_A
    if wavelength is not None:
        beam.field("incident_energy", HC_EV_A / wavelength / 1000, units="keV")


def _image_keys(done: Finished) -> Array:
    """Return what each frame is: as its attribute ``image_key`` says, else a projection."""
    keys = np.full(len(done), _PROJECTION, np.int32)
    if "image_key" in done.columns.names:
        given = done.columns.dataset("image_key")[...]
        if given.dtype.kind == "i":
            keys = np.where((given >= 0) & (given <= _INVALID), given, keys).astype(np.int32)
    keys[done.rows.valid == 0] = _INVALID
    return keys


def _rotation(sample: Group, done: Finished) -> None:
    """Let the angle of the scan be that of the sample, or an attribute of this name."""
    axes = sample.nodes.pop("transformations", None)
    _drop(sample, "depends_on", "beam")
    if isinstance(axes, Group) and isinstance(axes.nodes["omega"], Field):
        sample.field("rotation_angle", axes.nodes["omega"].value, units="degree")
    elif "rotation_angle" in done.columns.names:
        sample.link("rotation_angle", f"/{_DETECTOR}/attributes/rotation_angle")


def column(values: Array) -> PerFrame:
    """Return an array of one value a frame as the tree has it."""
    return PerFrame(count=len(values), dtype=values.dtype, at=lambda places: values[places])


def _drop(group: Group, *names: str) -> None:
    for name in names:
        group.nodes.pop(name, None)


def _group(tree: Group, *names: str) -> Group:
    for name in names:
        node = tree.nodes[name]
        assert isinstance(node, Group)
        tree = node
    return tree
