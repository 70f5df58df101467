"""Streams as HDF5 files from a real broker and store: one file, and several with a master."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from confluent_kafka import TopicPartition

from pipeline.errors import BrokerDeniedError, SinkError
from pipeline.frame import Module
from pipeline.kafka.client import make_consumer
from pipeline.publisher import Publisher
from pipeline.records import Pointer
from pipeline.session import Session, connect
from pipeline.sinks.hdf5.checking import check_file
from pipeline.sinks.hdf5.digests import write_digests
from pipeline.sinks.hdf5.files import Options
from pipeline.sinks.hdf5.following import SinkReport, write_stream
from pipeline.sinks.hdf5.joining import Joined
from pipeline.sinks.hdf5.writers import write_in_processes
from pipeline.sinks.letters import DeadLetters
from pipeline.wire import codec

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]
MODULES = (
    Module(index=0, shape=(8, 10), position=(0, 0)),
    Module(index=1, shape=(8, 10), position=(10, 3)),
)


@pytest.fixture
def session(home_env: Path) -> Iterator[Session]:
    with connect("file") as opened:
        yield opened


def image(number: int, module: int = 0) -> Any:
    return np.random.default_rng(number * 7 + module).integers(0, 99, (8, 10)).astype(np.uint16)


def write(
    session: Session,
    beamtime: str,
    directory: Path,
    stop: threading.Event | None = None,
    **options: Any,
) -> SinkReport | None:
    with session.stream(beamtime, "d", "s") as stream:
        return write_stream(
            stream,
            directory,
            Options(**options),
            follow=False,
            stop=stop or threading.Event(),
            on_progress=lambda done: stop.set() if stop is not None and done >= 60 else None,
        )


def publish(session: Session, beamtime: str, numbers: list[int]) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in numbers:
            out.write(image(number), number=number, attributes={"omega": number / 10})


def check(path: Path, numbers: list[int], first: int, last: int) -> None:
    with h5py.File(path) as file:
        data, detector = file["entry/data/data"], file["entry/instrument/detector"]
        assert data.shape == (last - first + 1, 8, 10)
        assert file["entry/data/frame_number"][:].tolist() == list(range(first, last + 1))
        valid = np.isin(np.arange(first, last + 1), numbers)
        np.testing.assert_array_equal(detector["frame_valid"][:], valid)
        for number in range(first, last + 1):
            wanted = image(number) if number in numbers else np.full((8, 10), 65535)
            np.testing.assert_array_equal(data[number - first], wanted)
        omega = detector["attributes/omega"][:]
        np.testing.assert_allclose(omega[valid], np.array(sorted(numbers)) / 10)


NUMBERS = [n for n in range(3, 103) if n % 9 != 4 and not 40 <= n < 60]


@pytest.mark.parametrize(
    "options",
    [{}, {"by_partition": True}, {"frames_per_file": 4}, {"compression": "as-is"}],
    ids=["one", "by partition", "more files than are open", "as-is"],
)
def test_every_frame_is_at_its_position_in_one_view(
    session: Session, beamtime: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    publish(session, beamtime, NUMBERS)
    report = write(session, beamtime, tmp_path, **options)
    assert report is not None
    assert report.written == len(NUMBERS)
    check(Path(report.path), NUMBERS, NUMBERS[0], NUMBERS[-1])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with pytest.raises(SinkError, match="exists"):
        write(session, beamtime, tmp_path, **options)
    write(session, beamtime, tmp_path, overwrite=True, **options)
    check(Path(report.path), NUMBERS, NUMBERS[0], NUMBERS[-1])


def test_a_master_of_links_is_read_by_fabio(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    import fabio

    publish(session, beamtime, NUMBERS)
    report = write(session, beamtime, tmp_path, layout="dectris", frames_per_file=30)
    assert report is not None
    assert Path(report.path).name == "d_s_master.h5"
    write_digests(Path(report.path), [Path(part) for part in report.parts])
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "d_s_master.h5.sha256"], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert len((tmp_path / "d_s_master.h5.sha256").read_text().splitlines()) == 5
    with fabio.open(report.path) as file:
        assert file.nframes == NUMBERS[-1] - NUMBERS[0] + 1
        for number in NUMBERS:
            np.testing.assert_array_equal(file.get_frame(number - NUMBERS[0]).data, image(number))
    with h5py.File(report.path) as file:
        names = [name for name in file["entry/data"] if name.startswith("data")]
        assert names == ["data_000001", "data_000002", "data_000003", "data_000004"]
    assert check_file(Path(report.path)) == []


def test_a_lowest_number_that_comes_late_is_the_first_of_a_full_file(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    begun = threading.Event()
    reports: list[SinkReport | None] = []

    def follow() -> None:
        with connect("file") as mine, mine.stream(beamtime, "d", "s") as stream:
            reports.append(
                write_stream(
                    stream,
                    tmp_path,
                    Options(layout="dectris", frames_per_file=4),
                    follow=True,
                    stop=threading.Event(),
                    on_progress=lambda _: begun.set(),
                )
            )

    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        out.write(image(5), number=5)
        out.flush()
        thread = threading.Thread(target=follow)
        thread.start()
        assert begun.wait(30)
        for number in [6, 3, *range(7, 13)]:
            out.write(image(number), number=number)
    thread.join(60)
    (report,) = reports
    assert report is not None
    assert report.written == 9
    with h5py.File(report.path) as file:
        data = file["entry/data"]
        images = [found for name in data if name.startswith("data") for found in data[name]]
        assert [len(data[name]) for name in data if name.startswith("data")] == [4, 4, 2]
    for number, found in enumerate(images, 3):
        wanted = image(number) if number != 4 else np.full((8, 10), 65535)
        np.testing.assert_array_equal(found, wanted)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert check_file(Path(report.path)) == []


def test_the_generic_layout_has_a_time_axis_and_no_definition(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime, NUMBERS)
    report = write(session, beamtime, tmp_path, layout="nxdata")
    assert report is not None
    check(Path(report.path), NUMBERS, NUMBERS[0], NUMBERS[-1])
    with h5py.File(report.path) as file:
        assert "definition" not in file["entry"]
        assert "source" in file["entry/instrument"]
        start = file["entry/instrument/detector/start_time"]
        assert start.attrs["units"] == b"s"
        assert start[0] == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"by_partition": True}, {"frames_per_file": 3}],
    ids=["one", "by partition", "more files than are open"],
)
def test_what_was_stopped_goes_on_and_gives_the_same(
    session: Session, beamtime: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    publish(session, beamtime, NUMBERS)
    stop = threading.Event()
    assert write(session, beamtime, tmp_path, stop, **options) is None
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    report = write(session, beamtime, tmp_path, **options)
    assert report is not None
    assert report.written == len(NUMBERS)
    check(Path(report.path), NUMBERS, NUMBERS[0], NUMBERS[-1])


@pytest.mark.parametrize("by_partition", [False, True])
def test_modules_lie_in_files_of_their_own_and_in_one_image(
    session: Session, beamtime: str, tmp_path: Path, by_partition: bool
) -> None:
    with session.publish(beamtime, "d", "s", modules=MODULES, frames_per_chunk=4) as out:
        for number in range(20):
            for module in (0, 1):
                if (number, module) != (7, 1):
                    out.write(image(number, module), number=number, module=module)
    report = write(session, beamtime, tmp_path, by_partition=by_partition)
    assert report is not None
    assert report.account["incomplete"] == [[7, 7]]
    with h5py.File(report.path) as file:
        data, detector = file["entry/data/data"], file["entry/instrument/detector"]
        assert data.shape == (20, 18, 13)
        assert np.flatnonzero(detector["frame_valid"][:] == 0).tolist() == [7]
        assert detector["module_valid"][7].tolist() == [1, 0]
        assert detector["pixel_mask"][0, 0] == 0
        assert detector["pixel_mask"][9, 0] == 1
        for number in range(20):
            np.testing.assert_array_equal(data[number, :8, :10], image(number, 0))
            if number != 7:
                np.testing.assert_array_equal(data[number, 10:, 3:], image(number, 1))
            assert (data[number, 8:10] == 65535).all()
        assert (data[7, 10:, 3:] == 65535).all()


def test_several_processes_write_one_stream(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    publish(session, beamtime, NUMBERS)
    with session.stream(beamtime, "d", "s") as stream:
        report = write_in_processes(
            session,
            stream,
            tmp_path,
            Options(),
            writers=2,
            follow=True,
            stop=threading.Event(),
            on_progress=lambda _: None,
        )
    assert report is not None
    assert report.written == len(NUMBERS)
    check(Path(report.path), NUMBERS, NUMBERS[0], NUMBERS[-1])
    assert len(list(tmp_path.glob("*_p*.h5"))) > 1


def test_slow_values_are_joined_by_time(session: Session, beamtime: str, tmp_path: Path) -> None:
    second = 1_000_000_000
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in range(10):
            out.write(image(number), number=number, timestamp_ns=(100 + number) * second)
    with session.publish(beamtime, "slow", "cryo", metadata={"units": {"temperature": "K"}}) as out:
        for time_s, value in ((102.5, 80.0), (105, 81.0), (107.9, 82.0)):
            given = {"temperature": value, "note": "text is left out"}
            out.write(None, attributes=given, timestamp_ns=int(time_s * second))
    with session.stream(beamtime, "slow", "cryo") as slow:
        for options in ({}, {"by_partition": True}):
            directory = tmp_path / str(len(options))
            report = write(session, beamtime, directory, extras=[Joined([slow])], **options)
            assert report is not None
            with h5py.File(report.path) as file:
                group = file["entry/slow_control/slow_cryo"]
                assert list(group) == ["temperature"]
                assert group["temperature"].attrs["units"] == b"K"
                found = group["temperature"][:]
            assert np.isnan(found[:3]).all()
            assert found[3:].tolist() == [80, 80, 81, 81, 81, 82, 82]


@pytest.mark.parametrize(
    "options", [{"by_partition": True}, {"frames_per_file": 4}], ids=["partition", "number"]
)
def test_a_part_whose_first_frame_is_unlike_the_others_does_not_cost_the_file(
    session: Session, beamtime: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in range(8):
            out.write(image(number), number=number)
        out.write(image(8)[:4], number=8)  # the only one of its partition
    report = write(session, beamtime, tmp_path, **options)
    assert report is not None
    assert [report.written, list(report.invalid)] == [8, [8]]
    with h5py.File(report.path) as file:
        assert file["entry/instrument/detector/frame_valid"][:].tolist() == [1] * 8 + [0]
        for number in range(8):
            np.testing.assert_array_equal(file["entry/data/data"][number], image(number))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


_KINDS: list[dict[str, Any]] = [{}, {"by_partition": True}, {"frames_per_file": 3}]


@pytest.mark.parametrize(
    ("modules", "options"),
    [
        *(((), kind) for kind in _KINDS),
        ((), {"frames_per_file": 3, "layout": "dectris"}),
        *((MODULES, kind) for kind in _KINDS),
    ],
)
def test_a_stream_without_frames_gives_one_file_that_says_so(
    session: Session,
    beamtime: str,
    tmp_path: Path,
    options: dict[str, Any],
    modules: tuple[Module, ...],
) -> None:
    with session.publish(beamtime, "d", "s", modules=modules):
        pass
    report = write(session, beamtime, tmp_path, **options)
    assert report is not None
    assert [report.written, report.parts] == [0, []]
    assert [str(path) for path in tmp_path.iterdir()] == [report.path]
    assert check_file(Path(report.path)) == []


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish as somebody does who does not look at what they send."""
    careless = SimpleNamespace(check=lambda *_, **__: None)
    monkeypatch.setattr("pipeline.publishing.inputs.codecs", careless)


