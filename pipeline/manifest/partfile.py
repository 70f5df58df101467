"""Reading a part by ranges: its header with the index, then single blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.codecs.checksum import crc32c
from pipeline.errors import WireError
from pipeline.manifest import index
from pipeline.manifest.container import (
    MAX_HEADER_NBYTES,
    Header,
    IncompleteHeaderError,
    parse_block,
    parse_header,
)
from pipeline.manifest.part import INDEX_ENTRY, PART_ENTRY, Part, describe
from pipeline.manifest.rows import decode_located
from pipeline.protocols import BlobStore
from pipeline.records import Located

#: Holds the header of nearly every part (measured: 1,000 blocks take 20 kB).
_FIRST_READ_NBYTES = 128 * 1024
_FACTS: Mapping[str, type] = {
    "epoch": int,
    "nonce": str,
    "part": int,
    "records": int,
    "frames": int,
    "starts": list,
    "stops": list,
}
#: Reads a range of the part: (offset, length) to bytes.
Read = Callable[[int, int], memoryview]


@dataclass(frozen=True, slots=True)
class PartFile:
    """A part whose header was read: the blocks of each partition are known."""

    part: Part
    header: Header
    blocks: Mapping[int, index.Blocks]

    def read(self, block: Any, read: Read) -> list[Located]:
        """Return the records of one block (a row of ``blocks``); ``read`` fetches its bytes.

        Raises
        ------
        WireError
            The block's bytes are not those that were written.
        """
        return decode_located(self.rows(block, read), where=self.part.key)

    def rows(self, block: Any, read: Read) -> list[dict[str, Any]]:
        """Return the rows of one block, not decoded further: a lookup wants one of them."""
        offset = self.part.header_nbytes + int(block["position"])
        where = f"{self.part.key} at {offset}"
        data = read(offset, int(block["nbytes"]))
        if crc32c(data) != int(block["crc32c"]):
            raise WireError("block does not match its CRC-32C: damaged", where=where)
        return parse_block(data, self.header, where=where)


def open_part(store: BlobStore, part: Part) -> PartFile:
    """Read the header of a part that a seal names.

    Raises
    ------
    BlobNotFoundError
        The part is gone, or shorter than it was.
    WireError
        Its header is not the one that was sealed.
    """
    data = store.get(part.key, 0, part.header_nbytes)
    if hashlib.sha256(data).digest() != part.header_sha256:
        raise WireError("header does not match the seal's SHA-256: damaged", where=part.key)
    return _part_file(part.key, data)


def find_part(store: BlobStore, key: str) -> PartFile:
    """Read the header of a part of which only the key is known."""
    nbytes = store.size(key)
    data = store.get(key, 0, min(nbytes, _FIRST_READ_NBYTES))
    try:
        return _part_file(key, data)
    except IncompleteHeaderError:
        if nbytes <= len(data):
            raise
    return _part_file(key, store.get(key, 0, min(nbytes, MAX_HEADER_NBYTES)))


def _part_file(key: str, data: memoryview) -> PartFile:
    header = parse_header(data, where=key)
    facts = _facts(header, key)
    partitions = len(facts["starts"])
    packed = header.metadata.get(INDEX_ENTRY, b"")
    blocks = index.unpack(packed, partitions=partitions, where=key)
    body_nbytes = int(blocks["nbytes"].sum(dtype=np.int64))
    part = describe(key, data[: header.nbytes], body_nbytes, facts, blocks)
    return PartFile(part, header, index.split(blocks))


def _facts(header: Header, key: str) -> dict[str, Any]:
    try:
        facts = json.loads(header.metadata.get(PART_ENTRY, b""))
        good = all(isinstance(facts[name], kind) for name, kind in _FACTS.items())
        offsets = [*facts["starts"], *facts["stops"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"not a part of a manifest: {error!r:.100}", where=key) from error
    if not good or len(facts["starts"]) != len(facts["stops"]) or not offsets:
        raise WireError("not a part of a manifest", where=key)
    if not all(isinstance(offset, int) and offset >= 0 for offset in offsets):
        raise WireError("not a part of a manifest: bad offsets", where=key)
    return dict(facts)
