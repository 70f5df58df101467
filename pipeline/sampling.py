"""Samples of streams in another store: some frames to take home, in a stream of their own.

A sample has the name of its source, so that the same code reads it, and an id of its own: it is
another stream.  Its start record says what it is a sample of; what was not chosen is not missing.
Payloads are the detector's bytes, checked on the way and packed anew.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import InvalidArgumentError
from pipeline.manifest.part import Part, PartBuilder
from pipeline.manifest.seal import make_seal, seal_bytes
from pipeline.manifest.stored import discover
from pipeline.manifest.writer import PART_NBYTES
from pipeline.naming import Names, attachment_key, seal_key, segment_key
from pipeline.protocols import BlobStore, Durability
from pipeline.reading.account import Account, build_account
from pipeline.reading.choice import FrameChoice
from pipeline.reading.expressions import compile_expression
from pipeline.reading.frame import Frame
from pipeline.reading.frozen import FrozenFrames
from pipeline.reading.ranges import Ranges
from pipeline.reading.sample import Sample
from pipeline.reading.table import FrameTable, Rows
from pipeline.records import End, Located, ModuleState, Segment, Start, StreamInfo
from pipeline.stream import Stream
from pipeline.wire.columns import pack

log = logging.getLogger(__name__)
#: As the publisher packs: design, section 2.
_SEGMENT_NBYTES = 8 << 20
_INLINE_NBYTES = 64 << 10
#: Frames whose records are looked up together.
_BATCH = 4096
_EPOCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """What a sample holds.

    Parameters
    ----------
    frames, of:
        Frames taken, and how many the source had.
    nbytes:
        Their payloads.
    written:
        False where the very same sample was there already.
    """

    stream: str
    frames: int
    of: int
    nbytes: int
    written: bool


def export_sample(
    stream: Stream,
    target: BlobStore,
    *,
    names: Names,
    choice: FrameChoice | None = None,
    where: str = "",
    durability: Durability = "disk",
    progress: Callable[[int, int], object] | None = None,
) -> SampleReport:
    """Copy some frames of a stream to another store, where they are a sealed stream.

    An open stream is sampled as it is now.  The sample is listed when it is whole; writing the same
    one again does nothing.  Memory: 64 MiB of records and what is read ahead.

    Parameters
    ----------
    choice, where:
        By number, by expression, or both; a frame of several modules is taken whole when one of
        them matches.
    progress:
        Called with how many modules of frames were copied, and of how many.

    Raises
    ------
    InvalidArgumentError
        No frame was chosen, or the target has another stream of this name.
    ExpressionError
        ``where`` does not parse, or names what no frame has.
    ChecksumError, BlobNotFoundError
        A frame is damaged or gone; nothing is listed in the target.
    """
    chosen = _choose(stream, choice, where)
    there = _there(target, names, chosen.info.start)
    nbytes = int(chosen.table.nbytes[chosen.rows].sum())
    report = SampleReport(
        stream=str(stream.name),
        frames=chosen.frames,
        of=chosen.sample.frames,
        nbytes=nbytes,
        written=not there,
    )
    if not there:
        start = chosen.info.start
        target.create_bucket(names.bucket(start.beamtime))
        prefix = names.stream_prefix(start.beamtime, start.detector, start.stream_key)
        _Writer(stream, chosen, target, prefix, durability, progress).write()
        log.info("sample exported stream=%s frames=%d", stream.name, chosen.frames)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What goes into a sample; ``info`` is the sample's, its end still to come."""

    info: StreamInfo
    state: Any
    sample: Sample
    table: FrameTable
    rows: Rows
    frames: int


