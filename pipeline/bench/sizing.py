"""From what a frame and a gigabyte cost to brokers, gateways, partitions and workers.

The costs are processor seconds measured on two cores of an AMD EPYC (docs/performance.md,
2026-11-23, nothing else running); docs/sizing.md tells how each was got.  ``check`` holds the same
arithmetic against a bench's own figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import InvalidArgumentError

GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Processor seconds: per GB of payload, and per frame in microseconds.

    ``gateway_core_share``: how much of a machine's cores may be busy before latency suffers.
    """

    publish_s_per_gb: float = 0.71
    publish_us_per_frame: float = 10.0
    s3_put_client_s_per_gb: float = 0.33
    s3_put_gateway_s_per_gb: float = 2.7
    s3_get_client_s_per_gb: float = 0.55
    s3_get_gateway_s_per_gb: float = 0.32
    read_s_per_gb: float = 0.35
    read_us_per_frame: float = 6.0
    runner_us_per_frame: float = 12.8
    runner_us_per_segment: float = 50.0
    sink_s_per_gb: float = 0.75
    broker_us_per_record: float = 75.0
    #: An idle member of a group fetches five times a second and beats its heart three times.
    broker_us_per_request: float = 40.0
    requests_per_member_s: float = 8.3
    #: Records of 900 B and their columns, three times on disks.
    record_nbytes: float = 900.0


