from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from blob_contract import BlobStoreContract

from pipeline.blobs import open_store
from pipeline.config import StoreSettings
from pipeline.protocols import BlobStore


@pytest.fixture
def bucket(store: BlobStore) -> str:
    name = f"lichtstrom-{uuid.uuid4().hex[:8]}"
    store.create_bucket(name)
    return name


class TestFileStore(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[BlobStore]:
        store = open_store(StoreSettings(url=(tmp_path / "store").as_uri()))
        yield store
        store.close()


class TestMemoryStore(BlobStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        store = open_store(StoreSettings(url=f"memory://{uuid.uuid4().hex}"))
        yield store
        store.close()