def _choose(stream: Stream, choice: FrameChoice | None, where: str) -> _Chosen:
    account = stream.account()
    info = stream.info
    table = stream.table()
    rows = table.merged().rows
    numbers = table.numbers[rows]
    if not len(rows):
        raise InvalidArgumentError("stream", f"{stream.name} has no frames")
    first, source = int(numbers[0]), len(np.unique(numbers))
    taken = np.ones(len(rows), bool) if choice is None else choice.mask(numbers, first)
    if where:
        expression = compile_expression(where)
        expression.check_names(table.names())
        match = expression.mask(table.view())[rows]
        taken &= np.isin(numbers, numbers[match])
    rows = rows[taken]
    if not len(rows):
        raise InvalidArgumentError("frames", f"none of {source} frames of {stream.name} is chosen")
    missing = Ranges([(a, b) for a, b in account["missing"]])
    for low, high in Ranges.of(numbers):  # what came since the account was made
        missing.remove(low, high)
    sample = Sample(
        of=info.start.stream_key.hex(),
        selection=" and ".join(filter(None, [choice.text if choice else "", where])),
        frames=source,
        # a frame that did not come cannot match an expression
        missing=Ranges() if where else missing if choice is None else choice.of(missing, first),
    )
    return _Chosen(
        info=_info(info, sample, table, rows),
        state="complete" if info.state == "open" else info.state,
        sample=sample,
        table=table,
        rows=rows,
        frames=len(np.unique(table.numbers[rows])),
    )


def _info(info: StreamInfo, sample: Sample, table: FrameTable, rows: Rows) -> StreamInfo:
    """Return what the sample is as a stream: in one partition, its id told by what is in it."""
    digest = hashlib.sha256(info.start.stream_key + sample.selection.encode())
    digest.update(np.ascontiguousarray(table.numbers[rows]).tobytes())
    digest.update(np.ascontiguousarray(table.checksums[rows]).tobytes())
    start = replace(
        info.start,
        stream_key=digest.digest()[:8],
        partitions=1,
        offsets=(0,),
        expected=None,
        lineage={**info.start.lineage, **sample.lineage()},
    )
    return replace(
        info,
        start=start,
        modules={index: ModuleState() for index in start.module_indices},
        metadata=dict(info.metadata),
        attachments={},
        quarantined=[],
        parts=[],
        seal=None,
    )


def _there(target: BlobStore, names: Names, start: Start) -> bool:
    """Tell whether this sample is in the target; raises for another stream of its name."""
    name = (start.detector, start.stream)
    for found in discover(target, names, start.beamtime):
        if (found.start.detector, found.start.stream) != name:
            continue
        if found.start.stream_key == start.stream_key:
            return True
        raise InvalidArgumentError(
            "target",
            f"{target.url} has another stream {start.beamtime}/{name[0]}/{name[1]}, or another"
            " sample of it: name a directory or prefix of its own",
        )
    return False


