from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import tifffile

from pipeline.codecs import cbf
from pipeline.detectors import after
from pipeline.detectors.files import FilesAdapter
from pipeline.detectors.pilatus.adapter import PilatusAdapter
from pipeline.detectors.pilatus.sim import PilatusSimulator
from pipeline.errors import InvalidArgumentError
from pipeline.protocols import DetectorAdapter, Quarantined, SeriesBegin, SeriesEnd, SourceFrame


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    made: list[FilesAdapter] = []

    def make(kind: type[FilesAdapter] = PilatusAdapter, **settings: Any) -> FilesAdapter:
        made.append(kind(watch=tmp_path, clock=clock, **settings))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()


def take(adapter: FilesAdapter, rounds: int = 1) -> list[Any]:
    """Return what happens until there was silence so many times."""
    if not hasattr(adapter, "iterator"):
        adapter.iterator = adapter.events(poll_s=0.0)
    events: list[Any] = []
    for event in adapter.iterator:
        if event is not None:
            events.append(event)
        else:
            rounds -= 1
            if not rounds:
                break
    return events


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def write_series(path: Path, frames: int = 2, **settings: Any) -> None:
    simulator = PilatusSimulator(path, frames=frames, rate_hz=0, shape=(6, 8), **settings)
    simulator.run()


def numbers(events: list[Any]) -> list[int]:
    return [event.header.number for event in events if isinstance(event, SourceFrame)]


def test_it_is_a_detector_adapter(make):
    assert isinstance(make(), DetectorAdapter)


@pytest.mark.parametrize("file_format", ["cbf", "tif", "edf"])
def test_a_pilatus_file_becomes_a_frame_with_header_and_time(make, tmp_path, file_format):
    write_series(tmp_path, 2, prefix="scan_7", file_format=file_format, start_ns=10**18)
    begin, first, second = take(make(timezone="UTC"))
    assert begin.name == "scan_7"
    assert begin.run["directory"] == str(tmp_path)
    assert (begin.run["adapter"], begin.run["prefix"]) == ("pilatus", "scan_7")
    assert begin.metadata["units"]["wavelength_A"] == "A"
    assert "exposure_s" in begin.metadata
    assert "start_angle_deg" not in begin.metadata
    assert first.header.timestamp_ns == 10**18
    assert first.header.shape == (6, 8)
    assert first.header.encoding == {"tif": "tiff"}.get(file_format, file_format)
    assert first.header.attributes["wavelength_A"] == begin.metadata["wavelength_A"]
    assert bytes(first.payload) == Path(first.token.path).read_bytes()
    assert [first.header.number, second.header.number] == [0, 1]
    assert second.source == f"scan_7_00001.{file_format}"


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("Europe/Berlin", 2), ("local", None)])
def test_header_dates_are_read_in_the_detectors_time_zone(make, tmp_path, zone, hours):
    write_series(tmp_path, 1, start_ns=1_000_000_000 * 10**9)  # September 2001
    frame = take(make(timezone=zone))[1]
    if hours is None:
        from datetime import datetime

        hours = datetime(2001, 9, 9).astimezone().utcoffset().total_seconds() / 3600
    assert frame.header.timestamp_ns == (1_000_000_000 - hours * 3600) * 10**9


def test_an_unknown_time_zone_is_refused(make):
    with pytest.raises(InvalidArgumentError, match="Europe/Berlin"):
        make(timezone="Mars/Olympus")
    assert ZoneInfo("Europe/Berlin")


def test_a_silent_series_ends_and_may_begin_again(make, tmp_path, clock):
    adapter = make(idle_end_s=2.0)
    write_series(tmp_path, 1)
    assert kinds(take(adapter)) == ["SeriesBegin", "SourceFrame"]
    clock.now = 2.0
    assert kinds(take(adapter)) == ["SeriesEnd"]
    write_series(tmp_path, 1, start_number=1)
    assert kinds(take(adapter)) == ["SeriesBegin", "SourceFrame"]


