"""Pixels as bslz4 chunks, made outside HDF5: threads compress side by side while HDF5 writes.

The compressor is bitshuffle's own, in the library of its HDF5 filter that hdf5plugin brings; called
by ctypes it runs without the interpreter's lock.  Its interface: bitshuffle 0.5, bitshuffle.h; the
header of a chunk: bshuf_h5filter.c.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs.blocks import bitshuffle_block

_HEADER = struct.Struct(">QI")


def compress(pixels: npt.NDArray[Any]) -> memoryview | None:
    """Return pixels, C order and little-endian, as a bslz4 chunk; None if there is no compressor.

    10 MB of detector pixels cost 5 to 20 ms.
    """
    library = _library()
    if library is None:
        return None
    pixels = np.ascontiguousarray(pixels)
    block = bitshuffle_block(pixels.itemsize)
    sizes = (pixels.size, pixels.itemsize, block // pixels.itemsize)
    chunk = np.empty(_HEADER.size + library.bshuf_compress_lz4_bound(*sizes), np.uint8)
    _HEADER.pack_into(chunk.data, 0, pixels.nbytes, block)
    target = chunk.ctypes.data + _HEADER.size
    nbytes = library.bshuf_compress_lz4(pixels.ctypes.data, target, *sizes)
    if nbytes < 0:
        return None
    return chunk.data[: _HEADER.size + nbytes]


@functools.cache
def _library() -> Any:
    import hdf5plugin

    for path in Path(hdf5plugin.PLUGIN_PATH).glob("libh5bshuf.*"):
        try:
            library = ctypes.CDLL(str(path))
            sizes = (ctypes.c_size_t,) * 3
            library.bshuf_compress_lz4_bound.argtypes = sizes
            library.bshuf_compress_lz4_bound.restype = ctypes.c_size_t
            library.bshuf_compress_lz4.argtypes = (ctypes.c_void_p, ctypes.c_void_p, *sizes)
            library.bshuf_compress_lz4.restype = ctypes.c_int64
        except (OSError, AttributeError):  # another build of the filter: HDF5 compresses then
            continue
        return library
    return None
