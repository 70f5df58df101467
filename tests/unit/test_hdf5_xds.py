"""What the plugins of XDS need of a file's inner build, which no other reader minds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from test_hdf5_sink import SHAPE, frame, make_info, write

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
            sink = files.sink(0, each.number)
            assert sink is not None
            sink.write(each)
        files.finish_parts({}, span, frames[0])
    return Path(write_master(directory, info, options, {}, span=span, invalid=[]))


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


@pytest.mark.parametrize(("first", "count"), [(0, 10), (3, 9), (3, 1), (7, 2)])
def test_a_first_file_that_misleads_xds_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: int, count: int
) -> None:
    frames = [frame(n) for n in range(first, first + count)]
    path = write_several(tmp_path, frames, Options(layout="dectris", frames_per_file=4))
    with h5py.File(path) as file:
        links = [name for name in file["entry/data"] if name.startswith("data")]
        lengths = [len(file["entry/data"][name]) for name in links]
    # DECTRIS' plugin: frame i is in file i // lengths[0], at i % lengths[0]
    by_plugin = [(i // lengths[0], i % lengths[0]) for i in range(count)]
    right = [(index, at) for index, length in enumerate(lengths) for at in range(length)]
    told = "the first data file is shorter" in caplog.text
    assert told == (by_plugin != right)


@pytest.mark.parametrize("layout", ["nxdata", "nxtomo"])
def test_layouts_without_what_xds_asks_for_have_no_empty_group(
    tmp_path: Path, layout: LayoutKind
) -> None:
    path = write(tmp_path, [frame(0)], layout=layout)
    with h5py.File(path) as file:
        assert file["entry/data/data"].shape == (1, *SHAPE)
        assert "detectorSpecific" not in file["entry/instrument/detector"]
