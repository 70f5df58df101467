"""Streams, the files made of them, and what is changed in these, for tests that compare both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.codecs import bitshuffle
from pipeline.frame import Module
from pipeline.session import Session
from pipeline.sinks.hdf5.checking import Finding, check_file
from pipeline.sinks.hdf5.files import Options
from pipeline.sinks.hdf5.following import write_stream

MODULES = (
    Module(index=0, shape=(8, 10), position=(0, 0)),
    Module(index=1, shape=(8, 10), position=(10, 3)),
)
TURNED = (MODULES[0], Module(index=1, shape=(8, 10), position=(20, 20), rotation_deg=90))
NUMBERS = [n for n in range(3, 43) if n % 9 != 4]
DATA, DETECTOR = "entry/data/data", "entry/instrument/detector"


def image(number: int, module: int = 0) -> Any:
    return np.random.default_rng(number * 7 + module).integers(0, 99, (8, 10)).astype(np.uint16)


def publish(session: Session, beamtime: str, modules: tuple[Module, ...] = ()) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4, modules=modules) as out:
        for number in NUMBERS:
            if not modules:
                out.write(image(number), number=number)
            for module in modules:
                if (number, module.index) != (7, 1):
                    out.write(image(number, module.index), number=number, module=module.index)


def written(session: Session, beamtime: str, directory: Path, **options: Any) -> Path:
    with session.stream(beamtime, "d", "s") as stream:
        report = write_stream(
            stream,
            directory,
            Options(**options),
            follow=False,
            stop=threading.Event(),
            on_progress=lambda _: None,
        )
    assert report is not None
    return Path(report.path)


def compared(session: Session, beamtime: str, path: Path) -> list[Finding]:
    with session.stream(beamtime, "d", "s") as stream:
        return check_file(path, stream=stream)


def changed(path: Path, change: Callable[[Any], None]) -> None:
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)


def flip(path: Path, position: int) -> None:
    """Turn one bit over of a chunk's last byte, where it lies in the file."""
    with h5py.File(path) as file:
        chunk = file[DATA].id.get_chunk_info(position)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size - 1] ^= 1
    path.write_bytes(content)


def last_frame(path: Path) -> tuple[int, int]:
    """Return position and number of the last frame that a file has."""
    with h5py.File(path) as file:
        position = int(np.flatnonzero(file[f"{DETECTOR}/frame_valid"][:])[-1])
        return position, int(file["entry/data/frame_number"][position])


def put(path: Path, position: int, pixels: Any) -> None:
    """Write a whole image into a file, as its chunks are."""

    def change(file: Any) -> None:
        data = file[DATA]
        packed = data.id.get_create_plist().get_nfilters()
        chunk = bitshuffle.compress(pixels) if packed else pixels.tobytes()
        data.id.write_direct_chunk((position, 0, 0), chunk)

    changed(path, change)


def packed(number: int) -> bytes:
    """Return an image as a detector sends it."""
    chunk = bitshuffle.compress(image(number))
    assert chunk is not None
    return bytes(chunk)
