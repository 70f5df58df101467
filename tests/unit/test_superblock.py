"""Opening HDF5 files again whose writer was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.errors import SinkError
from pipeline.sinks.hdf5.superblock import lookup3, repair_superblock


def test_the_hash_is_that_of_its_author() -> None:
    # lookup3.c, driver5: the values its author gives for these inputs
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def test_the_checksum_is_the_one_that_hdf5_writes(tmp_path: Path) -> None:
    for count in range(3):
        path = tmp_path / f"{count}.h5"
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            file["x"] = np.arange(1000 * count)
        block = path.read_bytes()[:48]
        assert struct.unpack_from("<I", block, 44)[0] == lookup3(block[:44])
        assert not repair_superblock(path)


def _write_and_die(path: Path) -> None:
    with h5py.File(path, "w", libver=("v110", "v110"), locking=False) as file:
        data = file.create_dataset("d", (0, 64), maxshape=(1000, 64), chunks=(1, 64), dtype="u2")
        file.swmr_mode = True
        for number in range(500):
            data.resize(number + 1, axis=0)
            data.id.write_direct_chunk((number, 0), np.full(64, number, "u2").tobytes())
            if number == 399:
                file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_flushed_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "killed.h5"
    child = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path, "r+", libver=("v110", "v110"))
    assert repair_superblock(path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        assert (file["d"][:400, 0] == np.arange(400)).all()


@pytest.mark.parametrize("damage", ["short", "signature", "version", "checksum"])
def test_what_is_no_such_file_is_refused_and_not_touched(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver=("v110", "v110")):
        pass
    content: Any = bytearray(path.read_bytes())
    if damage == "short":
        content = content[:20]
    else:
        content[{"signature": 0, "version": 8, "checksum": 30}[damage]] ^= 4
    path.write_bytes(content)
    with pytest.raises(SinkError, match=r"file\.h5"):
        repair_superblock(path)
    assert path.read_bytes() == content
