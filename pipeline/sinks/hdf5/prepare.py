"""Fetching a frame and looking at it, before it comes near the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline import codecs
from pipeline.errors import (
    BlobNotFoundError,
    ChecksumError,
    FrameExpiredError,
    IncompleteFrameError,
)
from pipeline.nexus.nxmx import INCOMPLETE, INVALID_PAYLOAD, NO_BLOB
from pipeline.protocols import FrameLike
from pipeline.sinks.hdf5.table import Layout

Check = Literal["framing", "full"]
#: Encodings whose framing proves all that a reader relies on.
_FRAMED = ("raw", "bslz4", "bszstd", "lz4")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame that was fetched and checked.

    ``chunk`` is what is written as it is; ``pixels`` where there is none: they are a value, or
    need HDF5's own filter.
    """

    frame: FrameLike
    layout: Layout
    chunk: memoryview | None
    pixels: npt.NDArray[Any] | None
    problem: int
    reason: str

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the frame says; a value rather than an image is one of them."""
        given = self.frame.attributes
        if self.layout.images is None and self.pixels is not None:
            return {"value": self.pixels.item(), **given}
        return given


def prepared(frame: FrameLike, layout: Layout, check: Check) -> Prepared:
    """Fetch, check and encode one frame; raises what ``frame.array`` does if the store is away."""
    pixels, problem, reason = _pixels_of(frame, layout, check)
    chunk, images = None, layout.images
    if images is not None and not problem and frame.encoding != "none":
        if frame.encoding == images.encoding:
            chunk = codecs.byte_view(frame.payload)
        elif pixels is not None:
            chunk = images.encoded(np.ascontiguousarray(pixels, layout.dtype))
        if chunk is not None:
            pixels = None
    return Prepared(frame, layout, chunk, pixels, problem, reason)


def _pixels_of(
    frame: FrameLike, layout: Layout, check: Check
) -> tuple[npt.NDArray[Any] | None, int, str]:
    """Return pixels that have to be encoded, a bit of ``frame_status``, and what is wrong."""
    alike = (tuple(frame.shape), frame.dtype) == (layout.shape, layout.dtype)
    if not alike and (layout.images is not None or frame.shape):
        reason = f"{frame.shape} {frame.dtype}, the file has {layout.shape} {layout.dtype}"
        return None, INVALID_PAYLOAD, reason
    if frame.encoding == "none":
        return None, 0, ""
    kept = layout.images is not None and layout.images.encoding == frame.encoding
    try:
        if kept and check == "framing" and frame.encoding in _FRAMED:
            codecs.check(
                frame.payload, encoding=frame.encoding, shape=layout.shape, dtype=layout.dtype
            )
            return None, 0, ""
        pixels = np.asarray(frame.array)
    except IncompleteFrameError as error:
        return None, INCOMPLETE, str(error)
    except (BlobNotFoundError, FrameExpiredError) as error:
        return None, NO_BLOB, str(error)
    except (ChecksumError, ValueError) as error:  # DecodeError is a ValueError
        return None, INVALID_PAYLOAD, str(error)
    if pixels.shape != layout.shape or pixels.dtype.newbyteorder("=") != np.dtype(frame.dtype):
        return None, INVALID_PAYLOAD, f"decodes to {pixels.shape} {pixels.dtype}"
    return pixels, 0, ""
