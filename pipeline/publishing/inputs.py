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
    if data is None:
        if encoding not in (None, "none") or shape not in (None, ()):
            raise InvalidFrameError("payload", f"is missing for encoding {encoding!r}")
        return _EMPTY, ((), dtype or "uint8", "none")
    if isinstance(data, np.ndarray) and encoding in (None, "raw"):
        if shape is not None and tuple(shape) != data.shape:
            raise InvalidFrameError("shape", f"{shape} is not the array's {data.shape}")
        return _pixels(data)
    try:
        payload = np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        if isinstance(data, (bytes, bytearray, memoryview)) and not len(data):
            payload = _EMPTY
        else:
            raise InvalidFrameError("payload", f"is not C-contiguous bytes: {error}") from error
    if encoding is None or (encoding != "none" and (shape is None or dtype is None)):
        raise InvalidFrameError("encoding", "bytes need encoding, shape and dtype")
    return payload, (tuple(shape or ()), dtype or "uint8", encoding)


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
