"""Blobs that nothing refers to: left by crashes between object and record, or while deleting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.manifest.part import packed_key
from pipeline.naming import manifest_prefix
from pipeline.records import Segment

if TYPE_CHECKING:
    from pipeline.session import Session, StreamSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """One object nobody needs.

    ``kind``: ``stream`` (its stream is deleted or was never started), ``blob`` (no record of its
    stream refers to it), ``partial`` (a file that was not finished).
    """

    beamtime: str
    kind: str
    key: str
    nbytes: int
    modified_ns: int


def find_orphans(session: Session, beamtime: str | None, *, older_s: float) -> list[Orphan]:
    """Return what could be removed, beamtime by beamtime; reads the records of every stream."""
    before_ns = time.time_ns() - int(older_s * 1e9)
    found: list[Orphan] = []
    for name in [beamtime] if beamtime is not None else _beamtimes(session):
        bucket = session.services.names.bucket(name)
        # Listed first: what is written after this has its record after this, too.
        blobs = list(session.services.store.list(f"{bucket}/"))
        referred, prefixes = _referred(session, name)
        for blob in blobs:
            if blob.modified_ns > before_ns or blob.key in referred:
                continue
            known = blob.key.startswith(tuple(prefixes))
            found.append(
                Orphan(
                    beamtime=name,
                    kind="blob" if known else "stream",
                    key=blob.key,
                    nbytes=blob.nbytes,
                    modified_ns=blob.modified_ns,
                )
            )
        found += _partial_files(session.services.store.url, name, bucket, before_ns)
    return found


def _beamtimes(session: Session) -> list[str]:
    names = session.services.names
    known = {names.beamtime_of_bucket(b) for b in session.services.store.folders("")}
    if session.services.has_broker:
        known |= set(session.services.admin.beamtimes())
    return sorted(name for name in known if name is not None)


def _referred(session: Session, beamtime: str) -> tuple[set[str], list[str]]:
    """Return the keys that records and manifests name, and the prefixes of all streams."""
    keys: set[str] = set()
    prefixes = []
    quoted = beamtime.replace("%", "%25").replace("/", "%2F")
    for summary in session.streams("*/*/*" if set("*?[") & set(quoted) else f"{quoted}/*/*"):
        if summary.name.beamtime != beamtime:
            continue
        prefix = session.services.prefix(summary.info)
        prefixes.append(prefix)
        keys.update(_keys_of(session, summary))
        if summary.info.seal is not None:
            keys.update(_manifest_keys(session, prefix))
    return keys, prefixes


def _keys_of(session: Session, summary: StreamSummary) -> Iterator[str]:
    info, name = summary.info, summary.name
    yield from info.attachments.values()
    for ref in [*info.parts, *([info.seal] if info.seal else [])]:
        yield ref.key
        if ref.part >= 0:
            yield packed_key(ref.key)
    with session.stream(name.beamtime, name.detector, name.stream) as stream:
        for located in stream.table().records:
            if isinstance(located.value, Segment) and located.value.blob:
                yield located.value.blob


def _manifest_keys(session: Session, prefix: str) -> Iterator[str]:
    from pipeline.manifest.seal import load_highest

    sealed = load_highest(session.services.store, prefix)
    yield sealed.key
    for part in sealed.parts:
        yield part.key
        yield packed_key(part.key)
    # Seals that a later one supersedes were written on purpose.
    yield from (blob.key for blob in session.services.store.list(manifest_prefix(prefix)))


def _partial_files(url: str, beamtime: str, bucket: str, before_ns: int) -> Iterator[Orphan]:
    """Yield what writers that were killed left under temporary names (``file:`` only)."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return
    root = Path(unquote(parts.path))
    uploads = (root / bucket / ".sgwtmp" / "multipart").rglob("*")  # versitygw's, of large objects
    found = [*(root / bucket).rglob(".part-*"), *(path for path in uploads if path.is_file())]
    for path in sorted(found):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_mtime_ns <= before_ns:
            yield Orphan(
                beamtime=beamtime,
                kind="partial",
                key=str(path.relative_to(root)),
                nbytes=status.st_size,
                modified_ns=status.st_mtime_ns,
            )
