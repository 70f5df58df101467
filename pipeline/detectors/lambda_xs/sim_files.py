"""A stand-in for the writers of a Lambda: NeXus files, one per module and part.

It shares no code with the reader.  The layout is that of the Tango server LambdaDS, as the readers
of fabio and of DESY's beamlines expect it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.detectors.options import Option
from pipeline.detectors.scene import ring_images, stamp
from pipeline.errors import InvalidArgumentError

if TYPE_CHECKING:
    import h5py

COMPRESSIONS = ("deflate", "bitshuffle", "none")
#: A module is 12 chips of 256 x 256 pixels with gaps of 4 (reference: layout 1556X516).
MODULE_SHAPE = (516, 1556)
_GAP_ROWS = 20
_CYCLE = 4


class NxsWriter:
    """Writes one run, image by image; the files are open until :meth:`end`.

    Not for use from several threads.

    Parameters
    ----------
    directory:
        Made if missing.
    run:
        File names begin with it.
    modules:
        How many; 0 for one file without a module in its name.
    part_frames:
        Frames per file; 0 for one file without a part in its name.
    parts:
        Have a part in the name all the same: :meth:`cut` begins the next one.
    sequence_numbers:
        Write the dataset ``sequence_number`` (from 1), which tells which frames were lost.
    swmr:
        Write so that readers may follow (libver latest, SWMR mode).
    """

    def __init__(
        self,
        directory: Path,
        *,
        run: str,
        modules: int = 0,
        part_frames: int = 0,
        parts: bool = False,
        shape: tuple[int, int] = MODULE_SHAPE,
        dtype: str = "uint16",
        compression: str = "bitshuffle",
        period_s: float = 0.01,
        announced: int = 0,
        sequence_numbers: bool = True,
        swmr: bool = False,
        start_ns: int | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.run = run
        self.indices = tuple(range(1, modules + 1)) or (0,)
        self.named = modules > 0
        self.part_frames = part_frames
        self.parts = parts or part_frames > 0
        self.shape = shape
        self.dtype = dtype
        self.compression = compression
        self.period_s = period_s
        self.announced = announced
        self.sequence_numbers = sequence_numbers
        self.swmr = swmr
        self.start_ns = time.time_ns() if start_ns is None else start_ns
        self.position = 0
        self._open: dict[int, h5py.File] = {}
        self._part = self._in_part = 0

    def path(self, module: int, part: int) -> Path:
        """Return where a part of a module is written."""
        name = self.run
        if self.named:
            name += f"_m{module:02d}"
        if self.parts:
            name += f"_part{part:05d}"
        return self.directory / f"{name}.nxs"

    def write(self, images: dict[int, npt.NDArray[Any]]) -> None:
        """Write one frame: an image of each module that did not lose it."""
        if self.part_frames and self._in_part >= self.part_frames:
            self.cut()
        if not self._open:
            self._open = {index: self._new_file(index, self._part) for index in self.indices}
        self.position += 1
        self._in_part += 1
        for module, image in images.items():
            detector = self._open[module]["entry/instrument/detector"]
            _extend(detector["data"], image)
            if self.sequence_numbers:
                _extend(detector["sequence_number"], self.position)
            if self.swmr:
                self._open[module].flush()

    def skip(self) -> None:
        """Extend the data by an image that is never written, in all modules."""
        for file in self._open.values():
            data = file["entry/instrument/detector/data"]
            data.resize(data.shape[0] + 1, axis=0)
        self.position += 1

    def cut(self) -> list[Path]:
        """Close the files; the next frame begins the next part.  Return their paths."""
        self.end()
        closed = [self.path(index, self._part) for index in self.indices]
        self._part += 1
        self._in_part = 0
        return closed

    def end(self) -> None:
        """Finish and close the files; may be called twice."""
        end = _date(self.start_ns + round(self.position * self.period_s * 1e9))
        for file in self._open.values():
            if not self.swmr:  # which allows no new objects
                file["entry/end_time"] = np.array([end], "S26")
            file.close()
        self._open.clear()

    def _new_file(self, module: int, part: int) -> h5py.File:
        import h5py

        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.path(module, part)
        file = h5py.File(path, "w", libver="latest" if self.swmr else "earliest")
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        file["entry/start_time"] = np.array([_date(self.start_ns)], "S26")
        detector = file.create_group("entry/instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        self._settings(detector, module)
        rows, columns = self.shape
        detector.create_dataset(
            "data",
            shape=(0, rows, columns),
            maxshape=(None, rows, columns),
            chunks=(1, rows, columns),
            dtype=self.dtype,
            **_filters(self.compression),
        )
        if self.sequence_numbers:
            detector.create_dataset("sequence_number", (0,), "int32", maxshape=(None,), chunks=(1,))
        if self.swmr:
            file.swmr_mode = True
        return file

    def _settings(self, detector: h5py.Group, module: int) -> None:
        rows, columns = self.shape
        # a scalar: fabio compares it with the name
        detector["description"] = b"Lambda"
        detector["local_name"] = np.array([f"Lambda module {module}".encode()])
        detector["layout"] = np.array([f"{columns}X{rows}".encode()])
        detector["sensor_material"] = np.array([b"Si"])
        for name, value, unit in (
            ("count_time", self.period_s * 1000, "millisecond"),
            ("detector_readout_time", 0.0, "millisecond"),
            ("x_pixel_size", 55.0, "micrometer"),
            ("y_pixel_size", 55.0, "micrometer"),
            ("sensor_thickness", 320.0, ""),
            ("threshold_energy", 6000.0, "eV"),
            ("collection/shutter_time", self.period_s * 1000, "millisecond"),
        ):
            detector[name] = np.array([value], np.float64)
            if unit:
                detector[name].attrs["units"] = unit
        detector["saturation_value"] = np.array([4095], np.int32)
        detector["collection/frame_numbers"] = np.array([self.announced], np.int32)
        # x, y, z of the module's first pixel
        row = (module - 1) * (rows + _GAP_ROWS) if self.named else 0
        detector["translation/distance"] = np.array([2.0, row, 0.0])
        mask = np.zeros((1, rows, columns), np.uint32)
        mask[0, :, 0] = 1 << 31
        detector["pixel_mask"] = mask


class LambdaFilesSimulator:
    """Writes runs of NeXus files at a steady rate, as the writers of a Lambda do.

    Parameters
    ----------
    directory:
        Where the files appear.
    frames:
        Frames per run.
    runs:
        How many runs, one after the other: ``<prefix>_00001``, ...
    rate_hz:
        Frames per second; 0 writes as fast as the disk takes them.
    modules:
        Modules, each in a file of its own; 0 for one file without a module in its name.
    part_frames:
        Frames per file; 0 for one file a run.
    sequence_numbers:
        Whether the files tell the numbers of their images, from 1; else positions count, from 0.
    shape:
        Rows and columns of a module.
    compression:
        ``deflate``, ``bitshuffle`` or ``none``.
    lose:
        Every n-th frame is lost in the last module; 0 for none.
    truth:
        A file that gets one JSON object a line for each image: series, number, module,
        timestamp_ns, pixels_sha256, and "lost" for those that were not written.

    Raises
    ------
    InvalidArgumentError
        Names the parameter that is out of range.
    """

    def __init__(
        self,
        directory: Path,
        *,
        frames: int = 100,
        runs: int = 1,
        rate_hz: float = 100.0,
        prefix: str = "sim",
        modules: int = 3,
        part_frames: int = 0,
        sequence_numbers: bool = True,
        shape: tuple[int, int] = MODULE_SHAPE,
        compression: str = "bitshuffle",
        lose: int = 0,
        truth: Path | None = None,
        seed: int = 0,
    ) -> None:
        if min(frames, runs, modules, part_frames, lose) < 0:
            raise InvalidArgumentError("frames", "counts cannot be negative")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if compression not in COMPRESSIONS:
            known = ", ".join(COMPRESSIONS)
            raise InvalidArgumentError("compression", f"{compression!r} is not one of {known}")
        if "/" in prefix or not prefix:
            raise InvalidArgumentError("prefix", f"{prefix!r} cannot be the start of a file name")
        self.directory = Path(directory)
        self.frames, self.runs, self.rate_hz = frames, runs, rate_hz
        self.prefix, self.modules, self.part_frames = prefix, modules, part_frames
        self.sequence_numbers = sequence_numbers
        self.shape, self.compression, self.lose = shape, compression, lose
        self.truth, self.seed = truth, seed

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(
                name="directory", type=Path, help="where files appear", unit="DIR", required=True
            ),
            Option(name="frames", type=int, default=100, help="frames per run", unit="N"),
            Option(name="runs", type=int, default=1, help="how many runs", unit="N"),
            Option(
                name="rate_hz",
                type=float,
                default=100.0,
                help="frames per second; 0 is as fast as the disk takes them",
                unit="HZ",
            ),
            Option(name="prefix", default="sim", help="how file names begin", unit="TEXT"),
            Option(
                name="modules", type=int, default=3, help="modules; 0 is one file a run", unit="N"
            ),
            Option(
                name="part_frames", type=int, default=0, help="frames per file; 0 is all", unit="N"
            ),
            Option(
                name="sequence_numbers",
                type=bool,
                default=True,
                help="write the number of each image, from 1",
            ),
            Option(
                name="compression",
                default="bitshuffle",
                help="of the images",
                choices=COMPRESSIONS,
            ),
            Option(
                name="lose",
                type=int,
                default=0,
                help="every n-th frame is lost in the last module; 0 is none",
                unit="N",
            ),
            Option(
                name="truth",
                type=Path,
                help="file that gets a JSON line for each image: number, module, pixels_sha256",
                unit="FILE",
            ),
            Option(name="seed", type=int, default=0, help="of the random numbers", unit="N"),
        ]

    def run(self, stop: Event | None = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Write the runs and return how many frames were made."""
        stop = stop or Event()
        scenes = ring_images(self.shape, count=_CYCLE, seed=self.seed, mean=2.0)
        begin_s, made = time.monotonic(), 0
        truth = self.truth.open("w", encoding="utf-8") if self.truth else None
        try:
            for run in range(1, self.runs + 1):
                writer = self.writer(run)
                try:
                    for index in range(self.frames):
                        due_s = begin_s + (made / self.rate_hz if self.rate_hz else 0)
                        if stop.wait(max(0.0, due_s - time.monotonic())):
                            return made
                        self._write(writer, scenes, index, truth)
                        made += 1
                        if on_frame:
                            on_frame(index)
                finally:
                    writer.end()
        finally:
            if truth:
                truth.close()
        return made

    def writer(self, run: int) -> NxsWriter:
        """Return the writer of a run."""
        return NxsWriter(
            self.directory,
            run=f"{self.prefix}_{run:05d}",
            modules=self.modules,
            part_frames=self.part_frames,
            shape=self.shape,
            compression=self.compression,
            period_s=1 / self.rate_hz if self.rate_hz else 0.001,
            announced=self.frames,
            sequence_numbers=self.sequence_numbers,
        )

    def _write(
        self, writer: NxsWriter, scenes: list[npt.NDArray[Any]], index: int, truth: IO[str] | None
    ) -> None:
        lost = {writer.indices[-1]} if self.lose and index % self.lose == self.lose - 1 else set()
        images = {}
        number = index + 1 if self.sequence_numbers else index
        for module in writer.indices:
            image = stamp(scenes[(index + module) % len(scenes)], number)
            image[0, -1] = module
            if module not in lost:
                images[module] = image
            if truth:
                line: dict[str, Any] = {
                    "series": writer.run,
                    "number": number,
                    "module": module,
                    "timestamp_ns": writer.start_ns // 1000 * 1000
                    + round(index * writer.period_s * 1e9),
                    "pixels_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
                }
                truth.write(json.dumps(line | ({"lost": True} if module in lost else {})) + "\n")
        writer.write(images)


def _extend(data: h5py.Dataset, item: Any) -> None:
    data.resize(data.shape[0] + 1, axis=0)
    data[-1] = item


def _filters(compression: str) -> dict[str, Any]:
    if compression == "deflate":
        return {"compression": "gzip", "compression_opts": 1}
    if compression == "bitshuffle":
        import hdf5plugin

        return dict(hdf5plugin.Bitshuffle(cname="lz4"))
    return {}


def _date(time_ns: int) -> bytes:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f").encode()
