"""Where the payloads lie: ``file:``, ``s3:`` and ``memory:`` behind one protocol."""

from __future__ import annotations

import functools
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.blobs.file import FileStore
from pipeline.blobs.memory import MemoryStore
from pipeline.config import StoreSettings
from pipeline.errors import ConfigError
from pipeline.protocols import BlobStore

__all__ = ["open_store", "reopen"]


def open_store(settings: StoreSettings) -> BlobStore:
    """Return the store that ``settings.url`` names; nothing is contacted yet.

    Raises ConfigError for a URL that names no store.
    """
    url = settings.url
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore(url.removeprefix("memory:").strip("/"))
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.strip("/"):
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        from pipeline.blobs.s3 import S3Store  # half the import time of the package

        return S3Store(settings)
    raise ConfigError(
        f"store.url = {url!r} must be file:///dir, s3://, s3://bucket/prefix or memory://NAME"
    )


@functools.lru_cache(maxsize=16)
def reopen(settings: StoreSettings) -> BlobStore:
    """Return the store of this process for these settings: what unpickling a store gives.

    It stays open as long as the process, since nobody knows which task is the last.
    """
    return open_store(settings)
