"""Damaged, cut short or foreign objects in a manifest: an error that names the key, no hang."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_helpers import (
    BUCKET,
    NAMES,
    CountingStore,
    info_of,
    make_store,
    make_writer,
    numbers_of,
    read_all,
    sample_log,
    seal,
    stored,
)

from pipeline import naming
from pipeline.errors import BlobNotFoundError, StoreUnavailableError, WireError
from pipeline.manifest import index
from pipeline.manifest.container import MAGIC, _long, block_bytes, header_bytes
from pipeline.manifest.partfile import find_part
from pipeline.manifest.partset import PartSet
from pipeline.manifest.rows import row_schema
from pipeline.manifest.seal import parse_seal
from pipeline.manifest.stored import discover


def _sealed(frames: int = 30) -> tuple[CountingStore, str, str]:
    log, store = sample_log(frames=frames), make_store()
    log.end()
    seal_key = seal(log, store).key
    return store, seal_key, info_of(store).parts[0].key


def _change(store: CountingStore, key: str, change) -> None:
    data = bytearray(store.get(key, 0, store.size(key)))
    store.put(key, [bytes(change(data))], durability="process")


def _flip(at: int):
    def change(data: bytearray) -> bytearray:
        data[at % len(data)] ^= 0xFF
        return data

    return change


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 1 << 16))
def test_a_changed_byte_of_a_seal_is_noticed(at: int) -> None:
    store, key, _ = _SAMPLE
    data = _flip(at)(bytearray(store.get(key, 0, store.size(key))))
    with pytest.raises(WireError, match="seal-"):
        parse_seal(memoryview(data), key=key)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 1 << 16))
def test_a_seal_cut_short_is_noticed(at: int) -> None:
    store, key, _ = _SAMPLE
    data = store.get(key, 0, store.size(key))
    with pytest.raises(WireError, match="seal-"):
        parse_seal(data[: at % len(data)], key=key)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300), magic=st.booleans())
def test_any_bytes_are_no_seal(data: bytes, magic: bool) -> None:
    with pytest.raises(WireError):
        parse_seal(memoryview(MAGIC + data if magic else data), key="k")


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 1 << 16))
def test_a_changed_byte_of_a_part_is_noticed_with_and_without_a_seal(at: int) -> None:
    store, _, key = _sealed()
    ends = stored(store).bounds()[1]
    _change(store, key, _flip(at))
    with pytest.raises(WireError, match="part-000000"):
        read_all(stored(store).cursor(), ends)
    parts = PartSet(store, (0, 0, 0))
    with pytest.raises(WireError, match="part-000000"):
        read_all(_cursor_over(parts, find_part(store, key).part), ends)


def _cursor_over(parts: PartSet, part):
    from pipeline.manifest.cursor import StoredCursor

    parts.add(part)
    return StoredCursor(parts, parts.starts, parts.covered)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 1 << 16))
def test_a_part_cut_short_is_noticed(at: int) -> None:
    store, _, key = _sealed()
    ends = stored(store).bounds()[1]
    _change(store, key, lambda data: data[: at % len(data)])
    with pytest.raises((WireError, BlobNotFoundError), match="part-000000"):
        read_all(stored(store).cursor(), ends)


def test_a_missing_part_is_a_missing_blob() -> None:
    store, _, key = _sealed()
    store.delete([key])
    with pytest.raises(BlobNotFoundError, match="part-000000"):
        stored(store).find(12, timeout_s=1.0)


def test_a_writer_does_not_trust_a_damaged_part_and_writes_it_anew() -> None:
    log, store = sample_log(frames=30), make_store()
    ref = make_writer(log, store).advance(log.bounds()[1], final=True)
    log.change(parts=[ref])
    log.end()
    _change(store, ref.key, _flip(100))
    seal(log, store, epoch=2, nonce="0b0b0b0b")
    assert numbers_of(read_all(stored(store).cursor(), ref.offsets)) == list(range(10, 40))


def test_a_block_that_unpacks_to_gigabytes_is_refused() -> None:
    import zlib

    sync = b"s" * 16
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    header = header_bytes(row_schema(), sync=sync, metadata={})
    from pipeline.manifest.container import parse_block, parse_header

    parsed = parse_header(memoryview(header), where="k")
    block = b"".join([_long(1), _long(len(bomb)), bomb, sync])
    with pytest.raises(WireError, match="not one deflated"):
        parse_block(memoryview(block), parsed, where="k")
    with pytest.raises(WireError, match="cannot hold"):
        parse_block(
            memoryview(block_bytes([b"x"] * 9, sync=sync)[:0] + _nine(sync)), parsed, where="k"
        )


def _nine(sync: bytes) -> bytes:
    data = block_bytes([b""], sync=sync)
    return _long(1 << 40) + data[1:]


@pytest.mark.parametrize(
    "data", [b"", b"!!", b"AAAA", index.pack(index.np.zeros(2, index.BLOCK))[:-4]]
)
def test_bytes_that_are_no_index_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        index.unpack(data, partitions=1, where="k")


def test_an_index_whose_blocks_do_not_follow_each_other_is_refused() -> None:
    blocks = index.np.zeros(2, index.BLOCK)
    blocks["nbytes"] = 10
    with pytest.raises(WireError, match="follow"):
        index.unpack(index.pack(blocks), partitions=1, where="k")


# -- discover -----------------------------------------------------------------------------------


def test_sealed_streams_are_found_among_rubbish() -> None:
    store, _, _ = _sealed()
    store.create_bucket("somebody-else")
    store.create_bucket(NAMES.bucket("empty"))
    for key in (
        "somebody-else/detector/0001020304050607/manifest/seal-00000001-x.avro",
        f"{BUCKET}/detector/not-an-id/manifest/seal-00000001-x.avro",
        f"{BUCKET}/detector/00000000000000aa/manifest/seal-00000001-x.avro",
        f"{BUCKET}/detector/00000000000000bb/manifest/00000001-x-part-000000.avro",
        f"{BUCKET}/detector/00000000000000cc/0001.x/000000/00-000000000000-00000000",
        f"{BUCKET}/readme.txt",
    ):
        store.put(key, [b"rubbish"], durability="process")
    (info,) = discover(store, NAMES)
    assert (info.start.stream, info.state, info.position) == ("scan_1", "complete", 0)
    assert [i.start for i in discover(store, NAMES, "test")] == [info.start]
    assert discover(store, NAMES, "empty") == []


def test_a_seal_copied_to_another_streams_place_is_not_listed() -> None:
    store, key, _ = _sealed()
    data = store.get(key, 0, store.size(key))
    elsewhere = naming.seal_key(
        NAMES.stream_prefix("test", "other", b"12345678"), epoch=1, nonce="x"
    )
    store.put(elsewhere, [data], durability="process")
    assert len(discover(store, NAMES)) == 1


def test_a_store_that_does_not_answer_is_no_empty_store() -> None:
    class Away(CountingStore):
        def get(self, key, offset, length):
            raise StoreUnavailableError(self.url, "for a test")

    store, _, _ = _sealed()
    with pytest.raises(StoreUnavailableError):
        discover(Away(store.url.removeprefix("memory://")), NAMES)


_SAMPLE = _sealed()
