"""One run of producer and consumer together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bench.actors import Run, consume, publish
from pipeline.bench.children import STEP_S, Child, Message
from pipeline.bench.ground import GB, HEAT_NBYTES, heat, prune


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What both processes said at the end, and the sizes of the objects that were made."""

    run: Run
    published: Message
    consumed: Message
    open: dict[str, Any]
    ready: dict[str, Any]
    objects: list[int]

    @property
    def elapsed_s(self) -> float:
        """From the first write to the last frame checked and the last acknowledgement."""
        done = max(self.published["done_s"], self.consumed["done_s"])
        return float(done - self.published["begun_s"])

    @property
    def rate_hz(self) -> float:
        """Frames per second."""
        return self.run.count / self.elapsed_s

    @property
    def mb_per_s(self) -> float:
        """Megabytes per second."""
        return self.run.nbytes / self.elapsed_s / 1e6


def through(run: Run, folder: Path) -> Outcome:
    """Publish and consume a stream whose objects lie in ``folder``."""
    with Child(publish, run) as producer, Child(consume, run) as consumer:
        opened = producer.hear("open")
        consumer.hear("started")
        consumer.go_on()
        ready = consumer.hear("ready")
        producer.go_on()
        producer.hear("warm")
        consumer.hear("warm")
        # Where objects are deleted as they are consumed, the same memory is used again and again.
        heat(folder.parent.parent, min(run.nbytes, GB if run.report_every else HEAT_NBYTES))
        producer.go_on()
        consumed = _consumed(consumer, folder)
        published = producer.hear("done")
        objects = [path.stat().st_size for path in folder.glob("*/*/*/*/[0-9]*")]
    return Outcome(
        run=run, published=published, consumed=consumed, open=opened, ready=ready, objects=objects
    )


def _consumed(consumer: Child, folder: Path) -> Message:
    while True:
        message = consumer.hear("at", "done", timeout_s=STEP_S)
        if message["step"] == "done":
            return message
        prune(folder, message["number"])
