"""A stand-in for a PCO camera and the program that stores its images."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.detectors.options import Option
from pipeline.detectors.pco.sim_files import TiffWriter, b16_header, with_stamp
from pipeline.detectors.scene import ring_images, stamp
from pipeline.detectors.timezones import timezone_of
from pipeline.errors import InvalidArgumentError

#: Endings of the formats: single TIFF, many pages, BigTIFF, B16 of now and of before.
FORMATS = {"tif": "tif", "multitif": "tif", "pcoraw": "pcoraw", "b16": "b16", "b16-488": "b16"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALIGNED = {16: 0, 14: 2, 12: 4}


class PcoSimulator:
    """Writes images as PCO's recorder does, with time stamps in the pixels.

    Not for use from several threads.  :meth:`run` makes a whole recording; :meth:`arm`,
    :meth:`take` and :meth:`finish` make one step by step.

    Parameters
    ----------
    directory:
        Where the files appear; made if missing.
    frames:
        How many images the camera takes.
    rate_hz:
        Images per second; 0 is as fast as the disk takes them.
    prefix:
        File names are ``<prefix>_<number>.<ending>``, numbers from 1 without holes.
    file_format:
        A name from :data:`FORMATS`.
    shape:
        Rows and columns.
    pages_per_file:
        Images in one file of ``multitif`` and ``pcoraw``.
    stamped:
        Whether the camera writes its counter and the time into the pixels.
    bits:
        Bits of left-aligned pixels: 12 or 14; 16 leaves the digits where they are.
    timezone:
        Where the camera's clock is.
    lose:
        Counters of images that are lost before they are stored.
    repeat:
        Counters of images that are stored twice.
    rearm_after:
        The camera is armed again after so many images, and counts from 1; 0: never.
    zero_first:
        Whether arming gives an image of zeros first.
    hold_open:
        Whether a file stays open until the next one is written.
    truth:
        A file that gets one JSON object a line for each image.
    seed:
        Of the random numbers.

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
        prefix: str = "pco",
        file_format: str = "tif",
        shape: tuple[int, int] = (2048, 2048),
        pages_per_file: int = 100,
        stamped: bool = True,
        bits: int = 16,
        timezone: str = "local",
        lose: tuple[int, ...] = (),
        repeat: tuple[int, ...] = (),
        rearm_after: int = 0,
        zero_first: bool = False,
        hold_open: bool = False,
        truth: Path | None = None,
        seed: int = 0,
    ) -> None:
        if file_format not in FORMATS:
            raise InvalidArgumentError("file_format", f"{file_format!r} is no format")
        if frames < 0 or pages_per_file < 1 or rearm_after < 0:
            raise InvalidArgumentError("frames", "counts cannot be negative")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if bits not in _ALIGNED:
            raise InvalidArgumentError("bits", f"{bits} is not 12, 14 or 16")
        if shape[0] < 2 or shape[1] < 14 or max(shape) > 20_000:
            raise InvalidArgumentError("shape", f"{shape}: 2 rows and 14 columns at least")
        self.directory = Path(directory)
        self.frames, self.rate_hz = frames, rate_hz
        self._prefix, self._format, self._shape = prefix, file_format, shape
        self._many = file_format in ("multitif", "pcoraw")
        self._pages_per_file = pages_per_file
        self._stamped, self._shift = stamped, _ALIGNED[bits]
        self._zone = None if timezone == "local" else timezone_of(timezone)
        self._lose, self._repeat = frozenset(lose), frozenset(repeat)
        self._rearm_after, self._zero_first, self._hold_open = rearm_after, zero_first, hold_open
        self._truth_path, self._seed = truth, seed
        self._truth: IO[str] | None = None
        self._images: list[npt.NDArray[np.uint16]] = []
        self._file: BinaryIO | None = None
        self._tiff: TiffWriter | None = None
        self.series, self.counter, self.file_number = 0, 0, 0

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(
                name="directory", type=Path, help="where files appear", unit="DIR", required=True
            ),
            Option(name="frames", type=int, default=1000, help="how many images", unit="N"),
            Option(
                name="rate_hz",
                type=float,
                default=10.0,
                help="images per second; 0 is as fast as the disk takes them",
                unit="HZ",
            ),
            Option(name="prefix", default="pco", help="how file names begin", unit="TEXT"),
            Option(
                name="file_format", default="tif", help="format of files", choices=tuple(FORMATS)
            ),
            Option(
                name="shape",
                type=_pair,
                default=(2048, 2048),
                help="rows and columns, as 2048x2048",
                unit="RxC",
            ),
            Option(
                name="pages_per_file",
                type=int,
                default=100,
                help="images in a file of multitif and pcoraw",
                unit="N",
            ),
            Option(name="stamped", type=bool, default=True, help="stamps in the pixels"),
            Option(
                name="bits",
                type=int,
                default=16,
                help="of left-aligned pixels: 12 or 14; 16: as they are",
                unit="BITS",
            ),
            Option(name="timezone", default="local", help="of the camera's clock", unit="ZONE"),
            Option(name="lose", type=_numbers, default=(), help="images lost: 5,9", unit="LIST"),
            Option(name="repeat", type=_numbers, default=(), help="stored twice: 5", unit="LIST"),
            Option(
                name="rearm_after",
                type=int,
                default=0,
                help="count from 1 again after so many images; 0 is never",
                unit="N",
            ),
            Option(name="zero_first", type=bool, default=False, help="arming gives a zero image"),
            Option(name="hold_open", type=bool, default=False, help="files grow and stay open"),
            Option(name="truth", type=Path, help="file for a JSON line an image", unit="FILE"),
            Option(name="seed", type=int, default=0, help="of the random numbers", unit="N"),
        ]

    # -- step by step ---------------------------------------------------------------------------

    def arm(self) -> str:
        """Arm the camera: it counts from 1 again; return the series' name in the truth."""
        self.series, self.counter = self.series + 1, 0
        if self._zero_first:
            self._store(np.zeros(self._shape[1], np.uint16), np.zeros_like(self._image()[1:]))
        return str(self.series)

    def take(self, *, lost: bool = False, copies: int = 1) -> tuple[int, str]:
        """Take an image, store it so many times; return its number and its pixels' SHA-256."""
        if not self.series:
            self.arm()
        self.counter += 1
        image, now = self._image(), datetime.now(UTC)
        if self._stamped:
            row = with_stamp(image, self.counter, now.astimezone(self._zone), shift=self._shift)
        else:
            image = stamp(image, self.file_number + 1)
            row = image[0]
        digest = hashlib.sha256(row.data)
        digest.update(image[1:].data)
        if not lost:
            for _ in range(copies):
                self._store(row, image[1:])
        self._tell(now, digest.hexdigest(), lost=lost)
        return self.counter, digest.hexdigest()

    def finish(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
            self._file = self._tiff = None
        if self._truth is not None:
            self._truth.close()
            self._truth = None

    def run(self, stop: Event | None = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Take all images, each at its own time after the start; return how many were taken."""
        stop = stop or Event()
        self._image()
        begin = time.monotonic()
        try:
            for index in range(self.frames):
                due = begin + index / self.rate_hz if self.rate_hz else begin
                if stop.wait(max(0.0, due - time.monotonic())):
                    return index
                if not self.series or (self._rearm_after and self.counter >= self._rearm_after):
                    self.arm()
                number = self.counter + 1
                copies = 2 if number in self._repeat else 1
                self.take(lost=number in self._lose, copies=copies)
                if on_frame:
                    on_frame(number)
        finally:
            self.finish()
        return self.frames

    # -- files ----------------------------------------------------------------------------------

    def _image(self) -> npt.NDArray[np.uint16]:
        if not self._images:
            images = ring_images(self._shape, count=4, seed=self._seed, mean=200.0)
            self._images = [np.left_shift(image, self._shift, dtype=np.uint16) for image in images]
        return self._images[self.counter % len(self._images)]

    def _store(self, row: npt.NDArray[np.uint16], rest: npt.NDArray[np.uint16]) -> None:
        if self._many:
            self._add_page(row, rest)
            return
        file = self._open()
        if self._format == "tif":
            TiffWriter(file).add(row, rest)
        else:
            file.write(b16_header(self._shape, nbytes=488 if self._format == "b16-488" else 1024))
            file.write(row.data)
            file.write(rest.data)
        if self._hold_open:
            file, self._file = self._file, file  # type: ignore[assignment]  # closed if there is one
        if file is not None:
            file.close()

    def _add_page(self, row: npt.NDArray[np.uint16], rest: npt.NDArray[np.uint16]) -> None:
        if self._tiff is None or self._tiff.pages >= self._pages_per_file:
            if self._file is not None:
                self._file.close()
            self._file = self._open()
            self._tiff = TiffWriter(self._file, big=self._format == "pcoraw")
        self._tiff.add(row, rest)

    def _open(self) -> BinaryIO:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file_number += 1
        name = f"{self._prefix}_{self.file_number:04d}.{FORMATS[self._format]}"
        return (self.directory / name).open("wb", buffering=0)

    def _tell(self, now: datetime, digest: str, *, lost: bool) -> None:
        if self._truth_path is None:
            return
        if self._truth is None:
            self._truth = self._truth_path.open("w", encoding="utf-8")
        line: dict[str, Any] = {
            "series": str(self.series),
            "number": self.counter,
            "timestamp_ns": (now - _EPOCH) // timedelta(microseconds=1) * 1000,
            "pixels_sha256": digest,
        }
        self._truth.write(json.dumps({**line, "lost": True} if lost else line) + "\n")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _pair(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    return int(rows), int(columns)
