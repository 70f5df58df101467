"""The FileWriter's source: what it makes of files that appear, grow, vanish and come again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from filewriter_stand_in import (
    SHAPE,
    FileWriterStandIn,
    data_file,
    hashes,
    images,
    master_file,
    running,
)

from pipeline.codecs import decode
from pipeline.detectors.eiger import hdf5
from pipeline.detectors.eiger.filewriter import FileWriterSource
from pipeline.detectors.rest import Device
from pipeline.errors import InvalidArgumentError, InvalidFrameError, SourceError
from pipeline.protocols import Quarantined, SeriesBegin, SeriesEnd, SourceFile

START_NS = 1_795_420_800_000_000_000


@pytest.fixture
def unit() -> Iterator[FileWriterStandIn]:
    with running() as made:
        yield made


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Run:
    """A source whose events are taken one look at a time."""

    def __init__(self, unit: FileWriterStandIn, **settings: Any) -> None:
        self.clock = Clock()
        self.device = Device(unit.endpoint, timeout_s=5.0)
        self.source = FileWriterSource(
            self.device, "1.8.0", clock=self.clock, sleep=self.clock.sleep, **settings
        )
        self._events = self.source.events(poll_s=10.0)
        self.frames: dict[tuple[int, int], str] = {}
        self.times: dict[int, int] = {}
        self.files: list[bytes] = []

    def looks(self, count: int = 1) -> list[Any]:
        """Return what happens until time has passed ``count`` times, pixels noted by number."""
        found: list[Any] = []
        until_s = self.clock.now_s + 0.5 * count
        while self.clock.now_s < until_s - 0.01:
            event = next(self._events)
            if isinstance(event, SourceFile):
                self.files.append(bytes(event.payload))
                self.note(event)
            if event is not None:
                found.append(event)
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
            self.times[header.number] = header.timestamp_ns

    @property
    def pixels(self) -> list[str]:
        return [self.frames[key] for key in sorted(self.frames)]

    def close(self) -> None:
        self._events.close()
        self.source.close()
        self.device.close()


@pytest.fixture
def start(unit: FileWriterStandIn) -> Iterator[Any]:
    made: list[Run] = []

    def begin(**settings: Any) -> Run:
        made.append(Run(unit, **settings))
        return made[-1]

    yield begin
    for run in made:
        run.close()


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def of(kind: type[Any], events: list[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# -- a series -----------------------------------------------------------------------------------


def test_a_series_begins_with_its_master_and_ends_with_its_last_image(unit, start):
    run = start()
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=12)
    (begin,) = run.looks()
    assert begin.series == "series_1"
    assert begin.rate_hz == pytest.approx(100)
    assert begin.attachments["pixel_mask"][3].all()
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 10), 1)
    assert kinds(run.looks(3)) == ["SourceFile"]
    unit.files["series_1_data_000002.h5"] = data_file(images(11, 2), 11)
    assert kinds(run.looks(3)) == ["SourceFile"]
    unit.active(False)
    last, end = run.looks()
    assert (end.state, end.expected) == ("complete", 12)
    assert last.run == begin.run
    assert last.attachments["master_h5"].tobytes() == unit.files["series_1_master.h5"]
    assert sorted(run.frames) == [(number, 0) for number in range(1, 13)]
    assert run.pixels == hashes(images(1, 10)) + hashes(images(11, 2))
    assert run.times[1] == START_NS
    assert run.times[12] == START_NS + 110_000_000
    assert run.looks(20) == []


def test_the_file_is_given_verbatim(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    run = start()
    run.looks()
    assert run.files == [unit.files["series_1_data_000001.h5"]]


def test_metadata_has_the_names_and_units_of_the_project(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=3, ntrigger=2)
    begin = start().looks()[0]
    expected = {
        "source_interface": "filewriter",
        "exposure_s": 0.01,
        "frame_time_s": 0.01,
        "distance_m": 0.2,
        "sensor_thickness_m": 0.00045,
        "threshold_eV": 6000.0,
        "beam_center_x": 20.5,
        "wavelength_A": 1.0,
        "detector_description": "Dectris EIGER2 Si 500K",
        "sensor_material": "Si",
        "images_announced": 6,
    }
    assert expected.items() <= begin.metadata.items()
    assert begin.metadata["units"]["sensor_thickness_m"] == "m"


@pytest.mark.parametrize("form", ["bare_list", "null_list"])
def test_listings_of_older_firmware_are_read(unit, start, form):
    setattr(unit, form, True)
    run = start()
    assert run.looks(2) == []
    unit.files["series_1_master.h5"] = master_file(nimages=2)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 2), 1)
    assert kinds(run.looks()) == ["SeriesBegin", "SourceFile", "SeriesBegin", "SeriesEnd"]


def test_a_series_without_images_ends_when_the_detector_is_idle(unit, start):
    run = start()
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file()
    assert kinds(run.looks(20)) == ["SeriesBegin"]
    unit.active(False)
    (_, end) = run.looks(6)
    assert (end.state, end.expected) == ("complete", None)


def test_an_armed_detector_keeps_its_series_open(unit, start):
    run = start()
    unit.values["detector/status/state"] = "ready"
    unit.files["series_1_master.h5"] = master_file()
    assert kinds(run.looks(40)) == ["SeriesBegin"]


def test_a_series_that_is_stopped_early_ends_without_a_count(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=100_000)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 9), 1)
    run = start()
    events = run.looks(10)
    assert (events[-1].state, events[-1].expected) == ("complete", None)
    assert events[0].metadata["images_announced"] == 100_000


def test_the_last_file_may_be_late(unit, start):
    run = start(settle_s=2.0)
    unit.files["series_1_master.h5"] = master_file(nimages=30)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 10), 1)
    assert kinds(run.looks(2)) == ["SeriesBegin", "SourceFile"]
    unit.files["series_1_data_000002.h5"] = data_file(images(11, 5), 11)
    assert kinds(run.looks(2)) == ["SourceFile"]
    assert kinds(run.looks(10)) == ["SeriesBegin", "SeriesEnd"]


def test_two_series_come_one_after_the_other_oldest_first(unit, start):
    unit.active(True)
    for number, date in (("10", "2026-11-23T09:00:00"), ("9", "2026-11-23T08:00:00")):
        name = f"series_{number}"
        unit.files[f"{name}_master.h5"] = master_file(nimages=3, date=date, name=name)
        unit.files[f"{name}_data_000001.h5"] = data_file(images(1, 3, seed=int(number)), 1)
    events = start().looks(8)
    assert [(type(event).__name__, event.series) for event in events] == [
        ("SeriesBegin", "series_9"),
        ("SourceFile", "series_9"),
        ("SeriesBegin", "series_9"),
        ("SeriesEnd", "series_9"),
        ("SeriesBegin", "series_10"),
        ("SourceFile", "series_10"),
    ]


def test_all_images_in_the_master_are_taken_at_the_end(unit, start):
    run = start()
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=4, inside=images(1, 4))
    assert kinds(run.looks(3)) == ["SeriesBegin"]
    unit.active(False)
    assert kinds(run.looks(6)) == ["SeriesBegin", "SourceFile", "SeriesEnd"]
    assert run.pixels == hashes(images(1, 4))


def test_channels_are_modules_below_each_other(unit, start):
    data = images(1, 6).reshape(3, 2, *SHAPE)
    channels = ("threshold_1", "threshold_2")
    unit.files["series_1_master.h5"] = master_file(nimages=3, channels=channels)
    unit.files["series_1_data_000001.h5"] = data_file(data, None)
    run = start()
    first, second, *_ = of(SeriesBegin, run.looks())
    assert first.rate_hz is None
    assert second.metadata["channels"] == list(channels)
    assert [module.position for module in second.modules] == [(0, 0), (SHAPE[0], 0)]
    assert sorted(run.frames) == [(number, module) for number in (1, 2, 3) for module in (0, 1)]
    assert run.pixels == hashes(images(1, 6))


def test_numbers_follow_from_the_settings_where_a_file_does_not_tell(unit, start):
    unit.values["filewriter/config/nimages_per_file"] = 5
    unit.values["filewriter/config/image_nr_start"] = 101
    unit.files["series_1_master.h5"] = master_file(nimages=8)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 5), None)
    unit.files["series_1_data_000002.h5"] = data_file(images(6, 3), None)
    run = start()
    events = run.looks()
    assert sorted(number for number, _ in run.frames) == list(range(101, 109))
    assert events[-1].expected == 8


def test_images_that_were_never_written_are_named(unit, start):
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        data = made.create_dataset("entry/data/data", (4, *SHAPE), "u2", chunks=(1, *SHAPE))
        data[0], data[3] = images(1, 2)
        data.attrs["image_nr_low"] = 1
    unit.files["series_1_master.h5"] = master_file(nimages=4)
    unit.files["series_1_data_000001.h5"] = file.getvalue()
    run = start()
    (note,) = of(Quarantined, run.looks())
    assert "2 of its images" in note.reason
    assert sorted(number for number, _ in run.frames) == [1, 4]


# -- trouble ------------------------------------------------------------------------------------


def test_a_growing_file_is_taken_when_it_is_whole(unit, start):
    content = data_file(images(1, 10), 1)
    unit.files["series_1_master.h5"] = master_file()
    run = start()
    for length in (0, 100, 4000, len(content) - 1):
        unit.files["series_1_data_000001.h5"] = content[:length]
        assert not of(SourceFile, run.looks(3))
    unit.files["series_1_data_000001.h5"] = content
    events = run.looks()
    assert kinds(events) == ["SourceFile", "SeriesBegin", "SeriesEnd"]
    assert events[-1].metadata == {}


def test_a_file_that_stays_damaged_is_named_and_kept(unit, start):
    unit.files["series_1_master.h5"] = master_file()
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 10), 1)[:4000]
    run = start(grace_s=5.0, after="delete")
    events = run.looks(30)
    (note,) = of(Quarantined, events)
    assert note.source == "series_1_data_000001.h5"
    assert "4000 bytes" in note.reason
    assert events[-1].metadata == {"damaged_files": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no HDF5",
        b"\x89HDF\r\n\x1a\n" + bytes(5000),
        data_file(images(1, 4), 1, shuffle=True, compression="gzip"),
        data_file(images(1, 4).astype(">u2"), 1),
        data_file(images(1, 4).astype("S8"), 1),
        data_file(images(1, 4), 2**63 - 6),
    ],
)
def test_hostile_files_do_not_stop_the_next_series(unit, start, content):
    unit.files["series_1_master.h5"] = master_file()
    unit.files["series_1_data_000001.h5"] = content
    unit.files["series_2_master.h5"] = master_file(nimages=2, date="2026-11-23T09:00:00")
    unit.files["series_2_data_000001.h5"] = data_file(images(1, 2, seed=2), 1)
    run = start(grace_s=2.0)
    ends = of(SeriesEnd, run.looks(40))
    assert [(end.series, end.expected) for end in ends][-1] == ("series_2", 2)
    assert set(hashes(images(1, 2, seed=2))) <= set(run.frames.values())


def test_a_master_that_cannot_be_read_does_not_hold_the_data_for_ever(unit, start):
    unit.files["series_1_master.h5"] = b"no HDF5"
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    run = start(grace_s=3.0)
    assert run.looks(2) == []
    events = run.looks(20)
    assert kinds(events) == ["SeriesBegin", "SourceFile", "SeriesBegin", "SeriesEnd"]
    assert run.pixels == hashes(images(1, 3))


def test_a_download_that_is_cut_short_is_tried_again(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    run = start()
    run.looks()
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    unit.cut_at = 1000
    assert not of(SourceFile, run.looks(3))
    unit.cut_at = None
    assert of(SourceFile, run.looks())
    assert run.pixels == hashes(images(1, 3))


def test_a_full_disk_holds_files_back_and_says_so(unit, start, monkeypatch, caplog, tmp_path):
    import shutil

    unit.files["series_1_master.h5"] = master_file(nimages=3)
    run = start(folder=tmp_path / "spool")
    run.looks()
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        assert run.looks(3) == []
        assert "no room for" in caplog.text
    assert of(SourceFile, run.looks())
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_unit_that_is_away_loses_nothing(unit, start):
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    run = start()
    assert kinds(run.looks()) == ["SeriesBegin"]
    unit.away = True
    assert run.looks(10) == []
    unit.away = False
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    unit.active(False)
    assert kinds(run.looks()) == ["SourceFile", "SeriesBegin", "SeriesEnd"]


def test_files_lost_in_a_restart_end_their_series_as_lost(unit, start):
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=20)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 10), 1)
    run = start()
    run.looks()
    unit.files.clear()
    unit.values["detector/status/state"] = "na"
    (end,) = run.looks()
    assert (end.series, end.state) == ("series_1", "lost")


def test_names_used_again_are_another_series(unit, start):
    run = start()
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    unit.files["series_1_data_000001.h5"] = data_file(np.zeros((3, *SHAPE), "u2"), 1)
    first = run.looks()
    unit.active(False)
    assert kinds(run.looks()) == ["SeriesBegin", "SeriesEnd"]
    # equal pixels, as of dark images, and equal lengths: the date tells
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=3, date="2026-11-23T11:11:11.111111")
    second = run.looks()
    assert kinds(second) == ["SeriesBegin", "SourceFile"]
    assert second[0].run != first[0].run


def test_names_used_again_before_the_end_are_noticed(unit, start):
    run = start()
    unit.active(True)
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    assert kinds(run.looks()) == ["SeriesBegin"]
    unit.files["series_1_master.h5"] = master_file(nimages=3, date="2026-11-23T11:11:11.111111")
    unit.active(False)
    end, begin, *_ = run.looks(6)
    assert (end.state, begin.run["data_collection_date"]) == ("lost", "2026-11-23T11:11:11.111111")


# -- letting go ---------------------------------------------------------------------------------


def test_data_files_are_deleted_before_the_master_and_only_with_their_tokens(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=6)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    unit.files["series_1_data_000002.h5"] = data_file(images(4, 3), 4)
    run = start(after="delete")
    events = run.looks(10)
    assert len(unit.files) == 3
    run.source.acknowledge([event.token for event in of(SourceFile, events)])
    assert list(unit.files) == ["series_1_master.h5"]
    run.source.acknowledge([events[-1].token])
    assert unit.files == {}
    assert run.looks(10) == []


def test_files_that_are_kept_are_fetched_once(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    run = start()
    events = run.looks(10)
    run.source.acknowledge([event.token for event in events if isinstance(event, SourceFile)])
    run.looks(30)
    assert unit.requests.count("GET /data/series_1_data_000001.h5") == 1
    assert len(unit.files) == 2


def test_a_name_used_again_is_not_deleted(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    run = start(after="delete")
    tokens = [event.token for event in of(SourceFile, run.looks())]
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 5), 1)
    run.source.acknowledge(tokens)
    assert "series_1_data_000001.h5" in unit.files


def test_a_second_process_gives_the_same_facts(unit, start):
    unit.files["series_1_master.h5"] = master_file(nimages=3)
    unit.files["series_1_data_000001.h5"] = data_file(images(1, 3), 1)
    first, second = start().looks(), start().looks()
    assert first[0].run == second[0].run
    assert [frame.header for frame in first[1].frames] == [
        frame.header for frame in second[1].frames
    ]
    assert start().source.owns(first[0].run)
    assert not start().source.owns({**first[0].run, "endpoint": "http://other"})


# -- settings and names -------------------------------------------------------------------------


def test_check_says_what_is_there(unit, start):
    unit.files["series_1_master.h5"] = master_file()
    seen = start().source.check()
    assert (seen["filewriter_mode"], seen["files"], seen["buffer_free"]) == ("enabled", 1, 10**9)


def test_check_refuses_a_filewriter_that_is_disabled(unit, start):
    unit.values["filewriter/config/mode"] = "disabled"
    with pytest.raises(SourceError, match="set filewriter/config/mode to enabled"):
        start().source.check()


@pytest.mark.parametrize("settings", [{"poll_every_s": 0.1}, {"after": "move"}, {"grace_s": -1}])
def test_wrong_settings_are_named(settings):
    device = Device("http://127.0.0.1:9")
    with pytest.raises(InvalidArgumentError):
        FileWriterSource(device, "1.8.0", **settings)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("series_1_master.h5", ("series_1", 0)),
        ("a_data_b_data_000012.h5", ("a_data_b", 12)),
        ("run7/x_data_000001.h5", ("run7/x", 1)),
        ("../x_master.h5", None),
        ("/x_master.h5", None),
        ("x\n_master.h5", None),
        ("x_data_000000.h5", None),
        ("x.h5", None),
        ("x" * 300 + "_master.h5", None),
    ],
)
def test_names_say_series_and_part(name, expected):
    found = hdf5.split_name(name)
    assert (found and (found.series, found.part)) == expected


@pytest.mark.parametrize("answer", [5, "text", {"value": 3}, {"value": {"a": 1}}])
def test_what_is_no_listing_is_refused(answer):
    with pytest.raises(InvalidFrameError):
        hdf5.parse_names(answer)


def test_fabio_reads_the_same_pixels_from_the_stand_ins_files(tmp_path: Path):
    import fabio

    (tmp_path / "series_1_master.h5").write_bytes(master_file(nimages=3))
    (tmp_path / "series_1_data_000001.h5").write_bytes(data_file(images(1, 3), 1))
    with fabio.open(str(tmp_path / "series_1_master.h5")) as master:
        assert master.nframes == 3
        assert np.array_equal(master.getframe(2).data, images(1, 3)[2])


def test_files_that_fabio_writes_are_read(tmp_path: Path):
    from fabio.eigerimage import EigerImage

    path = tmp_path / "a_data_000001.h5"
    EigerImage(data=images(1, 3)).write(str(path))
    (found,) = hdf5.read_images(path)
    content = path.read_bytes()
    pixels = [
        decode(
            content[i.offset : i.offset + i.nbytes],
            encoding=i.encoding,
            shape=SHAPE,
            dtype="uint16",
        )
        for i in found.index.images
    ]
    assert np.array_equal(pixels, images(1, 3))
