"""What every blob store promises, sentence by sentence of its protocol."""

from __future__ import annotations

import mmap
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import (
    BlobNotFoundError,
    ClosedError,
    InvalidArgumentError,
    StoreUnavailableError,
)
from pipeline.protocols import BlobStore

MIB = 1024 * 1024
HOSTILE_KEYS = ["", "bucket", "/x", "b//x", "b/", "b/../x", "b/./x", "b/.part-1", "b/a\0", "b/a\n"]


class BlobStoreContract:
    """Subclass it and give a ``store`` and a ``bucket`` (created in the store) fixture."""

    def test_what_was_put_is_read_back(self, store: BlobStore, bucket: str) -> None:
        store.put(f"{bucket}/d/0001/a.raw", [b"frame 0"], durability="process")
        assert store.get(f"{bucket}/d/0001/a.raw", 0, 7) == b"frame 0"

    def test_disk_durability_reads_back_the_same(self, store: BlobStore, bucket: str) -> None:
        for key in ("deep/er/a", "deep/er/b", "deep/c"):
            store.put(f"{bucket}/{key}", [b"one", b"two"], durability="disk")
            assert store.get(f"{bucket}/{key}", 0, 6) == b"onetwo"

    def test_a_pickled_store_is_the_same_store_where_it_is_opened_again(
        self, store: BlobStore, bucket: str
    ) -> None:
        store.put(f"{bucket}/travelled", [b"frame 0"], durability="process")
        again = pickle.loads(pickle.dumps(store))
        assert again.get(f"{bucket}/travelled", 0, 7) == b"frame 0"
        assert pickle.loads(pickle.dumps(store)) is again, "it is opened once a process"

    def test_parts_lie_back_to_back(self, store: BlobStore, bucket: str) -> None:
        image = np.arange(12, dtype="<u2").reshape(3, 4)
        parts = [b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3], image, b"", np.empty((0, 3))]
        store.put(f"{bucket}/parts", parts, durability="process")
        assert store.get(f"{bucket}/parts", 0, 30) == b"abcdef" + image.tobytes()
        assert store.size(f"{bucket}/parts") == 30

    def test_thousands_of_parts_make_one_object(self, store: BlobStore, bucket: str) -> None:
        parts = [bytes([i % 251]) * 7 for i in range(3000)]
        store.put(f"{bucket}/many", parts, durability="process")
        assert store.get(f"{bucket}/many", 0, 21000) == b"".join(parts)

    def test_images_cut_out_or_transposed_or_of_times_are_stored_as_they_look(
        self, store: BlobStore, bucket: str
    ) -> None:
        image = np.arange(64, dtype=">i4").reshape(8, 8)
        times = np.array(["2026-11-22"], dtype="datetime64[ns]")
        parts = [image[1:3, 2:5], image.T, times, memoryview(b"abcdef")[::2]]
        store.put(f"{bucket}/odd", parts, durability="process")
        expected = image[1:3, 2:5].tobytes() + image.T.tobytes() + times.tobytes() + b"ace"
        assert store.get(f"{bucket}/odd", 0, len(expected)) == expected

    def test_a_large_file_is_put_from_its_mapping_which_can_be_closed_after(
        self, store: BlobStore, bucket: str, tmp_path: Path
    ) -> None:
        nbytes = 66 * MIB + 5  # so much that an S3 store sends parts
        head, tail = bytes(range(256)) * 16, b"the end"
        with (tmp_path / "large").open("w+b") as file:
            file.write(head)
            file.seek(nbytes - len(tail))
            file.write(tail)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with memoryview(mapped) as view:
            store.put(f"{bucket}/large", [view], durability="process")
        mapped.close()
        assert store.size(f"{bucket}/large") == nbytes
        assert store.get(f"{bucket}/large", 0, len(head)) == head
        assert store.get(f"{bucket}/large", nbytes - len(tail), len(tail)) == tail
        assert store.get(f"{bucket}/large", 64 * MIB - 8, 16) == bytes(16)
        assert [found.nbytes for found in store.list(f"{bucket}/la")] == [nbytes]
        store.delete([f"{bucket}/large"])

    def test_an_object_larger_than_a_segment_is_one_object(
        self, store: BlobStore, bucket: str
    ) -> None:
        part = np.random.default_rng(1).integers(0, 256, 3 * MIB, np.uint8)
        store.put(f"{bucket}/large", [part] * 7, durability="process")
        assert store.size(f"{bucket}/large") == 21 * MIB
        assert store.get(f"{bucket}/large", 6 * MIB, 3 * MIB) == part.tobytes()

    def test_put_does_not_keep_the_callers_buffer(self, store: BlobStore, bucket: str) -> None:
        buffer = bytearray(b"frame 0")
        store.put(f"{bucket}/a", [memoryview(buffer)], durability="process")
        buffer[:] = b"frame 1"
        assert store.get(f"{bucket}/a", 0, 7) == b"frame 0"

    def test_put_again_after_an_uncertain_failure_replaces_the_object(
        self, store: BlobStore, bucket: str
    ) -> None:
        for data in (b"first", b"second"):
            store.put(f"{bucket}/again", [data], durability="process")
        assert store.get(f"{bucket}/again", 0, 6) == b"second"
        assert [b.key for b in store.list(f"{bucket}/")] == [f"{bucket}/again"]

    def test_a_range_is_exactly_as_long_as_asked(self, store: BlobStore, bucket: str) -> None:
        store.put(f"{bucket}/r", [bytes(range(100))], durability="process")
        for offset, length in ((0, 1), (10, 20), (99, 1), (0, 100), (50, 0)):
            assert store.get(f"{bucket}/r", offset, length) == bytes(range(offset, offset + length))

    def test_the_buffer_of_get_is_flat_bytes_of_its_own(
        self, store: BlobStore, bucket: str
    ) -> None:
        store.put(f"{bucket}/own", [b"12345678"], durability="process")
        first, second = store.get(f"{bucket}/own", 0, 8), store.get(f"{bucket}/own", 0, 8)
        assert (first.format, first.ndim, first.c_contiguous) == ("B", 1, True)
        assert np.frombuffer(first, "<u2").shape == (4,)
        if not first.readonly:
            first[0] = 0
            assert second == b"12345678"

    def test_a_missing_object_is_not_found(self, store: BlobStore, bucket: str) -> None:
        store.put(f"{bucket}/folder/x", [b"1"], durability="process")
        for key in (f"{bucket}/none", f"{bucket}/folder", f"{bucket}/folder/x/y", "nobucket/x"):
            for length in (0, 1):
                with pytest.raises(BlobNotFoundError) as caught:
                    store.get(key, 0, length)
                assert caught.value.key == key
            with pytest.raises(BlobNotFoundError):
                store.size(key)

    @pytest.mark.parametrize(("offset", "length"), [(0, 6), (3, 3), (5, 1), (9, 1), (6, 0)])
    def test_a_short_object_is_not_found(
        self, store: BlobStore, bucket: str, offset: int, length: int
    ) -> None:
        store.put(f"{bucket}/short", [b"12345"], durability="process")
        with pytest.raises(BlobNotFoundError, match="short"):
            store.get(f"{bucket}/short", offset, length)

    def test_an_empty_object_exists(self, store: BlobStore, bucket: str) -> None:
        store.put(f"{bucket}/empty", [], durability="process")
        assert store.size(f"{bucket}/empty") == 0
        assert store.get(f"{bucket}/empty", 0, 0) == b""

    def test_a_negative_range_is_a_value_error(self, store: BlobStore, bucket: str) -> None:
        for offset, length in ((-1, 1), (0, -1)):
            with pytest.raises(InvalidArgumentError, match="negative"):
                store.get(f"{bucket}/x", offset, length)

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_a_key_that_leaves_the_bucket_is_a_value_error(
        self, store: BlobStore, bucket: str, key: str
    ) -> None:
        with pytest.raises(InvalidArgumentError):
            store.put(key, [b"1"], durability="process")
        with pytest.raises(InvalidArgumentError):
            store.get(key, 0, 1)
        with pytest.raises(InvalidArgumentError):
            store.delete([key])

    def test_keys_may_hold_spaces_and_any_letters(self, store: BlobStore, bucket: str) -> None:
        names = ["a b", "Prüfung", "50%", "x%20y", "a+b=c@d,e", "(1)[2]#~"]
        for name in names:
            store.put(f"{bucket}/odd/{name}", [name.encode()], durability="process")
            assert store.get(f"{bucket}/odd/{name}", 0, len(name.encode())) == name.encode()
        found = {b.key for b in store.list(f"{bucket}/odd/")}
        assert found == {f"{bucket}/odd/{name}" for name in names}

    def test_list_gives_key_length_and_time(self, store: BlobStore, bucket: str) -> None:
        store.put(f"{bucket}/d/a", [b"123"], durability="process")
        (blob,) = store.list(f"{bucket}/")
        assert (blob.key, blob.nbytes) == (f"{bucket}/d/a", 3)
        assert abs(blob.modified_ns - time.time_ns()) < 3600 * 10**9

    def test_list_takes_any_beginning_of_a_key(self, store: BlobStore, bucket: str) -> None:
        keys = [f"{bucket}/{name}" for name in ("m/seal-1", "m/seal-2", "m/part-1", "mm/x", "n")]
        for key in keys:
            store.put(key, [b"1"], durability="process")

        def found(prefix: str) -> list[str]:
            return sorted(b.key for b in store.list(f"{bucket}/{prefix}"))

        assert found("m/seal-") == keys[:2]
        assert found("m/") == sorted(keys[:3])
        assert found("m") == sorted(keys[:4])
        assert found("") == sorted(keys)
        assert found("none/") == []
        assert list(store.list("nobucket/")) == []

    def test_list_needs_a_bucket(self, store: BlobStore) -> None:
        for prefix in ("", "bucket", "b//", "b/../c/"):
            with pytest.raises(InvalidArgumentError, match="prefix"):
                list(store.list(prefix))

    def test_folders_are_the_next_parts(self, store: BlobStore, bucket: str) -> None:
        for key in ("d1/s1/a", "d1/s2/a", "d2/s1/a", "file"):
            store.put(f"{bucket}/{key}", [b"1"], durability="process")
        assert bucket in store.folders("")
        assert store.folders(f"{bucket}/") == ["d1", "d2"]
        assert store.folders(f"{bucket}/d1/") == ["s1", "s2"]
        assert store.folders(f"{bucket}/d1/s1/") == []
        assert store.folders(f"{bucket}/none/") == []
        with pytest.raises(InvalidArgumentError, match="slash"):
            store.folders(bucket)

    def test_delete_removes_and_missing_keys_are_no_error(
        self, store: BlobStore, bucket: str
    ) -> None:
        keys = [f"{bucket}/d/{i:03d}" for i in range(50)]
        for key in keys:
            store.put(key, [b"1"], durability="process")
        store.delete([*keys[:-1], f"{bucket}/never", f"{bucket}/d", "nobucket/x"])
        assert [b.key for b in store.list(f"{bucket}/")] == keys[-1:]
        store.delete(keys)
        store.delete([])
        assert list(store.list(f"{bucket}/")) == []
        assert store.folders(f"{bucket}/") == []

    def test_put_into_a_missing_bucket_names_the_command_that_makes_it(
        self, store: BlobStore, bucket: str
    ) -> None:
        with pytest.raises(StoreUnavailableError, match="lichtstrom beamtime create c20261122"):
            store.put("lichtstrom-c20261122/x", [b"1"], durability="process")

    def test_create_bucket_twice_is_no_error(self, store: BlobStore, bucket: str) -> None:
        store.create_bucket(bucket)
        with pytest.raises(InvalidArgumentError):
            store.create_bucket("a/b")

    def test_many_threads_put_get_and_delete(self, store: BlobStore, bucket: str) -> None:
        def cycle(i: int) -> None:
            key = f"{bucket}/t/{i % 3}/{i}"
            store.put(key, [b"%d" % i] * 10, durability="process")
            assert store.get(key, 0, len(b"%d" % i) * 10) == b"%d" % i * 10
            store.delete([key])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(cycle, range(200), timeout=60))
        assert list(store.list(f"{bucket}/t/")) == []

    def test_an_object_is_never_seen_in_part(self, store: BlobStore, bucket: str) -> None:
        nbytes, done, seen = 4 * MIB, threading.Event(), set()

        def watch() -> None:
            while not done.is_set():
                seen.update(b.nbytes for b in store.list(f"{bucket}/whole/"))

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            for i in range(10):
                store.put(f"{bucket}/whole/{i}", [bytes(nbytes // 4)] * 4, durability="process")
            done.set()
            watching.result(timeout=30)
        assert seen <= {nbytes}

    def test_the_url_is_for_people_and_holds_no_secret(self, store: BlobStore) -> None:
        assert store.url.split(":")[0] in {"file", "memory", "s3"}
        assert "secret" not in store.url + repr(store)

    def test_a_closed_store_refuses_and_closes_twice(self, store: BlobStore, bucket: str) -> None:
        store.put(f"{bucket}/x", [b"1"], durability="process")
        store.close()
        store.close()
        with pytest.raises(ClosedError):
            store.get(f"{bucket}/x", 0, 1)
        with pytest.raises(ClosedError):
            store.put(f"{bucket}/x", [b"1"], durability="process")
