from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.blobs import open_store
from pipeline.blobs.admin import bucket_policy
from pipeline.config import Secret, StoreSettings
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    "url", ["", "file:", "file:///", "file://host/dir", "http://x", "/dir", "ftp://x/y"]
)
def test_a_url_that_names_no_store_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        open_store(StoreSettings(url=url))


def test_a_directory_with_spaces_is_found_by_its_url(tmp_path: Path) -> None:
    store = open_store(StoreSettings(url=(tmp_path / "a b").as_uri()))
    store.create_bucket("b")
    store.put("b/x", [b"1"], durability="process")
    assert (tmp_path / "a b" / "b" / "x").read_bytes() == b"1"
    assert store.url.endswith("/a%20b")


def test_memory_stores_of_one_name_are_one() -> None:
    first, second, other = (open_store(StoreSettings(url=f"memory://{n}")) for n in "aab")
    first.create_bucket("b")
    first.put("b/x", [b"1"], durability="process")
    first.close()
    assert second.get("b/x", 0, 1) == b"1"
    assert other.folders("") == []


def test_opening_contacts_nobody_and_shows_no_secret() -> None:
    settings = StoreSettings(
        url="s3://bucket/some/prefix",
        endpoints=("http://127.0.0.1:1",),
        access_key="key",
        secret_key=Secret("topsecret"),
    )
    store = open_store(settings)
    assert store.url == "s3://bucket/some/prefix (http://127.0.0.1:1)"
    assert "topsecret" not in repr(store) + repr(settings) + store.url
    store.close()


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "http://", "ftp://host", "http://host/path", "http://k:s3cr@h"]
)
def test_an_endpoint_that_is_none_is_a_config_error_without_keys(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoints") as caught:
        open_store(StoreSettings(url="s3://", endpoints=(endpoint,)))
    assert "s3cr" not in str(caught.value)


def test_a_policy_opens_the_bucket_and_its_objects_to_readers() -> None:
    policy = bucket_policy("b", readers=["guest"])
    assert '"arn:aws:s3:::b/*"' in policy
    assert '"arn:aws:s3:::b"' in policy
    assert "s3:PutObject" not in policy
    assert '"s3:*"' in bucket_policy("b", readers=[], writers=["w"])
