"""Values and arrays beside the images of an HDF5 file, read with limits and in wanted units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline import codecs
from pipeline.detectors.h5index import encoding_of, find
from pipeline.errors import DecodeError
from pipeline.frame import DTYPES

if TYPE_CHECKING:
    import h5py

#: Longer texts are no settings.
MAX_TEXT = 4096
#: A mask of 16M pixels as uint32 has 73 MB.
MAX_ARRAY_NBYTES = 256 << 20
#: How many of the base unit one is.  Names as vendors write them, in lower case.
_FACTORS: Mapping[str, Mapping[str, float]] = {
    "m": {"m": 1, "meter": 1, "metre": 1, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6}
    | {"\u03bcm": 1e-6, "millimeter": 1e-3, "micrometer": 1e-6, "micron": 1e-6, "nm": 1e-9},
    "s": {"s": 1, "sec": 1, "second": 1, "seconds": 1, "ms": 1e-3, "millisecond": 1e-3}
    | {"us": 1e-6, "µs": 1e-6, "microsecond": 1e-6, "ns": 1e-9, "nanosecond": 1e-9},
    "eV": {"ev": 1, "kev": 1e3},
    "A": {"a": 1, "angstrom": 1, "å": 1, "\u212b": 1, "nm": 10, "m": 1e10},
    "deg": {"deg": 1, "degree": 1, "degrees": 1, "rad": 180 / math.pi},
    "pixel": {"pixel": 1, "pixels": 1, "px": 1},
    "V": {"v": 1, "volt": 1},
}


def value(group: h5py.Group, path: str) -> bool | int | float | str | None:
    """Return the scalar (or the one element) at a path; None if there is none that is plain."""
    found = find(group, path)
    if found is None or not hasattr(found, "shape") or found.shape is None or found.size != 1:
        return None
    if found.dtype.itemsize > MAX_TEXT or encoding_of(found) is None:
        return None
    return plain(found[()])


def attribute(item: Any, name: str) -> bool | int | float | str | None:
    """Return an attribute with one value; None if there is none that is plain."""
    if item is None or name not in item.attrs:
        return None
    about = item.attrs.get_id(name)
    if math.prod(about.shape) != 1 or about.dtype.itemsize > MAX_TEXT:
        return None
    return plain(item.attrs[name])


def plain(found: Any) -> bool | int | float | str | None:
    """Return a Python value for what h5py gives; None for what is neither number nor text."""
    if isinstance(found, np.ndarray):
        found = found.reshape(-1)[0] if found.size == 1 else None
    if isinstance(found, np.floating):
        found = float(str(found))  # the shortest text: a float32 of 0.1 is 0.1
    elif isinstance(found, np.generic):
        found = found.item()
    if isinstance(found, bytes):
        found = found.decode("utf-8", "replace")
    if isinstance(found, str):
        return found.split("\0")[0].strip()[:MAX_TEXT]
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    return found if isinstance(found, bool | int) else None


def quantity(group: h5py.Group, path: str, unit: str, *, default: str = "") -> float | None:
    """Return a number in ``unit``, converted from what the dataset's ``units`` attribute says.

    ``default`` is the file's unit where it has no such attribute (``unit`` if not given).  None
    where there is no number, or the file's unit is not known.
    """
    found = value(group, path)
    if isinstance(found, bool | str) or found is None:
        return None
    said = attribute(find(group, path), "units")
    name = said if isinstance(said, str) and said else default or unit
    factor = _FACTORS[unit].get(name.lower())
    # through a decimal text: 320 um are 0.00032 m, not 0.00031999999999999997
    return None if factor is None else float(f"{found * factor:.15g}")


def array(group: h5py.Group, path: str) -> npt.NDArray[Any] | None:
    """Return the array of numbers at a path, little-endian; None if there is none to be had.

    Filters beyond HDF5's own are undone by our decoders, which take any bytes.
    """
    found = find(group, path)
    shape = getattr(found, "shape", None)
    if found is None or not shape or found.dtype.name not in DTYPES:
        return None
    if math.prod(shape) * found.dtype.itemsize > MAX_ARRAY_NBYTES or not found.size:
        return None
    if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > MAX_ARRAY_NBYTES:
        return None
    encoding = encoding_of(found)
    if encoding == "":  # HDF5's own filters, or none
        read = np.asarray(found[()])
        return read.astype(read.dtype.newbyteorder("<"), copy=False)
    if encoding is None or tuple(found.chunks) != tuple(shape) or found.dtype.byteorder == ">":
        return None
    _, payload = found.id.read_direct_chunk((0,) * len(shape))
    try:
        return codecs.decode(
            bytes(payload), encoding=encoding, shape=tuple(shape), dtype=found.dtype.name
        )
    except DecodeError:
        return None
