"""Which files of a directory tree are ready to be read.

With inotify a file is ready when it was renamed into place or closed after writing; without it
(network file systems do not report what other machines do; Windows) when its size and time stay
the same from one look to the next.  A file found by looking may still be growing: who reads it
checks that it is whole, and every later change is reported again.
"""

from __future__ import annotations

import errno
import fnmatch
import heapq
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pipeline.errors import InvalidArgumentError, SourceError

if TYPE_CHECKING:
    from pipeline.detectors.inotify import Notifier

log = logging.getLogger(__name__)

Method = Literal["auto", "inotify", "poll"]
#: Names of files that are still being made: hidden (rsync, many writers), temporary, partial.
IGNORED = (".*", "*.tmp", "*.temp", "*.part", "*.partial", "*~", "*.swp")
#: File systems where other machines write without this kernel knowing.
_REMOTE = re.compile(
    r"nfs\d*|cifs|smb\w*|9p|lustre|gpfs|beegfs|ceph|afs|glusterfs|orangefs|pvfs2|vboxsf|fuse.*"
)
#: Names waiting to be read; past it nothing is taken in, and the directory is looked through later.
_MAX_READY = 200_000
#: A scan may take this part of the time at most.
_SCAN_SHARE = 0.2
_LAST_DIGITS = re.compile(r"(.*?)(\d*)(\.[^.]*)?", re.DOTALL)

SortKey = tuple[Any, ...]


