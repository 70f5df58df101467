"""An Eiger whose FileWriter is read: a data file for each batch of frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filewriter_stand_in import SHAPE, FileWriterStandIn, data_file, master_file

from pipeline.testing.conformance import Sent
from pipeline.testing.conformance.rig import pixels_sha256


class Rig:
    adapter = "eiger"
    keeps = True
    unsupported: Mapping[str, str] = {
        "missing_start": "the master file is the start, and lies there until it is deleted",
        "doubled_end": "a state that goes back to ready has no message to repeat",
        "abort": "neither files nor states tell an abort from a series that was stopped early",
    }
    states: Mapping[str, tuple[str, ...]] = {"missing_end": ("complete",)}
    #: What was asked for is an upper bound.
    tells_count = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unit = FileWriterStandIn()
        self._series = self._seed = self._part = self._armed = 0
        self._number = 1

    def settings(self) -> dict[str, Any]:
        return {
            "endpoint": self._unit.endpoint,
            "interface": "filewriter",
            "api": "1.8.0",
            "folder": str(self._folder / "fetched"),
        }

    def ready(self, timeout_s: float) -> None:
        pass

    def begin(self) -> str:
        self._series += 1
        self._armed += 1
        self._part, self._number = 0, 1
        date = f"2026-11-23T08:{self._armed // 60:02d}:{self._armed % 60:02d}.5"
        self._unit.files[f"{self._name}_master.h5"] = master_file(
            nimages=100_000, name=self._name, date=date
        )
        self._unit.active(True)
        return self._name

    begin_silently = begin

    def frames(self, count: int) -> list[Sent]:
        content, sent = self._make(count)
        self._put(content)
        return sent

    def lose(self, count: int) -> list[int]:
        first = self._number
        self._number += count
        return list(range(first, self._number))

    def end(self, how: str = "complete") -> None:
        self._unit.active(False)

    def end_silently(self) -> None:
        pass

    def end_again(self) -> None:
        pass

    def disconnect(self) -> None:
        self._unit.away = True

    def reconnect(self) -> None:
        self._unit.away = False

    def restart(self) -> None:
        self._unit.files.clear()
        self._unit.active(False)
        self._series = 0

    def hostile(self) -> dict[str, Callable[[], Iterable[Sent | int] | None]]:
        return {
            "half a file": lambda: self._damaged(lambda data: data[: len(data) // 2]),
            "random bytes": lambda: self._damaged(lambda data: bytes(range(256)) * 40),
            "links to other files": lambda: self._edited(_link),
            "a filter that is not ours": lambda: self._edited(_shuffled),
            "a number beyond all": lambda: self._edited(_beyond),
            "names that leave the directory": self._strange_names,
            "shape other than the series'": self._other_shape,
            "size of a trillion images": lambda: self._edited(_many),
            "size of an image of a terabyte": lambda: self._edited(_large),
            "zero bytes for good": lambda: self._damaged(lambda data: b""),
            "zero bytes, then filled": lambda: self._in_pieces(0),
            "growing in three pieces": lambda: self._in_pieces(700, 4000),
        }

    def close(self) -> None:
        self._unit.close()

    # -- files ----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"series_{self._series}"

    def _make(self, count: int = 1, shape: tuple[int, int] = SHAPE) -> tuple[bytes, list[Sent]]:
        first = self._number
        self._number += count
        self._seed += 1
        pixels = np.random.default_rng(self._seed).integers(0, 9, (count, *shape), np.uint16)
        sent = [Sent(first + at, pixels_sha256(image)) for at, image in enumerate(pixels)]
        return data_file(pixels, first), sent

    def _put(self, content: bytes) -> str:
        self._part += 1
        name = f"{self._name}_data_{self._part:06d}.h5"
        self._unit.files[name] = content
        return name

    def _damaged(self, damage: Callable[[bytes], bytes]) -> list[int]:
        content, sent = self._make()
        self._put(damage(content))
        return [sent[0].number]

    def _edited(self, edit: Callable[[h5py.Group], None]) -> list[int]:
        content, sent = self._make()
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            edit(file["entry/data"])
        self._put(buffer.getvalue())
        return [sent[0].number]

    def _strange_names(self) -> None:
        for name in ("../../etc/passwd_master.h5", "a/../b_data_000001.h5", "x" * 5000):
            self._unit.files[name] = b"nothing"

    def _other_shape(self) -> list[int]:
        content, sent = self._make(1, (SHAPE[0] * 2, SHAPE[1]))
        self._put(content)
        return [sent[0].number]

    def _in_pieces(self, *cuts: int) -> list[Sent]:
        content, sent = self._make()
        name = self._put(b"")
        for cut in (*cuts, len(content)):
            self._unit.files[name] = content[:cut]
        return sent


def _link(group: h5py.Group) -> None:
    del group["data"]
    group["data"] = h5py.ExternalLink("/etc/hostname", "/entry")


def _shuffled(group: h5py.Group) -> None:
    pixels = group["data"][()]
    del group["data"]
    group.create_dataset("data", data=pixels, chunks=(1, *SHAPE), shuffle=True, compression="gzip")


def _beyond(group: h5py.Group) -> None:
    group["data"].attrs["image_nr_low"] = np.uint64(2**64 - 1)


def _many(group: h5py.Group) -> None:
    del group["data"]
    group.create_dataset("data", (10**12, *SHAPE), "u2", chunks=(1, *SHAPE))


def _large(group: h5py.Group) -> None:
    del group["data"]
    group.create_dataset("data", (1, 2**20, 2**20), "u1", chunks=(1, 2**10, 2**10))
