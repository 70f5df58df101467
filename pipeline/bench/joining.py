"""Reading frames with the values of six channels joined, and without."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from pipeline.bench.ground import Ground
from pipeline.bench.images import SIZES, ImageSize
from pipeline.bench.rows import Row, row
from pipeline.errors import PipelineError
from pipeline.session import Session, connect

#: Joined by time, the first by linear interpolation; the last by a trigger index.
CHANNELS = ("motors", "ring", "shutter", "cryo", "flux", "scan")
_RATE_HZ = 1000
#: A value for so many frames.
_EVERY = 100
_T0 = 1_795_000_000_000_000_000


def joined(ground: Ground, name: str) -> Row:
    """Measure ``ordered`` over an ended stream: frames per second with six channels."""
    size, runs = SIZES[name.split(".")[1]], 5 if ground.quick else 9
    count = int((1.2e9 if ground.quick else 4e9) / size.nbytes)
    rates: list[float] = []
    plain: list[float] = []
    shares: list[float] = []
    with ground.beamtime() as beamtime, connect(settings=ground.settings("file")) as session:
        _publish(session, beamtime, size, count)
        _read(session, beamtime, count, with_values=False)  # connects, and fills the page cache
        for _ in range(runs):
            bare_hz, bare_s = _read(session, beamtime, count, with_values=False)
            with_hz, with_s = _read(session, beamtime, count, with_values=True)
            plain.append(bare_hz)
            rates.append(with_hz)
            shares.append(with_s / bare_s)
    return row(
        name,
        rates,
        plain,
        unit="frames/s",
        conditions=[
            f"{count} frames of {size.nbytes} bytes, every payload checked and the attributes of"
            " every frame read",
            f"{len(CHANNELS)} channels of a value for {_EVERY} frames, each value a record; one is"
            " joined on a line, one by trigger, four by step",
            "objects in the page cache, durability process",
            f"processor time of the reader {median(shares):.3f} times that without",
            "limit: the same without joins, interleaved",
        ],
    )


def _publish(session: Session, beamtime: str, size: ImageSize, count: int) -> None:
    step_ns = 10**9 // _RATE_HZ
    image = np.random.default_rng(1).integers(0, 200, (size.rows, size.columns), np.uint16)
    with session.publish(beamtime, "cam", "s", rate_hz=_RATE_HZ) as out:
        for number in range(count):
            attributes = {"trigger": number}
            out.write(image, timestamp_ns=_T0 + number * step_ns, attributes=attributes)
    for channel in CHANNELS:
        with session.publish_values(beamtime, channel, "s", frames_per_chunk=1) as values:
            for number in range(0, count + _EVERY, _EVERY):
                stamp = _T0 + number * step_ns
                if channel == "scan":
                    values.put(stamp, trigger=number, scan=float(number))
                else:
                    values.put_all({channel: float(number)}, stamp)


def _read(session: Session, beamtime: str, count: int, *, with_values: bool) -> tuple[float, float]:
    """Return frames per second, and the processor time that it took."""
    begun, cpu = 0.0, 0.0
    with session.stream(beamtime, "cam", "s") as stream:
        frames: Any = stream
        if with_values:
            for channel in CHANNELS:
                how: Any = "linear" if channel == "motors" else "step"
                frames = frames.join(
                    channel, how=how, on="trigger" if channel == "scan" else "time"
                )
        seen = 0
        total = 0.0
        for frame in frames.ordered(timeout_s=60.0):
            if not seen:  # what comes before is connecting
                begun, cpu = time.perf_counter(), time.process_time()
            seen += frame.payload.nbytes > 0
            found = frame.attributes
            total += found["trigger"] + (found["scan"] if with_values else 0)
        elapsed, used = time.perf_counter() - begun, time.process_time() - cpu
    if seen != count:
        raise PipelineError(f"{seen} frames were read of {count}")
    if with_values and total != sum(n + n // _EVERY * _EVERY for n in range(count)):
        raise PipelineError("frames had values of others")
    return count / elapsed, used
