"""From a file to its bytes and its header."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from typing import Any, Protocol, overload

from pipeline.detectors.watch import ReadyFile
from pipeline.errors import InvalidFrameError
from pipeline.frame import Buffer

#: Larger files are no single images; reading them would only fill the memory.
MAX_FILE_NBYTES = 1 << 30
# The memory of smaller ones is used again by the allocator.
_SMALL_NBYTES = 1 << 18


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


class Buffers:
    """Memory for files, used again once nobody looks at it.  For one thread.

    New memory is slow: the system clears each page when it is first touched, which took longer
    than all the rest for files of 25 MB (2026-11-23: 170 and 350 MB/s from file to stream).
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._buffers: list[bytearray] = []

    def take(self, nbytes: int) -> memoryview:
        """Return a view of so many bytes that nothing else refers to."""
        for index, buffer in enumerate(self._buffers):
            if _is_free(buffer):
                if len(buffer) < nbytes:
                    self._buffers[index] = bytearray(nbytes)
                return memoryview(self._buffers[index])[:nbytes]
        buffer = bytearray(nbytes)
        if len(self._buffers) < self._most:
            self._buffers.append(buffer)
        return memoryview(buffer)[:nbytes]


def _is_free(buffer: bytearray) -> bool:
    """Tell whether no view on a buffer is left: only then Python lets its length change."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return False
    return True


@overload
def read_file(path: str) -> tuple[ReadyFile, bytes]: ...
@overload
def read_file(path: str, buffers: Buffers) -> tuple[ReadyFile, bytes | memoryview]: ...
def read_file(path: str, buffers: Buffers | None = None) -> tuple[ReadyFile, bytes | memoryview]:
    """Return the file's bytes and the identity they had, the same before and after reading."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- unbuffered: one read, no copy
        before = os.fstat(file.fileno())
        if before.st_size > MAX_FILE_NBYTES:
            raise InvalidFrameError("payload", f"more than {MAX_FILE_NBYTES} bytes")
        payload: bytes | memoryview
        if buffers is None or before.st_size < _SMALL_NBYTES:
            payload = file.readall()
        else:
            payload = _read_into(file, buffers.take(before.st_size))
        identity = ReadyFile.of(path, os.fstat(file.fileno()))
    if identity != ReadyFile.of(path, before) or len(payload) != identity.nbytes:
        raise InvalidFrameError("payload", "the file changed while it was read")
    return identity, payload


def _read_into(file: FileIO, view: memoryview) -> memoryview:
    """Fill the view as far as the file goes."""
    done = 0
    while done < view.nbytes:
        count = file.readinto(view[done:])
        if not count:
            break
        done += count
    return view[:done]


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
