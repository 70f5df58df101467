"""The pages of a TIFF or BigTIFF file, as far as their pixels lie uncompressed in one piece.

For files of many images, where a frame is a range of the file's bytes.  Every number in the file is
checked against its length before it is used.  (TIFF 6.0, 1992; BigTIFF as libtiff has it.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InvalidFrameError

#: struct format and size by TIFF type: BYTE, ASCII, SHORT, LONG, UNDEFINED, LONG8.
_TYPES = {1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4), 7: ("B", 1), 16: ("Q", 8)}
_WIDTH, _ROWS, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 273, 277
_COUNTS, _SOFTWARE, _DATE, _TILES, _FORMAT, _DOCUMENT, _PREDICTOR = (
    279,
    305,
    306,
    324,
    339,
    269,
    317,
)
_WANTED = frozenset((_WIDTH, _ROWS, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES)) | frozenset(
    (_COUNTS, _SOFTWARE, _DATE, _TILES, _FORMAT, _DOCUMENT, _PREDICTOR)
)
_KINDS = {1: "uint", 2: "int", 3: "float"}
#: A page has at least its directory; more pages than this are a loop that was made on purpose.
MAX_PAGES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One image of the file.

    Parameters
    ----------
    shape:
        Pixels as (rows, columns).
    dtype:
        Numpy name of the pixel type.
    offset, nbytes:
        Where its pixels lie, in C order; None and 0 if they are compressed, in tiles or scattered.
    end:
        Where the last strip ends.
    problem:
        Why there is no ``offset``; empty if there is one.
    software, date:
        Those tags, empty where missing.
    compression, predictor:
        Those tags.
    first:
        Offset and length of the first strip; (0, 0) where there is none.
    """

    shape: tuple[int, int]
    dtype: str
    offset: int | None
    nbytes: int
    end: int
    problem: str
    software: str
    date: str
    compression: int
    predictor: int
    first: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Classic TIFF and BigTIFF differ in their widths only."""

    order: str
    count: struct.Struct
    entry: struct.Struct
    link: struct.Struct


def iter_pages(view: memoryview) -> Iterator[Page]:
    """Yield the pages in order of their directories.

    Raises
    ------
    InvalidFrameError
        The bytes are no TIFF file, or it is not whole: a directory or pixels beyond its end.
    """
    layout, offset = _head(view)
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) >= MAX_PAGES:
            raise InvalidFrameError("payload", "TIFF: its directories form a loop")
        seen.add(offset)
        tags, offset = _directory(view, layout, offset)
        page = _page(tags, little=layout.order == "<")
        if page.end > len(view):
            raise InvalidFrameError(
                "payload", f"TIFF: cut short before byte {page.end} (page {len(seen) - 1})"
            )
        yield page
    if not seen:
        raise InvalidFrameError("payload", "TIFF: no image (yet)")


def _head(view: memoryview) -> tuple[_Layout, int]:
    order = {b"II": "<", b"MM": ">"}.get(bytes(view[:2]), "")
    if len(view) < 8 or not order:
        raise InvalidFrameError("payload", "TIFF: the file does not begin like one")
    version = struct.unpack_from(order + "H", view, 2)[0]
    if version == 42:
        layout = _Layout(order, _s(order, "H"), _s(order, "HHI4s"), _s(order, "I"))
        return layout, int(struct.unpack_from(order + "I", view, 4)[0])
    if version == 43 and len(view) >= 16:
        layout = _Layout(order, _s(order, "Q"), _s(order, "HHQ8s"), _s(order, "Q"))
        return layout, int(struct.unpack_from(order + "Q", view, 8)[0])
    raise InvalidFrameError("payload", f"TIFF: version {version} is neither TIFF nor BigTIFF")


def _s(order: str, form: str) -> struct.Struct:
    return struct.Struct(order + form)


def _directory(
    view: memoryview, layout: _Layout, offset: int
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the wanted tags' values, and where the next directory is (0: there is none)."""
    at = offset + layout.count.size
    _inside(view, at)
    count = layout.count.unpack_from(view, offset)[0]
    if count > 4096:
        raise InvalidFrameError("payload", f"TIFF: a directory of {count} entries")
    end = at + count * layout.entry.size
    _inside(view, end + layout.link.size)
    tags: dict[int, tuple[int, ...]] = {}
    for place in range(at, end, layout.entry.size):
        tag, kind, length, inline = layout.entry.unpack_from(view, place)
        if tag in _WANTED and kind in _TYPES:
            tags[tag] = _values(view, layout, kind, length, inline)
    return tags, layout.link.unpack_from(view, end)[0]


