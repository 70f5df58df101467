"""A Lambda of two modules as NeXus files: a part for each batch of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from file_device import SHAPE

from pipeline.detectors.lambda_xs.sim_files import NxsWriter
from pipeline.testing.conformance import Sent
from pipeline.testing.conformance.rig import pixels_sha256

_DATA = "entry/instrument/detector/data"


class Rig:
    adapter = "lambda"
    keeps = True
    idle_end_s = 1.5
    unsupported: Mapping[str, str] = {
        "missing_start": "a folder has no message of a start",
        "missing_end": "a folder has no message of an end: silence is the end",
        "doubled_end": "a folder has no message of an end",
        "abort": "a folder has no message of an abort",
    }
    states: Mapping[str, tuple[str, ...]] = {"restart": ("complete",)}
    tells_count = False

    def __init__(self, folder: Path) -> None:
        self._here, self._away = folder / "images", folder / "unmounted"
        self._aside = folder / "aside"
        self._here.mkdir()
        self._series = self._seed = 0
        self._writer: NxsWriter | None = None

    def settings(self) -> dict[str, Any]:
        return {"watch": str(self._here), "grace_s": 0.3, "timezone": "UTC", "modules": 2}

    def ready(self, timeout_s: float) -> None:
        pass

    def begin(self) -> str:
        self._series += 1
        self._writer = self._new_writer(SHAPE)
        return self._writer.run

    begin_silently = begin

    def frames(self, count: int) -> list[Sent]:
        paths, sent = self._make(count)
        self._put(paths)
        return sent

    def lose(self, count: int) -> list[int]:
        writer = self._running()
        first = writer.position + 1
        writer.position += count
        return list(range(first, first + count))

    def end(self, how: str = "complete") -> None:
        pass

    def end_silently(self) -> None:
        pass

    def end_again(self) -> None:
        pass

    def disconnect(self) -> None:
        self._here.rename(self._away)

    def reconnect(self) -> None:
        self._away.rename(self._here)

    def restart(self) -> None:
        self._series = 0

    def hostile(self) -> dict[str, Callable[[], Iterable[Sent | int] | None]]:
        return {
            "half a file": lambda: self._damaged(lambda data: data[: len(data) // 2]),
            "random bytes": lambda: self._damaged(lambda data: bytes(range(256)) * 40),
            "a signature and nothing else": lambda: self._damaged(lambda data: data[:8]),
            "links to other files": lambda: self._edited(_link),
            "numbers that repeat": lambda: self._edited(_repeat),
            "a filter that is not ours": lambda: self._edited(_shuffled),
            "a module that was not there": self._stranger,
            "shape other than the series'": self._other_shape,
            "size of a trillion images": lambda: self._edited(_many),
            "size of an image of a terabyte": lambda: self._edited(_large),
            "zero bytes for good": lambda: self._damaged(lambda data: b""),
            "zero bytes, then filled": lambda: self._in_pieces(0),
            "growing in three pieces": lambda: self._in_pieces(700, 9000),
        }

    def close(self) -> None:
        if self._writer is not None:
            self._writer.end()

    # -- files ----------------------------------------------------------------------------------

    def _new_writer(self, shape: tuple[int, int]) -> NxsWriter:
        return NxsWriter(
            self._aside, run=f"scan_{self._series:05d}", modules=2, parts=True, shape=shape
        )

    def _running(self) -> NxsWriter:
        if self._writer is None:
            raise RuntimeError("no series is running")
        return self._writer

    def _make(self, count: int = 1) -> tuple[list[Path], list[Sent]]:
        """Write a part of each module; return its files and what is in them."""
        writer, sent = self._running(), []
        for _ in range(count):
            self._seed += 1
            pixels = np.random.default_rng(self._seed)
            number = writer.position + 1
            made = {i: pixels.integers(0, 4096, writer.shape, np.uint16) for i in writer.indices}
            writer.write(made)
            sent += [Sent(number, pixels_sha256(image), i) for i, image in made.items()]
        return writer.cut(), sent

    def _put(self, paths: Iterable[Path]) -> None:
        folder = self._here if self._here.exists() else self._away
        for path in paths:
            path.replace(folder / path.name)

    def _damaged(self, damage: Callable[[bytes], bytes]) -> list[int]:
        paths, sent = self._make()
        for path in paths:
            path.write_bytes(damage(path.read_bytes()))
        self._put(paths)
        return [sent[0].number]

    def _edited(self, edit: Callable[[h5py.Group], None]) -> list[int]:
        paths, sent = self._make()
        for path in paths:
            with h5py.File(path, "r+") as file:
                edit(file["entry/instrument/detector"])
        self._put(paths)
        return [sent[0].number]

    def _stranger(self) -> None:
        name = f"{self._running().run}_m07_part00000.nxs"
        (self._here / name).write_bytes(next(self._here.glob("*_m01_*")).read_bytes())

    def _other_shape(self) -> list[int]:
        writer = self._running()
        writer.shape = (SHAPE[0] * 2, SHAPE[1])
        try:
            paths, sent = self._make()
        finally:
            writer.shape = SHAPE
        self._put(paths)
        return [sent[0].number]

    def _in_pieces(self, *cuts: int) -> list[Sent]:
        paths, sent = self._make()
        for path in paths:
            data = path.read_bytes()
            for first, last in zip([0, *cuts], [*cuts, len(data)], strict=True):
                with (self._here / path.name).open("ab") as file:  # closed after every piece
                    file.write(data[first:last])
        return sent


def _link(detector: h5py.Group) -> None:
    del detector["data"]
    detector["data"] = h5py.ExternalLink("/etc/hostname", "/entry")


def _repeat(detector: h5py.Group) -> None:
    detector["data"].resize(2, axis=0)
    detector["data"][1] = 5
    detector["sequence_number"].resize((2,))
    detector["sequence_number"][:] = 1


def _shuffled(detector: h5py.Group) -> None:
    pixels = detector["data"][()]
    del detector["data"]
    detector.create_dataset(
        "data", data=pixels, chunks=(1, *SHAPE), shuffle=True, compression="gzip"
    )


def _many(detector: h5py.Group) -> None:
    detector["data"].resize(10**12, axis=0)


def _large(detector: h5py.Group) -> None:
    del detector["data"]
    detector.create_dataset("data", (1, 2**20, 2**20), "u1", chunks=(1, 2**10, 2**10))
