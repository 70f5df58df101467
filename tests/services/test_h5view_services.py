"""Streams of a real broker and store as a tree, and by reference from xarray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.local import RuntimeInfo
from pipeline.session import Session, connect

pytestmark = pytest.mark.timeout(120)
_READER = Path(__file__).parents[1] / "unit" / "reference_reader.py"
#: Above what is carried in the records.
SHAPE = (256, 200)
NUMBERS = [5, 6, 7, 9, 10, 12]


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


def image(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 999, SHAPE).astype(np.uint16)


def expected() -> Any:
    blank = np.full(SHAPE, 65535, np.uint16)
    return np.array([image(n) if n in NUMBERS else blank for n in range(5, 13)])


def publish(session: Session, beamtime: str) -> None:
    session.create_beamtime(beamtime, "d")
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in NUMBERS:
            out.write(image(number), number=number, attributes={"omega": number / 10})


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def refer(beamtime: str, path: Path, *options: str) -> dict[str, Any]:
    told = run("-m", "pipeline.cli", "export", f"{beamtime}/d/s", "--kerchunk", str(path), *options)
    (line,) = told.splitlines()[-1:]
    assert "6 frames at 8 positions" in line
    found: dict[str, Any] = json.loads(path.read_text())["refs"]
    return found


def check(path: Path, **options: Any) -> None:
    found = json.loads(run(str(_READER), str(path), json.dumps(options)))
    assert found["imported"] == []
    np.testing.assert_array_equal(found["zarr"], expected())
    np.testing.assert_array_equal(found["values"]["data"]["values"], expected())
    omega = [n / 10 if n in NUMBERS else np.nan for n in range(5, 13)]
    np.testing.assert_array_equal(found["masked"]["omega"]["values"], omega)


def test_a_live_stream_grows_as_a_tree_and_stays_one_without_a_broker(
    session: Session, beamtime: str
) -> None:
    session.create_beamtime(beamtime, "d")
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        out.write(image(5), number=5)
        out.flush(timeout_s=30)
        view = session.stream(beamtime, "d", "s").h5()
        data = view["entry/data/data"]
        assert data.shape == (1, *SHAPE)
        np.testing.assert_array_equal(data[0, 3:5], image(5)[3:5])
        for number in NUMBERS[1:]:
            out.write(image(number), number=number)
        out.flush(timeout_s=30)
        view.refresh()
        np.testing.assert_array_equal(data[:], expected())
        assert "end_time" not in view["entry"]
    view.refresh()
    assert "end_time" in view["entry"]
    with connect(session.settings.store.url) as stored:
        again = stored.stream(beamtime, "d", "s").h5()
        np.testing.assert_array_equal(again["entry/data/data"][-3:], expected()[-3:])
        valid = again["entry/instrument/detector/frame_valid"][:]
        assert np.flatnonzero(valid == 0).tolist() == [3, 6]


def test_references_into_a_directory_and_into_a_copy_of_it(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path, copy = tmp_path / "r.json", tmp_path / "copy"
    copy.mkdir()
    refer(beamtime, path, "--store", "file")
    check(path)
    refs = refer(beamtime, path, "--store", "file", "--to", copy.as_uri())
    assert refs["data/0.0.0"][0].startswith(copy.as_uri())
    check(path)


def test_references_into_a_bucket(
    session: Session, runtime: RuntimeInfo, beamtime: str, tmp_path: Path
) -> None:
    assert runtime.s3 is not None
    publish(session, beamtime)
    path = tmp_path / "r.json"
    refs = refer(beamtime, path, "--store", "s3")
    assert refs["data/0.0.0"][0].startswith("s3://")
    options = {
        "asynchronous": True,
        "endpoint_url": runtime.s3.endpoint,
        "key": runtime.s3.access_key,
        "secret": runtime.s3.secret_key,
    }
    check(path, remote_protocol="s3", remote_options=options)


def test_the_command_says_what_it_needs(session: Session, beamtime: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pipeline.cli.root import lichtstrom

    publish(session, beamtime)
    runner = CliRunner()
    nothing = runner.invoke(lichtstrom, ["export", f"{beamtime}/d/s"])
    assert (nothing.exit_code, "--kerchunk" in nothing.output) == (2, True)
    with session.publish(beamtime, "d", "s2") as out:
        out.write(image(0))
    path = str(tmp_path / "r.json")
    two = runner.invoke(lichtstrom, ["export", f"{beamtime}/d/*", "--kerchunk", path])
    assert (two.exit_code, "takes one stream" in two.output) == (2, True)
    one = runner.invoke(lichtstrom, ["export", f"{beamtime}/d/s2", "--kerchunk", path, "--json"])
    assert one.exit_code == 0
    assert json.loads(one.output)["frames"] == 1
