"""One frame among millions, and many by their attributes."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.bench.ground import Ground
from pipeline.bench.rows import Row, percentile, row
from pipeline.bench.synthetic import (
    FRAME_NBYTES,
    PER_SEGMENT,
    Pixels,
    publish_records,
)
from pipeline.errors import PipelineError
from pipeline.naming import StreamId
from pipeline.session import Session, connect
from pipeline.stream import Stream

_EXPRESSION = "omega > 357.5 and exposure == 3"


def at_random(ground: Ground, name: str) -> Row:
    """Measure ``frame(n).array`` at random numbers; 64 KiB of pixels each."""
    count = int(float(name.split(".")[1]))
    slots = 8192 if ground.quick else 32768
    runs, reads = (3, 200) if ground.quick else (5, 1000)
    highs: list[float] = []
    medians: list[float] = []
    limits: list[float] = []
    with ground.beamtime() as beamtime, connect(settings=ground.settings("file")) as session:
        stream_id = StreamId(beamtime, "detector", "stream")
        pixels = Pixels(
            services=session.services, bucket=session.services.names.bucket(beamtime), slots=slots
        )
        session.services.store.create_bucket(pixels.bucket)
        pixels.write()
        publish_records(session.services, stream_id, count, pixels)
        for seed in range(runs):
            numbers = random.Random(seed).choices(range(count), k=reads)  # noqa: S311 -- no secret
            times = _frames_ms(session, stream_id, numbers, slots)
            highs.append(percentile(times, 99))
            medians.append(percentile(times, 50))
            limits.append(percentile(_bare_ms(ground, session, stream_id, numbers, pixels), 50))
    return row(
        name,
        medians,
        limits,
        unit="ms",
        p50=median(medians),
        p99=median(highs),
        conditions=[
            f"frame(n).array of {reads} frames at random among {count}, a new Stream each run,"
            " its first read left out",
            f"{slots * FRAME_NBYTES / 1e9:.2g} GB of shared objects written with durability"
            " process, in the page cache",
            f"{PER_SEGMENT} frames a record, 8 partitions",
            "limit: assign, poll and pread where record and pixels are known to be",
        ],
    )


def _frames_ms(session: Session, name: StreamId, numbers: list[int], slots: int) -> list[float]:
    times = []
    stream = session.stream(name.beamtime, name.detector, name.stream)
    try:
        stream.frame(numbers[0]).array  # noqa: B018 -- connects
        for number in numbers:
            begun_ns = time.perf_counter_ns()
            array = stream.frame(number).array
            times.append((time.perf_counter_ns() - begun_ns) / 1e6)
            shown = int(array.reshape(-1).view(np.uint64)[0])
            if shown != number % slots:
                raise PipelineError(f"frame {number} shows slot {shown}")
    finally:
        stream.close()
    return times


def _bare_ms(
    ground: Ground, session: Session, name: StreamId, numbers: list[int], pixels: Pixels
) -> list[float]:
    from confluent_kafka import Consumer, TopicPartition

    services = session.services
    topic = services.names.topic(name.beamtime, name.detector)
    consumer = Consumer(
        {
            "bootstrap.servers": services.settings.kafka.bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 2,
            "queued.min.messages": 1,
            "max.partition.fetch.bytes": 128 * 1024,
        }
    )
    places = [_place(number, pixels) for number in numbers]
    times = []
    try:
        for place in (places[0], *places):
            begun_ns = time.perf_counter_ns()
            consumer.assign([TopicPartition(topic, place.partition, place.offset)])
            message = consumer.poll(10.0)
            if message is None or message.error() is not None:
                raise PipelineError(f"{topic}/{place.partition} has no record {place.offset}")
            _pread(ground.home / "store" / place.key, place.at)
            times.append((time.perf_counter_ns() - begun_ns) / 1e6)
    finally:
        consumer.close()
    return times[1:]


@dataclass(frozen=True, slots=True)
class _Place:
    partition: int
    offset: int
    key: str
    at: int


def _place(number: int, pixels: Pixels) -> _Place:
    segment, slot = number // PER_SEGMENT, number % pixels.slots
    # The claim's mark is the first record of each partition.
    return _Place(segment % 8, 1 + segment // 8, pixels.key(slot), pixels.offset(slot))


def _pread(path: Path, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, FRAME_NBYTES, offset)
    finally:
        os.close(descriptor)


def selecting(ground: Ground, name: str) -> Row:
    """Measure ``select`` by two attributes once the records are there."""
    count, runs = int(float(name.split(".")[1])), 5
    with ground.beamtime() as beamtime, connect(settings=ground.settings("file")) as session:
        stream_id = StreamId(beamtime, "detector", "stream")
        publish_records(session.services, stream_id, count, None)
        stream = session.stream(beamtime, "detector", "stream")
        try:
            begun = time.perf_counter()
            stream.table()
            fetched_s = time.perf_counter() - begun
            rates, limits, matching = _select(stream, count, runs)
            first_s = count / rates[0]
        finally:
            stream.close()
    return row(
        name,
        rates[1:],
        limits[1:],
        unit="frames/s",
        conditions=[
            f"select({_EXPRESSION!r}) to the last of {matching} matching frames among {count},"
            f" records fetched before ({fetched_s:.2f} s); the first select, which gathers the"
            f" columns and merges, took {first_s:.2f} s and is left out",
            "no payloads: durability and page cache do not matter",
            "limit: the same expression in numpy on plain columns",
        ],
    )


def _select(stream: Stream, count: int, runs: int) -> tuple[list[float], list[float], int]:
    numbers = np.arange(count)
    omega, exposure = numbers * 0.1 % 360.0, numbers % 7
    rates, limits, expected = [], [], -1
    for _ in range(runs + 1):
        begun = time.perf_counter()
        found = sum(1 for _ in stream.select(_EXPRESSION, follow=False))
        rates.append(count / (time.perf_counter() - begun))
        begun = time.perf_counter()
        expected = len(np.flatnonzero((omega > 357.5) & (exposure == 3)))
        limits.append(count / (time.perf_counter() - begun))
        if found != expected:
            raise PipelineError(f"select found {found} frames, there are {expected}")
    return rates, limits, expected
