"""Whole streams as lazy arrays and as blocks of frames: what a task carries, and what it reads."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.blobs.file import FileStore
from pipeline.config import ReadSettings
from pipeline.errors import (
    DecodeError,
    InvalidArgumentError,
    PipelineError,
    StreamOpenError,
)
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.reading.lazy import MAX_POSITIONS
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")
SHAPE = (2, 3)


class CountingStore(FileStore):
    """Knows how many bytes were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[int] = []

    def get(self, key: str, offset: int, length: int) -> memoryview:
        self.read.append(length)
        return super().get(key, offset, length)


class Bench:
    def __init__(self, root: Path, *, frames_per_chunk: int = 8, **start: Any) -> None:
        self.log = MemoryLog(make_start(frames_per_chunk=frames_per_chunk, **start))
        self.store = CountingStore(root)
        self.store.create_bucket("b")
        self.stream = Stream(
            self.log, self.store, name=StreamId("t", "d", "s"), read=ReadSettings(threads=1)
        )

    def write(self, numbers: list[int], *, inline: bool = False, **fields: Any) -> None:
        """Write one record, within a chunk; each pixel is its frame's number."""
        payloads = [image(n).tobytes() for n in numbers]
        key = "" if inline else f"b/{numbers[0]}-{fields.get('module', 0)}"
        if key:
            self.store.put(key, payloads, durability="process")
        self.log.write(numbers, payloads=payloads, shape=SHAPE, dtype="uint16", blob=key, **fields)

    def end(self) -> None:
        self.log.end()


def image(number: int) -> Any:
    return np.full(SHAPE, number % 65536, np.uint16)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), **options))
        return made[-1]

    yield build
    for bench in made:
        bench.stream.close()


def compute(array: Any) -> Any:
    return array.compute(scheduler="synchronous")


def summary(frames: Any, offset: int = 0) -> Any:
    return [(f.number, f.attributes.get("omega"), int(f.array[0, 0]) + offset) for f in frames]


