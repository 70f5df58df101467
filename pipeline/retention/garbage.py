"""Objects that nothing refers to, and references to objects that are gone.

Crashes leave the first: between object and record, while deleting, while sealing.  Nothing but
damage from outside makes the second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import BlobNotFoundError, FrameExpiredError, WireError
from pipeline.manifest.stored import discover
from pipeline.naming import manifest_prefix
from pipeline.protocols import BlobInfo
from pipeline.records import StreamInfo
from pipeline.retention.references import add_older_seals, references
from pipeline.services import Services
from pipeline.wire.catalogue import stream_id

#: A record follows its object within seconds; a broker that is away may hold it up for longer.
GRACE_S = 3600.0
_BATCH = 1000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dangling:
    """An object that a stream refers to and that is not there; ``frames`` cannot be read."""

    beamtime: str
    stream: str
    key: str
    frames: int
    problem: str = "the object is gone"


@dataclass(slots=True, kw_only=True)
class Found:
    """What was found; ``open_streams`` were not looked into for orphans: they are written."""

    orphans: list[Orphan] = field(default_factory=list)
    dangling: list[Dangling] = field(default_factory=list)
    open_streams: list[str] = field(default_factory=list)


def find_garbage(services: Services, beamtime: str | None, *, older_s: float = GRACE_S) -> Found:
    """Return what could be removed and what is missing; reads the records of every stream.

    Parameters
    ----------
    beamtime:
        Only this one; None: all that the broker, or the store, knows.
    older_s:
        Objects younger than this are left aside, but for those of deleted streams.

    Objects of a stream that is open, or ended and not sealed, are no orphans however old: their
    records may be on their way.  A stream that has a seal and is unknown to the broker was copied
    here, or outlived its broker: it is left alone.  Memory: the keys of one stream.
    """
    before_ns = time.time_ns() - int(older_s * 1e9)
    found = Found()
    for name in [beamtime] if beamtime is not None else _beamtimes(services):
        _in_beamtime(services, name, before_ns, found)
    return found


def remove_orphans(services: Services, orphans: Iterable[Orphan]) -> int:
    """Remove what :func:`find_garbage` found; return how many. Again and by two at once: harmless.

    A seal goes before what it names, so that whoever dies in between leaves nothing dangling.
    """
    keys = [o.key for o in orphans if o.kind != "partial"]
    keys.sort(key=lambda key: "/manifest/seal-" not in key)
    for first in range(0, len(keys), _BATCH):
        services.store.delete(keys[first : first + _BATCH])
    partial = [o.key for o in orphans if o.kind == "partial"]
    root = Path(unquote(urlsplit(services.store.url).path))
    for key in partial:
        (root / key).unlink(missing_ok=True)
    return len(keys) + len(partial)


def _beamtimes(services: Services) -> list[str]:
    """Return the beamtimes whose streams are known; a bucket without a catalogue is not ours."""
    if services.has_broker:
        return services.admin.beamtimes()
    names = [services.names.beamtime_of_bucket(b) for b in services.store.folders("")]
    return sorted(name for name in names if name is not None)


def _in_beamtime(services: Services, beamtime: str, before_ns: int, found: Found) -> None:
    bucket = services.names.bucket(beamtime)
    listed = {f"{bucket}/"}
    for detector in services.store.folders(f"{bucket}/"):
        for folder in services.store.folders(f"{bucket}/{detector}/"):
            listed.add(f"{bucket}/{detector}/{folder}/")
    for prefix in sorted(listed)[1:]:
        # Listed first: what is written after this has its record after this, too.
        blobs = list(services.store.list(prefix))
        _look_below(services, beamtime, prefix, blobs, before_ns, found)
    for prefix, info in _known(services, beamtime).items():
        if prefix not in listed and not info.deleted:  # it has no object, and may need some
            _compare(services, info, [], before_ns, found)
    found.orphans += _partial_files(services.store.url, beamtime, bucket, before_ns)


def _known(services: Services, beamtime: str) -> dict[str, StreamInfo]:
    """Return prefix to stream, deleted ones included; without a broker those that have a seal."""
    if services.has_broker:
        known = services.catalogue(beamtime).look()
        infos = [*known.streams(), *known.deleted()]
    else:
        infos = discover(services.store, services.names, beamtime)
    return {services.prefix(info): info for info in infos}


def _look_below(
    services: Services,
    beamtime: str,
    prefix: str,
    blobs: Sequence[BlobInfo],
    before_ns: int,
    found: Found,
) -> None:
    """Sort the objects below one stream's prefix."""
    info = _known(services, beamtime).get(prefix)
    if info is not None and not info.deleted:
        _compare(services, info, blobs, before_ns, found)
        return
    if info is None and any(_is_seal(blob.key, prefix) for blob in blobs):
        return  # a copy, or older than this broker
    for blob in blobs:
        if info is not None or blob.modified_ns <= before_ns:
            found.orphans.append(_orphan(beamtime, "stream", blob))


def _compare(
    services: Services,
    info: StreamInfo,
    blobs: Sequence[BlobInfo],
    before_ns: int,
    found: Found,
) -> None:
    """Compare what a stream refers to with what there is, both ways."""
    beamtime, name = info.start.beamtime, str(stream_id(info))
    prefix = services.prefix(info)
    seals = [blob.key for blob in blobs if _is_seal(blob.key, prefix)]
    try:
        named = references(services, info)
        add_older_seals(services, info, seals, named)
    except (BlobNotFoundError, FrameExpiredError, WireError) as error:
        if _is_live(services, info):  # nobody can tell what it refers to: nothing of it goes
            problem = Dangling(beamtime=beamtime, stream=name, key="", frames=0, problem=str(error))
            found.dangling.append(problem)
        return
    there = {blob.key for blob in blobs}
    lost = [key for key in named.needed if key not in there and not _is_there(services, key)]
    if lost and _is_live(services, info):
        found.dangling += [
            Dangling(beamtime=beamtime, stream=name, key=key, frames=named.needed[key])
            for key in lost
        ]
    if services.has_broker and not info.is_sealed:
        found.open_streams.append(name)
        return
    found.orphans += [
        _orphan(beamtime, "blob", blob)
        for blob in blobs
        if blob.key not in named and blob.modified_ns <= before_ns
    ]


def _is_live(services: Services, info: StreamInfo) -> bool:
    """Whether the stream is still there: it may have been deleted while it was looked at."""
    fresh = _known(services, info.start.beamtime).get(services.prefix(info))
    return fresh is not None and not fresh.deleted


def _is_there(services: Services, key: str) -> bool:
    """Whether an object is there now: it may be younger than the listing."""
    try:
        services.store.size(key)
    except BlobNotFoundError:
        return False
    return True


def _is_seal(key: str, prefix: str) -> bool:
    return key.startswith(f"{manifest_prefix(prefix)}seal-")


def _orphan(beamtime: str, kind: str, blob: BlobInfo) -> Orphan:
    return Orphan(
        beamtime=beamtime,
        kind=kind,
        key=blob.key,
        nbytes=blob.nbytes,
        modified_ns=blob.modified_ns,
    )


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
