"""One directory, two ways: as files, and through the S3 server that serves it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.blobs import open_store
from pipeline.config import Secret, StoreSettings
from pipeline.errors import BlobNotFoundError, StoreDeniedError
from pipeline.local import RuntimeInfo
from pipeline.protocols import BlobStore

pytestmark = pytest.mark.service


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


@pytest.fixture
def root(runtime: RuntimeInfo) -> Path:
    return Path(urlsplit(runtime.store_url).path)


@pytest.fixture
def stores(runtime: RuntimeInfo, s3_settings: StoreSettings) -> Iterator[dict[str, BlobStore]]:
    made = {
        "file": open_store(StoreSettings(url=runtime.store_url)),
        "s3": open_store(s3_settings),
    }
    yield made
    for store in made.values():
        store.close()


WAYS = [("file", "s3"), ("s3", "file")]


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_what_one_way_writes_the_other_reads_lists_and_deletes(
    stores: dict[str, BlobStore], one: str, other: str
) -> None:
    writer, reader = stores[one], stores[other]
    bucket = f"lichtstrom-{uuid.uuid4().hex[:8]}"
    writer.create_bucket(bucket)
    key = f"{bucket}/lambda/0001/00-000000000007.raw"
    data = bytes(range(256)) * 4096
    writer.put(key, [data[:1000], data[1000:]], durability="disk")
    assert reader.get(key, 0, len(data)) == data
    assert reader.get(key, 999, 3) == data[999:1002]
    assert reader.size(key) == len(data)
    assert [(b.key, b.nbytes) for b in reader.list(f"{bucket}/")] == [(key, len(data))]
    assert bucket in reader.folders("")
    assert reader.folders(f"{bucket}/") == ["lambda"]
    with pytest.raises(BlobNotFoundError):
        reader.get(key, len(data) - 1, 2)
    reader.delete([key])
    with pytest.raises(BlobNotFoundError):
        writer.size(key)
    assert list(writer.list(f"{bucket}/")) == []


def test_an_empty_file_is_an_empty_object(stores: dict[str, BlobStore]) -> None:
    bucket = f"lichtstrom-{uuid.uuid4().hex[:8]}"
    stores["file"].create_bucket(bucket)
    stores["file"].put(f"{bucket}/empty", [], durability="process")
    assert stores["s3"].size(f"{bucket}/empty") == 0
    assert stores["s3"].get(f"{bucket}/empty", 0, 0) == b""


def test_a_half_written_file_is_no_object_over_s3(stores: dict[str, BlobStore], root: Path) -> None:
    bucket = f"lichtstrom-{uuid.uuid4().hex[:8]}"
    stores["file"].create_bucket(bucket)
    stores["file"].put(f"{bucket}/d/x", [b"1"], durability="process")
    (root / bucket / "d" / ".part-0123").write_bytes(b"half")
    for store in stores.values():
        assert [b.key for b in store.list(f"{bucket}/")] == [f"{bucket}/d/x"]


def test_more_than_a_page_is_listed_and_deleted(stores: dict[str, BlobStore]) -> None:
    bucket = f"lichtstrom-{uuid.uuid4().hex[:8]}"
    stores["file"].create_bucket(bucket)
    keys = [f"{bucket}/d{i % 3}/{i:05d}" for i in range(2100)]
    for key in keys:
        stores["file"].put(key, [b"1"], durability="process")
    assert sorted(b.key for b in stores["s3"].list(f"{bucket}/")) == sorted(keys)
    stores["s3"].delete(keys)
    assert list(stores["file"].list(f"{bucket}/")) == []


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_a_wrong_key_is_denied_and_not_shown(s3_settings: StoreSettings, wrong: str) -> None:
    value = Secret("not-the-right-one")
    settings = (
        replace(s3_settings, access_key=str(value))
        if wrong == "access_key"
        else replace(s3_settings, secret_key=value)
    )
    store = open_store(settings)
    for call in (
        lambda: store.put("b-any/x", [b"1"], durability="process"),
        lambda: store.get("b-any/x", 0, 1),
        lambda: store.size("b-any/x"),
        lambda: list(store.list("b-any/")),
        lambda: store.folders(""),
        lambda: store.create_bucket("b-any"),
    ):
        with pytest.raises(StoreDeniedError) as caught:
            call()
        assert settings.secret_key not in f"{caught.value} {caught.value.__cause__}"
    store.close()
