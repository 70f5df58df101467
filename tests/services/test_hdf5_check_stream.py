"""A file is compared with its stream: every frame at its place, with its time and its pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from compared_files import (
    DATA,
    DETECTOR,
    MODULES,
    NUMBERS,
    changed,
    compared,
    flip,
    image,
    last_frame,
    packed,
    publish,
    put,
    written,
)

from pipeline.cli.export import command as export
from pipeline.cli.hdf5 import command
from pipeline.errors import SinkError, StreamOpenError
from pipeline.frame import Module
from pipeline.session import Session, connect
from pipeline.sinks.hdf5.checking import check_file
from pipeline.sinks.hdf5.mapping import load_mapping

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


#: What the row of a missing frame holds.
MARKED_MISSING = {"frame_valid": 0, "timestamp": 0, "sequence_number": 2**32 - 1}
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"compression": "none"},
    {"compression": "as-is"},
    {"layout": "nxtomo"},
    {"layout": "nxtomo", "by_partition": True},
    {"by_partition": True},
    {"by_partition": True, "compression": "none"},
    {"frames_per_file": 7},
    {"layout": "dectris", "frames_per_file": 7},
]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_nothing_is_wrong_with_what_the_sink_writes_and_one_bit_is_found(
    session: Session, beamtime: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path, **options)
    assert compared(session, beamtime, path) == []
    parts = sorted(set(tmp_path.iterdir()) - {path}) or [path]
    position, number = last_frame(parts[-1])
    pixels = image(number)
    pixels[-1, -1] ^= 1
    put(parts[-1], position, pixels)
    assert check_file(path) == []
    (finding,) = compared(session, beamtime, path)
    assert finding.file == parts[-1].name
    assert finding.where.endswith(f"data[{position}]")
    assert f"frame {number} " in f"{finding.what} "


@pytest.mark.parametrize("compression", ["bslz4", "none"])
def test_a_frame_at_the_place_of_another_is_found(
    session: Session, beamtime: str, tmp_path: Path, compression: str
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path, compression=compression)
    put(path, 3, image(7))
    (finding,) = compared(session, beamtime, path)
    assert finding.where == f"/{DATA}[3]"
    assert "frame 6 " in f"{finding.what} "


def test_a_bit_that_turned_over_in_a_chunk_stored_as_it_came_is_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    with session.publish(beamtime, "d", "s") as out:
        for number in range(4):
            out.write(
                packed(number), number=number, encoding="bslz4", shape=(8, 10), dtype="uint16"
            )
    path = written(session, beamtime, tmp_path)
    assert compared(session, beamtime, path) == []
    flip(path, 2)
    assert [finding.what for finding in compared(session, beamtime, path)][-1] == (
        "the bytes of frame 2 are others"
    )


@pytest.mark.parametrize("options", [{}, {"by_partition": True}], ids=str)
def test_a_frame_that_could_not_be_written_is_believed_where_the_stream_shows_it(
    session: Session,
    beamtime: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    careless = SimpleNamespace(check=lambda *_, **__: None)
    monkeypatch.setattr("pipeline.publishing.inputs.codecs", careless)
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in (0, 1, 2, 3, 4, 5, 7):
            payload = packed(number)[: -9 if number == 5 else None]
            out.write(payload, number=number, encoding="bslz4", shape=(8, 10), dtype="uint16")
        out.write(image(6)[:4].copy(), number=6)
    path = written(session, beamtime, tmp_path, **options)
    assert compared(session, beamtime, path) == []
    part = sorted(set(tmp_path.iterdir()) - {path})[-1] if options else path
    position, number = last_frame(part)

    def lose(file: Any) -> None:
        row = number if file.filename == str(path) else position
        for name, value in MARKED_MISSING.items():
            file[f"{DETECTOR}/{name}"][row] = value
        if file.filename == str(path):
            file["entry/provenance/frames_written"][()] -= 1
            del file["entry/provenance/frames_invalid"]
            file["entry/provenance/frames_invalid"] = [5, 6, number]

    for each in {path, part}:
        changed(each, lose)
    put(part, position, np.full((8, 10), 65535, np.uint16))
    (finding,) = compared(session, beamtime, path)
    assert finding.what == f"frame {number} is told to be damaged, and is not"


def test_a_frame_that_the_file_lacks_is_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path)

    def lose(file: Any) -> None:
        for name, value in MARKED_MISSING.items():
            file[f"{DETECTOR}/{name}"][5] = value
        file["entry/provenance/frames_written"][()] -= 1

    changed(path, lose)
    put(path, 5, np.full((8, 10), 65535, np.uint16))
    assert check_file(path) == []
    (finding,) = compared(session, beamtime, path)
    assert (finding.where, finding.what) == (f"/{DATA}[5]", "frame 8 is marked missing")


def test_rows_that_say_something_else_are_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path)

    def lie(file: Any) -> None:
        file[f"{DETECTOR}/timestamp"][0] += 1
        file["entry/data/frame_number"][-1] += 1

    changed(path, lie)
    put(path, 1, image(99))  # frame 4 is missing
    texts = [str(finding) for finding in compared(session, beamtime, path)]
    for text in (
        "the time of frame 3 is another",
        "marked missing, but has pixels",
        "holds frame 43, which the stream does not have",
        "frame 42 is not in the file",
        "are not 3 to 42 in order",
    ):
        assert [found for found in texts if text in found], (text, texts)


METADATA: dict[str, Any] = {
    "energy_eV": 12000,
    "distance_m": 0.25,
    "beam_center_x": 4.5,
    "beam_center_y": 3,
    "pixel_size_m": 75e-6,
    "start_angle_deg": 10.0,
    "angle_increment_deg": 0.5,
    "sample": "lysozyme",
    "note": {"list": [1, 2]},
    "units": {"omega": "degree"},
}


#: Where a difference is planted, at which row, what, and what is found of it.
PLANTED: list[tuple[str, Any, Any, str]] = [
    (f"{DETECTOR}/attributes/omega", -1, 9.0, "is 9.0, the stream says nan"),
    (f"{DETECTOR}/attributes/shot", 0, 4, "is 4, the stream says 3"),
    (f"{DETECTOR}/attributes/note", 0, "another", "is 'another', the stream says 'n 3'"),
    (f"{DETECTOR}/sequence_number", 0, 4, "says something else"),
    (f"{DETECTOR}/distance", (), 0.3, "is 0.3, the stream says 0.25"),
    (f"{DETECTOR}/count_time", (), 0.5, "is 0.5, the stream says 0.375"),
    ("entry/metadata/energy_eV", (), 1, "is 1, the stream says 12000"),
    ("entry/metadata/note", (), "another", "is 'another', the stream says '{"),
    ("entry/sample/name", (), "another", "is 'another', the stream says 'lysozyme'"),
    ("entry/sample/transformations/omega", 0, 1.0, "is 1.0, the stream says 10.0"),
    ("entry/start_time", (), "another", "is 'another', the stream says '20"),
]


def test_what_a_file_says_otherwise_is_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish_words(session, beamtime)
    path = written(session, beamtime, tmp_path)
    whole = path.read_bytes()
    assert compared(session, beamtime, path) == []

    def plant(file: Any) -> None:
        for name, row, value, _ in PLANTED:
            file[name][row] = value

    changed(path, plant)
    found = compared(session, beamtime, path)
    for name, _, _, what in PLANTED:
        assert [each for each in found if name in each.where and what in each.what], (name, found)
    assert len(found) == len(PLANTED)
    path.write_bytes(whole)

    def remove(file: Any) -> None:
        file[f"{DETECTOR}/attributes/omega"].attrs["units"] = np.bytes_("rad")
        for name in ("attributes/shot", "beam_center_x"):
            del file[f"{DETECTOR}/{name}"]
        del file["entry/metadata/note"]
        file["entry/metadata/more"] = 5

    changed(path, remove)
    texts = [f"{each.where} {each.what}" for each in compared(session, beamtime, path)]
    assert sorted(texts) == [
        f"/{DETECTOR}/attributes/omega is in rad, the stream has degree",
        f"/{DETECTOR}/attributes/shot is not in the file",
        f"/{DETECTOR}/beam_center_x is not in the file",
        "/entry/metadata/more the stream says nothing of it",
        "/entry/metadata/note is not in the file",
    ]


def publish_words(session: Session, beamtime: str) -> None:
    """Publish frames that say something, the lowest of them last."""
    with session.publish(beamtime, "d", "s", frames_per_chunk=4, metadata=METADATA) as out:
        for number in [*NUMBERS[1:], NUMBERS[0]]:
            said: dict[str, Any] = {"shot": number, "note": f"n {number}", "exposure_s": number / 8}
            if number % 2:
                said["omega"] = number / 10
            out.write(image(number), number=number, attributes=said)


@pytest.mark.parametrize(
    "options",
    [{"layout": "nxtomo"}, {"layout": "dectris", "frames_per_file": 7}],
    ids=str,
)
def test_what_files_of_any_layout_say_is_compared(
    session: Session, beamtime: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    publish_words(session, beamtime)
    mapping = tmp_path / "map.toml"
    mapping.write_text(
        """