@pytest.mark.usefixtures("unchecked")
def test_modules_that_cannot_be_written_are_counted_each(
    session: Session, beamtime: str, tmp_path: Path
) -> None:
    with session.publish(beamtime, "d", "s", modules=MODULES, frames_per_chunk=4) as out:
        for number in range(8):
            for module in (0, 1):
                write_damaged_at_5(out, number, module)
    report = write(session, beamtime, tmp_path)
    assert report is not None
    assert report.written == 14
    assert list(report.invalid) == [5]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("writers", ["1", "2"])
def test_a_frame_that_cannot_be_written_is_a_dead_letter(
    session: Session, beamtime: str, tmp_path: Path, writers: str
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in range(8):
            write_damaged_at_5(out, number)
    command = ["sink", "hdf5", f"{beamtime}/d/s", "--out", str(tmp_path), "--writers", writers]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    topic = session.services.names.dead_letters(beamtime, "d", "hdf5")
    assert f"1 frames could not be written: see {topic}" in done.stderr
    (letter,) = read_letters(session, topic)
    pointer = codec.decode(letter.value())
    assert isinstance(pointer, Pointer)
    assert (pointer.number, pointer.group) == (5, "hdf5")
    assert "impossible length" in pointer.reason


def read_letters(session: Session, topic: str) -> list[Any]:
    """Return all records of a topic of dead letters."""
    consumer, _ = make_consumer(session.settings.kafka)
    place = TopicPartition(topic, 0, 0)
    try:
        high = consumer.get_watermark_offsets(place, timeout=30)[1]
        consumer.assign([place])
        return consumer.consume(high, 30)
    finally:
        consumer.close()


def test_a_broker_that_takes_no_letters_does_not_keep_the_file_away(
    session: Session,
    beamtime: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unchecked: None,
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in range(8):
            write_damaged_at_5(out, number)

    def refuse(*_: Any, **__: Any) -> None:
        raise BrokerDeniedError("broker", "no such right")

    monkeypatch.setattr("pipeline.kafka.admin.Admin.create_topic", refuse)
    with session.stream(beamtime, "d", "s") as stream:
        report = write_stream(
            stream,
            tmp_path,
            Options(),
            follow=False,
            stop=threading.Event(),
            on_progress=lambda _: None,
            letters=DeadLetters(session.services, stream.start, group="hdf5"),
        )
    assert report is not None
    assert list(report.invalid) == [5]


@pytest.mark.usefixtures("unchecked")
def test_parts_that_were_finished_before_a_kill_still_tell_what_they_lack(
    session: Session, beamtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session.publish(beamtime, "d", "s", frames_per_chunk=4) as out:
        for number in range(8):
            write_damaged_at_5(out, number)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipeline.sinks.hdf5.following.write_master", killed)
        write(session, beamtime, tmp_path, by_partition=True)
    report = write(session, beamtime, tmp_path, by_partition=True)
    assert report is not None
    assert report.written == 7
    assert list(report.invalid) == [5]
    with h5py.File(report.path) as file:
        assert file["entry/instrument/detector/frame_valid"][:].tolist() == [1] * 5 + [0, 1, 1]


def write_damaged_at_5(out: Publisher, number: int, module: int | None = None) -> None:
    """Write an image as a detector sends it; of frame 5 the chunk is cut."""
    with h5py.File("chunk.h5", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset(
            "chunk",
            data=image(number, module or 0),
            chunks=(8, 10),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )
        packed = made.id.read_direct_chunk((0, 0))[1]
    out.write(
        packed[:-9] if number == 5 else packed,
        number=number,
        module=module,
        encoding="bslz4",
        shape=(8, 10),
        dtype="uint16",
    )
