"""The index of a part's blocks: which records and frame numbers lie in which bytes."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import WireError

#: Stands for the frame numbers of a block, part or partition without frames.
NO_NUMBER = -1
#: One block holds records of one partition, in order.
BLOCK = np.dtype(
    [
        ("partition", "<u4"),
        ("records", "<u4"),
        # Where the block begins, counted from the end of the header; how long it is.
        ("position", "<i8"),
        ("nbytes", "<u4"),
        ("crc32c", "<u4"),
        ("first_offset", "<i8"),
        ("last_offset", "<i8"),
        # Lowest and highest frame number; NO_NUMBER when it holds marks only.
        ("first_number", "<i8"),
        ("last_number", "<i8"),
    ]
)
#: 500,000 blocks; a part of ours has a few thousand.
_MAX_NBYTES = 500_000 * BLOCK.itemsize
Blocks = npt.NDArray[np.void]


def pack(blocks: Blocks) -> bytes:
    """Return the index as it stands in a part's header: text, since fastavro reads it so."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(blocks, dtype=BLOCK).tobytes(), 6))


def unpack(data: bytes, *, partitions: int, where: str) -> Blocks:
    """Return the index that ``data`` holds; raises WireError if it cannot be one."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(base64.b64decode(data, validate=True), _MAX_NBYTES)
    except (zlib.error, ValueError) as error:
        raise WireError(f"damaged index: {error}", where=where) from error
    if not unpacker.eof or len(body) % BLOCK.itemsize:
        raise WireError("damaged index: cut short", where=where)
    blocks = np.frombuffer(body, BLOCK)
    ends = blocks["position"] + blocks["nbytes"]
    ordered = (
        (blocks["position"] == np.concatenate(([0], ends[:-1]))).all() if len(blocks) else True
    )
    if not ordered or (blocks["partition"] >= partitions).any():
        raise WireError("damaged index: blocks do not follow each other", where=where)
    return blocks


def split(blocks: Blocks) -> Mapping[int, Blocks]:
    """Return the blocks of each partition, in the order of their offsets."""
    found: dict[int, Any] = {}
    for partition in np.unique(blocks["partition"]).tolist():
        found[partition] = blocks[blocks["partition"] == partition]
    return found


def number_ranges(blocks: Blocks, partitions: int) -> tuple[list[int], list[int]]:
    """Return per partition the lowest and the highest frame number, NO_NUMBER without frames."""
    firsts, lasts = [NO_NUMBER] * partitions, [NO_NUMBER] * partitions
    for partition, own in split(blocks[blocks["last_number"] != NO_NUMBER]).items():
        firsts[partition] = int(own["first_number"].min())
        lasts[partition] = int(own["last_number"].max())
    return firsts, lasts
