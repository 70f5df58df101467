"""Whether a publisher spools at the moment, and what waits on disk."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import PublishSettings
from pipeline.errors import SpoolError, SpoolFullError
from pipeline.naming import StreamId
from pipeline.publishing.draft import Draft
from pipeline.publishing.spool import DamagedDraftError, SpoolFolder, left_behind
from pipeline.publishing.tally import Spooled
from pipeline.records import Start
from pipeline.wire.codec import to_plain

log = logging.getLogger(__name__)


def _facts(start: Start) -> dict[str, Any]:
    return {"start": {**to_plain(start), "stream_key": start.stream_key.hex()}}


class Spooling:
    """The spool of one publisher; the caller holds the publisher's lock, but for ``wait``.

    Inactive: frames go to the window.  Active: every frame goes to disk, behind those already
    there, until all have been moved to the window in order.
    """

    def __init__(
        self, settings: PublishSettings, name: StreamId, start: Start, *, sync: bool
    ) -> None:
        self._settings = settings
        self._name = name
        self._start = start
        self._sync = sync
        self._folder: SpoolFolder | None = None
        self._buffer: npt.NDArray[np.uint8] | None = None
        #: File and tokens of its frames, oldest first.
        self._files: deque[tuple[SpoolFolder, Path, list[Any]]] = deque()
        self._left: list[SpoolFolder] = []
        self._ended = threading.Event()
        self.active = False
        self.frames = 0
        #: Files that could not be published, and why.
        self.damaged: list[tuple[str, str]] = []

    @property
    def possible(self) -> bool:
        """Whether there is a spool at all."""
        return bool(self._settings.spool)

    @property
    def nbytes(self) -> int:
        """Bytes of local disk that it takes."""
        return sum(folder.nbytes for folder in (self._folder, *self._left) if folder is not None)

    @property
    def waiting(self) -> bool:
        """Whether drafts are on disk that have not been moved."""
        return bool(self._files)

    def begin(self) -> None:
        """Start spooling. Raises SpoolError if the folder cannot be made."""
        if self._folder is None:
            root = Path(self._settings.spool)
            self._folder = SpoolFolder.create(root, self._name, _facts(self._start))
        self._ended.clear()
        self.active = True

    def opened(self, start: Start) -> None:
        """Note the stream as it stands in the catalogue, in a folder that exists already, too."""
        self._start = start
        if self._folder is not None:
            try:
                self._folder.describe(_facts(start))
            except OSError as error:
                raise SpoolError(f"spool {self._folder.path}: {error.strerror}") from error

    def buffer(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return the buffer that drafts on their way to disk use, one at a time."""
        if self._buffer is None or len(self._buffer) < nbytes:
            self._buffer = np.empty(nbytes, np.uint8)
        return self._buffer

    def part_with_buffer(self) -> None:
        """Leave the buffer to a draft that goes another way."""
        self._buffer = None

    def owns(self, buffer: npt.NDArray[np.uint8]) -> bool:
        """Whether a buffer is not the pool's: the spool's own, or a file's content."""
        return buffer is self._buffer or not buffer.flags.owndata

    def put(self, draft: Draft, *, epoch: int) -> None:
        """Write a draft to disk.

        Raises SpoolFullError when the spool has reached its limit or the disk is full, SpoolError
        when it cannot be written: the frames of this draft are not taken, and the error is the
        publisher's owner's to hear.
        """
        if self._folder is None:
            raise SpoolError(f"{self._name}: there is no spool")
        if self._folder.nbytes + draft.used > self._settings.spool_nbytes:
            raise SpoolFullError(
                f"spool {self._folder.path} has reached its limit of"
                f" {self._settings.spool_nbytes} bytes: broker and store must catch up first"
            )
        path = self._folder.put(draft, epoch=epoch, sync=self._sync)
        self._files.append((self._folder, path, draft.tokens))
        self.frames += len(draft)

    def adopt_left_behind(self, is_other: Callable[[bytes], bool]) -> int:
        """Take over what dead writers of this stream left; return the highest number among it.

        ``is_other`` tells whether a stream's id is that of another stream, which had this name
        before it was deleted: its frames do not belong here.
        """
        highest = -1
        if not self.possible:
            return highest
        for folder in left_behind(Path(self._settings.spool), self._name):
            if is_other(folder.stream_key):
                log.warning("spool %s is of a deleted stream and stays", folder.path)
                continue
            if not folder.hold():
                continue  # another writer was faster
            self._left.append(folder)
            for path in folder.files():
                numbers = folder.numbers(path)
                highest = max(highest, *numbers) if numbers else highest
                self._files.append((folder, path, [None] * len(numbers)))
                self.frames += len(numbers)
        if self._files and not self.active:
            log.info("%s: publishing %d drafts left in the spool", self._name, len(self._files))
            self.begin()  # frames written meanwhile go behind what was left
        return highest

    def next(self) -> Draft | None:
        """Return the oldest draft on disk; its file stays until its last frame is confirmed."""
        while True:
            if not self._files:
                return None
            folder, path, tokens = self._files.popleft()
            self.frames -= len(tokens)
            try:
                draft = folder.read(path)
                break
            except DamagedDraftError as error:
                # It must not keep the others from being published; the account will name it.
                aside = folder.set_aside(path)
                log.error("%s: kept as %s", error, aside)
                self.damaged.append((str(aside), str(error)))
            except SpoolError:
                self._files.appendleft((folder, path, tokens))
                self.frames += len(tokens)
                raise
        if len(tokens) == len(draft):
            draft.tokens = list(tokens)
        draft.tokens[-1] = Spooled(path, draft.tokens[-1])
        draft.epoch = draft.epoch or None  # 0: taken before the stream could be opened
        return draft

    def finish(self) -> None:
        """Go back to the direct way: everything has been moved."""
        log.info("%s: the spool has been caught up with", self._name)
        self.active = False
        self._ended.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until the spool is caught up with, or the time is over."""
        self._ended.wait(timeout_s)

    def published(self, paths: Sequence[Path]) -> None:
        """Remove files whose frames are confirmed, and folders that are empty."""
        for path in paths:
            for folder in filter(None, [self._folder, *self._left]):
                if folder.path == path.parent:
                    folder.done(path)

    def close(self) -> None:
        """Remove the folders in which nothing waits."""
        for folder in filter(None, [self._folder, *self._left]):
            folder.remove()
