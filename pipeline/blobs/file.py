"""``file:///dir``: objects as plain files, written and read with the system's own calls.

Measured against obstore's LocalStore in ``docs/decisions/0002-file-store.md``.  The same directory
may be served by versitygw at the same time; its files are these files.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.blobs import oscalls
from pipeline.blobs.keys import (
    PART_PREFIX,
    check_bucket,
    check_folder,
    check_key,
    check_prefix,
    check_range,
    flat,
    is_hidden,
    missing_bucket,
)
from pipeline.blobs.oserrors import translated
from pipeline.config import StoreSettings
from pipeline.errors import BlobNotFoundError, ClosedError, StoreUnavailableError
from pipeline.frame import Buffer
from pipeline.protocols import BlobInfo, Durability

#: Parts of one writev (IOV_MAX on Linux).
_IOV_MAX = 1024
#: The folder of a beamtime in a store that not everybody may list.
_APART = 0o2750
#: How often a put makes its folder again when a delete removes it at the same moment.
_FOLDER_TRIES = 20
#: How the system says that a path names no object.
_NO_OBJECT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FileStore:
    """A :class:`pipeline.protocols.BlobStore` in a directory of a file system.

    ``timeout_s`` cannot bound the system's calls: a hard-mounted network file system that is away
    blocks them until it is back.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._url = root.as_uri()
        self._closed = False
        # Folders known to survive a power loss, so that each is flushed once, not for every file.
        self._durable: set[Path] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address."""
        return self._url

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what it was opened with; see :func:`pipeline.blobs.reopen`."""
        from pipeline.blobs import reopen  # it imports this module

        return reopen, (StoreSettings(url=self._url),)

    def put(self, key: str, parts: Sequence[Buffer], *, durability: Durability) -> None:
        """Write one object made of ``parts`` back to back."""
        path = self._path(check_key(key))
        views = flat(parts)
        disk = durability == "disk"
        with translated(self._url, path):
            part, descriptor = self._create(path.parent, key)
            try:
                _write(descriptor, views, sync=disk)
                part.rename(path)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
            if disk:
                self._make_durable(path.parent)

    def get(self, key: str, offset: int, length: int) -> memoryview:
        """Return exactly ``length`` bytes from ``offset``."""
        check_range(offset, length)
        path = self._path(check_key(key))
        # empty() and not bytearray(): the memory is written once, by the read.
        data = np.empty(length, np.uint8).data
        with translated(self._url, path), self._reading(key, path) as descriptor:
            if oscalls.read_at(descriptor, data, offset) < length or not length:
                nbytes = os.fstat(descriptor).st_size
                if offset + length > nbytes:
                    raise BlobNotFoundError(
                        key, store=f"{self._url} with {offset + length} bytes (it has {nbytes})"
                    )
        return data

    def size(self, key: str) -> int:
        """Return the object's length in bytes."""
        path = self._path(check_key(key))
        with translated(self._url, path), self._reading(key, path) as descriptor:
            return os.fstat(descriptor).st_size

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield all objects whose key begins with ``prefix``, in the order of their keys."""
        folder, _, start = check_prefix(prefix).rpartition("/")
        path = self._path(folder)
        with translated(self._url, path):
            for entry in _sorted_entries(path):
                if entry.name.startswith(start):
                    yield from self._walk(entry, f"{folder}/{entry.name}")

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the next path parts below ``prefix``; below nothing, the buckets."""
        path = self._path(check_folder(prefix).rstrip("/"))
        with translated(self._url, path):
            return sorted(entry.name for entry in _sorted_entries(path) if entry.is_dir())

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects and the folders that become empty; missing keys are no error."""
        folders: set[Path] = set()
        for key in keys:
            path = self._path(check_key(key))
            with translated(self._url, path), suppress(*_NO_OBJECT):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            self._prune(folder)

    def create_bucket(self, bucket: str) -> None:
        """Make the bucket's folder, and the store's own; those that exist are no error."""
        path = self._path(check_bucket(bucket))
        with translated(self._url, path):
            if path.is_dir():
                return
            path.mkdir(parents=True, exist_ok=True)
            if not self._root.stat().st_mode & stat.S_IROTH:
                # A store that not everybody may list keeps its beamtimes apart: owner and group,
                # and what is made inside belongs to the folder's group as well.
                path.chmod(_APART)

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _path(self, key: str) -> Path:
        if self._closed:
            raise ClosedError(f"object store {self._url} is closed")
        return self._root / key

    def _create(self, folder: Path, key: str) -> tuple[Path, int]:
        """Open a new file beside the future object: a rename stays within one folder."""
        part = folder / f"{PART_PREFIX}{secrets.token_hex(8)}"
        for _ in range(_FOLDER_TRIES):
            try:
                return part, os.open(
                    part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | oscalls.OPEN_FLAGS, 0o666
                )
            except FileNotFoundError:
                self._make_folder(folder, key)
        raise StoreUnavailableError(self._url, f"{folder} is removed again and again")

    def _make_folder(self, folder: Path, key: str) -> None:
        bucket = key.partition("/")[0]
        top = self._root / bucket
        if not top.is_dir():
            if not self._root.is_dir():
                raise StoreUnavailableError(
                    self._url, f"{self._root} does not exist or is not mounted"
                )
            raise StoreUnavailableError(self._url, missing_bucket(bucket))
        # A delete at the same moment; mkdir then fails either way, and the caller tries again.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._durable -= {folder, *folder.parents}

    def _make_durable(self, folder: Path) -> None:
        """Flush the folder's entries, and those above it that were not flushed yet."""
        oscalls.sync_folder(folder)
        while folder != self._root:
            with self._lock:
                if folder in self._durable:
                    return
            oscalls.sync_folder(folder.parent)
            with self._lock:
                self._durable.add(folder)
            folder = folder.parent

    @contextmanager
    def _reading(self, key: str, path: Path) -> Iterator[int]:
        try:
            descriptor = os.open(path, os.O_RDONLY | oscalls.OPEN_FLAGS)
        except _NO_OBJECT as error:
            raise BlobNotFoundError(key, store=self._url) from error
        try:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise BlobNotFoundError(key, store=self._url)
            yield descriptor
        finally:
            os.close(descriptor)

    def _walk(self, entry: os.DirEntry[str], key: str) -> Iterator[BlobInfo]:
        if entry.is_dir(follow_symlinks=False):
            for inner in _sorted_entries(Path(entry.path)):
                yield from self._walk(inner, f"{key}/{inner.name}")
            return
        with suppress(FileNotFoundError):  # deleted since the folder was read
            facts = entry.stat()
            if stat.S_ISREG(facts.st_mode):
                yield BlobInfo(key=key, nbytes=facts.st_size, modified_ns=facts.st_mtime_ns)

    def _prune(self, folder: Path) -> None:
        while self._root not in {folder, folder.parent}:
            try:
                folder.rmdir()
            except OSError:  # not empty, or not ours to remove: either way it stays
                return
            with self._lock:
                self._durable.discard(folder)
            folder = folder.parent


def _write(descriptor: int, views: Sequence[memoryview], *, sync: bool) -> None:
    try:
        for first in range(0, len(views), _IOV_MAX):
            oscalls.write_all(descriptor, views[first : first + _IOV_MAX])
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder in the order of keys (``a-b`` before ``a/b``, as S3 has it)."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_hidden(entry.name)]
    except _NO_OBJECT:
        return []
    return sorted(found, key=lambda e: f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name)