class NoInotifyError(Exception):
    """Inotify cannot watch here; the directory is polled instead."""


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """A file that may be read, and by what it is known again.

    A name may be used again for other content: inode, length and time of change tell.
    """

    path: str
    inode: int
    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Self:
        """Return the identity that ``status`` gives."""
        return cls(path, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def identity(self) -> int:
        """What tells two states of one name apart.

        One integer, because memory counts where a million files are kept.
        """
        return hash((self.inode, self.nbytes, self.mtime_ns))


def look(path: str) -> ReadyFile | None:
    """Return what lies under ``path`` now, None if that is no file (any more)."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- a third of the time of Path.stat
    except OSError:
        return None
    return ReadyFile.of(path, status) if stat.S_ISREG(status.st_mode) else None


def natural_key(path: str) -> SortKey:
    """Sort by directory, then prefix, then number: ``a_9.cbf`` comes before ``a_10.cbf``."""
    directory, _, name = path.rpartition("/")
    found = _LAST_DIGITS.fullmatch(name)
    if found is None:
        return (directory, name, 0, name)
    return (directory, found[1], int(found[2] or 0), name)


class Watcher:
    """Finds files that are ready, each state of a file once.  For one thread.

    Parameters
    ----------
    patterns:
        Shell patterns of file names, in any case.
    ignored:
        Shell patterns of names (of files and sub-directories) that are not looked at.
    excluded:
        Paths of directories that are not looked at.
    method:
        ``auto`` polls on network file systems and where there is no inotify.
    poll_s:
        Seconds between two looks when polling; more where a look takes long.
    stable_polls:
        When polling, a file is ready after so many looks that found it unchanged.
    rescan_s:
        With inotify: look through the tree after so many seconds of silence, in case the kernel
        was not told (mounts over mounts).
    order:
        Files that are ready at the same time come in the order of these keys.

    Raises
    ------
    SourceError
        From :meth:`wait`: the directory is missing, or was removed.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        patterns: Collection[str] = ("*",),
        ignored: Collection[str] = IGNORED,
        excluded: Iterable[str | os.PathLike[str]] = (),
        recursive: bool = True,
        method: Method = "auto",
        poll_s: float = 0.5,
        stable_polls: int = 1,
        rescan_s: float = 60.0,
        order: Callable[[str], SortKey] = natural_key,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if method not in ("auto", "inotify", "poll"):
            raise InvalidArgumentError("method", f"{method!r} is not auto, inotify or poll")
        if poll_s <= 0 or stable_polls < 0:
            raise InvalidArgumentError("poll_s", "must be above 0, and stable_polls not below")
        self.directory = os.path.abspath(directory)  # noqa: PTH100 -- keeps symlinks as they are
        self.method: Method = method
        self._wanted = _matcher(patterns)
        self._ignored = _matcher(ignored)
        self._excluded = frozenset(os.path.abspath(path) for path in excluded)  # noqa: PTH100
        self._recursive = recursive
        self._poll_s = poll_s
        self._stable_polls = stable_polls
        self._rescan_s = rescan_s
        self._order = order
        self._clock = clock
        self._sleep = sleep
        self._notifier: Notifier | None = None
        self._started = False
        self._scan_due = clock()
        self._ready: list[tuple[SortKey, str]] = []
        self._queued: set[str] = set()
        self._seen: dict[str, int] = {}
        # path -> identity and how many looks found it so
        self._growing: dict[str, tuple[int, int]] = {}

    def wait(self, timeout_s: float, *, limit: int = 256) -> list[ReadyFile]:
        """Return files that are ready, in order; an empty list after ``timeout_s``.

        At most ``limit`` at a time.  What vanishes before it is returned is left out.
        """
        if not self._started:
            self._start()
        deadline = self._clock() + timeout_s
        while True:
            left = max(0.0, deadline - self._clock())
            self._take_in(0.0 if self._ready else left)
            found = self._pop(limit)
            if found or self._clock() >= deadline:
                return found

    def forget(self, path: str) -> None:
        """Tell that the caller removed the file, so that its identity need not be kept."""
        self._seen.pop(path, None)

    def close(self) -> None:
        """Stop watching; may be called twice."""
        if self._notifier is not None:
            self._notifier.close()
            self._notifier = None

    # -- taking in ------------------------------------------------------------------------------

    def _start(self) -> None:
        if not Path(self.directory).is_dir():
            problem = "is no directory" if Path(self.directory).exists() else "does not exist"
            raise SourceError(f"{self.directory} {problem}: give the directory of the files")
        if self.method == "auto":
            self.method = "poll" if _is_remote(self.directory) else "inotify"
        if self.method == "inotify":
            self._start_inotify()
        self._started = True

    def _start_inotify(self) -> None:
        try:
            from pipeline.detectors.inotify import Notifier
        except ImportError as error:
            self._fall_back(error)
            return
        try:
            self._notifier = Notifier(self.directory, self._takes)
            # directories first, then files: what comes between the two is reported by both
            self._notifier.add(self.directory)
        except NoInotifyError as error:
            self._fall_back(error)

    def _fall_back(self, reason: Exception) -> None:
        self.close()
        self.method = "poll"
        self._scan_due = self._clock()
        log.warning("no inotify, polling directory=%s reason=%s", self.directory, reason)

    def _take_in(self, timeout_s: float) -> None:
        if len(self._ready) >= _MAX_READY:
            return
        now = self._clock()
        if now >= self._scan_due:
            self._scan()
        elif self._notifier is None:
            if timeout_s:
                self._sleep(min(timeout_s, self._scan_due - now))
        else:
            self._read_events(min(timeout_s, self._scan_due - now))

    def _read_events(self, timeout_s: float) -> None:
        assert self._notifier is not None
        changes = self._notifier.read(timeout_s)
        for path in changes.files:
            self._push(path)
        try:
            for directory in changes.directories:
                if self._enters(directory):
                    for path, _ in self._walk(directory):
                        self._push(path)
        except NoInotifyError as error:
            self._fall_back(error)
        if changes.rescan:
            log.warning("events lost, looking through directory=%s", self.directory)
            self._scan_due = self._clock()
        elif changes.files:
            self._scan_due = max(self._scan_due, self._clock() + self._rescan_s)

    def _push(self, path: str) -> None:
        if path not in self._queued:
            self._queued.add(path)
            heapq.heappush(self._ready, (self._order(path), path))

    def _pop(self, limit: int) -> list[ReadyFile]:
        found: list[ReadyFile] = []
        while self._ready and len(found) < limit:
            _, path = heapq.heappop(self._ready)
            self._queued.discard(path)
            file = look(path)
            if file is None:
                self._seen.pop(path, None)
            elif self._seen.get(path) != file.identity:
                self._seen[path] = file.identity
                found.append(file)
        return found

    # -- looking through ------------------------------------------------------------------------

    def _scan(self) -> None:
        """Look through the whole tree; forget files that are gone."""
        from_clock = self._clock()
        known, growing = self._seen, self._growing
        self._growing = {}
        present: dict[str, int] = {}
        again_soon = False
        try:
            for path, file in self._walk(self.directory):
                if path in known:
                    present[path] = known[path]
                if len(self._ready) >= _MAX_READY:
                    again_soon = True
                elif known.get(path) != file.identity and self._is_stable(file, growing):
                    self._push(path)
        except NoInotifyError as error:
            self._growing = growing
            self._fall_back(error)
            return
        self._seen = present
        taken = self._clock() - from_clock
        pause = self._poll_s if self._notifier is None or again_soon else self._rescan_s
        self._scan_due = self._clock() + max(pause, taken / _SCAN_SHARE)

    def _is_stable(self, file: ReadyFile, growing: dict[str, tuple[int, int]]) -> bool:
        if self._notifier is not None:
            return True  # its close, if still to come, is an event
        identity, looks = growing.get(file.path, (0, 0))
        looks = looks + 1 if identity == file.identity else 0
        if looks >= self._stable_polls:
            return True
        self._growing[file.path] = (file.identity, looks)
        return False

    def _walk(self, directory: str) -> Iterator[tuple[str, ReadyFile]]:
        """Yield wanted files below; watch every directory before it is listed."""
        folders = [directory]
        while folders:
            folder = folders.pop()
            if self._notifier is not None and not self._notifier.add(folder):
                self._check_root(folder, None)
                continue
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if self._enters(entry.path):
                                folders.append(entry.path)
                        # not entry.stat(): it leaves the inode out on Windows
                        elif self._takes(entry.name) and (file := look(entry.path)) is not None:
                            yield entry.path, file
            except OSError as error:
                self._check_root(folder, error)

    def _check_root(self, folder: str, error: OSError | None) -> None:
        """Let sub-directories vanish; the watched directory itself must be there."""
        if folder == self.directory:
            reason = error.strerror if error else "cannot be watched"
            raise SourceError(
                f"the watched directory {folder} is gone ({reason}): is its file system mounted?"
            ) from error
        level = logging.DEBUG if error is None or error.errno == errno.ENOENT else logging.WARNING
        log.log(level, "directory not read directory=%s reason=%s", folder, error)

    def _takes(self, name: str) -> bool:
        return self._wanted(name) and not self._ignored(name)

    def _enters(self, directory: str) -> bool:
        if not self._recursive or directory in self._excluded:
            return False
        return not self._ignored(directory.rpartition("/")[2])


def _matcher(patterns: Collection[str]) -> Callable[[str], bool]:
    if not patterns:
        return lambda _: False
    expression = "|".join(fnmatch.translate(pattern.lower()) for pattern in patterns)
    match = re.compile(expression).match
    return lambda name: match(name.lower()) is not None


def _is_remote(directory: str) -> bool:
    """Tell whether the directory's file system is one that others write to unseen."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return _REMOTE.fullmatch(_file_system(lines, os.path.realpath(directory))) is not None


def _file_system(mountinfo: Iterable[str], path: str) -> str:
    """Return the type of the file system that holds ``path`` (proc(5), mountinfo)."""
    best, kind = "", ""
    for line in mountinfo:
        head, _, tail = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), head.split(" ")[4])
        below = point if point.endswith("/") else point + "/"
        # the last mount on a point hides earlier ones
        if (path + "/").startswith(below) and len(below) >= len(best):
            best, kind = below, tail.split(" ")[0]
    return kind
