"""Payloads in every encoding, made by encoders that are not ours where there are any."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import blosc
import h5py
import hdf5plugin
import lz4.block
import numpy as np
import zstandard
from PIL import Image

from pipeline.codecs.byte_offset import encode_byte_offset
from pipeline.detectors.pilatus.sim_files import cbf_file, edf_file, tiff_file

SHAPE = (37, 53)  # odd, so that chunks have a tail of raw pixels
_LINES = ["# Detector: x", "# 2024-01-01T00:00:00"]
_FILTERS: dict[str, Any] = {
    "bslz4": hdf5plugin.Bitshuffle(),
    "bszstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "lz4": hdf5plugin.LZ4(),
}


def chunk_of(array: np.ndarray, encoding: str) -> bytes:
    """Return what HDF5 stores for one image."""
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        chunks = (1, *array.shape)
        data = file.create_dataset("d", data=array[None], chunks=chunks, **_FILTERS[encoding])
        return bytes(data.id.read_direct_chunk((0,) * len(chunks))[1])


def lz4_block(array: np.ndarray) -> bytes:
    block: bytes = lz4.block.compress(array.tobytes(), store_size=False)
    return block


def bslz4_block(array: np.ndarray) -> bytes:
    return chunk_of(array, "bslz4")[12:]


def blosc_buffer(array: np.ndarray, cname: str = "blosclz", shuffle: int = 1) -> bytes:
    buffer: bytes = blosc.compress(array.tobytes(), array.itemsize, 5, shuffle, cname)
    return buffer


def jpeg_image(array: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", **{"quality": 95, **settings})
    return file.getvalue()


def b16_file(array: np.ndarray) -> bytes:
    rows, columns = array.shape
    head = struct.pack("<4s5i", b"PCO-", 1024 + array.nbytes, 1024, columns, rows, 0)
    return head.ljust(1024, b"\0") + array.astype("<u2").tobytes()


def _image(dtype: str) -> np.ndarray:
    return np.random.default_rng(3).poisson(9, SHAPE).astype(dtype)


def _cbf(array: np.ndarray) -> bytes:
    return cbf_file(array.shape, encode_byte_offset(array), _LINES, "x")


_MAKERS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "raw": ("int32", lambda array: array.tobytes()),
    "cbf": ("int32", _cbf),
    "tiff": ("int32", lambda array: tiff_file(array, _LINES)),
    "edf": ("int32", lambda array: edf_file(array, _LINES)),
    "b16": ("uint16", b16_file),
    "jpeg": ("uint8", jpeg_image),
    "gzip": ("int32", lambda array: zlib.compress(array.tobytes())),
    "zstd": ("int32", lambda array: zstandard.ZstdCompressor().compress(array.tobytes())),
    **{name: ("int32", lambda array, name=name: chunk_of(array, name)) for name in _FILTERS},
    "lz4-block": ("int32", lz4_block),
    "bslz4-block": ("int32", bslz4_block),
    "blosc": ("int32", blosc_buffer),
}


def samples() -> dict[str, tuple[str, bytes]]:
    """Return (dtype, payload) of an image of :data:`SHAPE` by encoding."""
    return {name: (dtype, make(_image(dtype))) for name, (dtype, make) in sorted(_MAKERS.items())}
