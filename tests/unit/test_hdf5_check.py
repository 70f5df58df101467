"""Damaged files are named for what is wrong with them; those of killed writers open again."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from click.testing import CliRunner
from test_hdf5_sink import frame, make_info, pixels, write

from pipeline.cli.hdf5 import command
from pipeline.errors import SinkError
from pipeline.sinks.hdf5 import Hdf5Sink
from pipeline.sinks.hdf5.checking import check_file
from pipeline.sinks.hdf5.repairing import repair_file


def good(directory: Path, **options: Any) -> Path:
    return write(directory, [frame(n) for n in range(5, 25) if n != 9], **options)


def overwritten(path: Path, position: int, change: Callable[[bytearray], None]) -> None:
    """Change the bytes of a chunk where they lie in the file."""
    with h5py.File(path) as file:
        info = file["entry/data/data"].id.get_chunk_info(position)
    content = bytearray(path.read_bytes())
    chunk = content[info.byte_offset : info.byte_offset + info.size]
    change(chunk)
    content[info.byte_offset : info.byte_offset + info.size] = chunk
    path.write_bytes(content)


@pytest.mark.parametrize("compression", ["bslz4", "none"])
def test_nothing_is_wrong_with_what_the_sink_writes(tmp_path: Path, compression: str) -> None:
    seen: list[int] = []
    path = good(tmp_path, compression=compression)
    assert check_file(path, progress=lambda done, _: seen.append(done)) == []
    assert seen


def _lying_header(chunk: bytearray) -> None:
    struct.pack_into(">Q", chunk, 0, 2**40)


def _impossible_length(chunk: bytearray) -> None:
    struct.pack_into(">I", chunk, 12, 2**31)


@pytest.mark.parametrize("change", [_lying_header, _impossible_length])
def test_a_damaged_chunk_is_named(tmp_path: Path, change: Callable[[bytearray], None]) -> None:
    path = good(tmp_path)
    overwritten(path, 7, change)
    (finding,) = check_file(path)
    assert finding.where == "/entry/data/data[7]"
    assert "decoded" in finding.what


def test_what_readers_refuse_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    images = np.stack([pixels(n) for n in range(4)])
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/data")
        group.create_dataset(
            "data", data=images, chunks=(2, *images.shape[1:]), maxshape=(None, *images.shape[1:])
        )
        group.attrs["NX_class"] = "NXdata"
        group["data_000001"] = h5py.ExternalLink("gone.h5", "/entry/data/data")
        file["entry/instrument/detector/frame_valid"] = np.ones(5, np.uint8)
    text = " ".join(map(str, check_file(path)))
    for word in ("fixed-length", "not of one frame", "no greatest length", "leads nowhere", "rows"):
        assert word in text


def test_sources_that_are_short_or_gone_are_named(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((9, 4), "u2")
    layout[:4] = h5py.VirtualSource("short.h5", "entry/data/data", (4, 4))
    layout[4:] = h5py.VirtualSource("gone.h5", "entry/data/data", (5, 4))
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file.create_dataset("entry/data/data", data=np.ones((2, 4), "u2"), chunks=(1, 4))
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    text = " ".join(map(str, check_file(tmp_path / "master.h5")))
    assert "has 2 frames, 4 are needed" in text
    assert "gone.h5: the file is not there" in text


def test_other_encodings_are_decoded_too(tmp_path: Path) -> None:
    path = tmp_path / "zstd.h5"
    images = np.stack([pixels(n) for n in range(4)])
    for options in ({"compression": "gzip"}, hdf5plugin.Zstd(), hdf5plugin.Blosc(), {}):
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "entry/data/data",
                data=images,
                chunks=(1, *images.shape[1:]),
                maxshape=images.shape,
                **options,
            )
        assert check_file(path) == []


def test_files_behind_links_are_checked_like_any_other(tmp_path: Path) -> None:
    overwritten(good(tmp_path), 0, _lying_header)
    os.mkfifo(tmp_path / "pipe.h5")
    with h5py.File(tmp_path / "master.h5", "w") as file:
        group = file.create_group("entry/data")
        group["data_000001"] = h5py.ExternalLink("pilatus_scan_7.h5", "/entry/data/data")
        group["data_000002"] = h5py.ExternalLink("pipe.h5", "/entry/data/data")
        group["data_000003"] = h5py.SoftLink("/nowhere")
    text = " ".join(map(str, check_file(tmp_path / "master.h5")))
    assert "pilatus_scan_7.h5: /entry/data/data[0]" in text
    assert "leads nowhere (pipe.h5)" in text
    assert "entry/data/data_000003" in text


def test_files_that_refer_to_themselves_come_to_an_end(tmp_path: Path) -> None:
    for name, other in (("a.h5", "b.h5"), ("b.h5", "a.h5"), ("c.h5", ".")):
        layout = h5py.VirtualLayout((2, 4), "u2")
        layout[:] = h5py.VirtualSource(other, "entry/x", (2, 4))
        with h5py.File(tmp_path / name, "w") as file:
            file["entry/x"] = np.ones((2, 4), "u2")
            file.create_group("entry/data").create_virtual_dataset("data", layout)
        if name != "a.h5":
            assert check_file(tmp_path / name) == []


def test_a_file_without_images_is_none_of_a_detector(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("entry/data")
    (finding,) = check_file(tmp_path / "empty.h5")
    assert finding.what == "holds no images"


def test_a_file_that_another_program_writes_is_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "live.h5"
    with h5py.File(path, "w", libver=("v110", "v110"), locking=False) as file:
        file.swmr_mode = True
        with pytest.raises(SinkError, match="open for writing in process"):
            repair_file(path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["live.h5"]


def test_rubbish_is_no_crash(tmp_path: Path) -> None:
    path = good(tmp_path)
    content = bytearray(path.read_bytes())
    for begin in range(60, len(content) // 2, 97):
        content[begin] ^= 0xFF
    path.write_bytes(content)
    assert check_file(path)
    with pytest.raises(SinkError, match="no HDF5 file"):
        check_file(Path(__file__))
    with pytest.raises(SinkError, match="not there"):
        check_file(tmp_path / "none.h5")


def test_the_command_tells_by_its_status(tmp_path: Path) -> None:
    path = good(tmp_path)
    done = CliRunner().invoke(command, ["check", str(path)])
    assert (done.exit_code, done.output.strip()) == (0, "nothing is wrong")
    overwritten(path, 0, _lying_header)
    done = CliRunner().invoke(command, ["check", "--json", str(path)])
    assert done.exit_code == 1
    assert json.loads(done.output)[0]["file"] == path.name
    done = CliRunner().invoke(command, ["check", str(path), str(tmp_path / "none.h5")])
    assert done.exit_code == 3
    assert "decoded" in done.output


def test_a_file_whose_writer_died_opens_again_unless_it_is_being_written(tmp_path: Path) -> None:
    part = tmp_path / ".pilatus_scan_7.h5.part"
    with Hdf5Sink(tmp_path) as sink:
        sink.open(make_info())
        for number in range(10):
            sink.write(frame(number))
        sink.checkpoint()
        content = part.read_bytes()
        with pytest.raises(SinkError, match="being written"):
            repair_file(part)
        sink.abort()
    part.write_bytes(content)
    before = CliRunner().invoke(command, ["repair", "--json", str(part)])
    facts = json.loads(before.output)
    assert facts["changed"]
    assert facts["frames"] == 10
    assert bytes.fromhex(facts["before"]) == content[:48]
    assert not repair_file(part).changed
    with h5py.File(part) as file:
        np.testing.assert_array_equal(file["entry/data/data"][9], pixels(9))
