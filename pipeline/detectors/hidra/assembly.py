"""Chunks to files, in any order and from several senders; memory stays bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.detectors.hidra.wire import Chunk, FileId

#: So many finished files are remembered, to know a chunk that comes twice.
_REMEMBERED = 10_000


@dataclass(slots=True, kw_only=True, eq=False)
class Partial:
    """A file of which chunks are missing."""

    file: FileId
    count: int
    last_s: float
    chunks: dict[int, memoryview] = field(default_factory=dict)
    nbytes: int = 0

    @property
    def reason(self) -> str:
        """What is missing, for people."""
        missing = [str(n) for n in range(min(self.count, 100_000)) if n not in self.chunks][:5]
        more = ", ..." if self.count - len(self.chunks) > len(missing) else ""
        return (
            f"{len(self.chunks)} of {self.count} chunks came, {self.nbytes} of"
            f" {self.file.nbytes} bytes; missing: {', '.join(missing)}{more}"
        )


class Assembly:
    """Puts files together.

    Parameters
    ----------
    max_nbytes:
        Of all unfinished files; the one that has waited longest is given up for a new chunk.
    timeout_s:
        An unfinished file of which nothing came for so long is given up.
    """

    def __init__(
        self, *, max_nbytes: int, timeout_s: float, monotonic: Callable[[], float]
    ) -> None:
        self.repeated = 0
        self._max_nbytes = max_nbytes
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._nbytes = 0
        self._partial: OrderedDict[FileId, Partial] = OrderedDict()
        self._done: OrderedDict[FileId, None] = OrderedDict()

    def is_begun(self, file: FileId) -> bool:
        """Tell whether chunks of a file wait for others."""
        return file in self._partial

    def is_done(self, file: FileId) -> bool:
        """Tell whether a file has come already."""
        return file in self._done

    def add(self, chunk: Chunk) -> memoryview | None:
        """Return the whole file if this chunk completes it; else None.

        A file of one chunk is a view on the message's memory, others are copied once.
        """
        if chunk.file in self._done:
            self.repeated += 1
            return None
        if chunk.count == 1:
            self._finish(chunk.file)
            return chunk.payload
        partial = self._partial.get(chunk.file)
        if partial is None or partial.count != chunk.count:
            self._drop(chunk.file)  # sent again in other chunks
            partial = Partial(file=chunk.file, count=chunk.count, last_s=0.0)
            self._partial[chunk.file] = partial
        partial.last_s = self._monotonic()
        self._partial.move_to_end(chunk.file)
        if chunk.number in partial.chunks:
            self.repeated += 1
            return None
        partial.chunks[chunk.number] = chunk.payload
        partial.nbytes += chunk.payload.nbytes
        self._nbytes += chunk.payload.nbytes
        if len(partial.chunks) < partial.count:
            return None
        self._drop(chunk.file)
        self._finish(chunk.file)
        return memoryview(b"".join(partial.chunks[n] for n in range(partial.count)))

    def given_up(self) -> list[Partial]:
        """Return, and forget, the files that will not be finished."""
        found: list[Partial] = []
        limit_s = self._monotonic() - self._timeout_s
        for partial in list(self._partial.values()):
            is_over = self._nbytes > self._max_nbytes
            if not is_over and partial.last_s > limit_s:
                break  # they are in the order of their last chunks
            self._drop(partial.file)
            found.append(partial)
        return found

    def _drop(self, file: FileId) -> None:
        partial = self._partial.pop(file, None)
        if partial is not None:
            self._nbytes -= partial.nbytes

    def _finish(self, file: FileId) -> None:
        self._done[file] = None
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
