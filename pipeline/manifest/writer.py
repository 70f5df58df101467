"""Writing the manifest: parts while the stream runs, the seal when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline import naming
from pipeline.errors import StreamOpenError, StreamTimeoutError, WireError
from pipeline.manifest.part import BuiltPart, MarkFilter, PartBuilder
from pipeline.manifest.partset import PartSet
from pipeline.manifest.seal import load_seal, make_seal, seal_bytes
from pipeline.protocols import BlobStore, Cursor, Durability, StreamLog
from pipeline.records import End, Located, ManifestRef, ModuleState, StreamInfo
from pipeline.wire.catalogue import stream_id

#: Design, section 6: a part every 64 MiB or 10 minutes.
PART_NBYTES = 64 << 20
PART_AGE_S = 600.0


class ManifestWriter:
    """Writes the manifest of one stream; not for use by two threads.

    Any number of writers may do so, one after the other or by mistake at once: keys are unique by
    epoch and nonce, and readers leave out what an earlier part covers.  A call that fails can be
    repeated; it goes on where it was.

    Parameters
    ----------
    log, store:
        Where the records are and where the manifest goes; not closed here.
    prefix:
        What the keys of the stream's blobs begin with (``Names.stream_prefix``).
    epoch, nonce:
        The claim of who writes.
    part_nbytes, part_age_s:
        When a part is written: so many bytes of records and inline payloads (held in memory), or
        so long after the last one.
    clock:
        Seconds that never go back.
    """

    def __init__(
        self,
        log: StreamLog,
        store: BlobStore,
        *,
        prefix: str,
        epoch: int,
        nonce: str,
        durability: Durability = "process",
        part_nbytes: int = PART_NBYTES,
        part_age_s: float = PART_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._store = store
        self._prefix = prefix
        self._epoch = epoch
        self._nonce = nonce
        self._durability: Durability = durability
        self._part_nbytes = part_nbytes
        self._part_age_s = part_age_s
        self._clock = clock
        self._written_at = clock()
        self._parts: PartSet | None = None
        self._number = 0
        self._builder: PartBuilder | None = None
        self._built: BuiltPart | None = None
        self._cursor: Cursor | None = None
        self._until: list[int] = []
        #: Records behind ``until`` that the cursor gave already.
        self._ahead: list[Located] = []
        self._marks = MarkFilter()
        #: Per partition the offset below which nothing is left to read.
        self._passed: dict[int, int] = {}

    def pass_over(self, lost: Iterable[tuple[int, int, int]]) -> None:
        """Go on behind offsets (partition, first, stop) that are nowhere any more.

        The next part covers them without having them, so that what follows can be read; whoever
        calls this has noted the loss where the account finds it.
        """
        self._passed.update({partition: stop for partition, _, stop in lost})

    def advance(
        self, until: Sequence[int], *, final: bool = False, timeout_s: float = 30.0
    ) -> ManifestRef | None:
        """Read the log up to ``until`` and write a part if it is due.

        A reference must be appended to the catalogue.  One call writes one part: after a
        reference call again, until it returns None.

        Parameters
        ----------
        until:
            Per partition the offset behind what may be taken.
        final:
            Write what there is, however little.

        Raises
        ------
        StreamTimeoutError
            The log gave nothing for ``timeout_s`` though it is not at ``until``.
        StoreUnavailableError
            The store did not take the part; the next call tries again.
        """
        self._begin()
        # What was taken stays taken, should the caller step back.
        self._until = until = [max(*pair) for pair in zip(until, self._until, strict=True)]
        if self._built is None:
            due = self._collect(until, timeout_s)
            aged = self._clock() - self._written_at >= self._part_age_s
            if not (due or self._worth_writing(until, aged=aged, final=final)):
                return None
            self._finish(until)
        return self._write()

    def seal(self, end: End, account: Mapping[str, Any], *, timeout_s: float = 30.0) -> ManifestRef:
        """Write the rest of an ended stream, then its seal; return the seal's reference.

        Parameters
        ----------
        end:
            The end that closes the stream, in the catalogue or about to be; the other modules'
            ends are in the catalogue.
        account:
            Completeness of the whole stream, as ``verify --json`` shows it.

        Raises
        ------
        StreamOpenError
            Another module has not ended.
        """
        info = self._log.info(refresh=True)
        info = replace(info, modules={**info.modules, end.module: ModuleState(end=end)})
        until = info.end_offsets
        if until is None:
            raise StreamOpenError(stream_id(info), "seal it when all its modules have ended")
        try:
            while self.advance(until, final=True, timeout_s=timeout_s) is not None:
                pass
            return self._seal(info, until, account)
        finally:
            self._release()

    def close(self) -> None:
        """Close the cursor on the log; what was not written is left to the next writer."""
        self._release()

    def _release(self) -> None:
        """Let go of the cursor and of what it gave; the next call reads behind the last part."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None
        self._ahead = []
        self._marks = MarkFilter()
        if self._built is None:
            self._builder = None

    def _begin(self) -> None:
        if self._parts is None:
            info = self._log.info(refresh=True)
            self._parts = known_parts(info, self._store)
            self._until = list(self._parts.covered)
            numbers = [ref.part for ref in info.parts]
            numbers += [span.part.part for span in self._parts.spans]
            self._number = max(numbers, default=-1) + 1

    def _collect(self, until: Sequence[int], timeout_s: float) -> bool:
        """Read the log; return whether a part is full."""
        cursor = self._open_cursor()
        ahead, self._ahead = self._ahead, []
        self._take(ahead, until)
        while not self._full():
            before = cursor.positions()
            behind = [p for p, at in enumerate(before) if at < until[p]]
            if not behind:
                return False
            others = set(range(len(until))).difference(behind)
            cursor.pause(others)  # they must not run ahead while one partition lags
            cursor.resume(behind)
            records = cursor.poll(timeout_s)
            if not records and cursor.positions() == before:
                detail = f"the manifest waits for partitions {behind} to reach {list(until)}"
                raise StreamTimeoutError(self._prefix, timeout_s, detail)
            self._take(records, until)
        return True

    def _open_cursor(self) -> Cursor:
        if self._cursor is None:
            begin = [max(at, self._passed.get(p, 0)) for p, at in enumerate(self._covered())]
            self._cursor = self._log.cursor(begin)
        return self._cursor

    def _take(self, records: Sequence[Located], until: Sequence[int]) -> None:
        for record in records:
            if record.offset >= until[record.partition]:
                self._ahead.append(record)
            elif self._marks.keep(record):
                self._open_builder().add(record)

    def _full(self) -> bool:
        return self._builder is not None and self._builder.nbytes >= self._part_nbytes

    def _worth_writing(self, until: Sequence[int], *, aged: bool, final: bool) -> bool:
        builder = self._builder
        if builder is not None and builder.frames and (aged or final):
            return True
        # Marks alone, or nothing: only so that the manifest reaches to the end.
        return final and any(c < u for c, u in zip(self._covered(), until, strict=True))

    def _covered(self) -> list[int]:
        if self._parts is None:
            raise ValueError("nothing was read yet")
        return self._parts.covered

    def _open_builder(self) -> PartBuilder:
        if self._builder is None:
            self._builder = PartBuilder(
                prefix=self._prefix,
                epoch=self._epoch,
                nonce=self._nonce,
                part=self._number,
                starts=self._covered(),
            )
        return self._builder

    def _finish(self, until: Sequence[int]) -> None:
        positions = self._open_cursor().positions()
        reached = [min(*pair) for pair in zip(positions, until, strict=True)]
        stops = [max(*pair) for pair in zip(reached, self._covered(), strict=True)]
        self._built = self._open_builder().finish(stops)

    def _write(self) -> ManifestRef:
        """Store the finished part; kept until it is stored, so that a repetition is the same."""
        built = self._built
        if built is None or self._parts is None:
            raise ValueError("no part is finished")
        if built.packed:
            self._store.put(built.packed_key, built.packed, durability=self._durability)
        self._store.put(built.part.key, built.content, durability=self._durability)
        self._parts.add(built.part)
        self._built = self._builder = None
        self._number += 1
        self._written_at = self._clock()
        return ManifestRef(
            stream_key=self._log.info(refresh=False).start.stream_key,
            epoch=self._epoch,
            nonce=self._nonce,
            part=built.part.part,
            key=built.part.key,
            offsets=built.part.stops,
            frames=built.part.frames,
        )

    def _seal(
        self, info: StreamInfo, until: tuple[int, ...], account: Mapping[str, Any]
    ) -> ManifestRef:
        parts = self._parts
        if parts is None or any(c < u for c, u in zip(parts.covered, until, strict=True)):
            raise WireError("manifest does not reach to the stream's end", where=self._prefix)
        seal = make_seal(info, epoch=self._epoch, nonce=self._nonce, account=account)
        entries = tuple(span.part.entry() for span in parts.spans)
        seal = replace(seal, parts=entries, frames=parts.frames)
        key = naming.seal_key(self._prefix, epoch=self._epoch, nonce=self._nonce)
        # Last of all: a manifest without a seal is not read.
        self._store.put(key, seal_bytes(seal, key), durability=self._durability)
        return ManifestRef(
            stream_key=seal.stream_key,
            epoch=self._epoch,
            nonce=self._nonce,
            part=-1,
            key=key,
            offsets=until,
            frames=parts.frames,
            account=dict(account),
        )


def known_parts(info: StreamInfo, store: BlobStore) -> PartSet:
    """Return what the manifest of a stream holds so far, by its seal and its catalogue."""
    if info.seal is not None:
        parts = load_seal(store, info.seal.key).part_set(store)
    else:
        parts = PartSet(store, info.start.offsets)
    parts.add_refs(info.parts)
    return parts
