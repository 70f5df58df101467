"""Attributes that say what is not so, or that readers cannot convert, are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_hdf5_sink import FULL_METADATA, frame, make_info, value_frame, write

from pipeline.errors import SinkError
from pipeline.sinks.hdf5.checking import check_file
from pipeline.sinks.hdf5.repairing import repair_file
from pipeline.sinks.hdf5.superblock import repair_superblock

DETECTOR = "entry/instrument/detector"


def changed(path: Path, node: str, **attributes: Any) -> list[str]:
    """Change attributes of a file (None: remove); return what is found then."""
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            if value is None:
                del file[node].attrs[name]
            else:
                file[node].attrs[name] = value
    return [f"{finding.where}: {finding.what}" for finding in check_file(path)]


def text(value: str) -> Any:
    return np.bytes_(value)


@pytest.mark.parametrize("layout", ["nxmx", "nxdata", "nxtomo"])
@pytest.mark.parametrize("make", [frame, value_frame])
def test_nothing_is_wrong_with_the_attributes_of_the_sink(
    tmp_path: Path, layout: str, make: Callable[..., Any]
) -> None:
    metadata = {**FULL_METADATA, "units": {"temperature": "K", "gap": "µm"}}
    frames = [make(n, temperature=80.5, gap=3.0) for n in range(4)]
    path = write(tmp_path, frames, info=make_info(metadata=metadata), layout=layout)
    assert check_file(path) == []


@pytest.mark.parametrize(
    ("node", "attributes", "wanted"),
    [
        ("/", {"default": text("nothing")}, "/: default is 'nothing'"),
        ("/", {"default": None}, "/: has no default"),
        ("/", {"NX_class": text("NXentry")}, "/: NX_class is NXentry, not NXroot"),
        ("entry", {"default": text("title")}, "/entry: default is 'title'"),
        ("entry/data", {"NX_class": text("NXcollection")}, "not NXdata"),
        ("entry/sample", {"NX_class": None}, "NX_class is not there, not NXsample"),
        (f"{DETECTOR}/module", {"NX_class": text("NXdetector")}, "not NXdetector_module"),
        ("entry/data", {"signal": text("gone")}, "nothing of this name is there"),
        ("entry/data", {"signal": text("frame_number")}, "which is not the images"),
        ("entry/data", {"signal": None}, "has no signal"),
        ("entry/data", {"axes": np.array([b"frame_number", b"."])}, "axes names 2, data has 3"),
        ("entry/data", {"axes": np.array([b"gone", b".", b"."])}, "axes names 'gone'"),
        ("entry/data", {"axes": np.array([b".", b"frame_number", b"."])}, "has 4 values"),
        (f"{DETECTOR}/distance", {"units": text("s")}, "units are 's'"),
        (f"{DETECTOR}/count_time", {"units": text("m")}, "units are 'm'"),
        (f"{DETECTOR}/sensor_thickness", {"units": None}, "has no units"),
        ("entry/instrument/beam/incident_wavelength", {"units": text("eV")}, "units are 'eV'"),
        (f"{DETECTOR}/distance", {"units": "m"}, "units is no fixed-length text"),
        ("entry/data", {"signal": "data"}, "signal is no fixed-length text"),
        ("entry", {"NX_class": "NXentry"}, "NX_class is no fixed-length text"),
    ],
)
def test_an_attribute_that_leads_readers_astray_is_named(
    tmp_path: Path, node: str, attributes: dict[str, Any], wanted: str
) -> None:
    path = write(tmp_path, [frame(n) for n in range(4)])
    found = changed(path, node, **attributes)
    assert [each for each in found if wanted in each], found
    assert len(found) == 1


def test_files_of_others_may_lack_what_only_ours_promise(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(n) for n in range(4)])
    with h5py.File(path, "r+") as file:
        del file["entry/provenance"]
        del file["entry/definition"]
    assert changed(path, "/", default=None) == []
    assert changed(path, "entry/sample", NX_class=None) == []
    assert changed(path, f"{DETECTOR}/distance", units=None) == []
    assert len(changed(path, "entry/instrument/beam", NX_class=text("NXnote"))) == 1


def test_of_many_attributes_in_the_wrong_form_the_rest_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path, [frame(0)])
    with h5py.File(path, "r+") as file:
        for number in range(25):
            file.create_group(f"entry/notes/{number}").attrs["NX_class"] = "NXnote"
    found = [finding.what for finding in check_file(path)]
    assert len(found) == 21
    assert found[-1] == "5 more attributes are no fixed-length text"


def _no_hdf5(content: bytearray) -> None:
    content[:8] = b"rubbish!"


def _other_checksum(content: bytearray) -> None:
    content[44] ^= 1


def _nothing_inside(content: bytearray) -> None:
    content[48:] = bytes(len(content) - 48)


@pytest.mark.parametrize("damage", [_no_hdf5, _other_checksum, _nothing_inside])
@pytest.mark.parametrize("name", ["of_others.h5", ".pilatus_scan_7.h5.part"])
def test_a_repair_that_is_refused_leaves_no_lock(
    tmp_path: Path, damage: Callable[[bytearray], None], name: str
) -> None:
    made = write(tmp_path, [frame(n) for n in range(4)])
    repair_superblock(made)
    content = bytearray(made.read_bytes())
    made.unlink()
    damage(content)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SinkError):
        repair_file(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_file_system_that_cannot_lock_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, [frame(n) for n in range(4)])

    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("pipeline.sinks.hdf5.target.fcntl.flock", refuse)
    with pytest.raises(SinkError, match="not supported"):
        repair_file(path)
    assert list(tmp_path.iterdir()) == [path]
