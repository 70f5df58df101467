"""From files of QXRD to series: images and sidecars in any order."""

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
from pipeline.detectors.perkinelmer import adapter as adapter_module
from pipeline.detectors.perkinelmer.adapter import PerkinElmerAdapter
from pipeline.detectors.perkinelmer.sim import PerkinElmerSimulator
from pipeline.errors import InvalidArgumentError
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFile, SourceFrame

SHAPE = (24, 30)


def simulate(directory: Path, **settings: Any) -> list[dict[str, Any]]:
    truth = directory.with_suffix(".jsonl")
    settings = {"frames": 6, "rate_hz": 0, "shape": SHAPE, **settings}
    PerkinElmerSimulator(directory, truth=truth, **settings).run()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    return [line for line in lines if "lost" not in line]


def made(directory: Path, **settings: Any) -> PerkinElmerAdapter:
    return PerkinElmerAdapter(watch=directory, **{"idle_end_s": 0.15, "grace_s": 0.05, **settings})


def read(adapter: PerkinElmerAdapter, *, silences: int = 30) -> list[Any]:
    try:
        return list(until_silent(adapter, silences))
    finally:
        adapter.close()


def until_silent(adapter: PerkinElmerAdapter, silences: int) -> Iterator[Any]:
    quiet = 0
    for event in adapter.events(poll_s=0.01):
        quiet = quiet + 1 if event is None else 0
        if event is not None:
            yield event
        if quiet > silences:
            return


def digest(frame: SourceFrame) -> str:
    header = frame.header
    pixels = decode(frame.payload, encoding=header.encoding, shape=header.shape, dtype=header.dtype)
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def frames(events: list[Any]) -> dict[str, SourceFrame]:
    """Return the frames by the names of their files."""
    return {event.source: event for event in events if isinstance(event, SourceFrame)}


@pytest.mark.parametrize("dtype", ["float32", "uint16", "uint32"])
def test_pairs_in_any_order_give_the_truth(tmp_path, dtype):
    truth = simulate(tmp_path / "d", dtype=dtype, early=(1, 3), late=(2, 4), lose=(5,))
    events = read(made(tmp_path / "d"))
    found = sorted(
        (f.header.number, f.header.timestamp_ns, digest(f)) for f in frames(events).values()
    )
    wanted = [(t["number"], t["timestamp_ns"], t["pixels_sha256"]) for t in truth]
    assert found == sorted(wanted)
    for frame in frames(events).values():
        assert frame.header.attributes["sidecar"] == "ok"
        assert frame.header.attributes["exposure_s"] == 0.0667
        assert frame.header.attributes["user_comment1"] == 'scan 12, 5° C "hot"'
    begin = next(event for event in events if isinstance(event, SeriesBegin))
    assert begin.metadata["exposure_s"] == 0.0667
    assert "title" not in begin.metadata


def test_an_image_whose_sidecar_never_comes_is_published_and_flagged(tmp_path):
    simulate(tmp_path / "d", missing=(2,), malformed=(3,))
    events = read(made(tmp_path / "d"))
    flags = {f.header.number: f.header.attributes["sidecar"] for f in frames(events).values()}
    assert flags == {0: "ok", 1: "ok", 2: "missing", 3: "malformed", 4: "ok", 5: "ok"}
    (end,) = [event for event in events if isinstance(event, SeriesEnd)]
    assert end.metadata == {"sidecars_missing": 1, "sidecars_malformed": 1}


def test_an_image_waits_for_its_sidecar(tmp_path):
    simulate(tmp_path / "d", frames=1, missing=(0,))
    adapter = made(tmp_path / "d", grace_s=60.0)
    events = adapter.events(poll_s=0.01)
    assert not [event for event, _ in zip(events, range(20), strict=False) if event is not None]
    (tmp_path / "d" / "scan-00000.tif.metadata").write_bytes(b"[metadata]\r\ntitle=late\r\n")
    found = [event for event, _ in zip(events, range(20), strict=False) if event is not None]
    (frame,) = frames(found).values()
    assert frame.header.attributes["title"] == "late"
    adapter.close()


def test_a_sidecar_that_comes_too_late_is_counted(tmp_path):
    simulate(tmp_path / "d", frames=1, missing=(0,))
    adapter = made(tmp_path / "d", idle_end_s=0.4)
    events, beside = [], tmp_path / "d" / "scan-00000.tif.metadata"
    for event in until_silent(adapter, 100):
        events.append(event)
        if isinstance(event, SourceFrame):
            beside.write_bytes(b"[metadata]\ntitle=late\n")
    adapter.close()
    assert len(frames(events)) == 1
    (end,) = [event for event in events if isinstance(event, SeriesEnd)]
    assert end.metadata == {"sidecars_missing": 1, "sidecars_late": 1}


def test_a_sidecar_without_an_image_is_counted(tmp_path):
    simulate(tmp_path / "d", frames=2)
    (tmp_path / "d" / "scan-00001.tif").unlink()
    events = read(made(tmp_path / "d"))
    (end,) = [event for event in events if isinstance(event, SeriesEnd)]
    assert (len(frames(events)), end.metadata) == (1, {"sidecars_alone": 1})


def test_a_large_sidecar_stands_behind_the_image_and_readers_do_not_mind(tmp_path):
    simulate(tmp_path / "d", frames=1, huge=(0,))
    (frame,) = frames(read(made(tmp_path / "d"))).values()
    nbytes = frame.header.attributes["sidecar_nbytes"]
    content = bytes(byte_view(frame.payload))
    assert content[-nbytes:] == (tmp_path / "d" / "scan-00000.tif.metadata").read_bytes()
    assert nbytes > 2_000_000
    whole = tmp_path / "whole.tif"
    whole.write_bytes(content)
    pixels = tifffile.imread(whole)
    assert np.array_equal(pixels, tifffile.imread(tmp_path / "d" / "scan-00000.tif"))


