"""Processor time and memory of the two processes."""

from __future__ import annotations

from statistics import median

from pipeline.bench.actors import Run
from pipeline.bench.bare import Objects, plain_write
from pipeline.bench.ground import GB, Ground
from pipeline.bench.images import SIZES
from pipeline.bench.rows import Row, row
from pipeline.bench.through import through
from pipeline.config import PublishSettings, ReadSettings


def publisher_cpu(ground: Ground, name: str) -> Row:
    """Measure the publisher's processor seconds per GB."""
    size, runs, volume = SIZES["1200kB"], 3 if ground.quick else 5, 1.0 if ground.quick else 4.0
    values: list[float] = []
    limits: list[float] = []
    for _ in range(runs):
        with ground.beamtime() as beamtime:
            run = Run(
                settings=ground.settings("file"),
                beamtime=beamtime,
                size=size,
                count=int(volume * GB / size.nbytes),
            )
            outcome = through(run, ground.folder(beamtime))
            values.append(outcome.published["cpu_s"] / run.nbytes * 1e9)
        with ground.scratch() as folder:
            limits.append(plain_write(Objects(sizes=outcome.objects, folder=folder))[1])
    return row(
        name,
        values,
        limits,
        unit="s/GB",
        conditions=[
            f"user and system time while {run.count} frames of 1.2 MB are published to file: flat"
            " out and consumed",
            "durability process (no fsync), page cache, whose memory was touched before each run",
            "limit: plain write() by 2 threads of the same objects",
        ],
    )


def memory(ground: Ground, name: str) -> Row:
    """Measure how much a publisher or a reader grows over a long run."""
    size, volume = SIZES["1200kB"], 4 if ground.quick else 30
    with ground.beamtime() as beamtime:
        run = Run(
            settings=ground.settings("file"),
            beamtime=beamtime,
            size=size,
            count=volume * GB // size.nbytes,
            report_every=500,
        )
        outcome = through(run, ground.folder(beamtime))
    if name.endswith("publisher"):
        before, samples = outcome.open["resident"], outcome.published["resident"]
        bound, setting = PublishSettings().queue_nbytes, "publish.queue_nbytes"
    else:
        before, samples = outcome.ready["resident"], outcome.consumed["resident"]
        bound, setting = ReadSettings().prefetch_nbytes, "read.prefetch_nbytes"
    quarter = len(samples) // 4
    quarters = [median(samples[i * quarter : (i + 1) * quarter]) / 1e6 for i in range(4)]
    shown = ", ".join(f"{value:.0f}" for value in quarters)
    return row(
        name,
        [(max(samples) - before) / 1e6],
        [bound / 1e6],
        unit="MB",
        conditions=[
            f"most resident memory above that at the start, {volume} GB of 1.2 MB frames flat out"
            " to file:, objects deleted when consumed",
            "durability process (no fsync), page cache",
            f"resident in the four quarters of the run: {shown} MB",
            f"limit: the setting {setting}",
        ],
    )
