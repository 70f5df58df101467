from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pipeline.detectors import watch
from pipeline.detectors.watch import NoInotifyError, Watcher, natural_key
from pipeline.errors import InvalidArgumentError, SourceError

LIMIT_S = 20.0


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=["inotify", "poll"])
def watcher(request, tmp_path):
    with_clock = {}
    if request.param == "poll":
        clock = Clock()
        with_clock = {"clock": clock, "sleep": clock.sleep}
    made = Watcher(
        tmp_path, patterns=("*.cbf", "*.tif"), method=request.param, poll_s=0.5, **with_clock
    )
    yield made
    made.close()


def names(found) -> list[str]:
    return [Path(file.path).name for file in found]


def test_files_present_before_the_start_are_found_in_natural_order(tmp_path, watcher):
    for name in ("b_1.cbf", "a_10.cbf", "a_9.cbf", "a_100.CBF", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert names(watcher.wait(2.0)) == ["a_9.cbf", "a_10.cbf", "a_100.CBF", "b_1.cbf"]


def test_a_file_renamed_into_place_is_found_once(tmp_path, watcher):
    assert watcher.wait(0.0) == []
    (tmp_path / "a_1.tmp").write_bytes(b"x")
    (tmp_path / "a_1.tmp").rename(tmp_path / "a_1.cbf")
    assert names(watcher.wait(2.0)) == ["a_1.cbf"]
    assert watcher.wait(0.05) == []


def test_a_file_closed_after_writing_is_found(tmp_path, watcher):
    watcher.wait(0.0)
    (tmp_path / "a_1.cbf").write_bytes(b"x")
    (found,) = watcher.wait(2.0)
    assert (found.path, found.nbytes) == (str(tmp_path / "a_1.cbf"), 1)


def test_a_hard_link_into_place_is_found(tmp_path, watcher):
    watcher.wait(0.0)
    (tmp_path / ".hidden").write_bytes(b"x")
    os.link(tmp_path / ".hidden", tmp_path / "a_1.cbf")
    assert names(watcher.wait(2.0)) == ["a_1.cbf"]


def test_a_name_used_again_is_found_again(tmp_path, watcher):
    (tmp_path / "a_1.cbf").write_bytes(b"x")
    (first,) = watcher.wait(2.0)
    (tmp_path / "new.tmp").write_bytes(b"y")
    os.utime(tmp_path / "new.tmp", ns=(first.mtime_ns, first.mtime_ns))
    (tmp_path / "new.tmp").rename(tmp_path / "a_1.cbf")
    (second,) = watcher.wait(2.0)
    assert second.inode != first.inode


def test_hidden_temporary_and_partial_names_are_left_alone(tmp_path, watcher):
    (tmp_path / ".git").mkdir()
    for name in (".a_1.cbf", "a_1.cbf.tmp", "a_1.cbf.part", "a_1.cbf~", ".git/a_2.cbf"):
        (tmp_path / name).write_bytes(b"x")
    assert watcher.wait(1.5) == []


def test_new_sub_directories_and_what_is_in_them_already_are_found(tmp_path, watcher):
    watcher.wait(0.0)
    (tmp_path / "run1" / "deep").mkdir(parents=True)
    (tmp_path / "run1" / "deep" / "a_1.cbf").write_bytes(b"x")
    assert names(watcher.wait(2.0)) == ["a_1.cbf"]
    (tmp_path / "run1" / "deep" / "a_2.cbf").write_bytes(b"x")
    assert names(watcher.wait(2.0)) == ["a_2.cbf"]


def test_a_directory_moved_in_or_renamed_is_found_under_its_new_name(tmp_path, watcher):
    outside = tmp_path / ".outside"
    outside.mkdir()
    (outside / "a_1.cbf").write_bytes(b"x")
    watcher.wait(0.0)
    outside.rename(tmp_path / "run1")
    assert [f.path for f in watcher.wait(2.0)] == [str(tmp_path / "run1" / "a_1.cbf")]
    (tmp_path / "run1").rename(tmp_path / "run2")
    assert [f.path for f in watcher.wait(2.0)] == [str(tmp_path / "run2" / "a_1.cbf")]
    (tmp_path / "run2" / "a_2.cbf").write_bytes(b"x")
    assert [f.path for f in watcher.wait(2.0)] == [str(tmp_path / "run2" / "a_2.cbf")]


def test_a_file_gone_before_it_was_returned_is_left_out(tmp_path, watcher):
    watcher.wait(0.0)
    (tmp_path / "a_1.cbf").write_bytes(b"x")
    (tmp_path / "a_1.cbf").unlink()
    (tmp_path / "a_2.cbf").write_bytes(b"x")
    assert names(watcher.wait(2.0)) == ["a_2.cbf"]


def test_a_directory_that_vanishes_is_an_error_that_names_it(tmp_path):
    for method in ("inotify", "poll"):
        root = tmp_path / "root"
        root.mkdir()
        clock = Clock()
        watcher = Watcher(root, method=method, clock=clock, sleep=clock.sleep)
        watcher.wait(0.0)
        root.rmdir()
        with pytest.raises(SourceError, match="root"):
            watcher.wait(2.0)
            watcher.wait(2.0)
        watcher.close()


def test_a_missing_directory_is_an_error_that_names_it(tmp_path, watcher):
    watcher = Watcher(tmp_path / "missing")
    with pytest.raises(SourceError, match="missing"):
        watcher.wait(0.0)


def test_a_sub_directory_that_vanishes_is_no_error(tmp_path, watcher):
    (tmp_path / "run1").mkdir()
    watcher.wait(0.0)
    (tmp_path / "run1").rmdir()
    (tmp_path / "a_1.cbf").write_bytes(b"x")
    assert names(watcher.wait(2.0)) == ["a_1.cbf"]


def test_excluded_directories_and_sub_directories_when_not_wanted_are_left_alone(tmp_path):
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "a_1.cbf").write_bytes(b"x")
    for settings in ({"excluded": [tmp_path / "done"]}, {"recursive": False}):
        watcher = Watcher(tmp_path, **settings)
        assert watcher.wait(0.0) == []
        watcher.close()


