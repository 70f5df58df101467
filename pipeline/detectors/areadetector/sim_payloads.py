"""Images as the codecs of areaDetector leave them, for the simulator."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

CODECS = ("", "zlib", "lz4", "lz4-hdf5", "lz4hdf5", "bslz4", "bslz4-hdf5", "blosc", "jpeg")


def encode(image: npt.NDArray[Any], codec: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], str]:
    """Return the value array, the pixels it stands for, and the name that goes with it."""
    if not codec:
        return image, image, ""
    if codec == "jpeg":
        return _jpeg(image)
    return np.frombuffer(_compressed(image, codec), np.uint8), image, codec.partition("-")[0]


def _compressed(image: npt.NDArray[Any], codec: str) -> bytes:
    data = image.tobytes()
    if codec == "zlib":
        return zlib.compress(data, 1)
    if codec == "lz4":
        import lz4.block

        return bytes(lz4.block.compress(data, store_size=False))
    if codec == "blosc":
        import blosc

        return bytes(blosc.compress(data, typesize=image.dtype.itemsize, clevel=1))
    chunk = _chunk(image, codec)
    return chunk[12:] if codec == "bslz4" else chunk


def _chunk(image: npt.NDArray[Any], codec: str) -> bytes:
    """Return the image as a chunk of HDF5, which the library itself compresses."""
    import h5py
    import hdf5plugin

    kind = hdf5plugin.LZ4() if codec.startswith("lz4") else hdf5plugin.Bitshuffle(cname="lz4")
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = file.create_dataset("image", data=image, chunks=image.shape, compression=kind)
        file.flush()
        return bytes(dataset.id.read_direct_chunk((0,) * image.ndim)[1])


def _jpeg(image: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], str]:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(image).save(target, "JPEG", quality=90)
    pixels = np.asarray(Image.open(io.BytesIO(target.getvalue())))
    return np.frombuffer(target.getvalue(), np.uint8), pixels, "jpeg"