def test_a_sidecar_beyond_all_bounds_is_not_taken_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_module, "_MAX_SIDECAR", 200_000)
    simulate(tmp_path / "d", frames=1, huge=(0,))
    adapter = made(tmp_path / "d", after="delete")
    (frame,) = frames(read(adapter)).values()
    assert frame.header.attributes["exposure_s"] == 0.0667
    assert "sidecar_nbytes" not in frame.header.attributes
    adapter.acknowledge([frame.token])
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["scan-00000.tif.metadata"]


@pytest.mark.parametrize("after", ["delete", "move"])
def test_image_and_sidecar_go_together(tmp_path, after):
    simulate(tmp_path / "d", frames=2, missing=(1,))
    adapter = made(tmp_path / "d", after=after, move_to=tmp_path / "moved")
    events = read(adapter)
    adapter.acknowledge([event.token for event in events if isinstance(event, SourceFrame)])
    assert not list((tmp_path / "d").iterdir())
    if after == "move":
        assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == [
            "scan-00000.tif",
            "scan-00000.tif.metadata",
            "scan-00001.tif",
        ]


def test_darks_phases_and_retakes_are_series_of_their_own(tmp_path):
    simulate(tmp_path / "a", frames=2, darks=1, retake=(1,))
    simulate(tmp_path / "b", frames=2, phases=2)
    events = read(made(tmp_path, recursive=True))
    begins = [event for event in events if isinstance(event, SeriesBegin)]
    assert sorted(begin.series for begin in begins) == [
        "a/scan*.tif",
        "a/scan.00001*.tif",
        "a/scan.dark*.tif",
        "b/scan.00000*.tif",
        "b/scan.00001*.tif",
    ]
    found = frames(events)
    assert found["a/scan-00001-00001.tif"].header.attributes["retake"] == 1
    assert found["b/scan-00001-00001.tif"].header.attributes["phase"] == 1
    assert not any(isinstance(event, Quarantined) for event in events)


def test_without_sidecars_nothing_is_waited_for(tmp_path):
    simulate(tmp_path / "d", frames=1, missing=(0,))
    (frame,) = frames(read(made(tmp_path / "d", sidecars=False, grace_s=60.0))).values()
    assert frame.header.attributes == {"time_source": "DateTime"}


def test_an_overflow_mask_is_an_image_of_its_own(tmp_path):
    simulate(tmp_path / "d", frames=1)
    tifffile.imwrite(tmp_path / "d" / "mask.tif", np.eye(*SHAPE, dtype=np.uint8))
    mask = tmp_path / "d" / "mask.tif"
    mask.rename(tmp_path / "d" / "scan-00000.tif.overflow")
    found = frames(read(made(tmp_path / "d")))
    frame = found["scan-00000.tif.overflow"]
    assert (frame.series, frame.header.number, frame.header.dtype) == ("scan*.overflow", 0, "uint8")


def test_frames_of_a_his_file_are_ranges_of_its_bytes(tmp_path):
    truth = simulate(tmp_path / "d", file_format="his")
    (file,) = [e for e in read(made(tmp_path / "d")) if isinstance(e, SourceFile)]
    view = byte_view(file.payload)
    digests = [
        hashlib.sha256(view[placed.offset : placed.offset + placed.nbytes]).hexdigest()
        for placed in file.frames
    ]
    assert digests == [one["pixels_sha256"] for one in truth]
    assert [placed.header.number for placed in file.frames] == list(range(6))


def test_hostile_files_are_quarantined_and_the_others_come(tmp_path):
    simulate(tmp_path / "d", frames=2)
    hostile = {
        "scan-00002.tif": b"",
        "scan-00003.tif": b"II*\0\xff\xff\xff\xff",
        "scan-00004.tif": (tmp_path / "d" / "scan-00000.tif").read_bytes()[:-30],
        "x.his": b"\0\x70" + b"\xff" * 200,
    }
    for name, content in hostile.items():
        (tmp_path / "d" / name).write_bytes(content)
        if name.endswith("tif"):
            (tmp_path / "d" / f"{name}.metadata").write_bytes(b"[metadata]\na=1\n")
    events = read(made(tmp_path / "d"))
    assert sorted(frames(events)) == ["scan-00000.tif", "scan-00001.tif"]
    assert {e.source for e in events if isinstance(e, Quarantined)} == set(hostile)


def test_wrong_settings_are_named(tmp_path):
    for setting in ({"digits": 0}, {"timezone": "Mars/Base"}, {"grace_s": -1.0}):
        with pytest.raises(InvalidArgumentError):
            PerkinElmerAdapter(watch=tmp_path, **setting)
    for setting in ({"dtype": "int8"}, {"phases": 0}, {"rate_hz": -1.0}, {"shape": (1, 1)}):
        with pytest.raises(InvalidArgumentError):
            PerkinElmerSimulator(tmp_path, **{"frames": 1, "rate_hz": 1.0, **setting})


def test_other_readers_see_the_simulators_pixels(tmp_path):
    fabio = pytest.importorskip("fabio")
    truth = simulate(tmp_path / "d", frames=2)
    for path, one in zip(sorted((tmp_path / "d").glob("*.tif")), truth, strict=True):
        pixels = tifffile.imread(path)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == one["pixels_sha256"]
        with fabio.open(str(path)) as image:
            assert np.array_equal(image.data, pixels)
