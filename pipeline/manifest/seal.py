"""The seal: the object that makes a manifest whole.  No seal, no stored stream."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline import naming
from pipeline.errors import PipelineError, StreamNotFoundError, WireError
from pipeline.manifest.container import (
    SYNC_NBYTES,
    block_bytes,
    encode_row,
    header_bytes,
    parse_block,
    parse_header,
)
from pipeline.manifest.part import Part
from pipeline.manifest.partset import PartSet
from pipeline.protocols import BlobStore
from pipeline.records import End, ManifestRef, ModuleState, Seal, Start, StreamInfo
from pipeline.wire.codec import decode, encode, from_plain, to_plain
from pipeline.wire.schemas import shipped

log = logging.getLogger(__name__)
#: A seal lists parts of 64 MiB: at 500 bytes each, this is a manifest of 4 TiB.
MAX_SEAL_NBYTES = 32 << 20
_SEAL_NAME = re.compile(r"seal-(\d{8,})-([^/]+)\.avro")
_BLOCK_ENTRY = "lichtstrom.block_sha256"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A seal that was read: what the stream is and where its records are."""

    key: str
    info: StreamInfo
    account: Mapping[str, Any]
    parts: tuple[Part, ...]

    def part_set(self, store: BlobStore) -> PartSet:
        """Return the records of the stream."""
        parts = PartSet(store, self.info.start.offsets)
        for part in self.parts:
            parts.add(part)
        return parts


def make_seal(info: StreamInfo, *, epoch: int, nonce: str, account: Mapping[str, Any]) -> Seal:
    """Return the seal of an ended stream, without its parts."""
    ends = [state.end for _, state in sorted(info.modules.items()) if state.end is not None]
    return Seal(
        stream_key=info.start.stream_key,
        epoch=epoch,
        nonce=nonce,
        start=encode(info.start),
        ends=tuple(encode(end) for end in ends),
        metadata=info.metadata,
        attachments=info.attachments,
        quarantined=tuple(info.quarantined),
        account=account,
    )


def seal_bytes(seal: Seal, key: str) -> list[bytes]:
    """Return the object: an Avro container of one record."""
    schema = shipped()[Seal].parsed
    sync = hashlib.sha256(key.encode()).digest()[:SYNC_NBYTES]
    block = block_bytes([encode_row(schema, to_plain(seal))], sync=sync)
    digest = hashlib.sha256(block).hexdigest().encode()
    return [header_bytes(schema, sync=sync, metadata={_BLOCK_ENTRY: digest}), block]


def parse_seal(data: memoryview, *, key: str) -> Seal:
    """Return the seal that the object ``key`` holds.

    Raises
    ------
    WireError
        Not a seal, cut short, or changed after it was written.
    """
    header = parse_header(data, where=key)
    block = data[header.nbytes :]
    if header.metadata.get(_BLOCK_ENTRY) != hashlib.sha256(block).hexdigest().encode():
        raise WireError("seal does not match its SHA-256: damaged or cut short", where=key)
    rows = parse_block(block, header, where=key)
    try:
        (row,) = rows
        return from_plain(Seal, row)
    except (PipelineError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"not a seal: {error!r:.200}", where=key) from error


def load_seal(store: BlobStore, key: str) -> Sealed:
    """Read one seal.

    Raises
    ------
    BlobNotFoundError
        There is no such object.
    WireError
        It is not a seal, or damaged; the text names the key.
    """
    nbytes = store.size(key)
    if nbytes > MAX_SEAL_NBYTES:
        raise WireError(f"a seal of {nbytes} bytes, at most {MAX_SEAL_NBYTES}", where=key)
    seal = parse_seal(store.get(key, 0, nbytes), key=key)
    start = decode(seal.start, where=key)
    ends = [decode(end, where=key) for end in seal.ends]
    if not isinstance(start, Start) or not all(isinstance(end, End) for end in ends):
        raise WireError("seal without start or with something else than ends", where=key)
    try:
        parts = tuple(Part(**_part_fields(entry)) for entry in seal.parts)
        info = _info(seal, start, ends, parts, key)  # type: ignore[arg-type]  # ends, just checked
    except (PipelineError, ValueError, TypeError, KeyError) as error:
        raise WireError(f"seal contradicts itself: {error!r:.200}", where=key) from error
    return Sealed(key, info, dict(seal.account), parts)


def _part_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: entry[name] for name in Part.__slots__}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}


def _info(
    seal: Seal, start: Start, ends: list[End], parts: tuple[Part, ...], key: str
) -> StreamInfo:
    info = StreamInfo(
        start=start,
        modules={index: ModuleState() for index in start.module_indices},
        metadata=dict(seal.metadata),
        quarantined=[dict(entry) for entry in seal.quarantined],
        attachments=dict(seal.attachments),
    )
    for end in ends:
        # The account of the whole stream is newer than what an end record could know.
        info.modules[end.module] = ModuleState(end=replace(end, account=seal.account))
    if info.end_offsets is None:
        raise WireError("not all modules have ended", where=key)
    info.parts = [_ref(seal, part) for part in parts]
    info.seal = ManifestRef(
        stream_key=start.stream_key,
        epoch=seal.epoch,
        nonce=seal.nonce,
        part=-1,
        key=key,
        offsets=info.end_offsets,
        frames=seal.frames,
        account=dict(seal.account),
    )
    return info


def _ref(seal: Seal, part: Part) -> ManifestRef:
    return ManifestRef(
        stream_key=seal.stream_key,
        epoch=part.epoch,
        nonce=part.nonce,
        part=part.part,
        key=part.key,
        offsets=part.stops,
        frames=part.frames,
    )


def highest_seal(store: BlobStore, prefix: str) -> str | None:
    """Return the key of the seal that counts under a stream's prefix; None if there is none."""
    seals: list[tuple[int, str, str]] = []
    for found in store.list(f"{naming.manifest_prefix(prefix)}seal-"):
        name = _SEAL_NAME.fullmatch(found.key.rpartition("/")[2])
        if name is not None:
            seals.append((int(name[1]), name[2], found.key))
    return max(seals)[2] if seals else None


def load_highest(store: BlobStore, prefix: str) -> Sealed:
    """Read the seal that counts; raises StreamNotFoundError if the stream was never sealed."""
    key = highest_seal(store, prefix)
    if key is None:
        hint = "it was never sealed, or its export did not finish"
        raise StreamNotFoundError(prefix, where=store.url, hint=hint)
    return load_seal(store, key)