#: One process of Python: what it does outside numpy, the store and CRC is one thread's.
_PROCESS_CORES = 1.2
#: Of a machine's processors and of its network this much is planned with.
_SHARE = 0.7
_SEGMENT_NBYTES = 8 << 20
_LINGER_S = 0.005
_LEAST_BROKERS = 3
_LEAST_GATEWAYS = 2
_LEAST_PARTITIONS = 8
_RUNNER_PROCESSES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be carried.

    Parameters
    ----------
    rate_gb_per_s:
        Payload of all detectors together, 10^9 bytes a second.
    frame_mb:
        Payload of one frame, 10^6 bytes.
    workers, work_s:
        Worker processes, and how long their function takes for one frame.
    readers, sinks:
        How often everything is read beside the workers, and written into files.
    store:
        ``s3`` or ``file``: which way payloads go.
    cores, link_gb_per_s:
        Of a machine that runs gateways, publishers or workers: processors, and its network.
    """

    rate_gb_per_s: float
    frame_mb: float
    workers: int = 0
    work_s: float = 0.0
    readers: int = 0
    sinks: int = 1
    store: str = "s3"
    cores: int = 32
    link_gb_per_s: float = 12.5

    def __post_init__(self) -> None:
        for name in ("rate_gb_per_s", "frame_mb", "cores", "link_gb_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgumentError(name, f"{getattr(self, name)} must be above 0")
        for name in ("workers", "work_s", "readers", "sinks"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidArgumentError(name, f"{getattr(self, name)} must not be negative")
        if self.store not in {"s3", "file"}:
            raise InvalidArgumentError("store", f"{self.store!r} is neither 's3' nor 'file'")

    @property
    def frames_per_s(self) -> float:
        """Frames a second of all detectors together."""
        return self.rate_gb_per_s * 1000 / self.frame_mb

    @property
    def segment_frames(self) -> float:
        """Frames in a segment: as many as fit, and as many as come while it lingers."""
        fit = _SEGMENT_NBYTES / (self.frame_mb * 1e6)
        return max(1.0, math.floor(min(fit, 1 + self.frames_per_s * _LINGER_S)))


def size(wanted: Wanted, costs: Costs | None = None) -> dict[str, Any]:
    """Return how much of everything it takes, and the figures on the way there."""
    costs = costs or Costs()
    frames, rate = wanted.frames_per_s, wanted.rate_gb_per_s
    records = frames / wanted.segment_frames
    over_s3 = wanted.store == "s3"
    copies = wanted.readers + wanted.sinks + (1 if wanted.workers else 0)
    publish = rate * (costs.publish_s_per_gb + over_s3 * costs.s3_put_client_s_per_gb) + frames * (
        costs.publish_us_per_frame / 1e6
    )
    gateway = over_s3 * (
        rate * costs.s3_put_gateway_s_per_gb + rate * copies * costs.s3_get_gateway_s_per_gb
    )
    fetch = rate * (costs.read_s_per_gb + over_s3 * costs.s3_get_client_s_per_gb)
    fetch += frames * costs.read_us_per_frame / 1e6
    runner = (frames * costs.runner_us_per_frame + records * costs.runner_us_per_segment) / 1e6
    runners = math.ceil(
        max(wanted.workers / _RUNNER_PROCESSES, runner / _SHARE) if wanted.workers else 0
    )
    members = runners + wanted.sinks
    broker = (1 + copies) * records * costs.broker_us_per_record / 1e6
    broker += members * costs.requests_per_member_s * costs.broker_us_per_request / 1e6
    link_gbs = rate * (1 + copies)
    gateways = max(gateway / (wanted.cores * _SHARE), link_gbs / (wanted.link_gb_per_s * _SHARE))
    return {
        "frames_per_s": frames,
        "segments_per_s": records,
        "publisher_cores": publish,
        "publisher_processes": math.ceil(publish / (_PROCESS_CORES * _SHARE)),
        "gateway_cores": gateway,
        "gateway_gb_per_s": link_gbs if over_s3 else 0.0,
        "gateways": max(_LEAST_GATEWAYS, math.ceil(gateways)) if over_s3 else 0,
        "broker_cores": broker,
        "broker_gb_per_day": records * costs.record_nbytes * _LEAST_BROKERS * 86400 / GB,
        "brokers": max(_LEAST_BROKERS, math.ceil(broker / (4 * _SHARE))),
        "partitions": _power_of_two(max(_LEAST_PARTITIONS, 2 * runners)),
        "runners": runners,
        "worker_fetch_cores": fetch + runner if wanted.workers else 0.0,
        "workers_needed": math.ceil(frames * wanted.work_s / 0.9) if wanted.workers else 0,
        "workers_carry_frames_per_s": (
            0.9 * wanted.workers / wanted.work_s if wanted.work_s and wanted.workers else None
        ),
        "sink_writers": math.ceil(
            wanted.sinks
            * rate
            * (costs.sink_s_per_gb + over_s3 * costs.s3_get_client_s_per_gb)
            / (_PROCESS_CORES * _SHARE)
        ),
        "store_tb_per_day": rate * 86.4,
        "wanted": asdict(wanted),
        "costs": asdict(costs),
    }


def _power_of_two(least: float) -> int:
    return 1 << max(0, math.ceil(math.log2(least)))


def predicted(row: str, *, cores: int, costs: Costs | None = None) -> float | None:
    """Return what a bench row should come to on so many cores; None for rows it says nothing of.

    All processes of a row share the machine, so a rate is its cores divided by the sum of costs.
    """
    costs = costs or Costs()
    write, read = costs.publish_s_per_gb, costs.read_s_per_gb
    each_us = costs.publish_us_per_frame + costs.read_us_per_frame
    over_s3 = (
        costs.s3_put_client_s_per_gb
        + costs.s3_put_gateway_s_per_gb
        + costs.s3_get_client_s_per_gb
        + costs.s3_get_gateway_s_per_gb
    )

    def frames_per_s(nbytes: int, per_gb: float, per_frame_us: float) -> float:
        return cores / (nbytes / GB * per_gb + per_frame_us / 1e6)

    runner_us = costs.runner_us_per_frame + costs.read_us_per_frame
    rates: Mapping[str, float] = {
        "publish.file.1200kB": 1.2 * frames_per_s(1_200_000, write + read, each_us),
        "publish.s3.1200kB": 1.2 * frames_per_s(1_200_000, write + read + over_s3, each_us),
        "publish.file.64KiB": frames_per_s(65536, write + read, each_us),
        "publish.file.4KiB": frames_per_s(4096, write + read, each_us),
        "cpu.publisher.1200kB": write + costs.publish_us_per_frame / 1e6 / 1.2e-3,
        "sink.through.1200kB": frames_per_s(1_200_000, costs.sink_s_per_gb, 0.0),
        "worker.64KiB": frames_per_s(65536, read, runner_us),
        "worker.1200kB": frames_per_s(1_200_000, read, runner_us + costs.runner_us_per_segment),
        "worker.balance": 2000 * 0.3 / 40 / 0.9,
    }
    return rates.get(row)


def check(rows: Sequence[Mapping[str, Any]], *, cores: int) -> list[dict[str, Any]]:
    """Compare with the rows of ``bench --json``: predicted, measured, and the one by the other."""
    found = []
    for row in rows:
        expected = predicted(str(row["id"]), cores=cores)
        if expected is None or not row.get("value"):
            continue
        measured = float(row["value"])
        found.append(
            {"id": row["id"], "predicted": expected, "measured": measured}
            | {"ratio": expected / measured}
        )
    return found