def test_each_directory_prefix_and_extension_is_a_series(make, tmp_path):
    write_series(tmp_path / "x", 1)
    write_series(tmp_path / "y", 1)
    write_series(tmp_path / "y", 1, prefix="other")
    write_series(tmp_path / "y", 1, file_format="tif")
    events = take(make())
    assert len({event.series for event in events}) == 4
    assert kinds(events) == ["SeriesBegin", "SourceFrame"] * 4


def test_a_truncated_file_is_waited_for_while_it_grows(make, tmp_path, clock):
    adapter = make(grace_s=5.0, idle_end_s=1.0)
    write_series(tmp_path / ".made", 1)
    content = (tmp_path / ".made" / "sim_00000.cbf").read_bytes()
    path = tmp_path / "sim_00000.cbf"
    for part in (content[:-40], content[:-20], content):
        path.write_bytes(part)
        events = take(adapter)
        clock.now += 4.0
    assert kinds(events) == ["SeriesBegin", "SourceFrame"]


def test_a_truncated_file_that_rests_is_quarantined_with_the_reason(make, tmp_path, clock):
    adapter = make(grace_s=5.0, idle_end_s=1.0)
    write_series(tmp_path, 2)
    path = tmp_path / "sim_00001.cbf"
    path.write_bytes(path.read_bytes()[:-40])
    assert numbers(take(adapter)) == [0]
    clock.now = 4.9
    assert take(adapter) == []  # nor does the series end while its file may grow
    clock.now = 5.0
    (note,) = take(adapter)
    assert isinstance(note, Quarantined)
    assert note.source == "sim_00001.cbf"
    assert "cut short" in note.reason
    clock.now = 6.0
    assert kinds(take(adapter)) == ["SeriesEnd"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a_1.cbf", b"", "zero bytes"),
        ("a_1.cbf", b"no image at all", "CBF"),
        ("a_1.tif", b"II*\0garbage", "TIFF"),
        ("a_1.raw", b"1234", "no reader"),
    ],
)
def test_what_is_no_image_is_quarantined(make, tmp_path, clock, name, content, reason):
    adapter = make(patterns="*.cbf,*.tif,*.raw")
    (tmp_path / name).write_bytes(content)
    assert take(adapter) == []
    clock.now = 5.0
    begin, note = take(adapter)
    assert isinstance(begin, SeriesBegin)
    assert note.source == name
    assert reason in note.reason


def test_the_begin_comes_again_with_metadata_after_an_unreadable_first_file(make, tmp_path, clock):
    adapter = make()
    (tmp_path / "sim_00000.cbf").write_bytes(b"")
    take(adapter)
    clock.now = 5.0
    bare, _ = take(adapter)
    write_series(tmp_path, 1, start_number=1)
    full, _ = take(adapter)
    assert bare.metadata == {}
    assert full.metadata
    assert bare.run == full.run


def test_an_image_of_another_shape_within_a_series_is_quarantined(make, tmp_path, clock):
    adapter = make()
    write_series(tmp_path, 2)
    PilatusSimulator(tmp_path, frames=1, rate_hz=0, shape=(5, 5), start_number=2).run()
    assert numbers(take(adapter)) == [0, 1]
    clock.now = 5.0
    (note,) = take(adapter)
    assert "(5, 5)" in note.reason


def test_numbers_that_start_again_may_have_another_shape(make, tmp_path):
    adapter = make()
    write_series(tmp_path, 2)
    take(adapter)
    PilatusSimulator(tmp_path, frames=2, rate_hz=0, shape=(5, 5)).run()
    assert [event.header.shape for event in take(adapter)] == [(5, 5), (5, 5)]


def test_a_file_that_vanishes_while_it_is_waited_for_is_counted(make, tmp_path, caplog):
    adapter = make()
    (tmp_path / "a_1.cbf").write_bytes(b"")
    take(adapter)
    (tmp_path / "a_1.cbf").unlink()
    assert take(adapter) == []
    assert adapter.vanished == 1
    assert any("vanished" in message for message in caplog.messages)


