"""The payload encodings: what a frame's bytes are, and how they become pixels.

``none``
    no pixels; an empty payload.
``raw``
    pixels in C order, little-endian, nothing else.
``cbf``, ``tiff``, ``edf``, ``b16``, ``jpeg``
    a whole image file, verbatim.
``bslz4``, ``bszstd``, ``lz4``, ``gzip``, ``zstd``
    a chunk as HDF5 files hold it, framing included; ``gzip`` is a zlib stream.
``lz4-block``, ``bslz4-block``
    the compressed blocks without HDF5's framing, of bitshuffle's default size.
``blosc``
    a buffer of Blosc 1.

Decoders are loaded when first used; importing this package costs numpy and nothing more.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs._view import byte_view
from pipeline.errors import DecodeError, InvalidFrameError
from pipeline.frame import Buffer, check_layout, nbytes_of

__all__ = ["ENCODINGS", "byte_view", "check", "decode"]

_FILES = frozenset(("cbf", "tiff", "edf", "b16", "jpeg"))
_CHUNKS = frozenset(("bslz4", "bszstd", "lz4", "gzip", "zstd"))
_BLOCKS = frozenset(("lz4-block", "bslz4-block", "blosc"))
#: The names that :func:`decode` and :func:`check` know.
ENCODINGS = frozenset(("none", "raw")) | _FILES | _CHUNKS | _BLOCKS


def decode(
    payload: Buffer, *, encoding: str, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any]:
    """Return the pixels of a payload as a C-ordered array of exactly this shape and dtype.

    The array is a read-only view on the payload where its bytes are the pixels (``raw``, and
    uncompressed files); else it is new, and may be read-only too: copy it before changing it.
    Safe on any bytes.

    Raises
    ------
    DecodeError
        The payload has no pixels, is damaged, or holds another image than announced.
    """
    if encoding not in ENCODINGS:
        raise DecodeError(f"encoding {encoding!r} is unknown; known are {_known()}")
    if encoding == "none":
        raise DecodeError("no pixels: the frame has encoding 'none', only attributes")
    try:
        check_layout(shape, dtype, encoding)
        view = byte_view(payload)
    except InvalidFrameError as error:
        raise DecodeError(f"{encoding}: {error}") from error
    if encoding in _FILES:
        return _decode_file(payload, encoding, shape, dtype)
    return _decode_bytes(view, encoding, shape, dtype)


def _decode_file(
    payload: Buffer, encoding: str, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any]:
    # before the work: the pixels of another image are of no use, and may be very many
    found_shape, found_dtype, _ = _describe_file(payload, encoding)
    if (found_shape, found_dtype) != (tuple(shape), dtype):
        raise DecodeError(
            f"{encoding}: the file has {found_shape} {found_dtype}, announced are"
            f" {tuple(shape)} {dtype}"
        )
    if encoding == "tiff":
        from pipeline.codecs import tiff

        return tiff.decode(payload, shape=shape, dtype=dtype)
    pixels: npt.NDArray[Any] = _file_codec(encoding).decode(payload)
    return pixels


def _describe_file(payload: Buffer, encoding: str) -> tuple[tuple[int, ...], str, bool]:
    """Return the shape and dtype of the image in a file, and whether the file is complete."""
    image = _file_codec(encoding).parse(payload)
    shape = image.shape if hasattr(image, "shape") else (image.height, image.width)
    return tuple(shape), image.dtype, image.complete


def _file_codec(encoding: str) -> Any:
    """Return the module of a file format: each has ``parse`` and ``decode``."""
    return importlib.import_module(f"pipeline.codecs.{encoding}")


def _byte_codec(encoding: str) -> Any:
    """Return the module of a compressed encoding: each has ``find_problem`` and ``decode``."""
    return importlib.import_module(
        f"pipeline.codecs.{'blocks' if encoding in _BLOCKS else 'chunks'}"
    )


def _decode_bytes(
    view: memoryview, encoding: str, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any]:
    kind = np.dtype(dtype).newbyteorder("<")
    nbytes = nbytes_of(shape, dtype)
    if encoding == "raw":
        if view.nbytes != nbytes:
            raise DecodeError(f"raw: {view.nbytes} bytes, {tuple(shape)} {dtype} takes {nbytes}")
        return np.frombuffer(view.toreadonly(), kind).reshape(shape)
    pixels: npt.NDArray[Any] = _byte_codec(encoding).decode(view, encoding, nbytes, kind)
    return pixels.reshape(shape)


def check(payload: Buffer, *, encoding: str, shape: tuple[int, ...], dtype: str) -> None:
    """Raise unless a payload looks like what its header announces; decodes no pixels.

    For publishers: ``raw`` must have the exact length, ``none`` must be empty, files and chunks
    must be framed as their format asks, be complete, and announce this size (``gzip`` and
    ``lz4-block`` do not say theirs).

    Raises
    ------
    InvalidFrameError
        Names the field: encoding, shape, dtype or payload.
    """
    if encoding not in ENCODINGS:
        raise InvalidFrameError("encoding", f"{encoding!r} is unknown; known are {_known()}")
    check_layout(shape, dtype, encoding)
    view = byte_view(payload)
    if encoding == "none":
        if view.nbytes:
            raise InvalidFrameError("payload", f"{view.nbytes} bytes, but encoding 'none'")
        return
    if not view.nbytes:
        raise InvalidFrameError("payload", f"0 bytes under encoding {encoding!r}; use 'none'")
    nbytes = nbytes_of(shape, dtype)
    if encoding == "raw":
        if view.nbytes != nbytes:
            raise InvalidFrameError(
                "payload", f"{view.nbytes} bytes, but shape {tuple(shape)} {dtype} takes {nbytes}"
            )
    elif encoding in _FILES:
        _check_file(payload, encoding, shape, dtype)
    else:
        problem = _byte_codec(encoding).find_problem(
            view, encoding, nbytes, np.dtype(dtype).itemsize
        )
        if problem is not None:
            raise InvalidFrameError("payload", f"{encoding}: {problem}")


def _check_file(payload: Buffer, encoding: str, shape: tuple[int, ...], dtype: str) -> None:
    try:
        found_shape, found_dtype, complete = _describe_file(payload, encoding)
    except DecodeError as error:
        raise InvalidFrameError("payload", str(error)) from error
    if not complete:
        raise InvalidFrameError("payload", f"the {encoding} file is cut short")
    if found_shape != tuple(shape):
        raise InvalidFrameError("shape", f"{tuple(shape)}, but the file has {found_shape}")
    if found_dtype != dtype:
        raise InvalidFrameError("dtype", f"{dtype}, but the file has {found_dtype}")


def _known() -> str:
    return ", ".join(sorted(ENCODINGS))
