"""What the plugins of XDS need of a file's inner build, which no other reader minds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_hdf5_sink import SHAPE, frame, make_info, write

from pipeline.sinks.hdf5.checking import check_file
from pipeline.sinks.hdf5.files import Files, Options
from pipeline.sinks.hdf5.flavours import LayoutKind
from pipeline.sinks.hdf5.master import write_master

#: What DECTRIS' plugin opens on its way, besides the images.
ASKED = ["entry", "entry/data", "entry/instrument", "entry/instrument/detector"] + [
    f"entry/instrument/detector/{name}"
    for name in (
        "x_pixel_size",
        "y_pixel_size",
        "detectorSpecific",
        "detectorSpecific/pixel_mask",
        "detectorSpecific/nimages",
        "detectorSpecific/ntrigger",
    )
]


def write_several(directory: Path, frames: Any, options: Options) -> Path:
    """Write frames as parts and a master; returns the master."""
    numbers = [each.number for each in frames]
    info, span = make_info(), (min(numbers), max(numbers))
    with Files(directory, info, options) as files:
        files.open()
        for each in frames:
            put(files, each)
        if options.origin is None and not files.begins_with(span[0]):
            files.suspend()
            return write_several(directory, frames, replace(options, origin=span[0]))
        files.finish_parts({}, span, frames[0])
    return Path(write_master(directory, info, files.options, {}, span=span, invalid=[]))


def put(files: Files, each: Any) -> None:
    sink = files.sink(0, each.number)
    assert sink is not None
    sink.write(each)


def continuations(raw: bytes, header: int) -> Iterator[int]:
    """Yield where the other parts of an object's header are (HDF5 format, "OHDR" version 2)."""
    assert raw[header : header + 5] == b"OHDR\x02"
    flags = raw[header + 5]
    at = header + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    blocks = [(at + width, int.from_bytes(raw[at : at + width], "little"))]
    while blocks:
        at, size = blocks.pop()
        end = at + size
        while at + 4 <= end:  # less than a message's head is a gap
            kind, length = struct.unpack_from("<BH", raw, at)
            at += 6 if flags & 4 else 4
            if kind == 0x10:
                address, extent = struct.unpack_from("<QQ", raw, at)
                yield address
                blocks.append((address + 4, extent - 8))
            at += length


@pytest.mark.parametrize("layout", ["nxmx", "dectris"])
def test_no_part_of_a_header_lies_in_front_of_it(tmp_path: Path, layout: LayoutKind) -> None:
    # falling numbers: the file is copied to make room in front
    frames = [frame(n, omega=n / 10, ring="a") for n in reversed(range(10))]
    if layout == "nxmx":
        path = write(tmp_path, frames)
    else:
        path = write_several(tmp_path, frames, Options(layout=layout, frames_per_file=4))
    raw, found = path.read_bytes(), 0
    with h5py.File(path) as file:
        for name in ASKED:
            header = h5py.h5o.get_info(file[name].id).addr
            for address in continuations(raw, header):
                assert address > header, name
                found += 1
    assert found


@pytest.mark.parametrize(
    ("first", "count"), [(0, 10), (3, 9), (3, 1), (7, 2), (7, 8), (8, 4), (1, 5)]
)
def test_frames_are_where_dectris_plugin_looks_for_them(
    tmp_path: Path, first: int, count: int
) -> None:
    frames = [frame(n) for n in range(first, first + count) if n != first + 2]
    path = write_several(tmp_path, frames, Options(layout="dectris", frames_per_file=4))
    last = frames[-1].number
    with h5py.File(path) as file:
        data = file["entry/data"]
        names = [name for name in data if name.startswith("data")]
        assert names == [f"data_{i + 1:06d}" for i in range(len(names))]
        length = len(data["data_000001"])
        valid = file["entry/instrument/detector/frame_valid"][:]
        for number in range(first, last + 1):
            # frame i is in file i // length, at i % length
            index, at = divmod(number - first, length)
            found = data[names[index]][at]
            if number == first + 2:
                assert (found == -1).all()
                assert not valid[number - first]
            else:
                np.testing.assert_array_equal(found, frame(number).array)
        assert sum(len(data[name]) for name in names) == last - first + 1
    assert check_file(path) == []


def test_parts_that_begin_elsewhere_are_thrown_away(tmp_path: Path) -> None:
    options, frames = Options(layout="dectris", frames_per_file=4), [frame(n) for n in range(6)]
    with Files(tmp_path, make_info(), options) as files:
        files.open()
        for each in frames[1:]:
            put(files, each)
        assert not files.begins_with(0)
    with Files(tmp_path, make_info(), options) as files:
        files.open(0)
        assert files.counts.written == 0
        assert files.begins_with(0)
        for each in frames[1:]:
            put(files, each)
        files.checkpoint(files.marker)
    with Files(tmp_path, make_info(), options) as files:
        files.open(0)
        assert files.counts.written == 5  # these go on
        put(files, frames[0])
        files.finish_parts({}, (0, 5), frames[0])
    with Files(tmp_path, make_info(), options) as files:
        files.open(0)
        assert files.counts.written == 6
        write_master(tmp_path, make_info(), files.options, {}, span=(0, 5), invalid=[])
    names = ["data_000001.h5", "data_000002.h5", "master.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"pilatus_scan_7_{n}" for n in names
    ]


def test_a_first_data_file_that_misleads_xds_is_found(tmp_path: Path) -> None:
    frames = [frame(n) for n in range(1, 9)]
    options = Options(layout="dectris", frames_per_file=4, origin=0)
    (found,) = check_file(write_several(tmp_path, frames, options))
    assert found.where == "entry/data/data_000002"
    assert "4 images, data_000001 has 3" in found.what


@pytest.mark.parametrize("layout", ["nxdata", "nxtomo"])
def test_layouts_without_what_xds_asks_for_have_no_empty_group(
    tmp_path: Path, layout: LayoutKind
) -> None:
    path = write(tmp_path, [frame(0)], layout=layout)
    with h5py.File(path) as file:
        assert file["entry/data/data"].shape == (1, *SHAPE)
        assert "detectorSpecific" not in file["entry/instrument/detector"]
