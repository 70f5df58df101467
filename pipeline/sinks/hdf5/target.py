"""A file that exists under its name only when it is complete, and has one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import PipelineError, SinkBusyError, SinkError, SinkRefusedError

# what the kernel says when there is no room: disk, quota, the process's limit
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# what does not pass by itself: a directory that is not there, or is somebody else's
_REFUSED = (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError)
# NAME_MAX of Linux file systems is 255 bytes; ".", ".lock" and ".part.new" are added to the name
_MAX_NAME = 230


@contextmanager
def sink_errors(path: Path) -> Iterator[None]:
    """Turn what the system and the HDF5 library raise into SinkError, naming ``path``."""
    try:
        yield
    except PipelineError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:
        kind = SinkRefusedError if isinstance(error, _REFUSED) else SinkError
        raise kind(f"cannot write {path}: {_problem(error)}") from error


def is_full(error: Exception) -> bool:
    """Tell whether there was no room on the disk."""
    # the HDF5 library tells errno only in its text
    text = str(error)
    return getattr(error, "errno", None) in _FULL or any(os.strerror(c) in text for c in _FULL)


def _problem(error: Exception) -> str:
    if is_full(error):
        return f"no room left, make some and run again ({error})"
    if isinstance(error, PermissionError):
        return f"permission denied, choose a directory that you may write ({error})"
    return str(error) or type(error).__name__


def short_name(name: str) -> str:
    """Return ``name``, or where it is too long for a file system its beginning and a digest."""
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 13]}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"


class Target:
    """The final name, the temporary one beside it, and the lock that keeps others away.

    Between :meth:`acquire` and :meth:`publish`, :meth:`discard` or :meth:`leave` this object holds
    an exclusive lock on ``.<name>.lock``; the kernel frees it when the process dies.
    """

    def __init__(self, directory: Path, name: str, *, overwrite: bool) -> None:
        self.final = directory / name
        self.part = directory / f".{name}.part"
        #: A second temporary file, for rewriting the first one.
        self.rewritten = directory / f".{name}.part.new"
        #: What the frames say until the file is finished, and where its chunks lie then.
        self.journal = directory / f".{name}.attributes"
        self.places = directory / f".{name}.places"
        self._lock_path = directory / f".{name}.lock"
        self._overwrite = overwrite
        self._lock: int | None = None

    @property
    def held(self) -> bool:
        """Whether the lock is held: acquired, and neither published nor discarded."""
        return self._lock is not None

    def acquire(self) -> None:
        """Take the lock and make sure that the name is free; raises SinkError."""
        with sink_errors(self.final):
            self.final.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        try:
            self.check_free()
        except SinkError:
            self._release()
            raise

    def publish(self, *, keep: Collection[Path] = ()) -> None:
        """Bring the temporary file to the disk and give it its name; ``keep`` stays beside it."""
        with sink_errors(self.final):
            sync(self.part)
            self.check_free()
            self.part.replace(self.final)
            sync(self.final.parent)
        self.discard(keep=keep)

    def discard(self, *, keep: Collection[Path] = ()) -> None:
        """Remove everything temporary; may be called twice, and does nothing after publishing."""
        if self._lock is None:
            return
        for path in {self.part, self.rewritten, self.journal, self.places}.difference(keep):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._release()

    def leave(self) -> None:
        """Let go of everything as it is, for the next one to go on with; may be called twice."""
        self._release()

    def set_aside(self) -> Path:
        """Move what an earlier writer left out of the way; return where its frames are now."""
        aside = self.part.with_suffix(f".{time.strftime('%Y%m%dT%H%M%S')}.left")
        self.part.rename(aside)
        self.journal.unlink(missing_ok=True)
        self.places.unlink(missing_ok=True)
        return aside

    def check_free(self) -> None:
        """Raise SinkError if there is a file of this name that is not to be replaced."""
        if not self._overwrite and self.final.exists():
            raise SinkRefusedError(
                f"{self.final} exists: choose another directory, or replace it (--overwrite,"
                " overwrite=True)"
            )

    def _locked(self) -> int:
        while True:
            is_new = not self._lock_path.exists()
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # the last holder may have removed the file between our open and our lock
                if os.fstat(lock).st_ino == _inode(self._lock_path):
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise SinkBusyError(
                    f"{self.final} is being written by another sink: let it finish, or end it"
                ) from None
            except BaseException as error:
                os.close(lock)
                if is_new and isinstance(error, OSError):  # no locks here: nobody has ours either
                    self._lock_path.unlink(missing_ok=True)
                raise
            os.close(lock)

    def _release(self) -> None:
        if self._lock is None:
            return
        # removed while still locked: whoever opened it meanwhile sees that it is gone
        with suppress(OSError):
            self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def sync(path: Path) -> None:
    """Bring a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