def test_a_wrong_md5_is_noticed_if_asked_for(make, tmp_path, clock):
    write_series(tmp_path, 1)
    path = tmp_path / "sim_00000.cbf"
    content = bytearray(path.read_bytes())
    at = content.index(b"\x0c\x1a\x04\xd5") + 4
    content[at] ^= 1
    path.write_bytes(content)
    assert numbers(take(make())) == [0]
    strict = make(check_md5=True)
    take(strict)
    clock.now = 5.0
    (_, note) = take(strict)
    assert "MD5" in note.reason


def test_a_lone_image_without_a_number_is_frame_0_of_its_own_series(make, tmp_path):
    write_series(tmp_path, 1)
    (tmp_path / "sim_00000.cbf").rename(tmp_path / "alone.cbf")
    begin, frame = take(make())
    assert (begin.name, frame.header.number) == ("alone", 0)


# -- any files ----------------------------------------------------------------------------------


def test_plain_tiff_files_have_the_time_of_the_file(make, tmp_path):
    tifffile.imwrite(tmp_path / "img12.tif", np.arange(12, dtype=np.uint16).reshape(3, 4))
    begin, frame = take(make(FilesAdapter))
    assert (begin.name, frame.header.number) == ("img", 12)
    assert (frame.header.shape, frame.header.dtype) == ((3, 4), "uint16")
    assert frame.header.timestamp_ns == frame.token.mtime_ns
    assert not frame.header.attributes


def test_names_may_have_a_pattern_of_their_own(make, tmp_path):
    pixels = np.zeros((3, 4), np.uint16)
    tifffile.imwrite(tmp_path / "007-dark.tif", pixels)
    adapter = make(FilesAdapter, name_pattern=r"(?P<number>\d+)-(?P<prefix>.*)")
    begin, frame = take(adapter)
    assert (begin.name, frame.header.number) == ("dark", 7)


@pytest.mark.parametrize("pattern", ["(", r"(\d+)", r"(?P<number>\d+)"])
def test_a_name_pattern_that_cannot_work_is_refused(make, pattern):
    with pytest.raises(InvalidArgumentError, match="name_pattern"):
        make(FilesAdapter, name_pattern=pattern)


@pytest.mark.parametrize("settings", [{"after": "burn"}, {"grace_s": -1.0}, {"idle_end_s": -1.0}])
def test_settings_that_make_no_sense_are_refused(make, settings):
    with pytest.raises(InvalidArgumentError):
        make(FilesAdapter, **settings)


def test_options_are_keywords_of_the_constructor(tmp_path):
    for kind in (FilesAdapter, PilatusAdapter):
        options = kind.options()
        values = {option.name: option.default for option in options if not option.required}
        kind(watch=tmp_path, **values).close()
        assert [option.flag for option in options][:3] == ["--watch", "--patterns", "--recursive"]
        assert "--poll-every" in [option.flag for option in options]


def test_check_says_what_is_there(make, tmp_path):
    write_series(tmp_path, 3)
    seen = make().check()
    assert (seen["directory"], seen["files"]) == (str(tmp_path), 3)


def test_it_knows_the_runs_of_its_directory(make, tmp_path):
    write_series(tmp_path / "sub", 1)
    adapter = make()
    run = take(adapter)[0].run
    assert adapter.owns(run)
    assert not adapter.owns({**run, "host": "elsewhere"})
    assert not adapter.owns({**run, "directory": f"{tmp_path}2"})


# -- afterwards ---------------------------------------------------------------------------------


def tokens(events: list[Any]) -> list[Any]:
    return [event.token for event in events if isinstance(event, SourceFrame)]


