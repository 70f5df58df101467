"""``memory://NAME``: objects in this process, for tests.  Every store of one NAME is the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.blobs.keys import (
    check_bucket,
    check_folder,
    check_key,
    check_prefix,
    check_range,
    flat,
    missing_bucket,
)
from pipeline.config import StoreSettings
from pipeline.errors import BlobNotFoundError, ClosedError, StoreUnavailableError
from pipeline.frame import Buffer
from pipeline.protocols import BlobInfo, Durability


@dataclass(slots=True)
class _Space:
    """What lies under one NAME; outlives the stores that use it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    buckets: set[str] = field(default_factory=set)
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)


class MemoryStore:
    """A :class:`pipeline.protocols.BlobStore` in memory; ``disk`` promises no more there."""

    _spaces: dict[str, _Space] = {}  # noqa: RUF012 -- shared on purpose: one space per NAME
    _guard = threading.Lock()

    def __init__(self, name: str) -> None:
        self._url = f"memory://{name}"
        self._closed = False
        with self._guard:
            self._space = self._spaces.setdefault(name, _Space())

    @property
    def url(self) -> str:
        """The address."""
        return self._url

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what it was opened with; in another process it is empty."""
        from pipeline.blobs import reopen  # it imports this module

        return reopen, (StoreSettings(url=self._url),)

    def put(self, key: str, parts: Sequence[Buffer], *, durability: Durability) -> None:
        """Write one object made of ``parts`` back to back."""
        bucket = check_key(key).partition("/")[0]
        data = b"".join(flat(parts))
        with self._open() as space:
            if bucket not in space.buckets:
                raise StoreUnavailableError(self._url, missing_bucket(bucket))
            space.objects[key] = (data, time.time_ns())

    def get(self, key: str, offset: int, length: int) -> memoryview:
        """Return exactly ``length`` bytes from ``offset``."""
        check_range(offset, length)
        data = self._object(key)[0]
        if offset + length > len(data):
            raise BlobNotFoundError(
                key, store=f"{self._url} with {offset + length} bytes (it has {len(data)})"
            )
        return memoryview(bytearray(memoryview(data)[offset : offset + length]))

    def size(self, key: str) -> int:
        """Return the object's length in bytes."""
        return len(self._object(key)[0])

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield all objects whose key begins with ``prefix``."""
        check_prefix(prefix)
        with self._open() as space:
            found = sorted((k, *v) for k, v in space.objects.items() if k.startswith(prefix))
        for key, data, modified_ns in found:
            yield BlobInfo(key=key, nbytes=len(data), modified_ns=modified_ns)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the next path parts below ``prefix``; below nothing, the buckets."""
        check_folder(prefix)
        with self._open() as space:
            if not prefix:
                return sorted(space.buckets)
            below = [k[len(prefix) :] for k in space.objects if k.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in below if "/" in rest})

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; keys that do not exist are no error."""
        checked = [check_key(key) for key in keys]
        with self._open() as space:
            for key in checked:
                space.objects.pop(key, None)

    def create_bucket(self, bucket: str) -> None:
        """Make the bucket; one that exists is no error."""
        check_bucket(bucket)
        with self._open() as space:
            space.buckets.add(bucket)

    def close(self) -> None:
        """Refuse further calls; what is stored stays under its NAME."""
        self._closed = True

    def _object(self, key: str) -> tuple[bytes, int]:
        check_key(key)
        with self._open() as space:
            if key not in space.objects:
                raise BlobNotFoundError(key, store=self._url)
            return space.objects[key]

    def _open(self) -> _Locked:
        if self._closed:
            raise ClosedError(f"object store {self._url} is closed")
        return _Locked(self._space)


class _Locked:
    """The space while its lock is held."""

    __slots__ = ("_space",)

    def __init__(self, space: _Space) -> None:
        self._space = space

    def __enter__(self) -> _Space:
        self._space.lock.acquire()
        return self._space

    def __exit__(self, *_: object) -> None:
        self._space.lock.release()
