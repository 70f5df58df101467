"""The spool: whole drafts in order, whatever happens to the disk, the writer, or the files."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from drafts import content, make_draft
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PublishSettings
from pipeline.errors import SpoolError
from pipeline.naming import StreamId, new_stream_key
from pipeline.publishing.spool import DamagedDraftError, SpoolFolder, left_behind
from pipeline.publishing.spooling import Spooling
from pipeline.publishing.tally import Spooled
from pipeline.testing.memory_log import make_start
from pipeline.wire import codec

NAME = StreamId("b/1", "d é", "s.7")
FACTS = {"start": {"stream_key": "00" * 8}}


@pytest.fixture
def folder(tmp_path: Path):
    made = SpoolFolder.create(tmp_path, NAME, FACTS)
    yield made
    made.release()


def spooling(tmp_path: Path, **changes: object) -> Spooling:
    values = {"spool": str(tmp_path), **changes}
    return Spooling(PublishSettings(**values), NAME, make_start(), sync=True)  # type: ignore[arg-type]


# -- one folder ---------------------------------------------------------------------------------


def test_drafts_come_back_as_they_were_put_in_their_order(folder: SpoolFolder) -> None:
    drafts = [make_draft(n, n + 1, omega=n / 2) for n in (5, 3, 40)]
    drafts[1].skipped, drafts[1].rejected = [9], [8]
    paths = [folder.put(draft, epoch=2, sync=bool(n)) for n, draft in enumerate(drafts)]
    assert folder.files() == paths
    assert folder.nbytes == sum(path.stat().st_size for path in paths)
    for path, draft in zip(paths, drafts, strict=True):
        again = folder.read(path)
        assert content(again) == content(draft)
        assert again.epoch == 2
        assert folder.numbers(path) == draft.numbers
    for path in paths:
        folder.done(path)
        folder.done(path)  # a second time is no error
    assert folder.nbytes == 0
    assert folder.files() == []


def test_the_name_of_any_stream_is_read_back_from_the_path(folder: SpoolFolder) -> None:
    assert folder.name == NAME
    assert folder.facts == FACTS
    assert folder.stream_key == bytes(8)
    assert folder.pid == os.getpid()
    assert folder.path.parent.name == "s-2e7"


def test_a_part_of_a_draft_keeps_only_its_own_bytes(folder: SpoolFolder) -> None:
    parts = make_draft(1, 2, 5, 6).split(4)
    for part in parts:
        again = folder.read(folder.put(part, epoch=1, sync=False))
        assert content(again) == content(part)


def test_a_folder_opened_again_goes_on_counting(folder: SpoolFolder) -> None:
    first = folder.put(make_draft(1), epoch=1, sync=False)
    again = SpoolFolder(folder.path)
    second = again.put(make_draft(2), epoch=1, sync=False)
    assert again.files() == [first, second]
    assert again.nbytes == first.stat().st_size + second.stat().st_size


def test_what_was_being_written_at_a_crash_is_not_there(folder: SpoolFolder) -> None:
    kept = folder.put(make_draft(1), epoch=1, sync=False)
    torn = folder.path / "000000000001.part"
    torn.write_bytes(b"half a draft")
    assert folder.files() == [kept]
    folder.done(kept)
    folder.remove()
    assert not folder.path.exists()


def test_an_empty_folder_goes_with_the_empty_ones_above_it(
    folder: SpoolFolder, tmp_path: Path
) -> None:
    kept = folder.put(make_draft(1), epoch=1, sync=False)
    folder.remove()
    assert folder.files() == [kept]
    folder.done(kept)
    other = tmp_path / "b-2f1" / "other"
    other.mkdir()
    folder.remove()
    folder.remove()
    assert not folder.path.parent.exists()
    assert other.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EIO, "cannot be written")],
)
@pytest.mark.parametrize("step", ["open", "rename"])
def test_a_disk_that_fails_leaves_no_torn_draft_and_takes_the_next(
    folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch, code: int, words: str, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(Path, step, fail)
        with pytest.raises(SpoolError, match=words) as caught:
            folder.put(make_draft(1), epoch=1, sync=True)
    assert str(folder.path) in str(caught.value)
    assert folder.files() == []
    assert not list(folder.path.glob("*.part"))
    assert len(folder.read(folder.put(make_draft(2), epoch=1, sync=True))) == 1


def test_a_spool_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be made"):
        SpoolFolder.create(tmp_path / "file", NAME, FACTS)
    with pytest.raises(SpoolError, match=r"cannot be made.*too long"):
        SpoolFolder.create(tmp_path, StreamId("b", "d", "é" * 100), FACTS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"start": 5}', '{"start": {"stream_key": "x"}}'])
def test_damaged_facts_are_a_spool_error(folder: SpoolFolder, text: str) -> None:
    (folder.path / "stream.json").write_text(text)
    with pytest.raises(SpoolError, match=r"stream.json"):
        _ = folder.stream_key


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in its length": lambda data: data[:7],
    "cut in its record": lambda data: data[:60],
    "cut in its payload": lambda data: data[:-1],
    "longer than it was": lambda data: data + b"x",
    "of an endless record": lambda data: b"\xff" * 8 + data[8:],
    "without a record": lambda data: bytes(8) + data[8:],
    "of another schema": _flip(12),
    "of another kind of record": lambda _: (
        (len(codec.encode(make_start()))).to_bytes(8, "little") + codec.encode(make_start())
    ),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_damaged_is_named_and_set_aside(
    folder: SpoolFolder, change: Callable[[bytes], bytes]
) -> None:
    path = folder.put(make_draft(1, 2), epoch=1, sync=False)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamagedDraftError, match=path.name):
        folder.read(path)
    aside = folder.set_aside(path)
    assert aside.exists()
    assert folder.files() == []


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_changed_byte_is_a_draft_or_a_spool_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    folder = SpoolFolder.create(tmp_path_factory.mktemp("spool"), NAME, FACTS)
    try:
        path = folder.put(make_draft(1, 2, omega=0.5), epoch=1, sync=False)
        data = bytearray(path.read_bytes())
        data[at % len(data)] = value
        path.write_bytes(data)
        folder.numbers(path)
        try:
            folder.read(path)
        except SpoolError as error:
            failure = error
            assert path.name in str(failure)
    finally:
        folder.release()


def test_a_file_that_cannot_be_read_is_no_damage(folder: SpoolFolder) -> None:
    with pytest.raises(SpoolError, match="cannot be read") as caught:
        folder.read(folder.path / "000000000009.segment")
    assert not isinstance(caught.value, DamagedDraftError)
    assert folder.numbers(folder.path / "000000000009.segment") == []


# -- whose folder it is -------------------------------------------------------------------------


def _hold_until(path: Path, ready, stop) -> None:
    folder = SpoolFolder.create(path, NAME, FACTS)
    folder.put(make_draft(1), epoch=1, sync=False)
    ready.set()
    stop.wait(30)
    os._exit(0)


def test_what_a_living_writer_holds_is_not_left_behind_and_what_a_dead_one_held_is(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=_hold_until, args=(tmp_path, ready, stop))
    process.start()
    try:
        assert ready.wait(60)
        assert list(left_behind(tmp_path)) == []
        stop.set()
        process.join(30)
        (folder,) = left_behind(tmp_path)
        assert folder.name == NAME
        assert folder.hold()
        assert not SpoolFolder(folder.path).hold()
        assert list(left_behind(tmp_path, NAME)) == []
        folder.release()
        folder.release()
        assert [f.path for f in left_behind(tmp_path, NAME)] == [folder.path]
        assert list(left_behind(tmp_path, StreamId("b", "d", "other"))) == []
    finally:
        stop.set()
        process.join(10)
        process.close()


def test_a_folder_that_somebody_removed_meanwhile_cannot_be_held(folder: SpoolFolder) -> None:
    other = SpoolFolder(folder.path)
    folder.remove()
    assert not other.hold()


def test_drafts_leave_the_spool_in_order_with_the_tokens_they_came_with(tmp_path: Path) -> None:
    spool = spooling(tmp_path)
    assert spool.possible
    assert not spool.active
    spool.begin()
    for first in (0, 10):
        spool.put(make_draft(first, first + 1), epoch=first)
    assert (spool.frames, spool.waiting, spool.active) == (4, True, True)
    paths = []
    for first in (0, 10):
        draft = spool.next()
        assert draft is not None
        assert draft.numbers == [first, first + 1]
        assert draft.tokens[0] == f"t{first}"
        last = draft.tokens[1]
        assert isinstance(last, Spooled)
        assert last.token == f"t{first + 1}"
        assert draft.epoch == (first or None)
        assert last.path.exists(), "a file stays until its frames are confirmed"
        paths.append(last.path)
    assert spool.next() is None
    assert spool.frames == 0
    spool.finish()
    assert not spool.active
    spool.wait(0.0)
    spool.published(paths)
    assert not any(path.exists() for path in paths)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = spooling(tmp_path, spool_nbytes=500)
    with pytest.raises(SpoolError, match="there is no spool"):
        spool.put(make_draft(1), epoch=1)
    spool.begin()
    taken = 0
    with pytest.raises(SpoolError, match="limit of 500 bytes"):
        for number in range(100):
            spool.put(make_draft(number), epoch=1)
            taken += 1
    assert spool.frames == taken > 0
    found = [spool.next() for _ in range(taken)]
    assert [draft.numbers for draft in found if draft] == [[n] for n in range(taken)]
    assert spool.next() is None
    spool.close()


def test_without_a_folder_there_is_no_spool() -> None:
    spool = Spooling(PublishSettings(), NAME, make_start(), sync=False)
    assert not spool.possible
    assert spool.adopt_left_behind(lambda _: False) == -1
    spool.close()


def test_its_buffer_is_its_own_and_grows_with_the_frames(tmp_path: Path) -> None:
    spool = spooling(tmp_path)
    first = spool.buffer(10)
    assert spool.buffer(5) is first
    assert len(spool.buffer(50)) == 50
    assert spool.owns(spool.buffer(50))
    assert not spool.owns(make_draft(1).buffer)


def test_a_stream_that_could_be_opened_late_is_noted_in_the_folder(tmp_path: Path) -> None:
    spool = spooling(tmp_path)
    spool.begin()
    key = new_stream_key()
    spool.opened(make_start(stream_key=key))
    spool.put(make_draft(1), epoch=0)
    spool.close()
    (folder,) = left_behind(tmp_path)
    assert folder.stream_key == key
    second = spooling(tmp_path)
    assert second.adopt_left_behind(lambda found: found != key) == 1
    draft = second.next()
    assert draft is not None
    assert draft.epoch is None
    second.published([draft.tokens[-1].path])
    second.close()
    assert list(tmp_path.iterdir()) == []