def test_a_slowly_growing_file_is_found_when_polling_once_it_rests(tmp_path):
    clock = Clock()
    watcher = Watcher(tmp_path, method="poll", poll_s=1.0, clock=clock, sleep=clock.sleep)
    with (tmp_path / "a_1.cbf").open("wb", buffering=0) as file:
        for _ in range(5):
            file.write(b"x")
            assert watcher.wait(1.0) == []
    (found,) = watcher.wait(3.0)
    assert found.nbytes == 5


def test_a_file_closed_between_its_parts_is_found_in_each_state(tmp_path):
    watcher = Watcher(tmp_path, method="inotify")
    watcher.wait(0.0)
    for size in (1, 2, 3):
        with (tmp_path / "a_1.cbf").open("ab") as file:
            file.write(b"x")
        assert [f.nbytes for f in watcher.wait(2.0)] == [size]
    watcher.close()


def test_lost_events_lead_to_a_look_at_everything(tmp_path, monkeypatch, caplog):
    watcher = Watcher(tmp_path, method="inotify")
    watcher.wait(0.0)
    count = 3 * int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 8
    for number in range(count):  # each makes four events
        (tmp_path / "x.tmp").write_bytes(b"")
        (tmp_path / "x.tmp").rename(tmp_path / f"a_{number}.cbf")
    found: list[str] = []
    while batch := watcher.wait(0.5):
        found += names(batch)
    assert len(found) == len(set(found)) == count
    assert any("lost" in message for message in caplog.messages)
    watcher.close()


