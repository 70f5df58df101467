"""Linux tells what happens in a directory tree: the part of the watcher that needs inotify.

Imported only where it is used, because ``inotify_simple`` needs Linux.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from inotify_simple import INotify, flags

from pipeline.detectors.watch import NoInotifyError
from pipeline.errors import SourceError

#: No DELETE and no MOVED_FROM: the kernel's queue (16384 events by default) is better spent on
#: files that come.  CREATE is needed for directories and for hard links.
_MASK = (
    flags.CLOSE_WRITE
    | flags.MOVED_TO
    | flags.CREATE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    | flags.EXCL_UNLINK
)
_READY = flags.CLOSE_WRITE | flags.MOVED_TO


@dataclass(slots=True)
class Changes:
    """What one reading of the kernel's queue said.

    ``rescan``: events were lost (overflow) or paths moved, so that only looking helps.
    """

    files: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    rescan: bool = False


class Notifier:
    """Watches directories one by one; the caller walks the tree and names them.

    Raises
    ------
    NoInotifyError
        The kernel has no inotify, or its limits (watches, instances) are used up.
    """

    def __init__(self, root: str, wanted: Callable[[str], bool]) -> None:
        self._root = root
        self._wanted = wanted
        self._paths: dict[int, str] = {}
        try:
            self._inotify = INotify()
        except OSError as error:
            raise NoInotifyError(str(error)) from error

    def add(self, directory: str) -> bool:
        """Watch a directory; False if it is gone meanwhile. Again for one watched: no harm."""
        try:
            watch = self._inotify.add_watch(directory, _MASK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return False
            raise NoInotifyError(f"{directory}: {error}") from error
        self._paths[watch] = directory
        return True

    def read(self, timeout_s: float) -> Changes:
        """Wait for events and sort them.

        Raises
        ------
        SourceError
            The root directory was removed, renamed or unmounted.
        """
        changes = Changes()
        # rounded up, or the last fraction of a millisecond would be spent in a busy loop
        for event in self._inotify.read(timeout=math.ceil(timeout_s * 1000)):
            self._sort(event.wd, event.mask, event.name, changes)
        return changes

    def _sort(self, watch: int, mask: int, name: str, changes: Changes) -> None:
        if mask & flags.Q_OVERFLOW:
            changes.rescan = True
            return
        directory = self._paths.get(watch)
        if directory is None:
            return
        if mask & (flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED):
            self._lost(watch, directory, mask, changes)
        elif mask & flags.ISDIR:
            changes.directories.append(f"{directory}/{name}")
        elif self._wanted(name) and (mask & _READY or _is_link(f"{directory}/{name}")):
            changes.files.append(f"{directory}/{name}")

    def _lost(self, watch: int, directory: str, mask: int, changes: Changes) -> None:
        if directory == self._root:
            raise SourceError(
                f"the watched directory {directory} was removed, renamed or unmounted"
            )
        if mask & flags.MOVE_SELF:
            # everything below it has new paths, too
            for other, path in list(self._paths.items()):
                if path == directory or path.startswith(directory + "/"):
                    self._drop(other)
            changes.rescan = True
        else:
            self._paths.pop(watch, None)

    def _drop(self, watch: int) -> None:
        self._paths.pop(watch, None)
        try:
            self._inotify.rm_watch(watch)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel was faster
                raise

    def close(self) -> None:
        """Stop watching; may be called twice."""
        self._paths.clear()
        self._inotify.close()


def _is_link(path: str) -> bool:
    """Tell whether a new name came by link(2) or symlink(2): then no close or move follows."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_nlink > 1 or stat.S_ISLNK(status.st_mode)
