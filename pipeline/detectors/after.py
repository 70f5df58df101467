"""What becomes of a file that is published: kept, deleted, or moved away."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from pipeline.detectors.watch import ReadyFile, look

log = logging.getLogger(__name__)

AFTER = ("keep", "delete", "move")


def let_go(file: ReadyFile, after: str, *, root: str, move_to: str) -> bool:
    """Delete or move a published file; False if it was left where it is.

    It is left if it is not the very file that was published any more (other inode, length or
    time: the name was used again), and if the system refuses; both are logged.
    """
    if look(file.path) != file:
        log.warning("file kept, it changed after it was published path=%s", file.path)
        return False
    try:
        if after == "delete":
            os.unlink(file.path)  # noqa: PTH108 -- ten thousand of them a second
        else:
            _move(file.path, Path(move_to) / os.path.relpath(file.path, root))
    except OSError as error:
        log.warning("file kept, cannot %s it path=%s reason=%s", after, file.path, error)
        return False
    return True


def _move(source: str, target: Path) -> None:
    """Move a file without ever replacing one: a name used again gets ``.1``, ``.2``, ..."""
    target.parent.mkdir(parents=True, exist_ok=True)
    free = _reserve(target)
    try:
        os.replace(source, free)  # noqa: PTH105
    except OSError as error:
        if error.errno != errno.EXDEV:
            free.unlink()
            raise
        _copy(source, free)


def _reserve(target: Path) -> Path:
    """Make an empty file under the first free name."""
    count = 0
    while True:
        free = target.with_name(f"{target.name}.{count}") if count else target
        try:
            free.touch(exist_ok=False)
        except FileExistsError:
            count += 1
        else:
            return free


def _copy(source: str, target: Path) -> None:
    """Move to another file system: the copy is whole and on disk before the source goes."""
    partial = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copy2(source, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise
    Path(source).unlink()
