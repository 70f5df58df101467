"""Attributes of an HDF5 file that readers need: what they say, and how the text is stored.

What is there must be right in any file.  What must be there is demanded of files that call
themselves NXmx, and of those that a sink here has finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.sinks.hdf5.findings import MOST_NAMED, Finding

_ENTRY, _DATA, _INSTRUMENT = "entry", "entry/data", "entry/instrument"
_DETECTOR, _SAMPLE = "entry/instrument/detector", "entry/sample"
_AGAIN = "write it with lichtstrom sink hdf5"
_AS_ASCII = "write it as fixed-length ASCII"
#: Attributes of text that XDS' plugin Durin reads, or that lead other readers to the images.
_TEXTS = (
    "NX_class",
    "default",
    "signal",
    "axes",
    "units",
    "depends_on",
    "transformation_type",
    "offset_units",
)
_CLASSES: Mapping[str, str] = {
    _ENTRY: "NXentry",
    _DATA: "NXdata",
    _INSTRUMENT: "NXinstrument",
    f"{_INSTRUMENT}/beam": "NXbeam",
    _DETECTOR: "NXdetector",
    f"{_DETECTOR}/module": "NXdetector_module",
    f"{_DETECTOR}/transformations": "NXtransformations",
    _SAMPLE: "NXsample",
    f"{_SAMPLE}/transformations": "NXtransformations",
}
_LENGTH = (
    "m",
    "cm",
    "mm",
    "um",
    "nm",
    "pm",
    "angstrom",
    "Angstrom",
    "A",
    "metre",
    "meter",
    "micron",
)
_TIME = ("s", "ms", "us", "ns", "sec", "second", "seconds")
_ENERGY = ("eV", "keV", "MeV", "J")
_ANGLE = ("degree", "degrees", "deg", "rad", "radian", "radians")
_UNITS: Mapping[str, tuple[str, ...]] = {
    f"{_INSTRUMENT}/beam/incident_wavelength": _LENGTH,
    f"{_INSTRUMENT}/beam/incident_energy": _ENERGY,
    f"{_DETECTOR}/sensor_thickness": _LENGTH,
    f"{_DETECTOR}/x_pixel_size": _LENGTH,
    f"{_DETECTOR}/y_pixel_size": _LENGTH,
    f"{_DETECTOR}/distance": _LENGTH,
    f"{_DETECTOR}/detector_distance": _LENGTH,
    f"{_DETECTOR}/beam_center_x": ("pixel", "pixels", *_LENGTH),
    f"{_DETECTOR}/beam_center_y": ("pixel", "pixels", *_LENGTH),
    f"{_DETECTOR}/count_time": _TIME,
    f"{_DETECTOR}/frame_time": _TIME,
    f"{_DETECTOR}/detector_readout_time": _TIME,
    f"{_DETECTOR}/threshold_energy": _ENERGY,
    f"{_DETECTOR}/transformations/det_z": _LENGTH,
    f"{_DETECTOR}/module/module_offset": _LENGTH,
    f"{_DETECTOR}/module/fast_pixel_direction": _LENGTH,
    f"{_DETECTOR}/module/slow_pixel_direction": _LENGTH,
    f"{_SAMPLE}/rotation_angle": _ANGLE,
    f"{_SAMPLE}/transformations/omega": _ANGLE,
}


def wrong_attributes(path: Path, file: Any) -> Iterator[Finding]:
    """Yield attributes of text that readers cannot convert, or that say what is not so."""
    yield from _forms(path, file)
    is_ours = "entry/provenance/account" in file
    is_demanded = is_ours or _definition(file) == "NXmx"
    for where, what in (
        *_wrong_classes(file, is_demanded=is_demanded),
        *_wrong_units(file, is_demanded=is_demanded),
        *_wrong_defaults(file, is_demanded=is_ours),
        *_wrong_plot(file[_DATA], is_demanded=is_ours),
    ):
        yield Finding(path.name, where, what, _AGAIN)


def _forms(path: Path, file: Any) -> Iterator[Finding]:
    wrong: list[tuple[str, str]] = []

    def look(name: str, node: Any) -> None:
        for text in _TEXTS:
            if text in node.attrs and node.attrs.get_id(text).dtype.kind != "S":
                wrong.append((name, text))

    look("/", file)
    file.visititems(look)
    for name, text in wrong[:MOST_NAMED]:
        what = f"{text} is no fixed-length text: XDS' plugins cannot read it"
        yield Finding(path.name, name, what, _AS_ASCII)
    if len(wrong) > MOST_NAMED:
        what = f"{len(wrong) - MOST_NAMED} more attributes are no fixed-length text"
        yield Finding(path.name, "/", what, _AS_ASCII)


def _wrong_classes(file: Any, *, is_demanded: bool) -> Iterator[tuple[str, str]]:
    found = _text(file, "NX_class")
    if found not in (None, "NXroot"):
        yield "/", f"NX_class is {found}, not NXroot"
    for name, wanted in _CLASSES.items():
        node = _node(file, name)
        found = _text(node, "NX_class") if node is not None else wanted
        if found != wanted and (found is not None or is_demanded):
            yield name, f"NX_class is {found or 'not there'}, not {wanted}: readers look for it"


def _wrong_units(file: Any, *, is_demanded: bool) -> Iterator[tuple[str, str]]:
    for name, allowed in _UNITS.items():
        node = _node(file, name)
        found = _text(node, "units") if node is not None else allowed[0]
        if found is None and is_demanded:
            yield name, f"has no units: readers need them, such as {allowed[0]}"
        elif found is not None and found not in allowed:
            yield name, f"units are {found!r}, which is none of {', '.join(allowed)}"


def _wrong_defaults(file: Any, *, is_demanded: bool) -> Iterator[tuple[str, str]]:
    for node, wanted in ((file, "entry"), (_node(file, _ENTRY), "data")):
        if node is None:
            continue
        found = _text(node, "default")
        if found is None and is_demanded:
            yield node.name, f"has no default: viewers find no images without ({wanted})"
        elif found is not None and not isinstance(_node(node, found), h5py.Group):
            yield node.name, f"default is {found!r}, and no group of this name is there"


def _wrong_plot(data: Any, *, is_demanded: bool) -> Iterator[tuple[str, str]]:
    """Look at ``signal`` and ``axes``, by which viewers draw the images."""
    images = [name for name in data if name.startswith("data")]
    signal = _text(data, "signal")
    if signal is None:
        if is_demanded:
            yield data.name, "has no signal: viewers do not know what to draw"
        return
    if data.get(signal, getlink=True) is None:
        yield data.name, f"signal is {signal!r}, and nothing of this name is there"
    elif images and signal not in images:
        yield data.name, f"signal is {signal!r}, which is not the images"
    else:
        yield from _wrong_axes(data, signal)


def _wrong_axes(data: Any, signal: str) -> Iterator[tuple[str, str]]:
    node = _node(data, signal)
    if "axes" not in data.attrs or not isinstance(node, h5py.Dataset):
        return
    axes = [text_of(axis) for axis in np.atleast_1d(data.attrs["axes"]).tolist()]
    if len(axes) != node.ndim:
        yield data.name, f"axes names {len(axes)}, {signal} has {node.ndim}"
        return
    is_linked = isinstance(data.get(signal, getlink=True), h5py.ExternalLink)
    for length, axis in zip(node.shape, axes, strict=True):
        values = None if axis == "." else _node(data, axis)
        if axis != "." and values is None:
            yield data.name, f"axes names {axis!r}, and nothing of this name is there"
        # of several files each has a part of what the axis counts
        elif values is not None and not is_linked and values.shape != (length,):
            yield data.name, f"axis {axis!r} has {values.shape[0]} values, {signal} has {length}"


def _definition(file: Any) -> str | None:
    node = _node(file, "entry/definition")
    return text_of(node[()]) if isinstance(node, h5py.Dataset) and node.shape == () else None


def _node(parent: Any, name: str) -> Any:
    """Return a group or dataset; None where there is none, or its link leads nowhere."""
    try:
        return parent.get(name)
    except (KeyError, OSError, ValueError):
        return None


def _text(node: Any, name: str) -> str | None:
    value = node.attrs.get(name)
    return None if value is None else text_of(value)


def text_of(value: Any) -> str:
    """Return text as it was meant; the first of an array of one, as older writers have it."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
