"""From a file to its bytes and its header."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.detectors.watch import ReadyFile
from pipeline.errors import InvalidFrameError
from pipeline.frame import Buffer

#: Larger files are no single images; reading them would only fill the memory.
MAX_FILE_NBYTES = 1 << 30


class ImageHeader(Protocol):
    """What a reader says about a file's image."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102 -- see FrameHeader
    @property
    def dtype(self) -> str: ...  # noqa: D102 -- see FrameHeader
    @property
    def encoding(self) -> str: ...  # noqa: D102 -- see FrameHeader
    @property
    def timestamp_ns(self) -> int | None: ...  # noqa: D102 -- None: the file's own time is taken
    @property
    def attributes(self) -> Mapping[str, Any]: ...  # noqa: D102 -- see FrameHeader
    @property
    def units(self) -> Mapping[str, str]: ...  # noqa: D102 -- by attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """A plain :class:`ImageHeader`."""

    shape: tuple[int, ...]
    dtype: str
    encoding: str
    timestamp_ns: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)


#: Turns a whole file into its header; raises ValueError for what is damaged or cut short.
Reader = Callable[[Buffer], ImageHeader]


def read_tiff(payload: Buffer) -> FileHeader:
    """Read shape and type of a complete TIFF file."""
    from pipeline.codecs import tiff

    image = tiff.parse(payload)
    if not image.complete:
        raise InvalidFrameError("payload", f"TIFF: the file is cut short before byte {image.end}")
    return FileHeader(shape=image.shape, dtype=image.dtype, encoding="tiff")


def default_readers() -> dict[str, Reader]:
    """Return the reader of each extension that any detector may write."""
    from pipeline.detectors.pilatus import wire

    return {".cbf": wire.read_cbf, ".edf": wire.read_edf, ".tif": read_tiff, ".tiff": read_tiff}


def read_file(path: str) -> tuple[ReadyFile, bytes]:
    """Return the file's bytes and the identity they had, the same before and after reading."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- unbuffered: one read, no copy
        before = os.fstat(file.fileno())
        if before.st_size > MAX_FILE_NBYTES:
            raise InvalidFrameError("payload", f"more than {MAX_FILE_NBYTES} bytes")
        payload = file.readall()
        identity = ReadyFile.of(path, os.fstat(file.fileno()))
    if identity != ReadyFile.of(path, before) or len(payload) != identity.nbytes:
        raise InvalidFrameError("payload", "the file changed while it was read")
    return identity, payload


def reason_of(error: Exception) -> str:
    """Return in a few words why a file could not be read."""
    if isinstance(error, InvalidFrameError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) or type(error).__name__


def map_file(path: str) -> tuple[ReadyFile, memoryview]:
    """Return a file's identity and a view on its bytes, which are read when they are looked at.

    For files of many images that memory could not hold.  The file must not be made shorter while
    the view is in use: what is cut off cannot be read, and the system ends the process.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- as read_file
        identity = ReadyFile.of(path, os.fstat(file.fileno()))
        if not identity.nbytes:
            raise InvalidFrameError("payload", "zero bytes")
        mapped = mmap.mmap(file.fileno(), identity.nbytes, access=mmap.ACCESS_READ)
    return identity, memoryview(mapped)
