"""Lambda's NeXus files: runs of modules and parts, in any order, whole or not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.codecs import decode
from pipeline.detectors.lambda_xs.files import NxsFiles
from pipeline.detectors.lambda_xs.hdf5 import read_nxs
from pipeline.detectors.lambda_xs.sim_files import LambdaFilesSimulator, NxsWriter
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFile

SHAPE = (24, 40)
START_NS = 1_795_420_800_000_000_000


class Run:
    """An adapter over a directory that is polled; time passes when it waits for files."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.now_s = 0.0
        settings = {"idle_end_s": 5.0, "grace_s": 2.0, "timezone": "UTC", **settings}
        self.adapter = NxsFiles(
            watch=directory, method="inotify", clock=lambda: self.now_s, **settings
        )
        self._events = self.adapter.events(poll_s=0.02)
        self.frames: dict[tuple[int, int], str] = {}
        self.times: dict[tuple[int, int], int] = {}

    def silence(self, seconds: float = 1.5) -> list[Any]:
        """Return what happens until nothing does, before and after so much time."""
        found = self._until_quiet()
        self.now_s += seconds
        return [*found, *self._until_quiet(), *self._until_quiet()]

    def _until_quiet(self) -> list[Any]:
        found: list[Any] = []
        while (event := next(self._events)) is not None:
            found.append(event)
            if isinstance(event, SourceFile):
                self.note(event)
        return found

    def note(self, event: SourceFile) -> None:
        for frame in event.frames:
            header = frame.header
            pixels = decode(
                event.payload[frame.offset : frame.offset + frame.nbytes],
                encoding=header.encoding,
                shape=header.shape,
                dtype=header.dtype,
            )
            key = (header.number, header.module)
            self.frames[key] = hashlib.sha256(pixels.tobytes()).hexdigest()
            self.times[key] = header.timestamp_ns


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    made: list[Run] = []

    def begin(**settings: Any) -> Run:
        (tmp_path / "data").mkdir(exist_ok=True)
        made.append(Run(tmp_path / "data", **settings))
        return made[-1]

    yield begin
    for run in made:
        run.adapter.close()


def simulate(tmp_path: Path, **settings: Any) -> dict[tuple[int, int], dict[str, Any]]:
    """Write runs; return the truth by number and module."""
    settings = {"frames": 10, "rate_hz": 0.0, "shape": SHAPE, **settings}
    tmp_path.mkdir(exist_ok=True)
    LambdaFilesSimulator(tmp_path / "data", truth=tmp_path / "truth", **settings).run()
    lines = (tmp_path / "truth").read_text().splitlines()
    return {(line["number"], line["module"]): line for line in map(json.loads, lines)}


def sent(truth: dict[tuple[int, int], dict[str, Any]]) -> dict[tuple[int, int], str]:
    return {key: line["pixels_sha256"] for key, line in truth.items() if not line.get("lost")}


