"""The contract on every implementation; the S3 server is the runtime's versitygw."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blob_contract import BlobStoreContract

from pipeline.blobs import open_store
from pipeline.config import Secret, StoreSettings
from pipeline.errors import StoreUnavailableError
from pipeline.local.state import RuntimeInfo
from pipeline.protocols import BlobStore


@pytest.fixture
def bucket(store: BlobStore) -> str:
    name = f"lichtstrom-{uuid.uuid4().hex[:8]}"
    store.create_bucket(name)
    return name


@pytest.fixture
def s3_settings(runtime: RuntimeInfo) -> StoreSettings:
    assert runtime.s3 is not None
    return StoreSettings(
        url="s3://",
        endpoints=(runtime.s3.endpoint,),
        access_key=runtime.s3.access_key,
        secret_key=Secret(runtime.s3.secret_key),
        region=runtime.s3.region,
    )


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


@pytest.mark.service
class TestS3StoreWithABucketPerBeamtime(BlobStoreContract):
    @pytest.fixture
    def store(self, s3_settings: StoreSettings) -> Iterator[BlobStore]:
        store = open_store(s3_settings)
        yield store
        store.close()


@pytest.mark.service
class TestS3StoreInsideOneBucket(BlobStoreContract):
    @pytest.fixture
    def store(self, s3_settings: StoreSettings) -> Iterator[BlobStore]:
        url = f"s3://shared-{uuid.uuid4().hex[:8]}/some/prefix"
        store = open_store(replace(s3_settings, url=url))
        yield store
        store.close()

    def test_put_into_a_missing_bucket_names_the_command_that_makes_it(
        self, store: BlobStore
    ) -> None:
        # The buckets of keys are folders here; what can be missing is the one around them.
        with pytest.raises(StoreUnavailableError, match=r"'shared-.*lichtstrom beamtime create"):
            store.put("lichtstrom-c20261122/x", [b"1"], durability="process")


@pytest.mark.service
class TestS3StoreOverTwoLinks(BlobStoreContract):
    @pytest.fixture
    def store(self, s3_settings: StoreSettings) -> Iterator[BlobStore]:
        link = s3_settings.endpoints[0]
        links = (link, link.replace("127.0.0.1", "localhost"))
        store = open_store(replace(s3_settings, endpoints=links))
        yield store
        store.close()
