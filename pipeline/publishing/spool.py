"""Frames on local disk while the broker or the store are away; read back in order.

One folder per writer: ``<spool>/<beamtime>/<detector>/<stream>/<nonce>/``.  Each file is one draft:
the length of its record (8 bytes, little-endian), the record, the payload.  Files are written under
a temporary name and renamed, so that a crash leaves whole ones only.  Who writes or drains a folder
holds a lock beside its facts; the system frees it at the holder's death.  (The process id would not
tell: in a container every run has the same one.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import SpoolError, SpoolFullError, WireError
from pipeline.naming import StreamId, escape, new_nonce, unescape
from pipeline.publishing.draft import Draft, draft_of
from pipeline.records import NO_CEIL, NO_FLOOR, Segment
from pipeline.wire import codec

_LENGTH = struct.Struct("<Q")
_SUFFIX = ".segment"
_FACTS = "stream.json"
_LOCK = "lock"


class DamagedDraftError(SpoolError):
    """A file in the spool does not hold what was written."""


class SpoolFolder:
    """What one writer of one stream has spooled; one thread writes, one reads.

    Raises SpoolError when the disk is full or the folder cannot be used; a draft that was
    refused is not in the spool.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 0
        self._held: FileLock | None = None
        files = self.files()
        self.nbytes = sum(file.stat().st_size for file in files)
        if files:
            self._next = int(files[-1].stem) + 1

    @classmethod
    def create(cls, root: Path, name: StreamId, facts: Mapping[str, Any]) -> SpoolFolder:
        """Make a new folder; ``facts`` are what is needed to publish it without its writer."""
        parts = (escape(part) for part in (name.beamtime, name.detector, name.stream))
        path = root.joinpath(*parts, f"{os.getpid()}-{new_nonce()}")
        try:
            path.mkdir(parents=True)
            folder = cls(path)
            folder.describe(facts)
        except OSError as error:
            raise SpoolError(f"spool {path} cannot be made: {error.strerror}") from error
        return folder

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Hold the folder, then write the facts by which others see it."""
        if not self._lock():
            raise SpoolError(f"spool {self.path} is held by another writer")
        partial = self.path / f"{_FACTS}.part"
        partial.write_text(json.dumps(dict(facts)))
        partial.replace(self.path / _FACTS)

    def hold(self) -> bool:
        """Keep other writers from the folder; False if one holds it already."""
        # another one may have drained and removed it; a lock would make the folder anew
        return self._held is not None or ((self.path / _FACTS).exists() and self._lock())

    def _lock(self) -> bool:
        if self._held is None:
            lock = FileLock(self.path / _LOCK, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except (Timeout, OSError):
                return False
            self._held = lock
        return True

    def release(self) -> None:
        """Leave the folder to others; may be called twice."""
        if self._held is not None:
            self._held.release()
            self._held = None

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody holds it."""
        if self._held is not None or not self.hold():
            return False
        self.release()
        return True

    @property
    def facts(self) -> dict[str, Any]:
        """What its writer knew of the stream."""
        try:
            found: dict[str, Any] = json.loads((self.path / _FACTS).read_text())
            return found
        except (OSError, ValueError) as error:
            raise SpoolError(f"spool {self.path}: {_FACTS} cannot be read ({error})") from error

    @property
    def stream_key(self) -> bytes:
        """The id of its stream, as its writer knew it; raises SpoolError if that is damaged."""
        try:
            return bytes.fromhex(self.facts["start"]["stream_key"])
        except (KeyError, TypeError, ValueError) as error:
            raise SpoolError(f"spool {self.path}: {_FACTS} is damaged ({error!r})") from error

    @property
    def name(self) -> StreamId:
        """The stream it belongs to."""
        return StreamId(*(unescape(part) for part in self.path.parts[-4:-1]))

    @property
    def pid(self) -> int:
        """The process that wrote it."""
        return int(self.path.name.partition("-")[0])

    def files(self) -> list[Path]:
        """Return the drafts in the order they were taken."""
        return sorted(self.path.glob(f"*{_SUFFIX}"))

    def put(self, draft: Draft, *, epoch: int, sync: bool) -> Path:
        """Add a draft and return its file; it survives the death of the process."""
        record = codec.encode(
            draft.segment(
                stream_key=b"\0" * 8,
                epoch=epoch,
                floor=NO_FLOOR,
                ceil=NO_CEIL,
                blob="spool",
                inline=b"",
            )
        )
        target = self.path / f"{self._next:012d}{_SUFFIX}"
        partial = target.with_suffix(".part")
        try:
            with partial.open("wb") as file:
                file.write(_LENGTH.pack(len(record)))
                file.write(record)
                file.write(draft.payload)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
                self.nbytes += file.tell()
            partial.rename(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpoolFullError(f"spool {self.path} is full: {error.strerror}") from error
            raise SpoolError(f"spool {self.path} cannot be written: {error.strerror}") from error
        self._next += 1
        return target

    def read(self, file: Path) -> Draft:
        """Return one draft as it was put; raises DamagedDraftError if it is not as it was put."""
        try:
            data = memoryview(file.read_bytes())
        except OSError as error:
            raise SpoolError(f"spool file {file} cannot be read: {error}") from error
        record, begin = _record(data, file)
        payload = data[begin:]
        if int(record.lengths.sum()) != len(payload):
            raise DamagedDraftError(f"spool file {file} is not whole")
        return draft_of(record, payload)

    def numbers(self, file: Path) -> list[int]:
        """Return the frame numbers of one draft, empty if it is damaged."""
        try:
            with file.open("rb") as opened:
                head = opened.read(_LENGTH.size)
                (length,) = _LENGTH.unpack(head)
                body = opened.read(min(length, file.stat().st_size))
            numbers: list[int] = _record(memoryview(head + body), file)[0].numbers.tolist()
        except (OSError, struct.error, DamagedDraftError):
            return []
        return numbers

    def set_aside(self, file: Path) -> Path:
        """Keep a damaged file out of the way of the others; return its new name."""
        aside = file.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            self.nbytes -= file.stat().st_size
            file.rename(aside)
        return aside

    def done(self, file: Path) -> None:
        """Remove a draft that has been acknowledged."""
        with contextlib.suppress(FileNotFoundError):
            self.nbytes -= file.stat().st_size
            file.unlink()

    def remove(self) -> None:
        """Remove the folder if it holds no drafts any more, and empty folders above it."""
        if self.files():
            self.release()
            return
        with contextlib.suppress(OSError):
            for partial in self.path.glob("*.part"):  # of a writer that died while writing it
                partial.unlink()
            (self.path / _FACTS).unlink(missing_ok=True)
            self.release()
            (self.path / _LOCK).unlink(missing_ok=True)
            for folder in (self.path, *self.path.parents[:3]):
                folder.rmdir()
        self.release()


def _record(data: memoryview, file: Path) -> tuple[Segment, int]:
    """Return the record at the beginning of a file's content, and where the payload begins."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        record = codec.decode(bytes(data[8 : 8 + length]), where=str(file))
    except (struct.error, WireError, OverflowError) as error:
        raise DamagedDraftError(f"spool file {file} is damaged: {error}") from error
    if not isinstance(record, Segment):
        raise DamagedDraftError(f"spool file {file} is damaged: it holds no frames")
    return record, 8 + int(length)


def left_behind(root: Path, name: StreamId | None = None) -> Iterator[SpoolFolder]:
    """Yield the folders of writers that are no longer there, of one stream or of all."""
    parts = ("*", "*", "*") if name is None else (name.beamtime, name.detector, name.stream)
    pattern = "/".join(part if name is None else escape(part) for part in parts)
    for facts in sorted(root.glob(f"{pattern}/*/{_FACTS}")):
        folder = SpoolFolder(facts.parent)
        if folder.is_abandoned:
            yield folder


def spooled(root: Path) -> tuple[int, int]:
    """Return how many drafts lie under a folder and their bytes, whoever holds them."""
    found = list(root.rglob(f"*{_SUFFIX}"))
    nbytes = 0
    for file in found:
        with contextlib.suppress(OSError):  # published meanwhile
            nbytes += file.stat().st_size
    return len(found), nbytes