def of(kind: type[Any], events: list[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("compression", ["deflate", "bitshuffle", "none"])
@pytest.mark.parametrize("modules", [0, 1, 3])
@pytest.mark.parametrize("numbers", [True, False])
def test_every_image_comes_with_its_number_module_and_time(
    tmp_path, start, compression, modules, numbers
):
    truth = simulate(
        tmp_path,
        compression=compression,
        modules=modules,
        part_frames=4,
        sequence_numbers=numbers,
    )
    run = start()
    events = run.silence(6.0)
    assert run.frames == sent(truth)
    assert run.times == {key: line["timestamp_ns"] for key, line in truth.items()}
    (end,) = of(SeriesEnd, events)
    assert (end.state, end.expected, end.metadata) == ("complete", 10, {})


def test_the_begin_tells_modules_settings_and_masks(tmp_path, start):
    simulate(tmp_path, modules=2, rate_hz=1000.0)
    (begin,) = of(SeriesBegin, start().silence())
    assert [(m.index, m.position, m.shape) for m in begin.modules] == [
        (1, (0, 0), SHAPE),
        (2, (44, 0), SHAPE),
    ]
    assert begin.rate_hz == pytest.approx(1000)
    expected = {
        "source_interface": "files",
        "exposure_s": 0.001,
        "sensor_thickness_m": 0.00032,
        "x_pixel_size_m": 5.5e-05,
        "threshold_eV": 6000.0,
        "saturation_value": 4095,
        "layout": "40X24",
        "frames_announced": 10,
        "detector_description": "Lambda",
    }
    assert expected.items() <= begin.metadata.items()
    assert begin.metadata["units"]["sensor_thickness_m"] == "m"
    assert sorted(begin.attachments) == ["pixel_mask_m01", "pixel_mask_m02"]


def test_frames_that_one_module_lost_are_exact(tmp_path, start):
    truth = simulate(tmp_path, modules=2, lose=4)
    run = start()
    (end,) = of(SeriesEnd, run.silence(6.0))
    assert run.frames == sent(truth)
    assert sorted(set(truth) - set(run.frames)) == [(4, 2), (8, 2)]
    assert end.metadata == {"module_counts": {"1": 10, "2": 8}}


def test_images_that_were_never_written_are_missing_numbers(tmp_path, start):
    writer = NxsWriter(tmp_path / "data", run="a", shape=SHAPE, sequence_numbers=False)
    writer.write({0: np.ones(SHAPE, "u2")})
    writer.skip()
    writer.write({0: np.ones(SHAPE, "u2")})
    writer.skip()
    writer.end()
    run = start()
    (end,) = of(SeriesEnd, run.silence(6.0))
    assert sorted(run.frames) == [(0, 0), (2, 0)]
    assert end.expected == 4


def test_parts_and_modules_may_come_in_any_order(tmp_path, start):
    truth = simulate(tmp_path / "made", modules=2, part_frames=3, sequence_numbers=False)
    files = sorted((tmp_path / "made" / "data").iterdir())
    run = start()
    assert run.silence() == []
    # all are there at once, as growing files are, but become ready in another order
    for file in files:
        (tmp_path / "data" / file.name).touch()
    for file in reversed(files):
        shutil.copy(file, tmp_path / "data" / file.name)
        run.silence()
    run.silence(6.0)
    assert run.frames == sent(truth)


def test_numbered_parts_do_not_wait_for_those_before_them(tmp_path, start):
    truth = simulate(tmp_path, modules=0, part_frames=3)
    (tmp_path / "data" / "sim_00001_part00001.nxs").unlink()
    run = start()
    run.silence(6.0)
    missing = [(number, 0) for number in (4, 5, 6)]
    assert sorted(set(truth) - set(run.frames)) == missing


def test_parts_behind_a_missing_one_are_named_where_nothing_tells_their_numbers(tmp_path, start):
    simulate(tmp_path, modules=0, part_frames=3, sequence_numbers=False)
    (tmp_path / "data" / "sim_00001_part00001.nxs").unlink()
    run = start()
    notes = of(Quarantined, run.silence(6.0))
    assert [note.source for note in notes] == [
        "sim_00001_part00002.nxs",
        "sim_00001_part00003.nxs",
    ]
    assert "its numbers are not known" in notes[0].reason
    assert sorted(run.frames) == [(0, 0), (1, 0), (2, 0)]


def test_growing_files_wait_and_cut_ones_are_named(tmp_path, start):
    truth = simulate(tmp_path / "made", modules=0, runs=2)
    first, second = sorted((tmp_path / "made" / "data").iterdir())
    content = first.read_bytes()
    run = start()
    for length in (0, 200, 5000, len(content)):
        (tmp_path / "data" / first.name).write_bytes(content[:length])
        run.silence(0.5)
    assert len(run.frames) == 10
    (tmp_path / "data" / second.name).write_bytes(content[:5000])
    run.silence()
    (note,) = of(Quarantined, run.silence(3.0))
    assert note.source == second.name
    assert "5000 bytes" in note.reason
    assert len(truth) == 10


def test_a_module_whose_file_is_damaged_does_not_hold_the_others(tmp_path, start):
    truth = simulate(tmp_path, modules=2)
    damaged = tmp_path / "data" / "sim_00001_m02.nxs"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    run = start()
    assert of(SourceFile, run.silence()) == []
    events = run.silence(3.0)
    assert [note.source for note in of(Quarantined, events)] == [damaged.name]
    assert run.frames == {key: pixels for key, pixels in sent(truth).items() if key[1] == 1}


def test_a_file_whose_writer_died_is_read_as_it_is(tmp_path, start):
    writer = NxsWriter(tmp_path / "made", run="a", shape=SHAPE, swmr=True)
    for _ in range(3):
        writer.write({0: np.ones(SHAPE, "u2")})
    run = start()
    shutil.copy(writer.path(0, 0), tmp_path / "data" / "a.nxs")
    writer.end()
    assert of(SourceFile, run.silence()) == []
    run.silence(3.0)
    assert sorted(run.frames) == [(1, 0), (2, 0), (3, 0)]


def hostile() -> dict[str, Any]:
    def huge(file: h5py.File) -> None:
        file.create_dataset("entry/instrument/detector/data", (2**40, 10, 10), "u2", chunks=True)

    def twice(file: h5py.File) -> None:
        data = np.ones((3, *SHAPE), "u2")
        file.create_dataset("entry/instrument/detector/data", data=data)
        file["entry/instrument/detector/sequence_number"] = [1, 1, 2]

    def elsewhere(file: h5py.File) -> None:
        file["entry/instrument/detector/data"] = h5py.ExternalLink("/etc/passwd", "/")

    def text(file: h5py.File) -> None:
        file["entry/instrument/detector/data"] = "no pixels"

    def group(file: h5py.File) -> None:
        file.create_group("entry/instrument/detector/data")

    def big_endian(file: h5py.File) -> None:
        file["entry/instrument/detector/data"] = np.ones((3, *SHAPE), ">u2")

    return {
        function.__name__: function
        for function in (huge, twice, elsewhere, text, group, big_endian)
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_files_are_named_and_the_next_run_comes(tmp_path, start, name):
    run = start()
    with h5py.File(tmp_path / "data" / "bad.nxs", "w") as file:
        hostile()[name](file)
    run.silence()
    (note,) = of(Quarantined, run.silence(3.0))
    assert note.source == "bad.nxs"
    truth = simulate(tmp_path, modules=0)
    run.silence()
    assert run.frames == sent(truth)


def test_files_of_numbered_parts_go_one_by_one_others_with_their_run(tmp_path, start):
    simulate(tmp_path, modules=0, part_frames=4)
    run = start(after="delete")
    files = of(SourceFile, run.silence())
    run.adapter.acknowledge([files[0].token])
    assert len(list((tmp_path / "data").iterdir())) == 2

    simulate(tmp_path, modules=0, part_frames=4, sequence_numbers=False, prefix="plain")
    files = of(SourceFile, run.silence())
    run.adapter.acknowledge([file.token for file in files])
    assert len(list((tmp_path / "data").glob("plain*"))) == 3
    (end,) = (end for end in of(SeriesEnd, run.silence(6.0)) if "plain" in end.series)
    run.adapter.acknowledge([end.token])
    assert list((tmp_path / "data").glob("plain*")) == []


def test_another_pattern_finds_other_names(tmp_path, start):
    simulate(tmp_path / "made", modules=0)
    run = start(pattern=r"det(?P<module>\d)-(?P<run>.*)", patterns="*.h5")
    for module in (1, 2):
        shutil.copy(tmp_path / "made/data/sim_00001.nxs", tmp_path / f"data/det{module}-x.h5")
    (begin,) = of(SeriesBegin, run.silence())
    assert begin.name == "x"
    assert {module for _, module in run.frames} == {1, 2}


@pytest.mark.parametrize("pattern", ["(", "(?P<module>.)"])
def test_a_pattern_that_cannot_work_is_refused(tmp_path, pattern):
    with pytest.raises(InvalidArgumentError):
        NxsFiles(watch=tmp_path, pattern=pattern)


def test_fabio_reads_the_same_pixels_from_the_simulators_files(tmp_path):
    import fabio

    truth = simulate(tmp_path, modules=1)
    with fabio.open(str(tmp_path / "data" / "sim_00001_m01.nxs")) as image:
        assert type(image).__name__ == "LambdaImage"
        assert image.nframes == 10
        pixels = np.ascontiguousarray(image.getframe(4).data)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == truth[5, 1]["pixels_sha256"]


def test_files_that_fabio_writes_are_read(tmp_path):
    from fabio.lambdaimage import LambdaImage

    data = np.arange(3 * 24 * 40, dtype="u2").reshape(3, *SHAPE)
    image = LambdaImage(data=data[0])
    image.dataset = list(data)
    image._nframes = 3
    image.write(str(tmp_path / "a.nxs"))
    found = read_nxs(tmp_path / "a.nxs")
    content = (tmp_path / "a.nxs").read_bytes()
    pixels = [
        decode(
            content[i.offset : i.offset + i.nbytes],
            encoding=i.encoding,
            shape=SHAPE,
            dtype="uint16",
        )
        for i in found.index.images
    ]
    assert np.array_equal(pixels, data)


def test_values_may_be_scalars_or_arrays_of_one(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["data"] = np.ones((2, *SHAPE), "u2")
        detector["count_time"] = 100.0
        detector["count_time"].attrs["units"] = ["millisecond"]
        detector["layout"] = "40X24"
        detector["sensor_thickness"] = np.float32(300)
        detector["acquisition/frame_numbers"] = [2]
        detector["translation/distance"] = [[3.0, 5.0, 0.0]]
        file["entry/start_time"] = "2026-11-23T08:00:00Z"
    found = read_nxs(tmp_path / "a.nxs")
    assert found.metadata["exposure_s"] == 0.1
    assert found.metadata["layout"] == "40X24"
    assert found.metadata["sensor_thickness_m"] == 0.0003
    assert found.metadata["frames_announced"] == 2
    assert (found.position, found.started_ns, found.period_s) == ((5, 3), START_NS, 0.1)


def test_a_file_without_images_of_a_lambda_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.create_group("entry")
    with pytest.raises(InvalidFrameError, match="no dataset"):
        read_nxs(tmp_path / "a.nxs")


@pytest.mark.parametrize(
    "settings",
    [{"frames": -1}, {"rate_hz": -1.0}, {"compression": "zip"}, {"prefix": "a/b"}],
)
def test_the_simulator_refuses_what_it_cannot_do(tmp_path, settings):
    with pytest.raises(InvalidArgumentError):
        LambdaFilesSimulator(tmp_path, **settings)
