"""Whole instruments: simulator, adapter and reader, each a process, at the detector's own rate."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.bench.bare import Objects, plain_write
from pipeline.bench.children import STEP_S, Child, Line, Message, Usage
from pipeline.bench.ground import GB, HEAT_NBYTES, Ground, heat
from pipeline.bench.rows import Row, row
from pipeline.config import Settings
from pipeline.errors import PipelineError, StreamNotFoundError

_DETECTOR, _STREAM = "detector", "stream"
#: Bytes of one run: (full, quick).
_VOLUME = (4 * GB, GB)
#: How long the adapter has to find its source before the simulator begins.
_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One detector of the table, and how its stand-in is set.

    Parameters
    ----------
    adapter, simulator:
        ``module:Class``.
    source, device:
        Their settings, given a folder and free ports.
    rate_hz:
        What the detector does; the simulator keeps to it.
    frame_nbytes:
        Of one frame with all its modules as it is published, about: it says how many frames a run
        has.
    """

    adapter: str
    simulator: str
    source: Callable[[Path, list[int]], dict[str, Any]]
    device: Callable[[Path, list[int]], dict[str, Any]]
    rate_hz: float
    frame_nbytes: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process of the run does."""

    settings: Settings
    beamtime: str
    target: str
    options: Mapping[str, Any]
    count: int
    rate_hz: float = 0.0


def adapt(line: Line, job: Job) -> None:
    """Publish what the adapter gives; says ``ready``, ``done`` with its usage and report."""
    from pipeline.ingest import run
    from pipeline.session import connect

    adapter = _load(job.target)(**job.options)
    with connect(settings=job.settings) as session:
        usage = Usage()
        line.say("ready")
        try:
            report = run(
                session,
                adapter,
                beamtime=job.beamtime,
                detector=_DETECTOR,
                stream=_STREAM,
                streams=1,
                idle_end_s=5.0,
                hole_wait_s=0.1,  # some count from 1: readers would wait for 0
            )
        finally:
            adapter.close()
    line.say("done", frames=report.confirmed, nbytes=report.nbytes, **usage.facts())


def simulate(line: Line, job: Job) -> None:
    """Be the device; says ``ready``, ``done`` with when it began."""
    simulator = _load(job.target)(**job.options, frames=job.count, rate_hz=job.rate_hz)
    first: list[float] = []

    def begun(_number: int) -> None:
        if not first:
            first.append(time.monotonic())

    line.say("ready")
    line.wait()
    usage = Usage()
    made = simulator.run(None, begun)
    line.say("done", made=made, first_s=first[0], **usage.facts())


def follow(line: Line, job: Job) -> None:
    """Read every frame's bytes in order, checked; says ``done`` with the last one's time."""
    from pipeline.session import connect

    with connect(settings=job.settings) as session:
        line.say("ready")
        stream = _awaited(session, job.beamtime)
        frames = stream.ordered(timeout_s=STEP_S)
        usage = Usage()
        numbers: set[int] = set()
        for frame in frames:
            frame.payload  # noqa: B018 -- fetched and checked
            numbers.add(frame.number)
            if len(numbers) >= job.count:
                break
        line.say("done", frames=len(numbers), missing=list(frames.missing), **usage.facts())


def _awaited(session: Any, beamtime: str) -> Any:
    deadline_s = time.monotonic() + STEP_S
    while True:
        try:
            return session.stream(beamtime, _DETECTOR, _STREAM)
        except (StreamNotFoundError, PipelineError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def whole(ground: Ground, name: str) -> Row:
    """Measure one instrument end to end: the share of its own rate that is held."""
    instrument = INSTRUMENTS[name.partition(".")[2]]
    runs = 1 if ground.quick else 3
    outcomes = [_through(ground, instrument) for _ in range(runs)]
    limits = [outcome.write_hz for outcome in outcomes]
    share = median(outcome.rate_hz for outcome in outcomes) / instrument.rate_hz
    return row(
        name,
        [outcome.rate_hz for outcome in outcomes],
        limits,
        unit="frames/s",
        conditions=[
            instrument.what,
            f"detector's rate {instrument.rate_hz:g} Hz, held {share:.2f} of it",
            f"{outcomes[0].frames} frames, {median(o.mb_per_s for o in outcomes):.0f} MB/s,"
            " simulator to adapter to broker and file: store to reader, none lost, every byte"
            " checked; one process each",
            "processor s per GB: "
            + ", ".join(
                f"{part} {median(o.cpu_s_per_gb(part) for o in outcomes):.2f}"
                for part in ("simulator", "adapter", "reader")
            ),
            "durability process (no fsync), page cache",
            "limit: plain write() by 2 threads of as many frames' bytes",
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    simulator: Message
    adapter: Message
    reader: Message
    write_hz: float

    @property
    def frames(self) -> int:
        return int(self.reader["frames"])

    @property
    def elapsed_s(self) -> float:
        """From the first frame made to the last one read and confirmed."""
        return float(max(self.reader["done_s"], self.adapter["done_s"]) - self.simulator["first_s"])

    @property
    def rate_hz(self) -> float:
        return self.frames / float(self.reader["done_s"] - self.simulator["first_s"])

    @property
    def mb_per_s(self) -> float:
        return float(self.adapter["nbytes"]) / self.frames * self.rate_hz / 1e6

    def cpu_s_per_gb(self, part: str) -> float:
        message: Message = getattr(self, part)
        return float(message["cpu_s"]) / float(self.adapter["nbytes"]) * GB


def _through(ground: Ground, instrument: Instrument) -> _Outcome:
    count = max(20, int(_VOLUME[ground.quick] / instrument.frame_nbytes))
    with ground.beamtime() as beamtime, ground.scratch() as scratch:
        # as much again is written by the simulator of files
        heat(scratch, min(2 * HEAT_NBYTES, 2 * count * instrument.frame_nbytes))
        ports = free_ports(8)
        watched = scratch / "source"
        watched.mkdir()

        def job(target: str, options: Mapping[str, Any], rate_hz: float = 0.0) -> Job:
            return Job(
                settings=ground.settings("file"),
                beamtime=beamtime,
                target=target,
                options=options,
                count=count,
                rate_hz=rate_hz,
            )

        device = job(
            instrument.simulator, instrument.device(watched, ports), rate_hz=instrument.rate_hz
        )
        source = job(instrument.adapter, instrument.source(watched, ports))
        with (
            Child(simulate, device) as simulator,
            Child(adapt, source) as adapter,
            Child(follow, source) as reader,
        ):
            for child in (simulator, adapter, reader):
                child.hear("ready")
            time.sleep(_SETTLE_S)
            simulator.go_on()
            made = simulator.hear("done", timeout_s=2 * STEP_S)
            read = reader.hear("done")
            published = adapter.hear("done")
        if read["frames"] != count or read["missing"]:
            raise PipelineError(f"{count - read['frames']} of {count} frames were lost")
        nbytes = int(published["nbytes"] / count)
        with ground.scratch() as folder:
            sizes = [nbytes] * min(count, int(2 * GB / nbytes))
            written = plain_write(Objects(sizes=sizes, folder=folder))[0]
        return _Outcome(
            simulator=made, adapter=published, reader=read, write_hz=written * 1e6 / nbytes
        )


def _pilatus(model: str, file_format: str, rate_hz: float, nbytes: int, what: str) -> Instrument:
    return Instrument(
        adapter="pipeline.detectors.pilatus.adapter:PilatusAdapter",
        simulator="pipeline.detectors.pilatus.sim:PilatusSimulator",
        source=lambda folder, _: {"watch": str(folder)},
        device=lambda folder, _: {"directory": folder, "model": model, "file_format": file_format},
        rate_hz=rate_hz,
        frame_nbytes=nbytes,
        what=what,
    )


def _eiger(stream_format: str, what: str) -> Instrument:
    return Instrument(
        adapter="pipeline.detectors.eiger.adapter:EigerAdapter",
        simulator="pipeline.detectors.eiger.sim:EigerSimulator",
        source=lambda _, ports: {"stream_endpoint": f"tcp://127.0.0.1:{ports[0]}"},
        device=lambda _, ports: {
            "stream_port": ports[0],
            "stream_format": stream_format,
            "shape": (514, 1030),
            "mean": 5.0,  # 296 kB
            # the control unit's memory holds seconds of data for a reader that is late
            "queue": 8000,
        },
        rate_hz=2000,
        frame_nbytes=296_000,
        what=what,
    )


def _files(
    name: str, module: str, shape: tuple[int, int], rate_hz: float, nbytes: int, what: str
) -> Instrument:
    """Return a camera whose stand-in writes TIFF files."""
    return Instrument(
        adapter=f"pipeline.detectors.{module}.adapter:{name}Adapter",
        simulator=f"pipeline.detectors.{module}.sim:{name}Simulator",
        source=lambda folder, _: {"watch": str(folder), "idle_end_s": 5.0},
        device=lambda folder, _: {"directory": folder, "shape": shape},
        rate_hz=rate_hz,
        frame_nbytes=nbytes,
        what=what,
    )


_LAMBDA = Instrument(
    adapter="pipeline.detectors.lambda_xs.adapter:LambdaAdapter",
    simulator="pipeline.detectors.lambda_xs.sim:LambdaSimulator",
    source=lambda _, ports: {"endpoint": f"http://127.0.0.1:{ports[0]}", "queue": 4000},
    device=lambda _, ports: {"port": ports[0], "queue": 4000},
    rate_hz=60,
    frame_nbytes=3 * 512 * 1536 * 2,
    # the detector has 2000: that takes more machines than one
    what="Lambda at 60 Hz, 3 modules of 512 x 1536, 12 bit, not compressed, in one process",
)
_AREADETECTOR = Instrument(
    adapter="pipeline.detectors.areadetector.adapter:AreaDetectorAdapter",
    simulator="pipeline.detectors.areadetector.sim:AreaDetectorSimulator",
    source=lambda _, ports: {
        "channel": "SIM:Pva1:Image",
        "address": f"127.0.0.1:{ports[0]}",
    },
    device=lambda _, ports: {"port": ports[0], "stamped": False, "wait_s": 20.0},
    rate_hz=200,
    frame_nbytes=1_200_000,
    what="areaDetector, NTNDArray of 600 x 1000 uint16 over PV Access",
)
_HIDRA = Instrument(
    adapter="pipeline.detectors.hidra.adapter:HidraAdapter",
    simulator="pipeline.detectors.hidra.sim:HidraSimulator",
    source=lambda _, ports: {
        "endpoint": "127.0.0.1",
        "signal_port": ports[0],
        "data_port": ports[1],
        "receive_host": "127.0.0.1",
        "bind": "127.0.0.1",
    },
    device=lambda _, ports: {"signal_port": ports[0], "stamped": False, "wait_s": 20.0},
    rate_hz=208,
    frame_nbytes=2_400_000,
    what="HiDRA, TIFF files of 2.4 MB, 500 MB/s",
)

INSTRUMENTS: Mapping[str, Instrument] = {
    "pilatus300k.tif": _pilatus("300k", "tif", 200, 1_209_908, "Pilatus 300k, TIFF files"),
    "pilatus6M.tif": _pilatus("6M", "tif", 25, 24_900_100, "Pilatus 6M, TIFF files"),
    "eiger.stream1": _eiger("legacy", "Eiger 500K, stream V1, bslz4"),
    "eiger.stream2": _eiger("cbor", "Eiger 500K, stream V2, bslz4"),
    "lambda.3modules": _LAMBDA,
    "areadetector": _AREADETECTOR,
    "hidra": _HIDRA,
    "pco.tif": _files("Pco", "pco", (2048, 2048), 100, 8_406_200, "PCO edge 4.2, TIFF files"),
    "perkinelmer.tif": _files(
        "PerkinElmer",
        "perkinelmer",
        (2048, 2048),
        15,
        16_778_000,
        "PerkinElmer, float TIFF files with sidecars",
    ),
    "pilatus6M.cbf": _pilatus("6M", "cbf", 100, 6_300_000, "Pilatus 6M, CBF files"),
}