class _Writer:
    """Writes payloads, records, seal, in this order."""

    def __init__(
        self,
        stream: Stream,
        chosen: _Chosen,
        target: BlobStore,
        prefix: str,
        durability: Durability,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._stream = stream
        self._chosen = chosen
        self._target = target
        self._prefix = prefix
        self._durability: Durability = durability
        self._progress = progress
        self._nonce = chosen.info.start.stream_key.hex()[:8]
        self._table = FrameTable(chosen.info.start)
        self._offset = 0
        self._parts: list[Part] = []
        self._builder = self._new_builder()

    def write(self) -> None:
        """Write all; the stream is listed with the last object."""
        done = 0
        for frames in self._segments():
            segment = self._packed(frames)
            found = Located(partition=0, offset=self._offset, timestamp_ms=0, value=segment)
            self._offset += 1
            self._table.update([replace(found, value=replace(segment, inline=b""))])
            self._builder.add(found)
            if self._builder.nbytes >= PART_NBYTES:
                self._finish_part()
            done += len(frames)
            if self._progress is not None:
                self._progress(done, len(self._chosen.rows))
        if self._builder.records or not self._parts:
            self._finish_part()
        self._seal()

    def _segments(self) -> Iterator[list[Frame]]:
        """Yield the frames of each record: of one module and one form, so many as fit."""
        for frozen in self._batches():
            of_module: dict[int, list[Frame]] = {}
            sizes: dict[int, int] = {}
            for frame in self._parts_of(frozen):
                group = of_module.setdefault(frame.module, [])
                full = sizes.get(frame.module, 0) + frame.nbytes > _SEGMENT_NBYTES
                if group and (full or _form(group[0]) != _form(frame)):
                    yield group
                    group = of_module[frame.module] = []
                    sizes[frame.module] = 0
                frame.payload  # noqa: B018 -- read now and checked, while it can be
                group.append(frame)
                sizes[frame.module] = sizes.get(frame.module, 0) + frame.nbytes
            yield from (group for group in of_module.values() if group)

    def _batches(self) -> Iterator[FrozenFrames]:
        chosen, stream = self._chosen, self._stream
        heads = np.flatnonzero(np.diff(chosen.table.numbers[chosen.rows], prepend=-1))
        cuts = heads[_BATCH::_BATCH]
        return stream.freeze(np.split(chosen.rows, cuts))

    def _parts_of(self, frozen: FrozenFrames) -> Iterator[Frame]:
        for whole in frozen.read(frozen.numbers):
            yield from whole.modules.values()

    def _packed(self, frames: list[Frame]) -> Segment:
        """Return the record of some frames, their payloads stored back to back."""
        payloads = [frame.payload for frame in frames]
        lengths = np.array([len(payload) for payload in payloads], np.uint32)
        ends = np.cumsum(lengths, dtype=np.int64)
        first, last = frames[0], frames[-1]
        blob, inline = "", b""
        if 0 < ends[-1] < _INLINE_NBYTES:
            inline = b"".join(payloads)
        elif ends[-1]:
            blob = segment_key(
                self._prefix,
                epoch=_EPOCH,
                nonce=self._nonce,
                module=first.module,
                first=first.number,
                sequence=self._offset,
                suffix=".bin",
            )
            self._target.put(blob, payloads, durability=self._durability)
        columns, extra = pack([frame.attributes for frame in frames])
        return Segment(
            stream_key=self._chosen.info.start.stream_key,
            epoch=_EPOCH,
            module=first.module,
            floor=first.number,
            ceil=last.number,
            shape=first.shape,
            dtype=first.dtype,
            encoding=first.encoding,
            blob=blob,
            inline=inline,
            numbers=np.array([frame.number for frame in frames], np.int64),
            timestamps_ns=np.array([frame.timestamp_ns for frame in frames], np.int64),
            offsets=ends - lengths,
            lengths=lengths,
            checksums=np.array([frame.checksum for frame in frames], np.uint32),
            digests=np.array([frame.digest for frame in frames], np.uint32),
            columns=columns,
            extra=tuple(extra),
        )

    # -- the manifest -------------------------------------------------------------------------

    def _new_builder(self) -> PartBuilder:
        return PartBuilder(
            prefix=self._prefix,
            epoch=_EPOCH,
            nonce=self._nonce,
            part=len(self._parts),
            starts=[self._offset],
        )

    def _finish_part(self) -> None:
        built = self._builder.finish([self._offset])
        if built.packed:
            self._target.put(built.packed_key, built.packed, durability=self._durability)
        self._target.put(built.part.key, built.content, durability=self._durability)
        self._parts.append(built.part)
        self._builder = self._new_builder()

    def _seal(self) -> None:
        chosen = self._chosen
        info = replace(chosen.info, attachments=self._attachments())
        expected = chosen.frames + len(chosen.sample.missing)
        key = info.start.stream_key
        for module in info.modules:
            end = End(
                stream_key=key,
                module=module,
                epoch=_EPOCH,
                nonce=self._nonce,
                state=chosen.state,
                offsets=(self._offset,),
                expected=expected,
            )
            info.modules[module] = ModuleState(end=end)
        account: Account = build_account(str(self._stream.name), info, self._table)
        seal = replace(
            make_seal(info, epoch=_EPOCH, nonce=self._nonce, account=account),
            parts=tuple(part.entry() for part in self._parts),
            frames=len(self._table),
        )
        where = seal_key(self._prefix, epoch=_EPOCH, nonce=self._nonce)
        # last of all: without a seal the stream is not listed
        self._target.put(where, seal_bytes(seal, where), durability=self._durability)

    def _attachments(self) -> dict[str, str]:
        """Copy what is kept beside the stream; return name and key of each."""
        keys = {}
        for name in self._stream.info.attachments:
            file = io.BytesIO()
            np.save(file, self._stream.attachment(name), allow_pickle=False)
            keys[name] = attachment_key(self._prefix, name=name, nonce=self._nonce)
            self._target.put(keys[name], [file.getvalue()], durability=self._durability)
        return keys


def _form(frame: Frame) -> tuple[Any, ...]:
    return (frame.shape, frame.dtype, frame.encoding)
