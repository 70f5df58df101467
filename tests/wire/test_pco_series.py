"""From PCO files to series: what the counter in the pixels tells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pipeline.codecs import byte_view, decode
from pipeline.detectors import files as files_module
from pipeline.detectors.pco.adapter import PcoAdapter
from pipeline.detectors.pco.sim import FORMATS, PcoSimulator
from pipeline.errors import InvalidArgumentError
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFile, SourceFrame

SHAPE = (24, 30)


def simulate(directory: Path, **settings: Any) -> list[dict[str, Any]]:
    truth = directory.with_suffix(".jsonl")
    settings = {"frames": 8, "rate_hz": 0, "shape": SHAPE, "pages_per_file": 3, **settings}
    PcoSimulator(directory, truth=truth, **settings).run()
    return [json.loads(line) for line in truth.read_text().splitlines()]


def read(directory: Path, **settings: Any) -> list[Any]:
    """Return all events until everything has ended."""
    adapter = PcoAdapter(watch=directory, idle_end_s=0.05, grace_s=0.02, **settings)
    try:
        return list(until_silent(adapter))
    finally:
        adapter.close()


def until_silent(adapter: PcoAdapter, silences: int = 30) -> Iterator[Any]:
    quiet = 0
    for event in adapter.events(poll_s=0.01):
        quiet = quiet + 1 if event is None else 0
        if event is not None:
            yield event
        if quiet > silences:
            return


def frames(events: list[Any]) -> list[dict[str, Any]]:
    found, series = [], 0
    for event in events:
        if isinstance(event, SeriesBegin):
            series += 1
        elif isinstance(event, SourceFrame):
            header = event.header
            array = decode(
                event.payload, encoding=header.encoding, shape=header.shape, dtype=header.dtype
            )
            found.append(line(series, header, array.astype("<u2").tobytes()))
        elif isinstance(event, SourceFile):
            for placed in event.frames:
                view = byte_view(event.payload)[placed.offset : placed.offset + placed.nbytes]
                found.append(line(series, placed.header, bytes(view)))
    return found


def line(series: int, header: Any, content: bytes) -> dict[str, Any]:
    return {
        "series": str(series),
        "number": header.number,
        "timestamp_ns": header.timestamp_ns,
        "pixels_sha256": hashlib.sha256(content).hexdigest(),
    }


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_gives_the_truth_with_losses_repeats_and_a_second_arming(
    tmp_path, file_format
):
    truth = simulate(
        tmp_path / "d",
        file_format=file_format,
        frames=12,
        lose=(3,),
        repeat=(5,),
        rearm_after=7,
        zero_first=True,
        bits=14,
    )
    events = read(tmp_path / "d")
    assert frames(events) == [one for one in truth if "lost" not in one]
    ends = [event.metadata for event in events if isinstance(event, SeriesEnd)]
    assert [end["repeated"] for end in ends] == [1, 1]
    assert sum(end.get("empty_frames", 0) for end in ends) == 2
    begins = [event for event in events if isinstance(event, SeriesBegin)]
    assert {begin.metadata["number_source"] for begin in begins} == {"stamp"}
    assert begins[0].run != begins[1].run
    assert not any(isinstance(event, Quarantined) for event in events)


def test_kept_files_read_again_give_the_same_series(tmp_path):
    simulate(tmp_path / "d", file_format="multitif", rearm_after=5)
    begins = [
        [event.run for event in read(tmp_path / "d") if isinstance(event, SeriesBegin)]
        for _ in range(2)
    ]
    assert begins[0] == begins[1]
    assert len(begins[0]) == 2


def test_a_camera_found_in_the_midst_of_a_series_is_said_to_be_late(tmp_path):
    simulate(tmp_path / "d", lose=(1, 2))
    (begin,) = [e for e in read(tmp_path / "d", after="delete") if isinstance(e, SeriesBegin)]
    assert begin.late
    assert "first_stamp_ns" not in begin.run


def test_without_stamps_the_files_number_the_frames(tmp_path):
    simulate(tmp_path / "d", stamped=False, frames=4)
    events = read(tmp_path / "d")
    assert [one["number"] for one in frames(events)] == [1, 2, 3, 4]
    assert events[0].metadata["number_source"] == "file"


def test_without_stamps_the_pages_of_each_file_are_a_series(tmp_path):
    simulate(tmp_path / "d", stamped=False, frames=5, file_format="multitif")
    events = read(tmp_path / "d")
    assert [(one["series"], one["number"]) for one in frames(events)] == [
        ("1", 0),
        ("1", 1),
        ("1", 2),
        ("2", 0),
        ("2", 1),
    ]
    assert events[0].metadata["number_source"] == "page"


def test_the_halves_of_a_double_shutter_in_two_files_are_two_series(tmp_path):
    simulate(tmp_path / "d", frames=2, file_format="b16")
    for number in (1, 2):
        path = tmp_path / "d" / f"pco_000{number}.b16"
        content = bytearray(path.read_bytes())
        content[1024:1052] = bytes([200, 0] * 14)  # no stamp in the second half
        (tmp_path / "d" / f"pco_000{number}B.b16").write_bytes(content)
        path.rename(tmp_path / "d" / f"pco_000{number}A.b16")
    begins = {e.series: e for e in read(tmp_path / "d") if isinstance(e, SeriesBegin)}
    sources = {key: begin.metadata["number_source"] for key, begin in begins.items()}
    assert sources == {"pco_A*.b16": "stamp", "pco_B*.b16": "file"}


def test_an_image_that_lost_its_stamp_is_quarantined(tmp_path):
    simulate(tmp_path / "d", frames=3)
    path = tmp_path / "d" / "pco_0002.tif"
    content = bytearray(path.read_bytes())
    content[-2 * SHAPE[0] * SHAPE[1] :][:28] = bytes(28)
    first = len(content) - 2 * SHAPE[0] * SHAPE[1]
    content[first : first + 28] = b"\xff" * 28
    path.write_bytes(content)
    events = read(tmp_path / "d")
    assert [one["number"] for one in frames(events)] == [1, 3]
    (note,) = [event for event in events if isinstance(event, Quarantined)]
    assert (note.source, "no time stamp" in note.reason) == ("pco_0002.tif", True)


def test_files_made_by_tifffile_are_read_and_compressed_pages_are_told(tmp_path):
    simulate(tmp_path / "truth", frames=3)
    images = [tifffile.imread(path) for path in sorted((tmp_path / "truth").glob("*.tif"))]
    folder = tmp_path / "d"
    folder.mkdir()
    tifffile.imwrite(folder / "a_1.tif", np.stack(images), photometric="minisblack")
    tifffile.imwrite(
        folder / "b_1.tif", np.stack(images), photometric="minisblack", compression="zlib"
    )
    tifffile.imwrite(folder / "c_1.tif", images[0], compression="zlib")
    events = read(folder)
    assert [one["number"] for one in frames(events)] == [1, 2, 3, 1]
    reasons = [event.reason for event in events if isinstance(event, Quarantined)]
    assert len(reasons) == 3
    assert all("compressed" in reason for reason in reasons)


def test_a_file_that_grows_gives_each_page_once(tmp_path):
    folder = tmp_path / "d"
    simulator = PcoSimulator(
        folder, frames=0, rate_hz=0, shape=SHAPE, file_format="pcoraw", hold_open=True
    )
    simulator.take()
    simulator.take()
    adapter = PcoAdapter(watch=folder, grace_s=5.0, method="poll", poll_every_s=0.01)
    numbers: list[int] = []
    for event in until_silent(adapter, silences=400):
        if isinstance(event, SourceFile):
            numbers += [placed.header.number for placed in event.frames]
            if numbers == [1, 2]:
                simulator.take()
            else:
                break
    adapter.close()
    simulator.finish()
    assert numbers == [1, 2, 3]


def test_a_file_that_windows_still_locks_is_tried_again(tmp_path, monkeypatch):
    simulate(tmp_path / "d", frames=1)
    refusals = iter([True, True, False])
    real = files_module.read_file

    def locked(path: str, *_: object) -> Any:
        if next(refusals, False):
            raise PermissionError(13, "sharing violation", path)
        return real(path)

    monkeypatch.setattr(files_module, "read_file", locked)
    adapter = PcoAdapter(watch=tmp_path / "d", grace_s=20.0)
    events = list(until_silent(adapter, silences=80))
    adapter.close()
    assert [one["number"] for one in frames(events)] == [1]


def test_files_are_deleted_when_all_their_parts_are_confirmed(tmp_path):
    simulate(tmp_path / "d", file_format="multitif", frames=3, rearm_after=2)
    adapter = PcoAdapter(watch=tmp_path / "d", grace_s=0.02, after="delete")
    parts = [e for e in until_silent(adapter) if isinstance(e, SourceFile)]
    assert len(parts) == 2  # one file, two armings
    adapter.acknowledge([parts[0].token])
    assert list((tmp_path / "d").iterdir())
    adapter.acknowledge([parts[1].token])
    assert not list((tmp_path / "d").iterdir())
    adapter.close()


def test_hostile_files_are_quarantined_and_the_others_come(tmp_path):
    simulate(tmp_path / "d", frames=2)
    hostile = {
        "pco_0003.tif": b"",
        "pco_0004.tif": b"II*\0\x10\0\0\0\xff\xff",
        "pco_0005.b16": b"PCO-" + b"\xff" * 60,
        "pco_0006.pcoraw": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    }
    for name, content in hostile.items():
        (tmp_path / "d" / name).write_bytes(content)
    events = read(tmp_path / "d")
    assert [one["number"] for one in frames(events)] == [1, 2]
    assert {e.source for e in events if isinstance(e, Quarantined)} == set(hostile)


def test_wrong_settings_are_named(tmp_path):
    for setting in ({"alignment": "13"}, {"timezone": "Mars/Base"}, {"pattern": "("}):
        with pytest.raises(InvalidArgumentError):
            PcoAdapter(watch=tmp_path, **setting)
    for setting in ({"file_format": "png"}, {"bits": 10}, {"frames": -1}, {"rate_hz": -1.0}):
        with pytest.raises(InvalidArgumentError):
            PcoSimulator(tmp_path, **{"frames": 1, "rate_hz": 1.0, **setting})


def test_other_readers_see_the_simulators_pixels(tmp_path):
    fabio = pytest.importorskip("fabio")
    truth = simulate(tmp_path / "d", frames=2)
    for path, one in zip(sorted((tmp_path / "d").iterdir()), truth, strict=True):
        pixels = tifffile.imread(path)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == one["pixels_sha256"]
        with fabio.open(str(path)) as image:
            assert np.array_equal(image.data, pixels)
