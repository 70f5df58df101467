"""Samples: streams that lack frames on purpose, and say so."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.blobs.memory import MemoryStore
from pipeline.config import ReadSettings
from pipeline.errors import (
    ChecksumError,
    ExpressionError,
    FrameNotFoundError,
    InvalidArgumentError,
)
from pipeline.frame import Module
from pipeline.manifest.stored import StoredLog, discover
from pipeline.naming import Names, StreamId
from pipeline.reading.choice import FrameChoice
from pipeline.reading.ranges import Ranges
from pipeline.sampling import SampleReport, export_sample
from pipeline.stream import Stream
from pipeline.testing.memory_log import MemoryLog, make_start

NAMES = Names("lichtstrom")
NAME = StreamId("test", "detector", "scan_1")
SHAPE = (2, 3)
MODULES = tuple(Module(index=i, shape=SHAPE, position=(2 * i, 0)) for i in (0, 1))
_stores = itertools.count()


def pixels(number: int, module: int = 0) -> bytes:
    return np.full(SHAPE, 100 * module + number, np.uint16).tobytes()


class Bench:
    """A source of frames 10 to 29, without 14 and 15, and a place for samples of it."""

    def __init__(self, modules: tuple[Module, ...] = ()) -> None:
        self.log = MemoryLog(make_start(partitions=2, frames_per_chunk=4, modules=modules))
        self.store = MemoryStore(f"sampled-{next(_stores)}")
        self.target = MemoryStore(f"sample-{next(_stores)}")
        self.stream = Stream(self.log, self.store, name=NAME, read=ReadSettings())
        self.opened = [self.stream]
        for module in self.log.start.module_indices:
            self.write([n for n in range(10, 30) if n not in (14, 15)], module)

    def write(self, numbers: list[int], module: int = 0) -> None:
        for number in numbers:
            self.log.write(
                [number],
                payloads=[pixels(number, module)],
                shape=SHAPE,
                dtype="uint16",
                module=module,
                attributes=[{"omega": number / 10, "odd": f"o{number % 2}"}],
            )

    def end(self) -> None:
        for module in self.log.start.module_indices:
            self.log.mark("closing", floor=30, ceil=29, module=module)
        self.log.end()

    def export(self, choice: str = "", where: str = "") -> SampleReport:
        chosen = FrameChoice.parse(choice) if choice else None
        return export_sample(self.stream, self.target, names=NAMES, choice=chosen, where=where)

    def sample(self) -> Stream:
        """The one stream of the target, read as a session at home would."""
        (info,) = discover(self.target, NAMES)
        start = info.start
        prefix = NAMES.stream_prefix(start.beamtime, start.detector, start.stream_key)
        opened = Stream(StoredLog(self.target, prefix), self.target, name=NAME)
        self.opened.append(opened)
        return opened


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        for stream in bench.opened:
            stream.close()


def numbers_of(frames: Any) -> list[int]:
    return [frame.number for frame in frames]


def test_a_sample_is_a_stream_whose_account_lacks_nothing(make: Any) -> None:
    bench = make()
    bench.end()
    report = bench.export("::3")
    assert (report.frames, report.of, report.nbytes, report.written) == (7, 18, 84, True)
    sample = bench.sample()
    chosen = [10, 13, 16, 19, 22, 25, 28]
    frames = sample.ordered()
    assert numbers_of(frames) == chosen
    assert frames.missing == []
    account = sample.account()
    assert account["complete"]
    assert (account["expected"], account["received"], account["missing"]) == (7, 7, [])
    of = bench.log.start.stream_key.hex()
    assert account["sample"] == {"of": of, "selection": "::3", "frames": 18}
    assert sample.verify() == account
    assert sample.start.stream_key.hex() != of
    assert "sample" not in bench.stream.account()


def test_its_frames_are_those_of_the_source_to_the_last_bit(make: Any) -> None:
    bench = make()
    bench.end()
    bench.export("12:18,29")
    sample = bench.sample()
    for number in (12, 13, 16, 17, 29):
        mine, theirs = sample.frame(number), bench.stream.frame(number)
        assert bytes(mine.payload) == bytes(theirs.payload)
        assert mine.attributes == theirs.attributes
        for fact in ("timestamp_ns", "shape", "dtype", "encoding", "checksum", "digest"):
            assert getattr(mine, fact) == getattr(theirs, fact)
    assert sample.latest().number == 29
    assert numbers_of(sample.select("odd == 'o0'", follow=False)) == [12, 16]


def test_chosen_frames_that_the_source_lacks_are_missing_others_are_not(make: Any) -> None:
    bench = make()
    bench.end()
    bench.export("10:16")
    sample = bench.sample()
    account = sample.account()
    assert (account["missing"], account["expected"], account["complete"]) == ([[14, 15]], 6, False)
    with pytest.raises(FrameNotFoundError) as missing:
        sample.frame(14)
    assert missing.value.reason == "outside"  # behind the last one that came
    bench = make()
    bench.end()
    bench.export("::5")
    sample = bench.sample()
    frames = sample.ordered()
    assert numbers_of(frames) == [10, 20, 25]
    assert (frames.missing, sample.account()["missing"]) == ([[15, 15]], [[15, 15]])
    reasons = {}
    for number in (11, 15, 30):
        with pytest.raises(FrameNotFoundError) as error:
            sample.frame(number)
        reasons[number] = error.value.reason
    assert reasons == {11: "not sampled", 15: "missing", 30: "outside"}


def test_frames_can_be_chosen_by_what_they_say(make: Any) -> None:
    bench = make()
    bench.end()
    with pytest.raises(ExpressionError, match="omegga"):
        bench.export(where="omegga > 2")
    with pytest.raises(InvalidArgumentError, match="none of 18 frames"):
        bench.export(where="omega > 99")
    assert bench.export("::2", "omega > 2").frames == 4
    sample = bench.sample()
    assert numbers_of(sample.frames()) == [22, 24, 26, 28]
    account = sample.account()
    assert account["sample"]["selection"] == "::2 and omega > 2"
    assert account["complete"]


def test_an_open_stream_is_sampled_as_it_is_now(make: Any) -> None:
    bench = make()
    bench.export("::4")
    assert bench.sample().state == "complete"
    assert numbers_of(bench.sample().ordered()) == [10, 18, 22, 26]


def test_modules_come_along(make: Any) -> None:
    bench = make(modules=MODULES)
    bench.end()
    assert bench.export("::6").frames == 4
    sample = bench.sample()
    found = {frame.number: frame.array[:, 0].tolist() for frame in sample.ordered()}
    assert found == {n: [n, n, 100 + n, 100 + n] for n in (10, 16, 22, 28)}
    assert sample.account()["incomplete"] == []


def test_what_is_kept_beside_the_stream_comes_along(make: Any) -> None:
    bench = make()
    file = io.BytesIO()
    np.save(file, np.eye(3))
    bench.store.create_bucket("b")
    bench.store.put("b/mask.npy", [file.getvalue()], durability="process")
    bench.log.change(attachments={"mask": "b/mask.npy"}, metadata={"energy_eV": 12000})
    bench.end()
    bench.export("::4")
    sample = bench.sample()
    np.testing.assert_array_equal(sample.attachment("mask"), np.eye(3))
    assert sample.metadata["energy_eV"] == 12000


def test_large_frames_get_objects_and_small_ones_share_one(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sampling._SEGMENT_NBYTES", 40)
    monkeypatch.setattr("pipeline.sampling._INLINE_NBYTES", 20)
    monkeypatch.setattr("pipeline.sampling._BATCH", 7)
    bench = make()
    bench.end()
    bench.export("10:")
    keys = [blob.key for blob in bench.target.list("lichtstrom-test/")]
    objects = [key for key in keys if "/0001." in key]
    assert len(objects) == 5  # batches of 7, 7 and 4 frames of 12 bytes; single ones in the part
    assert bench.sample().verify()["received"] == 18


def test_writing_the_same_sample_again_does_nothing_and_another_is_refused(make: Any) -> None:
    bench = make()
    bench.end()
    bench.export("::3")
    before = {blob.key: blob.modified_ns for blob in bench.target.list("lichtstrom-test/")}
    assert not bench.export("::3").written
    after = {blob.key: blob.modified_ns for blob in bench.target.list("lichtstrom-test/")}
    assert after == before
    with pytest.raises(InvalidArgumentError, match="another sample"):
        bench.export("::2")


def test_a_damaged_frame_ends_it_and_nothing_is_listed(make: Any) -> None:
    bench = make()
    bench.store.create_bucket("b")
    bench.store.put("b/x", [b"damaged"], durability="process")
    bench.log.write([30], payloads=[b"correct"], blob="b/x", shape=(7,))
    bench.end()
    with pytest.raises(ChecksumError):
        bench.export("10:")
    assert discover(bench.target, NAMES) == []


def test_an_array_of_a_sample_has_its_frames_only(make: Any) -> None:
    pytest.importorskip("dask.array")
    bench = make()
    bench.end()
    bench.export("::5")
    sample = bench.sample()
    array = sample.array(frames_per_block=2)
    assert array.chunks[0] == (2, 1)
    assert sample.numbers().tolist() == [10, 20, 25]
    assert array[:, 0, 0].compute(scheduler="synchronous").tolist() == [10, 20, 25]


def test_what_ranges_have_in_common() -> None:
    ours, theirs = Ranges([(0, 5), (9, 9), (12, 20)]), Ranges([(3, 12), (15, 16), (20, 30)])
    assert ours.common(theirs).lists() == [[3, 5], [9, 9], [12, 12], [15, 16], [20, 20]]
    assert Ranges().common(ours).lists() == []
