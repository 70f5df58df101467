"""Frames flat out and at a detector's pace: rates, latencies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from pipeline.bench.actors import Run
from pipeline.bench.bare import Objects, plain_write, put_and_get
from pipeline.bench.ground import GB, HEAT_NBYTES, Ground
from pipeline.bench.images import SIZES
from pipeline.bench.relay import relay_ms
from pipeline.bench.rows import Row, percentile, row
from pipeline.bench.through import Outcome, through

#: GB of one run: (quick, full).
_VOLUME = {"1200kB": (1.0, 4.0), "64KiB": (0.7, 4.0), "4KiB": (0.3, 2.0)}
_CACHE = "objects in the page cache, whose memory was touched before each run"


def flat_out(ground: Ground, name: str) -> Row:
    """Measure publish and consume together, as fast as frames are taken."""
    _, kind, label = name.split(".")[:3]
    durability: Literal["process", "disk"] = "disk" if name.endswith(".disk") else "process"
    size, runs = SIZES[label], 3 if ground.quick else 5
    volume = _VOLUME[label][not ground.quick] / (2 if kind == "s3" else 1)
    rates: list[float] = []
    limits: list[float] = []
    for _ in range(runs):
        with ground.beamtime() as beamtime:
            run = Run(
                settings=ground.settings(kind),
                beamtime=beamtime,
                size=size,
                count=int(volume * GB / size.nbytes),
                durability=durability,
            )
            outcome = through(run, ground.folder(beamtime))
            rates.append(outcome.mb_per_s)
            if kind == "s3":
                bucket = ground.folder(beamtime).name
                limits.append(put_and_get(run.settings, bucket, outcome.objects, ground.home))
        if kind == "file":
            limits.append(write_limit(ground, outcome))
    per_frame = 1.0 if label == "1200kB" else 1e6 / size.nbytes
    limit = "bare obstore put and get together" if kind == "s3" else "plain write() by 2 threads"
    if durability == "disk":
        limit += ", with fsync"
    return row(
        name,
        [rate * per_frame for rate in rates],
        [rate * per_frame for rate in limits],
        unit="MB/s" if per_frame == 1.0 else "frames/s",
        conditions=[
            f"{run.count} frames of {size.nbytes} bytes published and consumed, every byte checked",
            _durability(kind, durability),
            _CACHE,
            f"limit: {limit} of the same objects",
        ],
    )


def write_limit(ground: Ground, outcome: Outcome) -> float:
    """Return MB/s of plain writes of a run's objects (the first of them if there are many)."""
    with ground.scratch() as folder:
        sizes = _first(outcome.objects, HEAT_NBYTES)
        return plain_write(
            Objects(sizes=sizes, folder=folder, sync=outcome.run.durability == "disk")
        )[0]


def _first(sizes: Sequence[int], nbytes: int) -> list[int]:
    chosen, total = [], 0
    for size in sizes:
        chosen.append(size)
        total += size
        if total >= nbytes:
            break
    return chosen


def latency(ground: Ground, name: str) -> Row:
    """Measure the time from a frame's due moment to its array, 1.2 MB at 200 Hz."""
    kind, size = name.split(".")[1], SIZES["1200kB"]
    runs, seconds = (3, 4) if ground.quick else (5, 30)
    medians: list[float] = []
    highs: list[float] = []
    limits: list[float] = []
    for _ in range(runs):
        with ground.beamtime() as beamtime:
            settings = ground.settings(kind)
            run = Run(
                settings=settings,
                beamtime=beamtime,
                size=size,
                count=200 * seconds,
                rate_hz=200.0,
                report_every=200,
            )
            ages = ages_of(through(run, ground.folder(beamtime)))
            medians.append(percentile(ages, 50))
            highs.append(percentile(ages, 99))
            limits.append(percentile(relay_ms(ground, settings, beamtime, size.nbytes), 50))
    return row(
        name,
        medians,
        limits,
        unit="ms",
        p50=median(medians),
        p99=median(highs),
        conditions=[
            f"{runs} x {seconds} s, from when a frame is due to its checked array elsewhere",
            _durability(kind, "process"),
            "objects in the page cache",
            "p99: median of the runs' " + ", ".join(f"{high:.3g}" for high in highs),
            "limit: p50 of write (put), bare produce, poll, read (get) by two processes",
        ],
    )


def sustained(ground: Ground, name: str) -> Row:
    """Measure 300 kB at 2000 Hz for 30 s."""
    size, seconds = SIZES["300kB"], 8 if ground.quick else 30
    with ground.beamtime() as beamtime:
        run = Run(
            settings=ground.settings("file"),
            beamtime=beamtime,
            size=size,
            count=2000 * seconds,
            rate_hz=2000.0,
            report_every=1000,
        )
        outcome = through(run, ground.folder(beamtime))
    per_object = max(outcome.objects)
    sizes = [per_object] * int(3 * GB / per_object)
    with ground.scratch() as folder:
        limit = plain_write(Objects(sizes=sizes, folder=folder))[0] * 1e6 / size.nbytes
    ages = ages_of(outcome)
    return row(
        name,
        [outcome.rate_hz],
        [limit],
        unit="frames/s",
        p50=percentile(ages, 50),
        p99=percentile(ages, 99),
        conditions=[
            f"300 kB at 2000 Hz for {seconds} s, {run.count} frames, none lost",
            _durability("file", "process"),
            "objects in the page cache, deleted when consumed",
            "p50, p99: from when a frame is due to its checked array",
            f"limit: plain write() by 2 threads of objects of {per_object} bytes",
        ],
    )


def ages_of(outcome: Outcome) -> list[float]:
    """Return each frame's age in milliseconds when its array was there."""
    return [age / 1e6 for age in outcome.consumed["ages_ns"]]


def _durability(kind: str, durability: str) -> str:
    if kind == "s3":
        return "durability process: what the S3 server promises"
    return f"durability {durability}" + (" (fsync)" if durability == "disk" else " (no fsync)")
