"""A stand-in for a Pilatus: writes image files into a directory as camserver does.

It shares no code with the reader beside the byte-offset encoder, so that both being wrong in the
same way would show.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO

import numpy as np
import numpy.typing as npt

from pipeline.codecs.byte_offset import encode_byte_offset
from pipeline.detectors.options import Option
from pipeline.detectors.pilatus.sim_camserver import CamserverSimulator, first_file
from pipeline.detectors.pilatus.sim_files import cbf_file, edf_file, md5_text, tiff_file
from pipeline.detectors.pilatus.sim_header import HeaderFacts, header_lines
from pipeline.detectors.scene import Geometry, expected_counts, noisy, plant_spots
from pipeline.errors import InvalidArgumentError

#: (columns, rows) of modules; a module has 487 x 195 pixels.
MODELS = {"100k": (1, 1), "300k": (1, 3), "1M": (2, 5), "2M": (3, 8), "6M": (5, 12)}
FORMATS = ("cbf", "tif", "edf")
_MODULE = (195, 487)
_GAP = (17, 7)
_PIXEL_SIZE_M = 172e-6
_WAVELENGTH_A = 0.99987
# gives a CBF of one byte per pixel, as a real exposure does
_MEAN_COUNTS = 3.0
_CUTOFF = 1048500
# Images encoded once and then written again and again, so that 200 Hz cost little; their number is
# bounded by the time to make them, 0.7 s for a 6M.
_CYCLE = 8
_SHOWN_S = 6.0
_CYCLE_PIXELS = 13_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """One image of the cycle and what was planted in it."""

    image: npt.NDArray[np.int32]
    block: bytes
    md5: str
    pixels_sha256: str
    spots: list[tuple[int, int]]


class PilatusSimulator:
    """Writes a series of Pilatus images at a steady rate.

    The images show powder rings of LaB6 with Bragg spots over a background, all with counting
    noise, and -1 in the gaps between the modules; up to eight of them take turns.  Header values
    advance from frame to frame as in a rotation scan.  Not for use from several threads.

    Parameters
    ----------
    directory:
        Where the files appear; made if missing.
    frames:
        How many files to write.
    rate_hz:
        Files per second; 0 writes as fast as the disk takes them.
    prefix:
        File names are ``<prefix>_<number>.<ending>`` with five digits or more.
    model:
        A name from :data:`MODELS`.
    file_format:
        ``cbf``, ``tif`` (or ``tiff``), ``edf``.
    shape:
        Rows and columns of a detector without gaps, in place of a model.
    start_number:
        Number of the first file.
    in_place:
        Write under the final name and close, rather than write to ``<name>.tmp`` and rename.
    stamp:
        Replace the first pixel of each image by its number, which makes every file's pixels
        unique; costs encoding each image (300k: 6 ms).
    truth:
        A file that gets one JSON object a line for each image: series (the prefix), number, name,
        sha256 of the file, pixels_sha256 of its pixels (little-endian), timestamp_ns, spots as
        [row, column].
    seed:
        Of the random numbers; equal seeds give equal images.
    start_ns:
        Header date of the first frame, ns since 1970 (UTC); default is the time of ``run``.
    camserver_port:
        Listen there as camserver does, and show the series; with ``frames`` of 0 only series that
        a client begins are made, until ``run`` is stopped.  0: no port.

    Raises
    ------
    InvalidArgumentError
        Names the parameter that is out of range.
    """

    def __init__(
        self,
        directory: Path,
        *,
        frames: int,
        rate_hz: float,
        prefix: str = "sim",
        model: str = "300k",
        file_format: str = "cbf",
        shape: tuple[int, int] | None = None,
        start_number: int = 0,
        in_place: bool = False,
        stamp: bool = False,
        truth: Path | None = None,
        seed: int = 0,
        start_ns: int | None = None,
        camserver_port: int = 0,
    ) -> None:
        ending = "tif" if file_format == "tiff" else file_format
        if model not in MODELS:
            raise InvalidArgumentError("model", f"{model!r} is not one of {', '.join(MODELS)}")
        if ending not in FORMATS:
            raise InvalidArgumentError("file_format", f"{file_format!r} is not cbf, tif or edf")
        if frames < 0 or start_number < 0:
            raise InvalidArgumentError("frames", "frames and start_number cannot be negative")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if "/" in prefix or not prefix:
            raise InvalidArgumentError("prefix", f"{prefix!r} cannot be the start of a file name")
        if not 0 <= camserver_port < 65536:
            raise InvalidArgumentError("camserver_port", f"{camserver_port} is no port")
        if shape is not None and (min(shape) < 1 or max(shape) > 20_000):
            raise InvalidArgumentError("shape", f"{shape} is outside 1 to 20000 rows and columns")
        self.directory = Path(directory)
        self.frames = frames
        self.rate_hz = rate_hz
        self.prefix = prefix
        self.model = model if shape is None else "custom"
        self.shape = shape or shape_of(model)
        self.geometry = Geometry.fitting(
            self.shape, pixel_m=_PIXEL_SIZE_M, wavelength_a=_WAVELENGTH_A
        )
        self.ending = ending
        self.start_number = start_number
        self.in_place = in_place
        self.stamp = stamp
        self.truth = truth
        self.start_ns = start_ns
        self.camserver_port = camserver_port
        #: Keywords and values that take the place of those in the headers (``MXsettings``).
        self.header_settings: dict[str, str] = {}
        self._digits = 5
        self._single = ""
        self._goes_on = False
        self._modules = MODELS[model] if shape is None else None
        self._rng = np.random.default_rng(seed)
        self._scenes: list[_Scene] = []

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(
                name="directory", type=Path, help="where files appear", unit="DIR", required=True
            ),
            Option(name="frames", type=int, default=1000, help="how many files to write", unit="N"),
            Option(
                name="rate_hz",
                type=float,
                default=10.0,
                help="files per second; 0 is as fast as the disk takes them",
                unit="HZ",
            ),
            Option(name="prefix", default="sim", help="how file names begin", unit="TEXT"),
            Option(name="model", default="300k", help="which Pilatus", choices=tuple(MODELS)),
            Option(name="file_format", default="cbf", help="format of the files", choices=FORMATS),
            Option(
                name="start_number", type=int, default=0, help="number of the first file", unit="N"
            ),
            Option(
                name="in_place",
                type=bool,
                default=False,
                help="write under the final name, rather than under another one and rename",
            ),
            Option(
                name="stamp",
                type=bool,
                default=False,
                help="put its number into each image's first pixel",
            ),
            Option(
                name="truth",
                type=Path,
                help="file that gets a JSON line for each image: number, name, sha256, spots",
                unit="FILE",
            ),
            Option(name="seed", type=int, default=0, help="of the random numbers", unit="N"),
            Option(
                name="camserver_port",
                type=int,
                default=0,
                help="listen there as camserver; with --frames 0 make what clients begin",
                unit="PORT",
            ),
        ]

    def prepare(self) -> None:
        """Compute the images, which takes a second or two for a 6M; ``run`` does it if needed."""
        if not self._scenes:
            rows, columns = self.shape
            affordable = max(2, _CYCLE_PIXELS // (rows * columns))
            count = min(_CYCLE, affordable, self.frames or (_CYCLE if self.camserver_port else 0))
            self._scenes = [self._make_scene() for _ in range(count)]

    def path(self, number: int) -> Path:
        """Return the final path of a file."""
        name = self._single or f"{self.prefix}_{number:0{self._digits}d}.{self.ending}"
        return self.directory / name

    def like(self, directory: Path, name: str, frames: int, rate_hz: float) -> PilatusSimulator:
        """Return a simulator of one series as camserver's start commands name it.

        It shares the pictures of this one.  A single image has the name as given.
        """
        prefix, start, digits, ending = first_file(name)
        known = {"tiff": "tif", **{each: each for each in FORMATS}}
        series = copy(self)
        series.directory, series.prefix, series.start_number = directory, prefix, start
        series.frames, series.rate_hz = frames, rate_hz
        series.ending = known.get(ending.lower(), self.ending)
        series._digits = digits
        series._single = name if frames == 1 else ""
        series._goes_on = True
        series.camserver_port = 0
        return series

    def run(self, stop: Event | None = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Write the files and return how many were written.

        Each is due at its own time after the start, so a late one does not shift the others.

        Parameters
        ----------
        stop:
            Ends the series early once set.
        on_frame:
            Called with each number when its file is in place.
        """
        stop = stop or Event()
        if self.camserver_port:
            return self._serve(stop, on_frame)
        self.prepare()
        self.directory.mkdir(parents=True, exist_ok=True)
        start_ns = time.time_ns() if self.start_ns is None else self.start_ns
        period_s = 1 / self.rate_hz if self.rate_hz else 0.0
        begin = time.monotonic()
        mode = "a" if self._goes_on else "w"
        truth = self.truth.open(mode, encoding="utf-8") if self.truth else None
        try:
            for index in range(self.frames):
                if stop.wait(max(0.0, begin + index * period_s - time.monotonic())):
                    return index
                timestamp_ns = start_ns + round(index * (period_s or 0.001) * 1e9)
                self._write_frame(index, timestamp_ns, truth)
                if on_frame:
                    on_frame(self.start_number + index)
        finally:
            if truth:
                truth.close()
        return self.frames

    def _serve(self, stop: Event, on_frame: Callable[[int], None] | None) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.truth:
            self.truth.write_bytes(b"")
        with CamserverSimulator(self, port=self.camserver_port, on_frame=on_frame) as camserver:
            if self.frames:
                name = f"{self.prefix}_{self.start_number:05d}.{self.ending}"
                camserver.expose(name, stop)
                stop.wait(_SHOWN_S)  # whoever looks now and then sees the end, too
            else:
                stop.wait()
        return camserver.frames

    def _write_frame(self, index: int, timestamp_ns: int, truth: IO[str] | None) -> None:
        number = self.start_number + index
        scene = self._scenes[index % len(self._scenes)]
        if self.stamp:
            image = scene.image.copy()
            image[0, 0] = number
            scene = _encoded(image, scene.spots)
        content = self._encode(scene, number, self._header(index, timestamp_ns))
        path = self.path(number)
        target = path if self.in_place else path.with_name(path.name + ".tmp")
        target.write_bytes(content)
        if not self.in_place:
            target.rename(path)
        if truth:
            # the header's date has milliseconds
            line = {
                "series": self.prefix,
                "number": number,
                "name": path.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "pixels_sha256": scene.pixels_sha256,
                "timestamp_ns": timestamp_ns // 1_000_000 * 1_000_000,
                "spots": scene.spots,
            }
            truth.write(json.dumps(line) + "\n")

    def _encode(self, scene: _Scene, number: int, header: list[str]) -> bytes:
        if self.ending == "cbf":
            name = self.path(number).stem
            return cbf_file(scene.image.shape, scene.block, header, name, md5=scene.md5)
        if self.ending == "tif":
            return tiff_file(scene.image, header)
        return edf_file(scene.image, header)

    def _header(self, index: int, timestamp_ns: int) -> list[str]:
        facts = HeaderFacts(
            model=self.model,
            directory=self.directory.name,
            shape=self.shape,
            geometry=self.geometry,
            period_s=1 / self.rate_hz if self.rate_hz else 0.01,
            cutoff=_CUTOFF,
            settings=self.header_settings,
        )
        return header_lines(facts, index, timestamp_ns)

    def _make_scene(self) -> _Scene:
        gaps = gaps_of(self._modules) if self._modules else None
        counts = expected_counts(self.shape, mean=_MEAN_COUNTS, geometry=self.geometry)
        wanted = int(self._rng.integers(5, 40))
        spots = plant_spots(counts, self._rng, count=wanted, mask=gaps)
        image = noisy(counts, self._rng, dtype="int32", saturation=_CUTOFF)
        if gaps is not None:
            image[gaps] = -1
        return _encoded(image, spots)


def shape_of(model: str) -> tuple[int, int]:
    """Return rows and columns of a model: modules and the gaps between them."""
    columns, rows = MODELS[model]
    return (
        rows * _MODULE[0] + (rows - 1) * _GAP[0],
        columns * _MODULE[1] + (columns - 1) * _GAP[1],
    )


def gaps_of(modules: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return a mask of the pixels between the modules."""
    columns, rows = modules
    row = np.arange(rows * (_MODULE[0] + _GAP[0]) - _GAP[0]) % (_MODULE[0] + _GAP[0])
    column = np.arange(columns * (_MODULE[1] + _GAP[1]) - _GAP[1]) % (_MODULE[1] + _GAP[1])
    mask: npt.NDArray[np.bool_] = (row >= _MODULE[0])[:, None] | (column >= _MODULE[1])[None, :]
    return mask


def _encoded(image: npt.NDArray[np.int32], spots: list[tuple[int, int]]) -> _Scene:
    block = encode_byte_offset(image)
    pixels = hashlib.sha256(image.astype("<i4", copy=False).tobytes()).hexdigest()
    return _Scene(image=image, block=block, md5=md5_text(block), pixels_sha256=pixels, spots=spots)
