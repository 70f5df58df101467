"""What is read lies in memory that is used again, and never while somebody looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.blobs.buffers import Buffers
from pipeline.blobs.file import FileStore

NBYTES = 300_000


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_memory_that_nobody_looks_at_is_given_out_again() -> None:
    buffers = Buffers()
    view = buffers.take(NBYTES)
    first = address(view)
    del view
    assert address(buffers.take(NBYTES - 1000)) == first


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda view: view, id="the view"),
        pytest.param(lambda view: view[1000:2000].toreadonly(), id="a part of it"),
        pytest.param(lambda view: np.frombuffer(view, np.uint16)[::2], id="an array"),
        pytest.param(lambda view: np.asarray(view)[5:].reshape(5, -1).T, id="an array of an array"),
        pytest.param(lambda view: view.obj[7:][3:], id="an array of what is behind the view"),
    ],
)
def test_memory_that_somebody_looks_at_is_not_given_out(
    look: Callable[[memoryview], Any],
) -> None:
    buffers = Buffers()
    view = buffers.take(NBYTES)
    view[:] = b"\1" * NBYTES
    kept = look(view)
    del view
    for _ in range(3):
        buffers.take(NBYTES)[:] = b"\2" * NBYTES
    assert set(np.asarray(kept).tobytes()) == {1}


def test_memory_of_another_size_is_not_given_out() -> None:
    buffers = Buffers()
    buffers.take(NBYTES)
    view = buffers.take(4 * NBYTES)
    assert view.nbytes == 4 * NBYTES
    view[-1] = 1


@pytest.mark.parametrize("nbytes", [0, 1, 128 * 1024, 2**24, 2**24 + 1])
def test_memory_has_the_length_that_was_asked_for(nbytes: int) -> None:
    view = Buffers().take(nbytes)
    assert (view.nbytes, view.format, view.readonly) == (nbytes, "B", False)


def test_at_most_four_blocks_lie_idle_and_none_once_cleared() -> None:
    buffers = Buffers()
    held = [buffers.take(NBYTES) for _ in range(6)]
    held.clear()
    assert len(buffers._idle) == 4
    buffers.clear()
    assert not buffers._idle


def test_payloads_kept_by_their_reader_survive_the_reads_of_several_threads(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.create_bucket("b")
    for index in range(8):
        store.put(f"b/{index}", [bytes([index]) * NBYTES], durability="process")
    wrong: list[int] = []

    def read(seed: int) -> None:
        kept: dict[int, memoryview] = {}
        for index in np.random.default_rng(seed).integers(0, 8, 100).tolist():
            kept[index] = store.get(f"b/{index}", 0, NBYTES)
            wrong.extend(n for n, view in kept.items() if view != bytes([n]) * NBYTES)
            if len(kept) > 3:
                kept.pop(next(iter(kept)))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