def test_published_files_are_kept_deleted_or_moved(make, tmp_path):
    write_series(tmp_path / "sub", 1)
    path = tmp_path / "sub" / "sim_00000.cbf"
    content = path.read_bytes()
    kept = make()
    kept.acknowledge(tokens(take(kept)))
    assert path.exists()
    moving = make(after="move")
    moving.acknowledge(tokens(take(moving)))
    assert not path.exists()
    assert (tmp_path / "published" / "sub" / "sim_00000.cbf").read_bytes() == content
    assert take(moving) == []  # what was moved is not found again
    path.write_bytes(content)
    deleting = make(after="delete")
    deleting.acknowledge(tokens(take(deleting)))
    assert not path.exists()


def test_moving_never_replaces_a_file(make, tmp_path):
    adapter = make(after="move", move_to=tmp_path / "away")
    for _ in range(3):
        write_series(tmp_path, 1)
        adapter.acknowledge(tokens(take(adapter)))
    found = sorted(path.name for path in (tmp_path / "away").iterdir())
    assert found == ["sim_00000.cbf", "sim_00000.cbf.1", "sim_00000.cbf.2"]


def test_a_file_that_changed_after_it_was_read_stays(make, tmp_path, caplog):
    adapter = make(after="delete")
    write_series(tmp_path, 1)
    events = take(adapter)
    write_series(tmp_path, 1, seed=1)
    adapter.acknowledge(tokens(events))
    assert (tmp_path / "sim_00000.cbf").exists()
    assert any("changed" in message for message in caplog.messages)
    assert numbers(take(adapter)) == [0]


def test_a_file_that_cannot_be_removed_is_kept_and_told(make, tmp_path, monkeypatch, caplog):
    adapter = make(after="delete")
    write_series(tmp_path, 1)
    events = take(adapter)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(after.os, "unlink", refuse)
    adapter.acknowledge(tokens(events))
    assert any("Permission denied" in message for message in caplog.messages)


def test_moving_to_another_file_system_copies_first(make, tmp_path, monkeypatch):
    adapter = make(after="move", move_to=tmp_path / "away")
    write_series(tmp_path, 1)
    content = (tmp_path / "sim_00000.cbf").read_bytes()
    events = take(adapter)

    replace = after.os.replace

    def cross(source: Any, target: Any) -> None:
        if Path(source).parent == tmp_path:
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(after.os, "replace", cross)
    adapter.acknowledge(tokens(events))
    assert (tmp_path / "away" / "sim_00000.cbf").read_bytes() == content
    assert not (tmp_path / "sim_00000.cbf").exists()


def test_the_payload_decodes_to_the_pixels_of_the_file(make, tmp_path):
    write_series(tmp_path, 1, stamp=True, start_number=77)
    frame = take(make())[1]
    assert cbf.decode(frame.payload)[0, 0] == 77


def test_the_end_is_the_adapters_own_word(make, tmp_path, clock):
    adapter = make(idle_end_s=0.0)
    write_series(tmp_path, 1)
    events = take(adapter, rounds=2)
    assert isinstance(events[-1], SeriesEnd)
    assert events[-1].state == "complete"


def test_memory_for_files_is_used_again_only_when_nobody_looks_at_it(tmp_path):
    from pipeline.detectors.reading import Buffers, read_file

    buffers = Buffers(most=2)
    for name, size in (("a", 400_000), ("b", 500_000), ("c", 300_000)):
        (tmp_path / name).write_bytes(name.encode() * size)
    first = read_file(str(tmp_path / "a"), buffers)[1]
    second = read_file(str(tmp_path / "b"), buffers)[1]
    third = read_file(str(tmp_path / "c"), buffers)[1]
    pixels = np.frombuffer(first, np.uint8)
    kept = [bytes(view) for view in (first, second, third)]
    assert kept == [b"a" * 400_000, b"b" * 500_000, b"c" * 300_000]
    del first, second, third  # an array still looks at the first
    again = read_file(str(tmp_path / "c"), buffers)[1]
    assert again == b"c" * 300_000
    assert (pixels == ord("a")).all()
