"""Any buffer as flat bytes, without a copy."""

from __future__ import annotations

import numpy as np

from pipeline.errors import InvalidFrameError
from pipeline.frame import Buffer


def byte_view(buffer: Buffer) -> memoryview:
    """Return the bytes of a C-contiguous buffer as a flat view on the caller's memory.

    Raises
    ------
    InvalidFrameError
        The buffer is strided or in Fortran order, so its memory is not its bytes in order.
    """
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.c_contiguous:
            raise InvalidFrameError("payload", "the array is not C-contiguous")
        # Through numpy: memoryview.cast knows neither complex nor big-endian formats.
        return buffer.reshape(-1).view(np.uint8).data if buffer.size else memoryview(b"")
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise InvalidFrameError("payload", "the buffer is not C-contiguous")
    if not view.nbytes:
        return memoryview(b"")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
