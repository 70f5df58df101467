"""Spools that outlive their writers, are damaged, or belong to another stream of the name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.config import PublishSettings
from pipeline.errors import InvalidArgumentError, StreamTimeoutError
from pipeline.frame import Module
from pipeline.naming import StreamId
from pipeline.publishing import sealing
from pipeline.publishing.draft import BufferPool, Draft
from pipeline.publishing.spool import left_behind
from pipeline.publishing.spooling import Spooling
from pipeline.records import End, ModuleState, Start, StreamInfo
from pipeline.session import _check_modules

NAME = StreamId("b", "d", "s")


def start(key: bytes = b"\1" * 8) -> Start:
    return Start(
        stream_key=key,
        beamtime="b",
        detector="d",
        stream="s",
        created_ns=0,
        partitions=1,
        frames_per_chunk=16,
        offsets=(0,),
    )


def draft(*numbers: int) -> Draft:
    made = Draft(layout=((2,), "uint8", "raw", 0), buffer=np.zeros(100, np.uint8))
    for number in numbers:
        made.add(
            np.full(2, number, np.uint8),
            number=number,
            timestamp_ns=0,
            attributes={},
            digest=0,
            token=None,
        )
    return made


def spooling(folder: Path, key: bytes = b"\1" * 8) -> Spooling:
    return Spooling(PublishSettings(spool=str(folder)), NAME, start(key), sync=False)


def left(folder: Path, key: bytes = b"\1" * 8) -> None:
    """Leave two drafts behind."""
    first = spooling(folder, key)
    first.begin()
    first.put(draft(5, 6), epoch=1)
    first.put(draft(7, 9), epoch=1)
    assert not list(left_behind(folder))  # it is held
    first.close()


def test_a_spool_is_taken_over_by_the_next_writer_of_the_same_process(tmp_path: Path) -> None:
    left(tmp_path)
    second, third = spooling(tmp_path), spooling(tmp_path)
    assert second.adopt_left_behind(lambda _: False) == 9
    assert second.frames == 4
    assert third.adopt_left_behind(lambda _: False) == -1  # one is enough
    found = second.next()
    assert found is not None
    assert found.numbers == [5, 6]
    second.close()
    third.close()


def test_a_spool_of_a_deleted_stream_does_not_get_into_the_next_of_its_name(tmp_path: Path) -> None:
    left(tmp_path, b"\2" * 8)
    second = spooling(tmp_path)
    assert second.adopt_left_behind(lambda key: key == b"\2" * 8) == -1
    assert not second.waiting
    second.close()


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_damaged_draft_is_set_aside_and_named(tmp_path: Path, keep: int) -> None:
    left(tmp_path)
    file = min(tmp_path.rglob("*.segment"))
    file.write_bytes(file.read_bytes()[:keep])
    second = spooling(tmp_path)
    second.adopt_left_behind(lambda _: False)
    found = second.next()
    assert found is not None
    assert found.numbers == [7, 9]
    assert [Path(source).suffix for source, _ in second.damaged] == [".damaged"]
    second.close()


def test_buffers_are_bounded_by_bytes_whatever_the_size_of_frames() -> None:
    pool = BufferPool(4, 100)
    large = pool.acquire(250)
    assert large is not None
    assert len(large) == 250
    small = pool.acquire(10)
    assert small is not None
    assert pool.acquire(10) is None
    pool.release(large)
    assert pool.acquire(1000) is None  # larger than all: it must be alone
    pool.release(small)
    huge = pool.acquire(1000)
    assert huge is not None
    assert pool.acquire(1) is None
    pool.release(huge)
    assert all(pool.acquire(1) is not None for _ in range(4))
    assert pool.acquire(1) is None


def test_sealing_gives_up_on_a_log_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_SILENCE_S", 0.05)
    end = End(stream_key=b"\1" * 8, module=0, epoch=1, nonce="", state="complete", offsets=(3,))
    info = StreamInfo(start=start(), modules={0: ModuleState(end=end)})
    cursor = SimpleNamespace(positions=lambda: [1], poll=lambda _: [], close=lambda: None)
    log: Any = SimpleNamespace(cursor=lambda: cursor)
    with pytest.raises(StreamTimeoutError):
        sealing.account_of(log, info)


@pytest.mark.parametrize(
    ("indices", "module"), [((0, 0), None), ((-1,), None), ((1, 2), 0), ((), 3)]
)
def test_modules_that_cannot_be_are_refused(indices: tuple[int, ...], module: int | None) -> None:
    modules = [Module(index=i, shape=(1, 1), position=(0, 0)) for i in indices]
    with pytest.raises(InvalidArgumentError, match="module"):
        _check_modules(modules, module)
