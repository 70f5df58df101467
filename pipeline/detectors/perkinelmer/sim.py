"""A stand-in for QXRD with a PerkinElmer or Varex flat panel."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import IO, Any

import numpy.typing as npt

from pipeline.detectors.options import Option
from pipeline.detectors.perkinelmer.sim_files import his_header, sidecar, tiff_parts
from pipeline.detectors.scene import ring_images
from pipeline.errors import InvalidArgumentError

DTYPES = ("float32", "uint16", "uint32")
FORMATS = ("tif", "his")
#: What may happen to the sidecar of an image.
FAULTS = ("missing", "early", "late", "malformed", "huge", "old")


class PerkinElmerSimulator:
    """Writes images with sidecars as QXRD does, or a HIS file as XIS does.

    Not for use from several threads.  :meth:`run` makes a whole scan; :meth:`take` and
    :meth:`finish` make one step by step.

    Parameters
    ----------
    directory:
        Where the files appear; made if missing.
    frames:
        How many images.
    rate_hz:
        Images per second; 0 is as fast as the disk takes them.
    prefix:
        File names are ``<prefix>-<index>.tif`` with five digits or more.
    shape:
        Rows and columns.
    dtype:
        ``float32`` (dark-subtracted), ``uint16`` or ``uint32``.
    file_format:
        ``tif`` with sidecars, or ``his``: all frames in one file of ``uint16``.
    phases:
        Images of one index, ``<prefix>-<index>-<phase>.tif``; 1: no phase in the name.
    darks:
        Dark images ahead of the others.
    missing, early, late, malformed, huge, old:
        Indices whose sidecar never comes, comes before its image, after the next image, is cut
        off, has 2.5 MB, or is as a version of 2010 wrote it.
    retake:
        Indices that are taken twice: the second gets ``-00001`` behind its name.
    lose:
        Indices that are never written.
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
        prefix: str = "scan",
        shape: tuple[int, int] = (2048, 2048),
        dtype: str = "float32",
        file_format: str = "tif",
        phases: int = 1,
        darks: int = 0,
        missing: tuple[int, ...] = (),
        early: tuple[int, ...] = (),
        late: tuple[int, ...] = (),
        malformed: tuple[int, ...] = (),
        huge: tuple[int, ...] = (),
        old: tuple[int, ...] = (),
        retake: tuple[int, ...] = (),
        lose: tuple[int, ...] = (),
        truth: Path | None = None,
        seed: int = 0,
    ) -> None:
        if dtype not in DTYPES or file_format not in FORMATS:
            raise InvalidArgumentError("dtype", f"{dtype!r}, {file_format!r}: see --help")
        if frames < 0 or phases < 1 or darks < 0:
            raise InvalidArgumentError("frames", "counts cannot be negative, phases not 0")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if min(shape) < 1 or max(shape) > 20_000 or shape[0] * shape[1] < 16:
            raise InvalidArgumentError("shape", f"{shape} is outside 16 to 20000 x 20000 pixels")
        self.directory = Path(directory)
        self.frames, self.rate_hz = frames, rate_hz
        self._prefix, self._shape, self._format = prefix, shape, file_format
        self._dtype = "uint16" if file_format == "his" else dtype
        self._phases, self._darks = phases, darks
        self._faults = dict(zip(FAULTS, (missing, early, late, malformed, huge, old), strict=True))
        self._retake, self._lose = frozenset(retake), frozenset(lose)
        self._truth_path, self._seed = truth, seed
        self._truth: IO[str] | None = None
        self._images: list[npt.NDArray[Any]] = []
        self._late: list[tuple[Path, bytes]] = []
        self._made = 0

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        lists = [
            Option(
                name=name,
                type=_numbers,
                default=(),
                help=f"indices {what}, as 3,7",
                unit="LIST",
            )
            for name, what in (
                ("missing", "without a sidecar"),
                ("early", "whose sidecar comes first"),
                ("late", "whose sidecar comes after the next image"),
                ("malformed", "whose sidecar is cut off"),
                ("huge", "whose sidecar has 2.5 MB"),
                ("old", "whose sidecar is of 2010"),
                ("retake", "taken twice"),
                ("lose", "never written"),
            )
        ]
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
            Option(name="prefix", default="scan", help="how file names begin", unit="TEXT"),
            Option(
                name="shape",
                type=_pair,
                default=(2048, 2048),
                help="rows and columns, as 2048x2048",
                unit="RxC",
            ),
            Option(name="dtype", default="float32", help="type of pixels", choices=DTYPES),
            Option(name="file_format", default="tif", help="format of files", choices=FORMATS),
            Option(name="phases", type=int, default=1, help="images of one index", unit="N"),
            Option(name="darks", type=int, default=0, help="dark images first", unit="N"),
            *lists,
            Option(name="truth", type=Path, help="file for a JSON line an image", unit="FILE"),
            Option(name="seed", type=int, default=0, help="of the random numbers", unit="N"),
        ]

    # -- step by step ---------------------------------------------------------------------------

    def take(
        self,
        index: int,
        *,
        phase: int = 0,
        dark: bool = False,
        lost: bool = False,
        fault: str = "",
        retake: bool = False,
    ) -> tuple[int, str]:
        """Write an image and its sidecar; return its number and its pixels' SHA-256."""
        image, now = self._image(index), datetime.now()
        name = f"{self._prefix}-{index:05d}"
        name += f"-{phase:05d}" if self._phases > 1 else ""
        title = name + (".dark" if dark else "")
        stem = name + ("-00001" if retake else "") + (".dark" if dark else "")
        path = self.directory / f"{stem}.tif"
        facts = {
            "width": self._shape[1],
            "height": self._shape[0],
            "fileBase": path.name,
            "fileName": f"C:/data/{path.name}",
            "title": title,
            "nPhases": self._phases,
            "phaseNumber": phase,
        }
        content = _sidecar(facts, now, fault)
        if not lost:
            self._write(path, image, now, content, fault)
        kind = stem.replace(f"-{index:05d}", "", 1)
        return index, self._tell(kind, index, now, image, lost=lost)

    def finish(self) -> None:
        """Write the sidecars that are still to come, and close the truth."""
        self._write_late()
        if self._truth is not None:
            self._truth.close()
            self._truth = None

    def run(self, stop: Event | None = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Write all images, each at its own time after the start; return how many were made."""
        stop = stop or Event()
        self._image(0)
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._format == "his":
            return self._write_his(on_frame)
        for index in range(self._darks):
            self.take(index, dark=True)
        begin = time.monotonic()
        try:
            for index in range(self.frames):
                due = begin + index / self.rate_hz if self.rate_hz else begin
                if stop.wait(max(0.0, due - time.monotonic())):
                    return index
                fault = next((f for f, where in self._faults.items() if index in where), "")
                for phase in range(self._phases):
                    self.take(index, phase=phase, lost=index in self._lose, fault=fault)
                if index in self._retake:
                    self.take(index, retake=True)
                if on_frame:
                    on_frame(index)
        finally:
            self.finish()
        return self.frames

    # -- files ----------------------------------------------------------------------------------

    def _image(self, index: int) -> npt.NDArray[Any]:
        """Return one of a few images with the count of images made in its first pixels."""
        if not self._images:
            self._images = ring_images(self._shape, count=4, seed=self._seed, dtype=self._dtype)
        image = self._images[index % len(self._images)]
        self._made += 1
        # exact in every type: float32 holds integers to 2**24
        image.reshape(-1)[:2] = self._made >> 15, self._made & 0x7FFF
        return image

    def _write(
        self, path: Path, image: npt.NDArray[Any], now: datetime, content: bytes, fault: str
    ) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".metadata")
        if fault == "early":
            beside.write_bytes(content)
        head, end = tiff_parts(image, f"C:/data/{path.name}", now)
        with path.open("wb", buffering=0) as file:
            file.write(head)
            file.write(image.data)
            file.write(end)
        self._write_late()
        if fault == "late":
            self._late.append((beside, content))
        elif fault not in ("early", "missing"):
            beside.write_bytes(content)

    def _write_late(self) -> None:
        for path, content in self._late:
            path.write_bytes(content)
        self._late = []

    def _write_his(self, on_frame: Callable[[int], None] | None) -> int:
        path = self.directory / f"{self._prefix}.his"
        with path.open("wb", buffering=0) as file:
            file.write(his_header(self._shape, self.frames, self._dtype, 66_600.0))
            for index in range(self.frames):
                image = self._image(index)
                file.write(image.data)
                self._tell(self._prefix, index, None, image, lost=False)
        if on_frame:
            on_frame(self.frames - 1)
        self.finish()
        return self.frames

    def _tell(
        self, series: str, number: int, now: datetime | None, image: npt.NDArray[Any], *, lost: bool
    ) -> str:
        if self._truth_path is None:
            return hashlib.sha256(image.data).hexdigest() if image.size < 1 << 20 else ""
        if self._truth is None:
            self._truth = self._truth_path.open("w", encoding="utf-8")
        digest = hashlib.sha256(image.data).hexdigest()
        line: dict[str, Any] = {
            "series": series,
            "number": number,
            "timestamp_ns": round(now.timestamp() * 1000) * 10**6 if now else None,
            "pixels_sha256": digest,
        }
        self._truth.write(json.dumps({**line, "lost": True} if lost else line) + "\n")
        return digest


def _sidecar(facts: dict[str, Any], now: datetime, fault: str) -> bytes:
    if fault == "old":
        facts = {**facts, "nPhases": None, "phaseNumber": None, "timeStamp": None}
    content = sidecar(facts, now, filler_nbytes=2_500_000 if fault == "huge" else 0)
    return content[:-40] if fault == "malformed" else content


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _pair(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    return int(rows), int(columns)
