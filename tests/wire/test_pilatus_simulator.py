"""What the simulator writes is what camserver would write: judged by fabio and by our reader."""

from __future__ import annotations

import ast
import hashlib
import json
import threading
from pathlib import Path

import fabio
import numpy as np
import pytest

from pipeline import codecs
from pipeline.detectors.pilatus import sim, wire
from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.errors import InvalidArgumentError

READERS = {"cbf": wire.read_cbf, "tif": wire.read_tiff, "edf": wire.read_edf}


def simulator(directory: Path, **options: object) -> PilatusSimulator:
    return PilatusSimulator(
        directory,
        **{"frames": 3, "rate_hz": 0.0, "model": "100k", **options},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("ending", READERS)
def test_fabio_and_our_reader_see_the_same_image(ending: str, tmp_path: Path) -> None:
    device = simulator(tmp_path, file_format=ending, model="300k", frames=2, stamp=True)
    assert device.run() == 2
    for number in range(2):
        payload = device.path(number).read_bytes()
        facts = READERS[ending](payload)
        pixels = codecs.decode(
            payload, encoding=facts.encoding, shape=facts.shape, dtype=facts.dtype
        )
        with fabio.open(str(device.path(number))) as file:
            assert np.array_equal(file.data, pixels)
        assert facts.shape == (619, 487)
        assert pixels[0, 0] == number
        assert (pixels[195:212] == -1).all()
        assert (pixels[407:424] == -1).all()
        assert pixels[212:407].min() >= 0
        assert facts.attributes["wavelength_A"] == 0.99987
        assert facts.attributes["omega"] == pytest.approx(0.1 * number)
        assert len(payload) != 1_209_908 or ending == "tif"


def test_a_pilatus_300k_tiff_has_the_vendors_length(tmp_path: Path) -> None:
    device = simulator(tmp_path, file_format="tiff", model="300k", frames=1)
    device.run()
    assert device.path(0).stat().st_size == 4096 + 4 * 487 * 619


@pytest.mark.parametrize(
    ("model", "shape"), [("300k", (619, 487)), ("1M", (1043, 981)), ("6M", (2527, 2463))]
)
def test_models_have_the_vendors_shapes(model: str, shape: tuple[int, int]) -> None:
    assert sim.shape_of(model) == shape
    gaps = sim.gaps_of(sim.MODELS[model])
    assert gaps.shape == shape
    columns, rows = sim.MODELS[model]
    assert (~gaps).sum() == columns * rows * 195 * 487


def test_a_custom_shape_has_no_gaps(tmp_path: Path) -> None:
    device = simulator(tmp_path, shape=(12, 15), frames=1)
    device.run()
    facts = wire.read_cbf(device.path(0).read_bytes())
    assert facts.shape == (12, 15)


@pytest.mark.parametrize("ending", READERS)
def test_the_truth_file_agrees_with_the_files(ending: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    device = simulator(
        tmp_path, truth=truth, start_number=98, rate_hz=1000, start_ns=10**18, file_format=ending
    )
    device.run()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [line["number"] for line in lines] == [98, 99, 100]
    for line in lines:
        payload = (tmp_path / line["name"]).read_bytes()
        assert hashlib.sha256(payload).hexdigest() == line["sha256"]
        facts = READERS[ending](payload)
        assert facts.timestamp_ns == line["timestamp_ns"]
        pixels = codecs.decode(
            payload, encoding=facts.encoding, shape=facts.shape, dtype=facts.dtype
        )
        for row, column in line["spots"]:
            assert pixels[row, column] > 50
    assert lines[1]["timestamp_ns"] - lines[0]["timestamp_ns"] == 1_000_000


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        device = simulator(tmp_path / folder / "x", seed=seed, start_ns=10**18)
        device.run()
        contents.append([device.path(n).read_bytes() for n in range(3)])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("in_place", [False, True])
def test_each_file_is_whole_under_its_name_when_it_is_announced(
    in_place: bool, tmp_path: Path
) -> None:
    seen = []
    device = simulator(tmp_path, in_place=in_place)

    def look(number: int) -> None:
        assert wire.complete_cbf(device.path(number).read_bytes()) is None
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    device.run(on_frame=look)
    assert seen[0] == ["sim_00000.cbf"]
    assert seen[2] == ["sim_00000.cbf", "sim_00001.cbf", "sim_00002.cbf"]


def test_a_series_stops_when_told(tmp_path: Path) -> None:
    stop = threading.Event()
    device = simulator(tmp_path, frames=1000)
    written = device.run(stop, on_frame=lambda number: stop.set() if number == 4 else None)
    assert written == 5
    assert len(list(tmp_path.iterdir())) == 5


def test_no_frames_are_no_files(tmp_path: Path) -> None:
    assert simulator(tmp_path / "new", frames=0).run() == 0
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("model", {"model": "9M"}),
        ("file_format", {"file_format": "h5"}),
        ("frames", {"frames": -1}),
        ("frames", {"start_number": -1}),
        ("rate_hz", {"rate_hz": -2.0}),
        ("rate_hz", {"rate_hz": float("nan")}),
        ("prefix", {"prefix": "a/b"}),
        ("prefix", {"prefix": ""}),
        ("shape", {"shape": (0, 4)}),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    field: str, options: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        simulator(tmp_path, **options)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["sim.py", "sim_camserver.py", "sim_files.py", "sim_header.py"])
def test_the_simulator_shares_no_code_with_the_reader(name: str) -> None:
    source = Path(sim.__file__).with_name(name).read_text()
    modules = {
        node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
    }
    ours = {module for module in modules if module and module.startswith("pipeline")}
    assert ours <= {
        "pipeline.codecs.byte_offset",
        "pipeline.detectors.options",  # what the command line asks for; reads no bytes
        "pipeline.detectors.pilatus.sim",
        "pipeline.detectors.pilatus.sim_camserver",
        "pipeline.detectors.pilatus.sim_files",
        "pipeline.detectors.pilatus.sim_header",
        "pipeline.detectors.scene",  # what is seen; knows no format
        "pipeline.errors",
    }
