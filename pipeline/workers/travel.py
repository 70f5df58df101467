"""Frames on their way to another process: facts and places, the pixels are read over there.

A segment's columns go once for all its frames that travel together; who unpacks them reads one
span of the object, from the first of these frames to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reading.fetch import Block, Fetcher, Origin
from pipeline.reading.frame import Frame, ModularFrame
from pipeline.records import Segment

#: Module, which block of the parcel, row in it.
_Part = tuple[int, int, int]


@dataclass(slots=True, frozen=True)
class Parcel:
    """Frames without their payloads; can be pickled.

    Parameters
    ----------
    blocks:
        Segment, what all frames of its stream share, first and last row wanted.
    frames:
        Number and parts of each frame.
    """

    blocks: list[tuple[Segment, Origin, int, int]]
    frames: list[tuple[int, list[_Part]]]


def pack(frames: Sequence[Frame]) -> Parcel:
    """Return what :func:`unpack` makes the same frames of, in another process."""
    places: dict[Block, int] = {}
    rows: list[tuple[int, int]] = []
    packed = []
    for frame in frames:
        parts: list[_Part] = []
        for module, part in frame.modules.items():
            block, row = part.place
            at = places.setdefault(block, len(places))
            if at == len(rows):
                rows.append((row, row))
            else:
                first, last = rows[at]
                rows[at] = (min(first, row), max(last, row))
            parts.append((module, at, row))
        packed.append((frame.number, parts))
    return Parcel([(b.whole(), b.origin, *rows[at]) for b, at in places.items()], packed)


def unpack(parcel: Parcel, fetcher: Fetcher) -> list[Frame]:
    """Return the frames; their payloads are being read already."""
    blocks = [
        fetcher.open(segment, origin, slice(first, last + 1))
        for segment, origin, first, last in parcel.blocks
    ]
    for block in blocks:
        block.prefetch()
    return [_frame(number, parts, blocks) for number, parts in parcel.frames]


def _frame(number: int, parts: list[_Part], blocks: list[Block]) -> Frame:
    frames = {module: Frame(number, blocks[at], row) for module, at, row in parts}
    first = next(iter(frames.values()))
    if blocks[parts[0][1]].origin.modules:
        return ModularFrame(number, frames)
    return first
