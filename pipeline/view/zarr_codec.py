"""A numcodecs codec for payloads that zarr's own codecs do not read: all encodings of ours.

Found by zarr through the entry point ``numcodecs.codecs`` wherever lichtstrom is installed;
numcodecs itself is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from pipeline.codecs import decode


class FrameCodec:
    """Decodes the payload of one frame; cannot encode.

    Parameters
    ----------
    encoding:
        One of :data:`pipeline.codecs.ENCODINGS`.
    shape, dtype:
        Of one frame.
    """

    codec_id = "lichtstrom"

    def __init__(self, encoding: str, shape: Sequence[int], dtype: str) -> None:
        self.encoding = encoding
        self.shape = tuple(shape)
        self.dtype = dtype

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return the pixels, into ``out`` if it is given.

        Raises DecodeError for a damaged payload.
        """
        pixels = decode(
            memoryview(buf).cast("B"), encoding=self.encoding, shape=self.shape, dtype=self.dtype
        )
        if out is None:
            return pixels
        np.asarray(out).reshape(-1).view(np.uint8)[:] = pixels.reshape(-1).view(np.uint8)
        return out

    def encode(self, buf: Any) -> Any:
        """Refuse: streams are written by publishing."""
        raise NotImplementedError("streams are read-only here; pipeline.connect().publish() writes")

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` takes, as zarr's metadata holds it."""
        layout = {"encoding": self.encoding, "shape": list(self.shape), "dtype": self.dtype}
        return {"id": self.codec_id, **layout}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the codec of a configuration."""
        return cls(config["encoding"], config["shape"], config["dtype"])
