"""Watch, spool, publish, read, where nothing of Linux is left: see ``stand_in.py``."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from pipeline.config import Settings, load
from pipeline.detectors.files import FilesAdapter
from pipeline.detectors.pco.adapter import PcoAdapter
from pipeline.detectors.pco.sim import PcoSimulator
from pipeline.detectors.perkinelmer.adapter import PerkinElmerAdapter
from pipeline.detectors.perkinelmer.sim import PerkinElmerSimulator
from pipeline.detectors.pilatus.adapter import PilatusAdapter
from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.ingest import IngestReport
from pipeline.ingest import run as ingest

FRAMES = 6
#: Nobody listens there.
AWAY = "127.0.0.1:1"
SPOOLED = "pco"
_SHAPE = (60, 80)


def _pilatus(folder: Path, truth: Path) -> Any:
    return PilatusSimulator(
        folder, frames=FRAMES, rate_hz=0, shape=_SHAPE, file_format="tif", truth=truth
    )


def _pco(folder: Path, truth: Path) -> Any:
    return PcoSimulator(folder, frames=FRAMES, rate_hz=0, shape=_SHAPE, truth=truth)


def _perkinelmer(folder: Path, truth: Path) -> Any:
    return PerkinElmerSimulator(folder, frames=FRAMES, rate_hz=0, shape=_SHAPE, truth=truth)


INSTRUMENTS: dict[str, tuple[type[Any], Callable[[Path, Path], Any]]] = {
    "files": (FilesAdapter, _pilatus),
    "pilatus": (PilatusAdapter, _pilatus),
    "pco": (PcoAdapter, _pco),
    "perkinelmer": (PerkinElmerAdapter, _perkinelmer),
}


def run(folder: Path, beamtime: str) -> None:
    """Run every instrument, one of them first into a spool; print what was read."""
    settings = load()
    away = replace(settings, kafka=replace(settings.kafka, bootstrap=AWAY, timeout_s=1.0))
    found, held, spooled = {}, [], 0
    for name, (adapter, simulator) in INSTRUMENTS.items():
        watched, truth, spool = (folder / f"{name}{part}" for part in ("", "-truth", "-spool"))
        simulator(watched, truth).run()
        if name == SPOOLED:
            spooled = _publish(adapter(watch=watched), away, beamtime, name, spool).not_flushed
            held = [path for path in spool.rglob("*") if path.is_file()]
        published = _publish(adapter(watch=watched), settings, beamtime, name, spool)
        found[name] = {
            "ended": published.ended,
            **_read(settings, beamtime, name, truth),
        }
    json.dump({"spooled": spooled, "files_in_spool": len(held), "found": found}, sys.stdout)


def _publish(
    adapter: Any, settings: Settings, beamtime: str, detector: str, spool: Path
) -> IngestReport:
    """Publish until the stream ended; while the broker is away, until all frames are spooled."""
    stop = threading.Event()
    is_away = settings.kafka.bootstrap == AWAY

    def progress(report: IngestReport) -> None:
        if is_away and report.frames >= FRAMES:
            stop.set()

    try:
        with pipeline.connect(settings=settings) as session:
            return ingest(
                session,
                adapter,
                beamtime=beamtime,
                detector=detector,
                stream="s",
                streams=1,
                idle_end_s=None if is_away else 1.5,
                spool=str(spool),
                stop=stop,
                on_progress=progress,
                flush_timeout_s=2.0 if is_away else 30.0,
            )
    finally:
        adapter.close()


def _read(settings: Settings, beamtime: str, detector: str, truth: Path) -> dict[str, Any]:
    """Compare what is read in order with what the simulator planted."""
    entries = [json.loads(line) for line in truth.read_text().splitlines()]
    planted = {entry["number"]: entry for entry in entries}
    wrong = []
    with (
        pipeline.connect(settings=settings) as session,
        session.stream(beamtime, detector, "s") as stream,
    ):
        numbers = []
        for frame in stream.ordered(timeout_s=20):
            numbers.append(frame.number)
            entry = planted[frame.number]
            if "pixels_sha256" in entry:
                pixels = np.ascontiguousarray(frame.array)
                same = hashlib.sha256(pixels.tobytes()).hexdigest() == entry["pixels_sha256"]
            else:
                same = hashlib.sha256(frame.payload).hexdigest() == entry["sha256"]
            if not same:
                wrong.append(frame.number)
        account = stream.account()
    return {
        "numbers": numbers,
        "planted": sorted(planted),
        "wrong": wrong,
        "complete": account["complete"],
    }
