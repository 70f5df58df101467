"""Files with many frames: stored once, as they are; records point at the ranges inside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue, FrameHeader
from pipeline.protocols import PlacedFrame
from pipeline.publishing.draft import MAX_COLUMNS_NBYTES, ROW_NBYTES, Draft, Layout
from pipeline.publishing.inputs import LayoutChecks, integer
from pipeline.publishing.tally import Content, Known
from pipeline.records import Start
from pipeline.wire.columns import check_attributes, most_nbytes

#: A record keeps the length of a frame in 32 bits.
_MAX_FRAME_NBYTES = 2**32 - 1
#: How the files begin that other programs open by their suffix.
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", ".h5"),  # HDF5 File Format Specification, section II.A
    (b"II*\0", ".tif"),  # TIFF 6.0, section 2
    (b"MM\0*", ".tif"),
)
_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One frame of a file, checked."""

    layout: Layout
    number: int
    timestamp_ns: int
    attributes: Mapping[str, AttributeValue]
    offset: int
    nbytes: int
    checksum: int
    digest: int

    @property
    def content(self) -> Content:
        """What tells whether another frame of this number is the same."""
        return self.nbytes, self.checksum, self.digest


def suffix_of(view: memoryview) -> str:
    """Return the suffix by which programs know such a file."""
    head = bytes(view[:8])
    return next((suffix for magic, suffix in _SIGNATURES if head.startswith(magic)), ".bin")


def checked_rows(
    view: memoryview,
    frames: Sequence[PlacedFrame],
    checksums: Sequence[int] | None,
    *,
    start: Start,
    modules: Sequence[int],
    layouts: LayoutChecks,
) -> list[Row]:
    """Return the frames of a file, each checked as ``write`` would.

    Raises InvalidFrameError with the number and module of the first one that is wrong.
    """
    if checksums is not None and len(checksums) != len(frames):
        raise InvalidFrameError("checksums", f"are {len(checksums)} for {len(frames)} frames")
    rows = []
    for index, placed in enumerate(frames):
        checksum = None if checksums is None else checksums[index]
        try:
            rows.append(_row(view, placed, checksum, start, modules, layouts))
        except InvalidFrameError as error:
            problem = f"frame {placed.header.number}: {str(error).partition(': ')[2]}"
            raise _wrong(
                error.field, problem, placed.header.module, placed.header.number
            ) from error
    return rows


def _row(
    view: memoryview,
    placed: PlacedFrame,
    checksum: int | None,
    start: Start,
    modules: Sequence[int],
    layouts: LayoutChecks,
) -> Row:
    header = placed.header
    payload = _range(view, placed.offset, placed.nbytes)
    if header.module not in modules:
        raise InvalidFrameError("module", f"{header.module} is not one of {list(modules)}")
    layout = _layout(header)
    attributes = dict(check_attributes(header.attributes))
    digest = layouts.digest(
        start,
        layout,
        number=header.number,
        timestamp_ns=header.timestamp_ns,
        attributes=attributes,
        payload=np.frombuffer(payload, np.uint8) if placed.nbytes else _NOTHING,
    )
    return Row(
        layout=layout,
        number=header.number,
        timestamp_ns=header.timestamp_ns,
        attributes=attributes,
        offset=placed.offset,
        nbytes=placed.nbytes,
        checksum=crc32c(payload) if checksum is None else integer("checksums", checksum),
        digest=digest,
    )


def _layout(header: FrameHeader) -> Layout:
    return header.shape, header.dtype, header.encoding, header.module


def _range(view: memoryview, offset: int, nbytes: int) -> memoryview:
    if offset < 0 or nbytes < 0 or offset + nbytes > view.nbytes:
        end = view.nbytes
        raise InvalidFrameError(
            "offset", f"{nbytes} bytes from {offset}, but the file ends at {end}"
        )
    if nbytes > _MAX_FRAME_NBYTES:
        raise InvalidFrameError(
            "payload", f"{nbytes} bytes, at most {_MAX_FRAME_NBYTES} in a frame"
        )
    return view[offset : offset + nbytes]


def fresh_rows(rows: Iterable[Row], known: Known) -> list[Row]:
    """Return the frames that were not published before, by module and number.

    Raises InvalidFrameError for one that was published with other content.
    """
    fresh: dict[tuple[int, int], Row] = {}
    for row in rows:
        key = (row.layout[3], row.number)
        before = fresh[key].content if key in fresh else known.get(*key)
        if before is None:
            fresh[key] = row
        elif before != row.content:
            problem = f"frame {row.number} was published before with other content"
            raise _wrong("number", problem, *key)
    return [fresh[key] for key in sorted(fresh)]


def _wrong(field: str, problem: str, module: int, number: int) -> InvalidFrameError:
    error = InvalidFrameError(field, problem)
    error.frame = (number, module)
    return error


def drafts_of(
    rows: Iterable[Row], key: str, *, frames_per_chunk: int, segment_nbytes: int
) -> Iterator[Draft]:
    """Cut the frames of the object ``key`` into segments, as small as those of packed frames."""
    draft: Draft | None = None
    chunk = nbytes = 0
    for row in rows:
        attribute_nbytes = most_nbytes(row.attributes) if row.attributes else 0
        if draft is not None and not (
            draft.layout == row.layout
            and chunk == row.number // frames_per_chunk
            and nbytes + row.nbytes <= segment_nbytes
            and _record_nbytes(draft) + attribute_nbytes < MAX_COLUMNS_NBYTES
        ):
            yield draft
            draft = None
        if draft is None:
            draft = Draft(layout=row.layout, buffer=_NOTHING, blob=key)
            chunk, nbytes = row.number // frames_per_chunk, 0
        _append(draft, row)
        draft.attribute_nbytes += attribute_nbytes
        nbytes += row.nbytes
    if draft is not None:
        yield draft


def _record_nbytes(draft: Draft) -> int:
    return (len(draft) + 1) * ROW_NBYTES + draft.attribute_nbytes


def _append(draft: Draft, row: Row) -> None:
    draft.numbers.append(row.number)
    draft.timestamps_ns.append(row.timestamp_ns)
    draft.offsets.append(row.offset)
    draft.lengths.append(row.nbytes)
    draft.checksums.append(row.checksum)
    draft.digests.append(row.digest)
    draft.attributes.append(row.attributes)
    draft.tokens.append(None)
