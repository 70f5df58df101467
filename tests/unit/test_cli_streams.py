"""Commands that read a stream, on a store without a broker."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from manifest_helpers import make_writer

from pipeline.blobs.file import FileStore
from pipeline.cli.root import lichtstrom
from pipeline.naming import Names
from pipeline.testing.memory_log import STREAM_KEY, MemoryLog, make_start

NAME = "test/detector/scan_1"
PREFIX = Names().stream_prefix("test", "detector", STREAM_KEY)
SHAPE = (12, 16)


def image(number: int) -> np.ndarray:
    pixels = np.arange(SHAPE[0] * SHAPE[1], dtype=np.int32).reshape(SHAPE) + number
    pixels[3] = -1
    return pixels


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSTROM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(logging.getLogger("pipeline"), "handlers", [])


def make_store(root: Path, numbers: list[int]) -> str:
    store = FileStore(root)
    store.create_bucket(PREFIX.partition("/")[0])
    metadata = {"energy_eV": 12000.0, "units": {"tau": "s"}, "tau": 0.5}
    log = MemoryLog(make_start(partitions=2, frames_per_chunk=2, expected=6, metadata=metadata))
    log.mark("claim")
    for number in numbers:
        payload = image(number).tobytes()
        blob = f"{PREFIX}0001.x/{number:06d}"
        store.put(blob, [payload], durability="process")
        log.write(
            [number],
            payloads=[payload],
            blob=blob,
            shape=SHAPE,
            dtype="int32",
            encoding="raw",
            attributes=[{"omega": number / 10}],
            timestamps_ns=[10**18 + number],
        )
    log.mark("closing", floor=numbers[-1] + 1, ceil=numbers[-1])
    log.end(expected=6)
    account = {"received": len(numbers)}
    make_writer(log, store).seal(log.info(refresh=True).ends[0], account)
    store.close()
    return root.as_uri()


@pytest.fixture
def whole(tmp_path: Path) -> str:
    return make_store(tmp_path / "store", [0, 1, 2, 3, 4, 5])


@pytest.fixture
def holed(tmp_path: Path) -> str:
    return make_store(tmp_path / "store", [0, 1, 2, 5])


def run(*arguments: str, store: str):
    return CliRunner().invoke(lichtstrom, [*arguments, "--store", store])


def test_streams_lists_what_there_is(whole: str) -> None:
    result = run("streams", "--json", store=whole)
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)
    assert entry["stream"] == NAME
    assert entry["state"] == "complete"
    assert entry["frames"] == 6
    assert (entry["first_ns"], entry["last_ns"]) == (10**18, 10**18 + 5)
    assert entry["nbytes"] == 6 * image(0).nbytes
    assert entry["expected"] == 6
    assert NAME in run("streams", "test/*/scan_?", store=whole).stdout


def test_an_unknown_stream_is_told_with_near_names(whole: str) -> None:
    result = run("show", "test/detector/scan_2", store=whole)
    assert result.exit_code == 1
    assert f"did you mean {NAME}?" in result.stderr
    assert run("streams", "test/detector/scan_2", store=whole).exit_code == 1
    assert run("delete", "test/nothing/*", store=whole).exit_code == 1


def test_a_pattern_that_means_nothing_is_an_empty_list(whole: str) -> None:
    result = run("streams", "test/nothing/*", "--json", store=whole)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == []


def test_show_tells_metadata_with_units(whole: str) -> None:
    result = run("show", NAME, store=whole)
    assert result.exit_code == 0, result.output
    assert "tau        0.5 s" in result.stdout
    facts = json.loads(run("show", NAME, "--json", store=whole).stdout)
    assert facts["metadata"]["energy_eV"] == 12000.0
    assert facts["account"]["complete"] is True
    assert facts["prefix"] == PREFIX


FRAME_KEYS = [
    "number",
    "timestamp_ns",
    "shape",
    "dtype",
    "encoding",
    "nbytes",
    "crc32c",
    "module",
    "attributes",
]


def test_frames_have_the_fixed_shape(whole: str) -> None:
    result = run("frames", NAME, "--json", "--payload-sha256", store=whole)
    assert result.exit_code == 0, result.output
    frames = [json.loads(line) for line in result.stdout.splitlines()]
    assert [frame["number"] for frame in frames] == list(range(6))
    assert list(frames[0]) == [*FRAME_KEYS, "payload_sha256"]
    assert frames[4]["payload_sha256"] == hashlib.sha256(image(4).tobytes()).hexdigest()
    assert frames[4]["attributes"] == {"omega": 0.4}
    assert frames[4]["shape"] == list(SHAPE)


def test_frames_are_chosen_by_expression_and_limit(whole: str) -> None:
    result = run("frames", NAME, "--json", "--where", "omega > 0.15", "--limit", "2", store=whole)
    frames = [json.loads(line) for line in result.stdout.splitlines()]
    assert [frame["number"] for frame in frames] == [2, 3]
    assert list(frames[0]) == FRAME_KEYS
    assert "12x16" in run("frames", NAME, store=whole).stdout
    bad = run("frames", NAME, "--where", "omeega > 1", store=whole)
    assert bad.exit_code == 1
    assert "omega" in bad.stderr


ACCOUNT_KEYS = [
    "stream",
    "state",
    "expected",
    "received",
    "missing",
    "duplicate",
    "late",
    "corrupt",
    "conflict",
    "incomplete",
    "skipped",
    "rejected",
    "redelivered",
    "quarantined",
    "complete",
]


def test_verify_of_a_whole_stream_is_exit_status_0(whole: str) -> None:
    result = run("verify", NAME, "--json", store=whole)
    assert result.exit_code == 0, result.output
    account = json.loads(result.stdout)
    assert list(account) == ACCOUNT_KEYS
    assert account["complete"] is True
    assert account["received"] == 6


def test_verify_of_a_stream_with_holes_is_exit_status_1(holed: str) -> None:
    result = run("verify", NAME, "--json", store=holed)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["missing"] == [[3, 4]]
    assert "missing   3-4" in run("verify", NAME, store=holed).stdout


def test_verify_finds_damage(whole: str, tmp_path: Path) -> None:
    blob = next((tmp_path / "store").rglob("*000003*"))
    blob.write_bytes(bytes(blob.stat().st_size))
    result = run("verify", NAME, "--json", store=whole)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["corrupt"] == [[3, 3]]


def test_verify_of_what_cannot_be_read_is_exit_status_3(whole: str) -> None:
    assert run("verify", "test/detector/scan_9", store=whole).exit_code == 3


def test_the_sink_writes_every_frame(whole: str, tmp_path: Path) -> None:
    result = run("sink", "hdf5", NAME, "--out", str(tmp_path / "out"), "--json", store=whole)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["written"] == 6
    assert report["path"] == str(tmp_path / "out" / "detector_scan_1.h5")
    with h5py.File(report["path"]) as file:
        for number in range(6):
            assert np.array_equal(file["entry/data/data"][number], image(number))


def test_a_file_of_an_incomplete_stream_says_so(holed: str, tmp_path: Path) -> None:
    result = run("sink", "hdf5", NAME, "--out", str(tmp_path / "out"), store=holed)
    assert result.exit_code == 0, result.output
    assert "not complete" in result.stderr
    with h5py.File(tmp_path / "out" / "detector_scan_1.h5") as file:
        assert not file["entry/provenance/complete"][()]


def test_a_frame_that_the_sink_cannot_read_is_corrupt_in_the_files_account(
    whole: str, tmp_path: Path
) -> None:
    blob = next((tmp_path / "store").rglob("*000003*"))
    blob.write_bytes(bytes(blob.stat().st_size))
    result = run("sink", "hdf5", NAME, "--out", str(tmp_path / "out"), "--json", store=whole)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["account"]["corrupt"] == [[3, 3]]
    assert report["account"]["complete"] is False
    assert list(report["invalid"]) == ["3"]


def test_an_existing_file_is_replaced_only_on_request(whole: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert run("sink", "hdf5", NAME, "--out", out, store=whole).exit_code == 0
    assert run("sink", "hdf5", NAME, "--out", out, store=whole).exit_code == 1
    assert run("sink", "hdf5", NAME, "--out", out, "--overwrite", store=whole).exit_code == 0


def test_an_export_is_a_store_of_its_own(whole: str, tmp_path: Path) -> None:
    target = (tmp_path / "copy").as_uri()
    result = run("export", "test/*/*", "--to", target, "--json", store=whole)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["streams"] == 1
    assert run("verify", NAME, store=target).exit_code == 0


def test_watch_writes_the_newest_image(whole: str, tmp_path: Path) -> None:
    result = run("watch", NAME, "--png", str(tmp_path / "x.png"), store=whole)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(run("watch", "--once", "--json", store=whole).stdout)
    assert facts["number"] == 5
    drawn = run("watch", NAME, "--once", store=whole)
    assert "\N{UPPER HALF BLOCK}" in drawn.stdout
    ended = run("watch", NAME, store=whole)  # an ended stream has no newer image
    assert ended.exit_code == 0
    bad = run("watch", NAME, "--png", str(tmp_path / "no" / "x.png"), store=whole)
    assert bad.exit_code == 1


def test_an_object_that_nothing_refers_to_is_an_orphan(whole: str, tmp_path: Path) -> None:
    folder = next((tmp_path / "store").rglob("*000003*")).parent
    (folder / "lost").write_bytes(b"12345")
    (folder / ".part-0123456789abcdef").write_bytes(b"123")
    (tmp_path / "store" / PREFIX).parent.joinpath("feedfeedfeedfeed").mkdir()
    (tmp_path / "store" / PREFIX).parent.joinpath("feedfeedfeedfeed", "x").write_bytes(b"1")
    uploads = (tmp_path / "store" / PREFIX.split("/")[0]) / ".sgwtmp" / "multipart" / "6f70" / "id"
    uploads.mkdir(parents=True)
    (uploads / "1").write_bytes(b"1234")  # of a large object that was not finished
    result = run("doctor", "--orphans", "--older", "0", "--json", store=whole)
    assert result.exit_code == 0, result.output
    found = {(o["kind"], Path(o["key"]).name, o["nbytes"]) for o in json.loads(result.stdout)}
    assert found == {
        ("blob", "lost", 5),
        ("partial", ".part-0123456789abcdef", 3),
        ("partial", "1", 4),
        ("stream", "x", 1),
    }
    young = run("doctor", "--orphans", "--json", store=whole)
    assert json.loads(young.stdout) == []
