"""The same steps by bare calls: an object, a record that names it, the object read again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.bare import bare_client
from pipeline.bench.children import STEP_S, Child, Line
from pipeline.bench.ground import Ground
from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.kafka.admin import Admin
from pipeline.naming import Names

_RATE_HZ = 200.0
_COUNT = 400
#: The first ones make connections and are not counted.
_WARM = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Objects of one size from process to process, announced on a topic."""

    settings: Settings
    folder: Path
    topic: str
    nbytes: int


def send(line: Line, relay: Relay) -> None:
    """Write and announce objects at a steady rate; says ``ready``, ``done``."""
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": relay.settings.kafka.bootstrap, "acks": "all", "linger.ms": 0}
    )
    data = np.random.default_rng(0).bytes(relay.nbytes)
    put = _putter(relay)
    line.say("ready")
    line.wait()
    begun_ns = time.monotonic_ns()
    for index in range(_COUNT):
        due_ns = begun_ns + int(index * 1e9 / _RATE_HZ)
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        put(f"{index}", data)
        producer.produce(relay.topic, f"{index} {due_ns}".encode(), partition=0)
        producer.poll(0)
    left = producer.flush(STEP_S)
    line.say("done" if not left else "failed", text=f"{left} records left")


def receive(line: Line, relay: Relay) -> None:
    """Read each object when its record comes; says ``ready``, ``done`` with the ages."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": relay.settings.kafka.bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 2,
        }
    )
    get = _getter(relay)
    ages_ns: list[int] = []
    try:
        consumer.assign([TopicPartition(relay.topic, 0, 0)])
        line.say("ready")
        while len(ages_ns) < _COUNT:
            message = consumer.poll(STEP_S)
            if message is None or message.error() is not None:
                raise PipelineError("no record came")
            name, due_ns = message.value().decode().split()
            if len(get(name)) != relay.nbytes:
                raise PipelineError(f"object {name} was cut short")
            ages_ns.append(time.monotonic_ns() - int(due_ns))
    finally:
        consumer.close()
    line.say("done", ages_ns=ages_ns[_WARM:])


def relay_ms(ground: Ground, settings: Settings, beamtime: str, nbytes: int) -> list[float]:
    """Return the ages in milliseconds; topic and objects go with the beamtime."""
    folder = ground.folder(beamtime)
    admin = Admin(settings.kafka)
    try:
        admin.create_beamtime(beamtime, "bare", partitions=1)
    finally:
        admin.close()
    relay = Relay(
        settings=settings,
        folder=folder,
        topic=Names().topic(beamtime, "bare"),
        nbytes=nbytes,
    )
    with Child(send, relay) as sender, Child(receive, relay) as receiver:
        sender.hear("ready")
        receiver.hear("ready")
        sender.go_on()
        ages = receiver.hear("done")["ages_ns"]
        sender.hear("done")
    return [age / 1e6 for age in ages]


def _putter(relay: Relay) -> Callable[[str, bytes], Any]:
    if relay.settings.store.url.startswith("s3:"):
        import obstore

        client = bare_client(relay.settings, relay.folder.name)
        return lambda name, data: obstore.put(client, f"bare/{name}", data, use_multipart=False)
    return lambda name, data: (relay.folder / f"bare-{name}").write_bytes(data)


def _getter(relay: Relay) -> Callable[[str], Any]:
    if relay.settings.store.url.startswith("s3:"):
        import obstore

        client = bare_client(relay.settings, relay.folder.name)
        return lambda name: obstore.get(client, f"bare/{name}").bytes()
    return lambda name: (relay.folder / f"bare-{name}").read_bytes()
