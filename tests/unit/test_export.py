"""Exports: what is listed in the target is whole there, with nothing else running."""

from __future__ import annotations

from pathlib import Path

import pytest
from manifest_helpers import (
    BUCKET,
    NAMES,
    PREFIX,
    CountingStore,
    info_of,
    make_store,
    make_writer,
    numbers_of,
    payload_of,
    read_all,
    seal,
    stored,
)

from pipeline import export as module
from pipeline.blobs.file import FileStore
from pipeline.errors import (
    BlobNotFoundError,
    ChecksumError,
    StoreUnavailableError,
    StreamOpenError,
)
from pipeline.export import export
from pipeline.manifest.stored import discover
from pipeline.records import Segment
from pipeline.testing.memory_log import MemoryLog, make_start

FOREIGN = f"{PREFIX}foreign/scan.h5"


def _source(*, frames: int = 40) -> CountingStore:
    """A sealed stream: objects of its own, small frames in records, a foreign file, a mask."""
    store = make_store()
    log = MemoryLog(make_start(partitions=2, frames_per_chunk=2))
    log.mark("claim")
    for first in range(0, frames, 2):
        payloads = [_payload(n) for n in (first, first + 1)]
        blob = f"{PREFIX}0001.x/{first:06d}"
        store.put(blob, payloads, durability="process")
        log.write([first, first + 1], payloads=payloads, blob=blob)
    log.write([100, 101], payloads=[b"small", b"er"])
    log.write([102])
    images = [_payload(n) * 3 for n in range(200, 220)]
    store.put(FOREIGN, images, durability="process")
    for row in range(0, 20, 2):
        _append_foreign(log, 200 + row, images[row : row + 2], row * 300)
    mask = f"{PREFIX}attachments/mask-0.npy"
    store.put(mask, [b"mask"], durability="process")
    store.put(f"{PREFIX}0001.x/orphan", [b"nobody refers to this"], durability="process")
    log.change(attachments={"mask": mask})
    log.end()
    make_writer(log, store, part_nbytes=3000).seal(log.info(refresh=True).ends[0], {})
    return store


def _append_foreign(log: MemoryLog, number: int, images: list[bytes], base: int) -> None:
    from dataclasses import replace

    from pipeline.testing.memory_log import make_segment

    segment = make_segment([number, number + 1], payloads=images, blob=FOREIGN)
    segment = replace(segment, offsets=segment.offsets + base)
    log.append(log.start.partition_of(number), segment)


def _payload(number: int) -> bytes:
    return bytes([number % 251]) * 100


def _target() -> CountingStore:
    from manifest_helpers import secrets

    return CountingStore(f"target-{secrets.token_hex(8)}")


def _run(source, target, **options):
    return export([info_of(source)], source, target, names=NAMES, **options)


def test_an_exported_stream_is_read_from_the_target_alone() -> None:
    source, target = _source(), _target()
    seen = []
    report = _run(source, target, progress=seen.append)
    (info,) = discover(target, NAMES)
    assert info == info_of(source)
    reader = stored(target)
    records = read_all(reader.cursor(), reader.bounds()[1])
    assert numbers_of(records) == [*range(40), 100, 101, 102, *range(200, 220)]
    for record in records:
        if isinstance(record.value, Segment):
            for row in range(len(record.value)):
                whole = payload_of(source, record.value, row)
                assert payload_of(target, record.value, row) == whole
    assert (report.streams, report.skipped >= 0, report.frames) == (1, True, 62)
    assert seen[-1] == report
    assert [r.objects + r.skipped for r in seen[:-1]] == sorted(
        r.objects + r.skipped for r in seen[:-1]
    )


def test_only_what_is_referred_to_is_copied_and_each_object_once() -> None:
    source, target = _source(), _target()
    _run(source, target)
    there = {o.key for o in source.list(f"{BUCKET}/")}
    assert {o.key for o in target.list(f"{BUCKET}/")} == there - {f"{PREFIX}0001.x/orphan"}
    assert len(target.puts) == len(set(target.puts))
    assert target.puts[-1] == info_of(source).seal.key


