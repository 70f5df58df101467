"""Keys and buffers, the same for every kind of store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.errors import InvalidArgumentError
from pipeline.frame import Buffer
from pipeline.naming import Names

#: How the name of an object begins that is still being written.
PART_PREFIX = ".part-"
#: Names in a store's directory that are no objects: ours, and versitygw's folder for its own
#: temporary files (backend/posix, ``metaTmpDir``).
_HIDDEN = (PART_PREFIX, ".sgwtmp")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_hidden(name: str) -> bool:
    """Tell whether one part of a path belongs to a store's workings."""
    return name.startswith(_HIDDEN)


def check_key(key: str) -> str:
    """Return ``key`` if it names an object: a bucket, a slash and parts that stay inside."""
    parts = key.split("/")
    if len(parts) < 2 or not all(parts):
        raise InvalidArgumentError("key", f"{key!r} must be bucket/name, without empty parts")
    _check_parts("key", key, parts)
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it can begin a listing: a bucket and a slash at least."""
    bucket, slash, rest = prefix.partition("/")
    if not bucket or not slash or "//" in prefix:
        raise InvalidArgumentError("prefix", f"{prefix!r} must begin with a bucket and a slash")
    _check_parts("prefix", prefix, [bucket, *rest.split("/")[:-1]])
    return prefix


def check_folder(prefix: str) -> str:
    """Return ``prefix`` if it is empty or names a folder, slash included."""
    if prefix and not prefix.endswith("/"):
        raise InvalidArgumentError("prefix", f"{prefix!r} must be empty or end in a slash")
    return check_prefix(prefix) if prefix else prefix


def check_bucket(bucket: str) -> str:
    """Return ``bucket`` if it is one part of a key."""
    if not bucket or "/" in bucket:
        raise InvalidArgumentError("bucket", f"{bucket!r} must be one part of a key")
    _check_parts("bucket", bucket, [bucket])
    return bucket


def check_range(offset: int, length: int) -> None:
    """Refuse ranges that no object can have."""
    if offset < 0 or length < 0:
        raise InvalidArgumentError("offset, length", f"{offset}, {length} must not be negative")


def _check_parts(field: str, key: str, parts: Sequence[str]) -> None:
    for part in parts:
        if part in {".", ".."} or is_hidden(part) or _CONTROL.search(part):
            raise InvalidArgumentError(field, f"{key!r} holds {part!r}, which is reserved")


def flat(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the bytes of ``parts`` as flat views in the same memory; empty ones are left out.

    An array whose pixels do not lie back to back (a cut-out, a transposed image) is copied.
    """
    return [_flat(part) for part in parts if memoryview_nbytes(part)]


def memoryview_nbytes(part: Buffer) -> int:
    """Return the length of a buffer in bytes."""
    return len(part) if isinstance(part, (bytes, bytearray)) else part.nbytes


def _flat(part: Buffer) -> memoryview:
    if isinstance(part, np.ndarray):
        # A view as bytes, because memoryview knows neither datetime64 nor foreign byte orders.
        return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    view = memoryview(part)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def batches(keys: Iterable[str], limit: int) -> Iterator[list[str]]:
    """Yield the checked ``keys`` of one bucket at a time, at most ``limit`` together."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        bucket = check_key(key).partition("/")[0]
        group = groups.setdefault(bucket, [])
        group.append(key)
        if len(group) == limit:
            yield groups.pop(bucket)
    yield from groups.values()


def missing_bucket(bucket: str) -> str:
    """Return what to tell somebody whose bucket does not exist, with the command that helps."""
    beamtime = Names().beamtime_of_bucket(bucket) or "BEAMTIME"
    return (
        f"bucket {bucket!r} does not exist, create it with `lichtstrom beamtime create {beamtime}`"
    )
