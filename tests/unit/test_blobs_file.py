from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.blobs.file import FileStore
from pipeline.errors import (
    InvalidArgumentError,
    StoreDeniedError,
    StoreFullError,
    StoreUnavailableError,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    store = FileStore(tmp_path / "store")
    store.create_bucket("b")
    yield store
    store.close()


def _files(store: FileStore, tmp_path: Path) -> list[str]:
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())


def _failing(code: int) -> object:
    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EACCES, StoreDeniedError),
        (errno.EROFS, StoreDeniedError),
        (errno.EIO, StoreUnavailableError),
        (errno.ESTALE, StoreUnavailableError),
    ],
)
def test_a_failed_write_has_its_own_error_and_leaves_nothing(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type
) -> None:
    monkeypatch.setattr(os, "writev", _failing(code))
    with pytest.raises(error) as caught:
        store.put("b/d/x", [b"12"], durability="process")
    assert isinstance(caught.value.__cause__, OSError)
    assert _files(store, tmp_path) == []


def test_a_full_disk_while_flushing_leaves_nothing(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.ENOSPC))
    with pytest.raises(StoreFullError):
        store.put("b/d/x", [b"12"], durability="disk")
    assert _files(store, tmp_path) == []


def test_the_systems_own_limit_on_file_size_is_a_full_store(
    store: FileStore, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StoreFullError):
            store.put("b/x", [bytes(1 << 19)] * 4, durability="process")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _files(store, tmp_path) == []


def test_short_writes_of_the_system_are_continued(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(descriptor: int, views: list[memoryview]) -> int:
        return os.write(descriptor, views[0][:5])

    parts = [b"0123456", b"789", b"abcdefghijk"]
    monkeypatch.setattr(os, "writev", short)
    store.put("b/x", parts, durability="process")
    assert store.get("b/x", 0, 21) == b"".join(parts)


def test_short_reads_of_the_system_are_continued(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:3]], offset)

    store.put("b/x", [b"0123456789"], durability="process")
    monkeypatch.setattr(os, "preadv", short)
    assert store.get("b/x", 1, 8) == b"12345678"


def test_disk_flushes_the_file_then_every_folder_that_is_new(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    store.put("b/d/e/x", [b"1"], durability="disk")
    assert flushed[0].startswith(".part-")
    assert flushed[1:] == ["e", "d", "b", "store"]
    flushed.clear()
    store.put("b/d/e/y", [b"1"], durability="disk")
    assert flushed[1:] == ["e"]
    store.delete(["b/d/e/x", "b/d/e/y"])
    flushed.clear()
    store.put("b/d/e/z", [b"1"], durability="disk")
    assert flushed[1:] == ["e", "d", "b", "store"]


def test_process_durability_flushes_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    store.put("b/x", [b"1"], durability="process")
    assert store.size("b/x") == 1


def test_what_a_killed_writer_left_is_no_object(store: FileStore, tmp_path: Path) -> None:
    store.put("b/d/x", [b"1"], durability="process")
    (tmp_path / "store/b/d/.part-0123").write_bytes(b"half")
    (tmp_path / "store/b/.sgwtmp").mkdir()
    (tmp_path / "store/b/.sgwtmp/upload").write_bytes(b"half")
    assert [blob.key for blob in store.list("b/")] == ["b/d/x"]
    assert store.folders("b/") == ["d"]


def test_a_listing_comes_in_the_order_of_keys(store: FileStore) -> None:
    keys = ["b/a-b", "b/a.c", "b/a/x", "b/a0", "b/b"]
    for key in reversed(keys):
        store.put(key, [b"1"], durability="process")
    assert [blob.key for blob in store.list("b/")] == keys


def test_delete_removes_empty_folders_but_never_the_bucket(
    store: FileStore, tmp_path: Path
) -> None:
    for key in ("b/d/e/x", "b/d/f/y"):
        store.put(key, [b"1"], durability="process")
    store.delete(["b/d/e/x"])
    assert sorted(p.name for p in (tmp_path / "store/b/d").iterdir()) == ["f"]
    store.delete(["b/d/f/y"])
    assert list((tmp_path / "store/b").iterdir()) == []


def test_a_directory_that_is_not_there_says_so(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "not" / "mounted")
    with pytest.raises(StoreUnavailableError, match="not mounted"):
        store.put("b/x", [b"1"], durability="process")
    assert store.folders("") == []


def test_a_name_too_long_for_the_file_system_is_a_value_error(store: FileStore) -> None:
    with pytest.raises(InvalidArgumentError, match="too long"):
        store.put("b/" + "x" * 300, [b"1"], durability="process")


def test_an_object_cannot_be_a_folder_as_well(store: FileStore) -> None:
    store.put("b/d/x", [b"1"], durability="process")
    for key in ("b/d", "b/d/x/y"):
        with pytest.raises(InvalidArgumentError):
            store.put(key, [b"1"], durability="process")
    assert [blob.key for blob in store.list("b/")] == ["b/d/x"]