["entry/sample/name"]
value = "my own"
["entry/sample/kappa"]
each = "omega"
units = "rad"
"""
    )
    extras = [load_mapping(mapping)]
    path = written(session, beamtime, tmp_path / "out", extras=extras, **options)
    assert compared(session, beamtime, path) == []
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file[f"{DETECTOR}/attributes/shot"][5] += 1
        del file["entry/metadata/distance_m"]
    found = [each.where for each in compared(session, beamtime, path)]
    assert found == [f"/{DETECTOR}/attributes/shot[5]", "/entry/metadata/distance_m"]


def test_a_part_from_another_place_is_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path, frames_per_file=10)
    parts = sorted(tmp_path.glob("*_data_*.h5"))
    parts[2].write_bytes(parts[1].read_bytes())
    texts = [finding.what for finding in compared(session, beamtime, path)]
    assert "is shown as frame 20, and is frame 10" in texts
    assert "frame 20 is not in the file" in texts


def test_a_file_of_another_stream_is_refused_by_name(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path)
    with session.publish(beamtime, "d", "other") as out:
        out.write(image(0))
    done = CliRunner().invoke(
        command, ["check", str(path), "--stream", f"{beamtime}/d/other"], catch_exceptions=False
    )
    assert done.exit_code == 3
    assert f"{path} is of {beamtime}/d/s, not of {beamtime}/d/other" in done.output

    def rename(file: Any) -> None:
        file["entry/provenance"].attrs["stream_key"] = np.bytes_("00" * 8)

    changed(path, rename)
    with pytest.raises(SinkError, match="an earlier stream of this name"):
        compared(session, beamtime, path)


def test_a_part_or_a_stream_that_grows_cannot_be_compared(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path, by_partition=True)
    with pytest.raises(SinkError, match="one of several files"):
        compared(session, beamtime, next(iter(tmp_path.glob("*_p*.h5"))))
    with session.publish(beamtime, "d", "open") as out:
        out.write(image(0))
        with (
            session.stream(beamtime, "d", "open") as stream,
            pytest.raises(StreamOpenError, match="when it has ended"),
        ):
            check_file(path, stream=stream)


def test_the_command_compares_and_tells_by_its_status(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path, compression="none")
    name = ["--stream", f"{beamtime}/d/s", "--store", "file"]
    done = CliRunner().invoke(command, ["check", str(path), *name])
    assert (done.exit_code, done.output.strip()) == (0, "nothing is wrong")
    flip(path, 0)
    done = CliRunner().invoke(command, ["check", "--json", str(path), *name])
    assert done.exit_code == 1
    (finding,) = json.loads(done.output)
    assert (finding["file"], finding["where"]) == (path.name, f"/{DATA}[0]")
    done = CliRunner().invoke(command, ["check", str(path), "--stream", f"{beamtime}/d/none"])
    assert done.exit_code == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda number: np.arange(7, dtype=np.uint32) * number,
        lambda number: np.full((3, 4), number / 3, np.float32),
        lambda number: np.full((3, 4), number, ">i2"),
        lambda number: np.full((2, 3, 4), number, np.int64),
        lambda number: None,
    ],
    ids=["one axis", "float", "big-endian", "three axes", "no pixels"],
)
@pytest.mark.parametrize("options", [{}, {"by_partition": True}], ids=str)
def test_frames_of_any_kind_are_compared(
    session: Session,
    beamtime: str,
    tmp_path: Path,
    make: Callable[[int], Any],
    options: dict[str, Any],
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in NUMBERS:
            out.write(make(number), number=number, attributes={"a": number})
    path = written(session, beamtime, tmp_path, **options)
    assert compared(session, beamtime, path) == []
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file[f"{DETECTOR}/timestamp"][2] += 1
    assert compared(session, beamtime, path)


def test_a_file_without_its_images_is_found(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path)

    def lose(file: Any) -> None:
        del file[DATA]

    changed(path, lose)
    assert "frame 3 has no pixels" in [
        finding.what for finding in compared(session, beamtime, path)
    ]


@pytest.mark.parametrize("modules", [(), MODULES], ids=["plain", "modules"])
def test_a_stream_without_frames_is_compared(
    session: Session, beamtime: str, tmp_path: Path, modules: tuple[Module, ...]
) -> None:
    with session.publish(beamtime, "d", "s", modules=modules):
        pass
    path = written(session, beamtime, tmp_path)
    assert compared(session, beamtime, path) == []


def test_the_sealed_stream_is_compared_without_a_broker(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime)
    path = written(session, beamtime, tmp_path / "out")
    url = (tmp_path / "copy").as_uri()
    name = f"{beamtime}/d/s"
    done = CliRunner().invoke(export, [name, "--to", url], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    arguments = ["check", str(path), "--stream", name, "--store", url]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert (done.exit_code, done.output.strip()) == (0, "nothing is wrong")
    put(path, 3, image(7))
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 1
    assert "frame 6 has other pixels than in the stream" in done.output