def _values(
    view: memoryview, layout: _Layout, kind: int, length: int, inline: bytes
) -> tuple[int, ...]:
    code, size = _TYPES[kind]
    nbytes = length * size
    if nbytes > len(view):  # before anything of this length is made
        raise InvalidFrameError("payload", "TIFF: a tag is longer than the file")
    if nbytes <= len(inline):
        return struct.unpack_from(f"{layout.order}{length}{code}", inline)
    where = layout.link.unpack(inline)[0]
    _inside(view, where + nbytes)
    return struct.unpack_from(f"{layout.order}{length}{code}", view, where)


def _inside(view: memoryview, end: int) -> None:
    if end > len(view):
        raise InvalidFrameError("payload", f"TIFF: a directory ends at byte {end}, beyond the file")


def _page(tags: dict[int, tuple[int, ...]], *, little: bool) -> Page:
    columns, rows = _one(tags, _WIDTH, 0), _one(tags, _ROWS, 0)
    bits, kind = _one(tags, _BITS, 1), _KINDS.get(_one(tags, _FORMAT, 1), "")
    if not (0 < columns < 1 << 20 and 0 < rows < 1 << 20):
        raise InvalidFrameError("shape", f"TIFF: {rows} rows and {columns} columns")
    if bits not in (8, 16, 32, 64) or not kind or (kind == "float" and bits == 8):
        raise InvalidFrameError("dtype", f"TIFF: {bits} bits of sample format {kind or 'unknown'}")
    nbytes = rows * columns * bits // 8
    starts = np.array(tags.get(_OFFSETS, ()), np.uint64)
    sizes = np.array(tags.get(_COUNTS, ()), np.uint64)
    problem = _problem(tags, starts, sizes, nbytes, little=little or bits == 8)
    end = 0
    if len(starts) and len(starts) == len(sizes):
        end = int(starts.max()) + int(sizes[starts.argmax()])
    return Page(
        shape=(rows, columns),
        dtype=f"{kind}{bits}",
        offset=None if problem else int(starts[0]),
        nbytes=0 if problem else nbytes,
        end=end,
        problem=problem,
        software=_text(tags, _SOFTWARE),
        date=_text(tags, _DATE),
        compression=_one(tags, _COMPRESSION, 1),
        predictor=_one(tags, _PREDICTOR, 1),
        first=(int(starts[0]), int(sizes[0])) if end else (0, 0),
    )


def _problem(
    tags: dict[int, tuple[int, ...]], starts: object, sizes: object, nbytes: int, *, little: bool
) -> str:
    """Return why the pixels are no one piece of the file; empty if they are."""
    assert isinstance(starts, np.ndarray)
    assert isinstance(sizes, np.ndarray)
    compression = _one(tags, _COMPRESSION, 1)
    if compression != 1:
        return f"the pixels are compressed (TIFF compression {compression})"
    if _one(tags, _SAMPLES, 1) != 1:
        return f"{_one(tags, _SAMPLES, 1)} samples a pixel"
    if _TILES in tags or not len(starts) or len(starts) != len(sizes):
        return "the pixels are in tiles, or have no strips"
    if not little:
        return "the pixels are big-endian"
    if (starts[:-1] + sizes[:-1] != starts[1:]).any():
        return "the strips do not lie back to back"
    if int(sizes.sum(dtype=np.uint64)) != nbytes:
        return f"the strips hold {int(sizes.sum())} bytes, the image takes {nbytes}"
    return ""


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    values = tags.get(tag)
    return values[0] if values else default


def _text(tags: dict[int, tuple[int, ...]], tag: int) -> str:
    raw = bytes(value for value in tags.get(tag, ())[:256] if value < 256)
    return raw.split(b"\0")[0].decode("latin-1").strip()
