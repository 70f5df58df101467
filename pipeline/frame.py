"""What travels: one frame, its header, and the modules a detector may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidFrameError

#: Bytes that somebody owns; C-contiguous.
Buffer = bytes | bytearray | memoryview | npt.NDArray[np.generic]
#: What an attribute of a frame may be; anything nested travels as JSON.
AttributeValue = bool | int | float | str | None | list[Any] | dict[str, Any]

#: Numpy names of the pixel types that are published, little-endian on the wire.
DTYPES = frozenset(
    {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
    | {"float16", "float32", "float64", "complex64", "complex128"}
)
INT64_MAX = 2**63 - 1
#: Attributes are facts about a frame, not a second payload; 64 KiB each is already generous.
MAX_ATTRIBUTES_NBYTES = 64 * 1024
_ENCODING = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One sub-detector of a multi-module detector, as the start record lists it.

    Parameters
    ----------
    index:
        The module's number, unique in its stream.
    shape:
        Pixels as (rows, columns).
    position:
        Row and column of its first pixel in the assembled image.
    rotation_deg:
        Turn of the module in the image plane, counter-clockwise; multiples of 90 are assembled.
    """

    index: int
    shape: tuple[int, int]
    position: tuple[int, int]
    rotation_deg: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a source says about one frame (or one module of it); it travels on the topic.

    Parameters
    ----------
    number:
        The source's own counter, unwrapped; it may start anywhere and have holes.
    timestamp_ns:
        Start of the exposure by the detector's clock, ns since 1970 (UTC).
    shape:
        Pixels as (rows, columns), slow axis first; ``()`` for a frame without pixels.
    dtype:
        Numpy name of the pixel type, for example ``uint16``.
    encoding:
        How the payload is encoded: ``raw`` (C order, little-endian), ``cbf``, ``bslz4``, ...;
        ``none`` for a frame without pixels.
    module:
        Which module of the detector; 0 where there is only one.
    attributes:
        Named facts about this frame.

    Raises
    ------
    InvalidFrameError
        Names the field that is wrong.
    """

    number: int
    timestamp_ns: int
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    module: int = 0
    attributes: Mapping[str, AttributeValue] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        check_number(self.number)
        _check_int("timestamp_ns", self.timestamp_ns, 0, INT64_MAX)
        _check_int("module", self.module, 0, 2**15 - 1)
        check_layout(self.shape, self.dtype, self.encoding)


def check_number(number: int) -> None:
    """Raise InvalidFrameError unless ``number`` can be a frame number (0 to 2**63 - 2)."""
    _check_int("number", number, 0, INT64_MAX - 1)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidFrameError(name, f"must be an integer, not {type(value).__name__}")
    if not low <= value <= high:
        # Python refuses to print integers of thousands of digits.
        shown = value if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
        raise InvalidFrameError(name, f"{shown} is outside {low} to {high}")


def check_layout(shape: tuple[int, ...], dtype: str, encoding: str) -> None:
    """Raise InvalidFrameError unless shape, dtype and encoding can belong together."""
    kinds: tuple[tuple[str, object, type], ...] = (
        ("encoding", encoding, str),
        ("shape", shape, tuple),
    )
    for name, value, kind in kinds:
        if not isinstance(value, kind):
            problem = f"must be a {kind.__name__}, not {type(value).__name__}"
            raise InvalidFrameError(name, problem)
    if not _ENCODING.fullmatch(encoding):
        raise InvalidFrameError("encoding", f"{encoding!r:.60} is not an encoding name")
    if len(shape) > 8:
        raise InvalidFrameError("shape", f"{len(shape)} axes, at most 8 are possible")
    for extent in shape:
        if isinstance(extent, bool) or not isinstance(extent, int) or not 0 < extent < 2**31:
            raise InvalidFrameError("shape", "every extent must be an integer, 1 to 2**31 - 1")
    if not isinstance(dtype, str):
        raise InvalidFrameError("dtype", f"must be a numpy name, not {type(dtype).__name__}")
    if dtype not in DTYPES:
        raise InvalidFrameError("dtype", f"{dtype!r:.60} is not one of {', '.join(sorted(DTYPES))}")
    if encoding == "none" and shape != ():
        raise InvalidFrameError("shape", "a frame of encoding 'none' has shape ()")


def nbytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Return how many bytes raw pixels of this shape and dtype take."""
    size = 1 if dtype == "bool" else int(re.sub(r"\D", "", dtype)) // 8
    for extent in shape:
        size *= extent
    return size