def test_blocks_begin_where_chunks_of_the_partitions_do(make: Any) -> None:
    bench = make(partitions=2, frames_per_chunk=4)
    for numbers in ([6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [16]):
        bench.write(numbers)
    bench.end()
    assert bench.stream.array(frames_per_block=4).chunks[0] == (2, 4, 4, 1)
    assert bench.stream.array().chunks == ((11,), (2,), (3,))
    assert bench.stream.numbers().tolist() == list(range(6, 17))
    with pytest.raises(InvalidArgumentError, match="frames_per_block"):
        bench.stream.array(frames_per_block=0)


@pytest.mark.parametrize(("nbytes", "frames"), [(1 << 20, 32), (8 << 20, 4), (6 << 20, 4)])
def test_a_block_is_whole_chunks_or_an_even_part_of_one(
    make: Any, nbytes: int, frames: int
) -> None:
    from pipeline.reading.lazy import FramePositions

    bench = make(frames_per_chunk=16)
    bench.write([0])
    bench.end()
    with bench.stream._positions(False) as positions:
        assert isinstance(positions, FramePositions)
        assert positions.block_frames(nbytes) == frames
        assert positions.block_frames(1 << 40) == 1


def test_only_the_frames_that_are_asked_for_are_read(make: Any) -> None:
    bench = make(frames_per_chunk=4)
    for first in range(0, 40, 4):
        bench.write(list(range(first, first + 4)))
    bench.end()
    array = bench.stream.array(frames_per_block=20)
    bench.store.read.clear()
    assert (compute(array[21]) == image(21)).all()
    assert sum(bench.store.read) == image(0).nbytes
    assert compute(array[3:30:9, 0, 1:]).tolist() == [[3, 3], [12, 12], [21, 21]]
    assert compute(array[[5, 33, 5, 7], 1, 2]).tolist() == [5, 33, 5, 7]


def test_what_did_not_come_is_the_sentinel_or_masked(make: Any) -> None:
    bench = make()
    bench.write([3, 4])
    bench.write([6])
    bench.end()
    assert compute(bench.stream.array()[:, 0, 0]).tolist() == [3, 4, 65535, 6]
    masked = compute(bench.stream.array(masked=True)[:, 0, 0])
    assert np.ma.is_masked(masked)
    assert masked.tolist() == [3, 4, None, 6]
    means = bench.stream.array(masked=True, frames_per_block=2).mean(axis=(1, 2))
    assert compute(means).tolist() == [3.0, 4.0, None, 6.0]


def test_a_frame_that_lacks_modules_did_not_come(make: Any) -> None:
    modules = (
        Module(index=0, shape=SHAPE, position=(0, 0)),
        Module(index=1, shape=SHAPE, position=(2, 0)),
    )
    bench = make(modules=modules)
    bench.write([0, 1], module=0)
    bench.write([0], module=1)
    bench.end()
    array = bench.stream.array()
    assert array.shape == (2, 4, 3)
    assert compute(array[:, 3, 0]).tolist() == [0, 65535]


def test_a_task_needs_neither_the_log_nor_the_session(make: Any) -> None:
    bench = make(frames_per_chunk=2)
    bench.write([0, 1])
    bench.write([2, 3], inline=True)
    bench.end()
    array, results = bench.stream.array(frames_per_block=2), bench.stream.map_blocks(summary, 100)
    travelled = pickle.dumps((dict(array.__dask_graph__()), results))
    bench.stream.close()
    bench.store.close()
    graph, results = pickle.loads(travelled)
    blocks = [value for key, value in graph.items() if "-block-" in key]
    assert [int(block[1, 0, 0]) for block in blocks] == [1, 3]
    (found,) = dask.compute(*results, scheduler="synchronous")
    assert [pixel for _, _, pixel in found] == [100, 101, 102, 103]


def test_a_task_carries_its_own_frames_only(make: Any) -> None:
    bench = make(frames_per_chunk=1000)
    bench.write(list(range(1000)), inline=True)
    bench.end()
    array = bench.stream.array(frames_per_block=10)
    blocks = [v for key, v in dict(array.__dask_graph__()).items() if "-block-" in key]
    sizes = [len(pickle.dumps(block)) for block in blocks]
    assert len(sizes) == 100
    assert max(sizes) < 10 * (image(0).nbytes + 100) + 2000


def test_a_function_gets_the_frames_of_each_block_with_their_attributes(make: Any) -> None:
    bench = make(frames_per_chunk=2)
    bench.write([4, 5], attributes=[{"omega": 0.1}, {"omega": 0.2, "text": "a"}])
    bench.write([8, 9], attributes=[{}, {"omega": 0.4, "tags": ["x"]}])
    bench.end()
    results = bench.stream.map_blocks(summary, offset=1, frames_per_block=2)
    found = dask.compute(*results, scheduler="synchronous")
    assert found == ([(4, 0.1, 5), (5, 0.2, 6)], [(8, None, 9), (9, 0.4, 10)])
    texts = bench.stream.map_blocks(_names, frames_per_block=2)
    assert dask.compute(*texts, scheduler="synchronous") == (
        [["omega"], ["omega", "text"]],
        [[], ["omega", "tags"]],
    )


def _names(frames: Any) -> list[list[str]]:
    return [sorted(frame.attributes) for frame in frames]


def test_an_open_stream_is_taken_as_it_is_when_that_is_said(make: Any) -> None:
    bench = make(partitions=2)
    bench.write([0, 1])
    with pytest.raises(StreamOpenError, match="so_far"):
        bench.stream.array()
    with pytest.raises(StreamOpenError):
        bench.stream.map_blocks(summary)
    early = bench.stream.array(so_far=True)
    bench.write([2, 3], inline=True)
    assert compute(early[:, 0, 0]).tolist() == [0, 1]
    assert compute(bench.stream.array(so_far=True)[:, 0, 0]).tolist() == [0, 1, 2, 3]
    assert bench.stream.numbers(so_far=True).tolist() == [0, 1, 2, 3]


def test_the_same_frames_have_the_same_names_on_a_cluster(make: Any) -> None:
    bench = make()
    bench.write([0, 1])
    first = bench.stream.array(so_far=True)
    assert bench.stream.array(so_far=True).name == first.name
    assert bench.stream.array(so_far=True, masked=True).name != first.name
    bench.write([2])
    assert bench.stream.array(so_far=True).name != first.name


def test_numbers_too_far_apart_are_no_positions(make: Any) -> None:
    bench = make()
    bench.write([0])
    bench.write([MAX_POSITIONS])
    bench.end()
    with pytest.raises(DecodeError, match="are they counters"):
        bench.stream.array()
    assert len(bench.stream.table()) == 2


def test_blocks_of_frames_without_pixels_are_frames_too(make: Any) -> None:
    bench = make()
    bench.log.write([0, 1], attributes=[{"spots": 3}, {"spots": 4}])
    bench.end()
    with pytest.raises(DecodeError, match="no pixels"):
        bench.stream.array()
    (result,) = bench.stream.map_blocks(_spots)
    assert result.compute(scheduler="synchronous") == 7


def _spots(frames: Any) -> int:
    return sum(frame.attributes["spots"] for frame in frames)


def test_a_missing_extra_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    bench = make()
    bench.write([0])
    bench.end()
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(PipelineError, match=r"lichtstrom\[array\]"):
        bench.stream.map_blocks(summary)
