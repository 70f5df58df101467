"""A stream in memory with holes, attributes of all kinds, and objects of several frames."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.blobs.memory import MemoryStore
from pipeline.config import ReadSettings
from pipeline.naming import StreamId
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

NAME = StreamId("test", "detector", "scan_1")
START_NS = 1_700_000_000_123_456_789
METADATA: dict[str, Any] = {
    "wavelength_A": 0.9793,
    "distance_m": 0.2,
    "beam_center_x": 5.5,
    "beam_center_y": 6.25,
    "pixel_size_m": 172e-6,
    "sensor_material": "Silicon",
    "sensor_thickness_m": 0.00032,
    "exposure_s": 0.004,
    "frame_time_s": 0.005,
    "start_angle_deg": 10.0,
    "angle_increment_deg": 0.1,
    "saturation_value": 1048500,
    "detector_description": "PILATUS 300K",
    "sample": "lysozyme",
    "a/b": [1, 2],
}
_stores = itertools.count()


class CountingStore(MemoryStore):
    """Remembers what was read: key, offset, length."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reads: list[tuple[str, int, int]] = []

    def get(self, key: str, offset: int, length: int) -> memoryview:
        self.reads.append((key, offset, length))
        return super().get(key, offset, length)

    @property
    def nbytes(self) -> int:
        return sum(length for _, _, length in self.reads)


class Bench:
    """A log, a store and a stream over them; eight frames share a record and an object."""

    def __init__(self, *, store: Any = None, **start: Any) -> None:
        self.log = MemoryLog(make_start(frames_per_chunk=8, **start))
        self.store = store or CountingStore(f"h5view-{next(_stores)}")
        self.store.create_bucket("b")
        read = ReadSettings(prefetch_nbytes=1 << 20, threads=2)
        self.stream = Stream(self.log, self.store, name=NAME, read=read)
        self._objects = itertools.count()

    def write(
        self,
        numbers: Sequence[int],
        images: Sequence[Any],
        *,
        payloads: Sequence[bytes] | None = None,
        stored: bool = True,
        attributes: Sequence[Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> None:
        """Publish frames; ``payloads`` where they are not the raw pixels."""
        data = payloads or [image.tobytes() for image in images]
        for _, group in itertools.groupby(range(len(numbers)), lambda i: numbers[i] // 8):
            rows = list(group)
            key = f"b/o%2F{next(self._objects)}" if stored else ""
            if stored:
                self.store.put(key, [data[i] for i in rows], durability="process")
            self.log.write(
                [numbers[i] for i in rows],
                payloads=[data[i] for i in rows],
                shape=images[0].shape,
                dtype=images[0].dtype.name,
                blob=key,
                attributes=[attributes[i] for i in rows] if attributes else None,
                timestamps_ns=[START_NS + numbers[i] * 5_000_000 for i in rows],
                **fields,
            )

    def finish(self) -> None:
        for module in self.log.start.module_indices:
            self.log.mark("closing", floor=10**6, ceil=-1, module=module)
        self.log.end()


def image(number: int, shape: tuple[int, ...] = (6, 5), dtype: str = "int32") -> Any:
    pixels = np.random.default_rng(number).integers(0, 100, shape)
    return pixels.astype(dtype)


def attributes_of(number: int) -> dict[str, Any]:
    """Attributes of each kind, some of them not of every frame."""
    said: dict[str, Any] = {"omega": 0.1 * number, "counter": number, "file": f"é_{number}.cbf"}
    if number % 2:
        said |= {"shutter": True, "mixed": number}
    elif number % 3:
        said |= {"mixed": 0.5, "nested": {"a": [1, None]}, "nothing": None}
    return said
