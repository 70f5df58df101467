"""What users hand to ``write``: turned into bytes with a layout, or refused by field."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import codecs
from pipeline.errors import InvalidFrameError
from pipeline.frame import Buffer, FrameHeader
from pipeline.publishing.draft import Layout, digest_of
from pipeline.records import Start

_EMPTY = np.empty(0, np.uint8)
_INT64_END = 2**63


def prepared(
    data: npt.NDArray[Any] | Buffer | None,
    encoding: str | None,
    shape: tuple[int, ...] | None,
    dtype: str | None,
) -> tuple[npt.NDArray[np.uint8], tuple[tuple[int, ...], str, str]]:
    """Return (payload as bytes, (shape, dtype, encoding)) of what was given to ``write``."""
    if encoding is not None and not isinstance(encoding, str):
        raise InvalidFrameError("encoding", f"must be text, not {type(encoding).__name__}")
    extents = None if shape is None else _extents(shape)
    name = None if dtype is None else _name(dtype)
    if data is None:
        if encoding not in (None, "none") or extents:
            raise InvalidFrameError("payload", f"is missing for encoding {encoding!r:.60}")
        return _EMPTY, ((), name or "uint8", "none")
    if isinstance(data, np.ndarray) and encoding in (None, "raw"):
        pixels, header = _pixels(data)
        if extents is not None and extents != data.shape:
            raise InvalidFrameError("shape", f"{extents} is not the array's {data.shape}")
        if name is not None and name != header[1]:
            raise InvalidFrameError("dtype", f"{name} is not the array's {header[1]}")
        return pixels, header
    payload = _bytes(data)
    if encoding is None:
        raise InvalidFrameError("encoding", "bytes need encoding, shape and dtype")
    for field, value in (("shape", extents), ("dtype", name)):
        if value is None and encoding != "none":
            raise InvalidFrameError(field, "bytes need encoding, shape and dtype")
    return payload, (extents or (), name or "uint8", encoding)


def _extents(shape: object) -> tuple[int, ...]:
    try:
        extents: tuple[Any, ...] = tuple(shape)  # type: ignore[arg-type]  # if it is not iterable
    except TypeError as error:
        raise InvalidFrameError("shape", f"is no tuple but {type(shape).__name__}") from error
    return tuple(integer("shape", extent) for extent in extents)


def _name(dtype: object) -> str:
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, np.dtype) or (isinstance(dtype, type) and issubclass(dtype, np.generic)):
        return _dtype_name(np.dtype(dtype))
    raise InvalidFrameError("dtype", f"must be a numpy name, not {type(dtype).__name__}")


def _bytes(data: object) -> npt.NDArray[np.uint8]:
    if isinstance(data, np.ndarray) and data.dtype.hasobject:
        raise InvalidFrameError("dtype", f"{data.dtype} cannot be a payload")
    try:
        if isinstance(data, (bytes, bytearray, memoryview)) and not len(data):
            return _EMPTY
        return np.frombuffer(data, dtype=np.uint8)  # type: ignore[call-overload,no-any-return]  # what is no buffer is refused
    except (TypeError, ValueError, BufferError) as error:
        kind = type(data).__name__
        raise InvalidFrameError("payload", f"{kind} is not C-contiguous bytes: {error}") from error


def _pixels(
    array: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.uint8], tuple[tuple[int, ...], str, str]]:
    name = _dtype_name(array.dtype)
    if not array.size:
        raise InvalidFrameError("shape", f"{array.shape} holds no pixels")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    contiguous = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(np.uint8), (array.shape, name, "raw")


@functools.lru_cache(maxsize=64)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype of pixels; numpy works it out anew each time, in 2 us."""
    if dtype.hasobject or dtype.kind not in "biufc":
        raise InvalidFrameError("dtype", f"{dtype} cannot be pixels")
    return dtype.name


def integer(field: str, value: Any) -> int:
    """Return an integer given as Python's or numpy's, or raise InvalidFrameError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidFrameError(field, f"must be an integer, not {type(value).__name__}")
    return int(value)


def _check_module_shape(start: Start, module: int, shape: tuple[int, ...]) -> None:
    for known in start.modules:
        if known.index == module and shape not in ((), tuple(known.shape)):
            raise InvalidFrameError("shape", f"{shape} is not module {module}'s {known.shape}")


class LayoutChecks:
    """Checks the headers of one publisher's frames; a layout is checked once, then remembered."""

    def __init__(self) -> None:
        self._digests: dict[Layout, int] = {}
        #: Bytes that raw pixels of a layout take, once a frame of it was checked.
        self._raw_nbytes: dict[Layout, int] = {}

    def digest(
        self,
        start: Start,
        layout: Layout,
        *,
        number: int,
        timestamp_ns: int,
        attributes: dict[str, Any],
        payload: npt.NDArray[np.uint8],
    ) -> int:
        """Return the frame's digest, or raise InvalidFrameError naming the field."""
        shape, dtype, encoding, module = layout
        cached = self._digests.get(layout)
        in_range = 0 <= number < _INT64_END - 1 and 0 <= timestamp_ns < _INT64_END
        if cached is None or not in_range:
            FrameHeader(
                number=number,
                timestamp_ns=timestamp_ns,
                shape=shape,
                dtype=dtype,
                encoding=encoding,
                module=module,
            )
            _check_module_shape(start, module, shape)
            cached = self._digests[layout] = digest_of(shape, dtype, encoding, {})
        if self._raw_nbytes.get(layout) != len(payload):
            codecs.check(payload, encoding=encoding, shape=shape, dtype=dtype)
            if encoding == "raw":
                self._raw_nbytes[layout] = len(payload)
        return digest_of(shape, dtype, encoding, attributes) if attributes else cached