@pytest.mark.parametrize("method", ["inotify", "poll"])
def test_a_burst_of_25000_small_files_is_seen_whole(tmp_path, method):
    watcher = Watcher(tmp_path, patterns=("*.cbf",), method=method, poll_s=0.05)
    watcher.wait(0.0)

    def burst() -> None:
        for number in range(25_000):
            (tmp_path / "x.tmp").write_bytes(b"x")
            (tmp_path / "x.tmp").rename(tmp_path / f"a_{number:05d}.cbf")

    writer = threading.Thread(target=burst)
    writer.start()
    found: list[str] = []
    while len(found) < 25_000:
        batch = watcher.wait(LIMIT_S)
        assert batch, f"only {len(found)} files seen"
        found += names(batch)
    writer.join(LIMIT_S)
    assert len(set(found)) == 25_000
    watcher.close()


def test_the_list_of_ready_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_MAX_READY", 10)
    for number in range(35):
        (tmp_path / f"a_{number}.cbf").write_bytes(b"x")
    watcher = Watcher(tmp_path, poll_s=0.001)
    found: list[str] = []
    while batch := watcher.wait(1.0, limit=4):
        assert len(watcher._ready) <= 10
        found += names(batch)
    assert sorted(found) == sorted(f"a_{n}.cbf" for n in range(35))
    watcher.close()


def test_without_inotify_it_polls_and_says_so(tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise NoInotifyError("inotify instance limit reached")

    monkeypatch.setattr("pipeline.detectors.inotify.Notifier", fail)
    (tmp_path / "a_1.cbf").write_bytes(b"x")
    watcher = Watcher(tmp_path, poll_s=0.01)
    assert names(watcher.wait(LIMIT_S)) == ["a_1.cbf"]
    assert watcher.method == "poll"
    assert any("limit reached" in message for message in caplog.messages)


def test_when_the_watches_run_out_it_goes_on_polling(tmp_path, monkeypatch):
    watcher = Watcher(tmp_path, poll_s=0.01)
    watcher.wait(0.0)

    def full(directory: str) -> bool:
        raise NoInotifyError("no space left on device")

    assert watcher._notifier is not None
    monkeypatch.setattr(watcher._notifier, "add", full)
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "a_1.cbf").write_bytes(b"x")
    assert names(watcher.wait(LIMIT_S)) == ["a_1.cbf"]
    assert watcher.method == "poll"


def test_memory_of_files_that_are_gone_is_given_back(tmp_path):
    clock = Clock()
    watcher = Watcher(tmp_path, method="poll", clock=clock, sleep=clock.sleep)
    (tmp_path / "a_1.cbf").write_bytes(b"x")
    (file,) = watcher.wait(5.0)
    watcher.forget(file.path)
    assert not watcher._seen
    (tmp_path / "a_2.cbf").write_bytes(b"x")
    watcher.wait(5.0)
    (tmp_path / "a_1.cbf").unlink()
    (tmp_path / "a_2.cbf").unlink()
    watcher.wait(5.0)
    assert not watcher._seen


@pytest.mark.parametrize(
    ("mount", "kind"), [("/data", "nfs4"), ("/data/local", "ext4"), ("/da ta", "cifs")]
)
def test_the_file_system_of_a_directory_is_its_innermost_mount(mount, kind):
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        "2 1 0:40 / /data rw shared:1 - nfs4 server:/data rw",
        "3 2 8:2 / /data/local rw - ext4 /dev/sdb1 rw",
        "4 1 0:41 / /da\\040ta rw - cifs //server/data rw",
    ]
    assert watch._file_system(lines, mount + "/scan") == kind


def test_network_file_systems_are_polled(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_file_system", lambda *_: "nfs4")
    watcher = Watcher(tmp_path)
    watcher.wait(0.0)
    assert watcher.method == "poll"


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="method"):
        Watcher(tmp_path, method="telepathy")
    with pytest.raises(InvalidArgumentError, match="poll_s"):
        Watcher(tmp_path, poll_s=0)


def test_natural_order_takes_names_without_numbers_and_dots():
    paths = ["/d/b.tif", "/d/a_2.tif", "/d/a_10.tif", "/d/a", "/c/z_1.tif", "/d/1.tif"]
    assert sorted(paths, key=natural_key) == [
        "/c/z_1.tif",
        "/d/1.tif",
        "/d/a",
        "/d/a_2.tif",
        "/d/a_10.tif",
        "/d/b.tif",
    ]