def test_half_an_export_is_not_listed_and_goes_on_when_run_again() -> None:
    source, target = _source(), _target()

    class StoppedError(Exception):
        pass

    def stop(report):
        if report.objects == 9:
            raise StoppedError

    with pytest.raises(StoppedError):
        _run(source, target, progress=stop)
    assert discover(target, NAMES) == []
    copied = set(target.puts)
    report = _run(source, target)
    assert report.skipped >= 9
    assert len(target.puts) == len(set(target.puts))
    assert copied < set(target.puts)
    assert len(discover(target, NAMES)) == 1
    before = list(target.puts)
    assert _run(source, target).objects == 0
    assert target.puts == before


def test_an_object_of_another_length_is_copied_again() -> None:
    source, target = _source(), _target()
    target.create_bucket(BUCKET)
    target.put(f"{PREFIX}0001.x/000000", [b"half"], durability="process")
    _run(source, target)
    assert bytes(target.get(f"{PREFIX}0001.x/000000", 0, 100)) == _payload(0)


@pytest.mark.parametrize("key", [f"{PREFIX}0001.x/000004", FOREIGN])
def test_a_damaged_frame_stops_the_export_before_the_seal(key: str) -> None:
    source, target = _source(), _target()
    data = bytearray(source.get(key, 0, source.size(key)))
    data[-1] ^= 1
    source.put(key, [data], durability="process")
    with pytest.raises(ChecksumError, match="CRC-32C") as failed:
        _run(source, target)
    assert failed.value.key == key
    assert failed.value.number in (5, 219)
    assert discover(target, NAMES) == []
    _run(source, target, verify=False)
    assert len(discover(target, NAMES)) == 1
    with pytest.raises(ChecksumError, match="target-"):
        _run(source, target)  # now in the target too


def test_a_missing_object_is_named() -> None:
    source, target = _source(), _target()
    source.delete([f"{PREFIX}0001.x/000004"])
    with pytest.raises(BlobNotFoundError, match="000004"):
        _run(source, target)
    assert discover(target, NAMES) == []


def test_a_stream_that_was_never_sealed_is_refused() -> None:
    log = MemoryLog()
    with pytest.raises(StreamOpenError, match="sealed"):
        export([log.info(refresh=False)], make_store(), _target(), names=NAMES)


def test_a_target_that_fails_leaves_no_seal() -> None:
    source, target = _source(), _target()
    target.failures = [StoreUnavailableError(target.url, "for a test")]
    with pytest.raises(StoreUnavailableError):
        _run(source, target)
    assert discover(target, NAMES) == []


def test_large_objects_wait_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_MEMORY_NBYTES", 1000)
    monkeypatch.setattr(module, "_READ_NBYTES", 700)
    source, target = _source(), _target()
    source.reads.clear()
    report = _run(source, target)
    assert report.frames == 62
    foreign = [length for key, _, length in source.reads if key == FOREIGN]
    assert max(foreign) <= 700
    size = source.size(FOREIGN)
    assert target.get(FOREIGN, 0, size) == source.get(FOREIGN, 0, size)


def test_a_directory_is_a_target(tmp_path: Path) -> None:
    source = _source()
    target = FileStore(tmp_path)
    _run(source, target)
    (info,) = discover(target, NAMES)
    assert info == info_of(source)
    reader = stored(target)
    assert len(numbers_of(read_all(reader.cursor(), reader.bounds()[1]))) == 63
    target.close()


def test_an_empty_stream_is_exported() -> None:
    source, target = make_store(), _target()
    log = MemoryLog()
    log.end()
    seal(log, source)
    assert _run(source, target).streams == 1
    assert len(discover(target, NAMES)) == 1
