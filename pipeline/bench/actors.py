"""The two processes of a run: one publishes, one consumes and checks every byte."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.bench.children import Line, Usage, resident_nbytes
from pipeline.bench.images import Images, ImageSize
from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.publisher import Publisher
from pipeline.session import connect

DETECTOR, STREAM = "detector", "stream"
#: Samples of the resident memory of a run.
_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One stream to be published and consumed.

    Parameters
    ----------
    warm:
        Frames before the measurement begins: connections, buffers and caches are made by them.
    rate_hz:
        Frames per second; None: as fast as they are taken.
    report_every:
        The consumer tells each so many frames how far it is, for objects to be deleted.
    """

    settings: Settings
    beamtime: str
    size: ImageSize
    count: int
    warm: int = 16
    rate_hz: float | None = None
    durability: Literal["process", "disk"] = "process"
    report_every: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the frames that are measured."""
        return self.count * self.size.nbytes


def publish(line: Line, run: Run) -> None:
    """Publish the stream; says ``open``, ``warm``, ``done``."""
    images = Images(run.size)
    settings = replace(
        run.settings, publish=replace(run.settings.publish, durability=run.durability)
    )
    with connect(settings=settings) as session:
        out = session.publish(
            run.beamtime, DETECTOR, STREAM, rate_hz=run.rate_hz, frame_nbytes=run.size.nbytes
        )
        line.say("open", resident=resident_nbytes())
        line.wait()
        for number in range(run.warm):
            out.write(images.make(number))
        out.flush(60.0)
        line.say("warm")
        line.wait()
        usage = Usage()
        resident = _write(out, images, run)
        out.flush(120.0)
        line.say("done", resident=resident, **usage.facts())
        out.end()


def _write(out: Publisher, images: Images, run: Run) -> list[int]:
    resident = []
    every = max(1, run.count // _SAMPLES)
    begun_ns = time.monotonic_ns() + 1_000_000
    period_ns = 1e9 / run.rate_hz if run.rate_hz else 0.0
    for index in range(run.count):
        given_ns = None
        if period_ns:
            # The time when the frame was due: being late counts, whoever is to blame.
            given_ns = begun_ns + int(index * period_ns)
            ahead_ns = given_ns - time.monotonic_ns()
            if ahead_ns > 0:
                time.sleep(ahead_ns / 1e9)
        out.write(images.make(run.warm + index, given_ns))
        if index % every == 0:
            resident.append(resident_nbytes())
    return resident


def consume(line: Line, run: Run) -> None:
    """Consume the stream in order; says ``started``, ``ready``, ``warm``, ``at``, ``done``.

    ``ages_ns`` are the times from a frame's due time to its array, of a paced run.
    """
    images = Images(run.size)
    line.say("started")
    line.wait()
    with connect(settings=run.settings) as session:
        stream = session.stream(run.beamtime, DETECTOR, STREAM)
        frames = stream.ordered(start=0, timeout_s=60.0)
        line.say("ready", resident=resident_nbytes())
        last = run.warm + run.count - 1
        paced, report = run.rate_hz is not None, run.report_every
        every = max(1, run.count // _SAMPLES)
        ages_ns: list[int] = []
        resident: list[int] = []
        usage = Usage()
        for number, frame in enumerate(frames):
            if paced:
                frame.array  # noqa: B018 -- this is what is timed
                now_ns = time.monotonic_ns()
            given_ns = images.check(frame, number)
            if number < run.warm:
                if number == run.warm - 1:
                    line.say("warm")
                    usage = Usage()
                continue
            if paced:
                ages_ns.append(now_ns - given_ns)
            if report and number % report == 0:
                line.say("at", number=number)
            if number % every == 0:
                resident.append(resident_nbytes())
            if number == last:
                break
        if number != last or frames.missing or frames.late:
            raise PipelineError(f"frames were lost: {frames.missing}, late {frames.late}")
        line.say("done", ages_ns=ages_ns, resident=resident, **usage.facts())
        for _ in frames:
            raise PipelineError("there are more frames than were published")
