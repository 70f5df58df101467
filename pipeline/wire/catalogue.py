"""The catalogue's keys, and its fold: what streams exist and what became of them.

State is a fold in offset order over records whose keys are never re-used, so compaction cannot
change it: the first start of a name wins, of equal epochs the first claim wins, an end counts only
from the newest claim before it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.naming import StreamId
from pipeline.policy import Policy
from pipeline.records import (
    Attachment,
    CatalogueRecord,
    Claim,
    Deleted,
    End,
    ManifestRef,
    ModuleState,
    Start,
    StreamInfo,
    UserMetadata,
)


def key_of(record: CatalogueRecord) -> bytes:
    """Return the record's key: stream id / aspect / module / epoch / nonce, as readable text."""
    module = getattr(record, "module", 0)
    epoch = getattr(record, "epoch", 0)
    aspect = type(record).__name__.lower()
    if isinstance(record, ManifestRef):
        module = record.part
    return f"{record.stream_key.hex()}/{aspect}/{module}/{epoch}/{record.nonce}".encode()


class Catalogue:
    """The streams of one beamtime, folded from its catalogue topic; not thread-safe."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, StreamInfo] = {}
        self._by_name: dict[tuple[str, str], StreamInfo] = {}
        #: The policies that were in force, the present one last.
        self.policies: list[Policy] = []
        #: Claims and ends (epoch, key, whether it counted) in the order they came, for tombstones.
        self._history: dict[tuple[bytes, int], list[tuple[int, bytes, bool]]] = {}

    def apply(self, record: CatalogueRecord, position: int, timestamp_ms: int = 0) -> None:
        """Take the next record; ``position`` is its offset, the time is the broker's."""
        if isinstance(record, Start):
            self._start(record, position)
            return
        if isinstance(record, Policy):
            if record.previous == (self.policy.nonce if self.policy is not None else ""):
                self.policies.append(record)  # of two changes of one policy the first wins
            return
        info = self._by_key.get(record.stream_key)
        if info is None or info.deleted:
            return  # of a stream that lost the race for its name, or is gone
        if isinstance(record, Claim):
            self._claim(info, record, timestamp_ms)
        elif isinstance(record, End):
            self._end(info, record, timestamp_ms)
        elif isinstance(record, ManifestRef):
            _manifest(info, record)
        elif isinstance(record, UserMetadata):
            info.metadata.update(record.metadata)
            info.quarantined.extend(dict(entry) for entry in record.quarantined)
        elif isinstance(record, Attachment):
            info.attachments[record.name] = record.key
        elif isinstance(record, Deleted):
            self._delete(info, record)

    @property
    def policy(self) -> Policy | None:
        """The retention in force; None where nobody set any."""
        return self.policies[-1] if self.policies else None

    def find(self, detector: str, stream: str) -> StreamInfo | None:
        """Return the stream that has this name now, or None."""
        return self._by_name.get((detector, stream))

    def by_key(self, stream_key: bytes) -> StreamInfo | None:
        """Return the stream of this id, deleted ones included, or None."""
        return self._by_key.get(stream_key)

    def streams(self) -> list[StreamInfo]:
        """Return all streams that have not been deleted, in order of appearance."""
        return list(self._by_name.values())

    def deleted(self) -> list[StreamInfo]:
        """Return the streams that were deleted."""
        return [info for info in self._by_key.values() if info.deleted]

    def superseded_keys(self, stream_key: bytes, module: int, epoch: int) -> list[bytes]:
        """Return keys of the claims and ends that the claim of ``epoch`` supersedes.

        For its holder to tombstone, in this order, which is what makes a cleaner that stops
        halfway harmless: first what never counted (a claim refused because the stream had ended
        must be gone before that end is), then the others from the oldest on.
        """
        history = self._history.get((stream_key, module), [])
        idle = [key for old, key, counted in history if not counted and old <= epoch]
        return idle + [key for old, key, counted in history if counted and old < epoch]

    def forget(self, stream_key: bytes, module: int, epoch: int) -> None:
        """Drop superseded keys from memory once they are tombstoned."""
        gone = set(self.superseded_keys(stream_key, module, epoch))
        history = self._history.get((stream_key, module), [])
        self._history[(stream_key, module)] = [entry for entry in history if entry[1] not in gone]

    def _start(self, start: Start, position: int) -> None:
        name = (start.detector, start.stream)
        if name in self._by_name or start.stream_key in self._by_key:
            return  # the first start wins
        info = StreamInfo(start=start, position=position)
        info.modules = {index: ModuleState() for index in start.module_indices}
        info.metadata = dict(start.metadata)
        self._by_name[name] = self._by_key[start.stream_key] = info

    def _claim(self, info: StreamInfo, claim: Claim, timestamp_ms: int) -> None:
        state = info.modules.setdefault(claim.module, ModuleState())
        # Of equal epochs the first wins; after the end only one that asks to reopen counts.
        newer = state.claim is None or claim.epoch > state.claim.epoch
        counts = newer and (state.end is None or claim.reopen)
        if counts:
            state.claim, state.end, state.claimed_ms = claim, None, timestamp_ms
        self._remember(claim, counts)

    def _end(self, info: StreamInfo, end: End, timestamp_ms: int) -> None:
        state = info.modules.setdefault(end.module, ModuleState())
        newest = state.claim
        counts = newest is not None and (newest.epoch, newest.nonce) == (end.epoch, end.nonce)
        if counts:
            state.end, state.ended_ms = end, timestamp_ms
        self._remember(end, counts)

    def _remember(self, record: Claim | End, counts: bool) -> None:
        history = self._history.setdefault((record.stream_key, record.module), [])
        history.append((record.epoch, key_of(record), counts))

    def _delete(self, info: StreamInfo, record: Deleted) -> None:
        if record.policy:
            # Reopened or sealed anew meanwhile, or the policy changed (a hold): it stays.
            current = self.policy is not None and self.policy.nonce == record.policy
            same = info.is_sealed and info.seal is not None and info.seal.key == record.seal
            if not (current and same):
                return
        info.deleted, info.tombstone = True, record
        name = (info.start.detector, info.start.stream)
        if self._by_name.get(name) is info:
            del self._by_name[name]


def _manifest(info: StreamInfo, ref: ManifestRef) -> None:
    if ref.part >= 0:
        # Written again under its own key: compaction keeps the later one, and so do we.
        name = (ref.epoch, ref.nonce, ref.part)
        info.parts = [p for p in info.parts if (p.epoch, p.nonce, p.part) != name] + [ref]
    elif info.seal is None or ref.epoch > info.seal.epoch or key_of(ref) == key_of(info.seal):
        info.seal = ref  # the highest seal wins


def stream_id(info: StreamInfo) -> StreamId:
    """Return the name of a stream."""
    return StreamId(info.start.beamtime, info.start.detector, info.start.stream)


def fate(info: StreamInfo) -> str:
    """Say when and why a stream went, and where its copy is."""
    mark = info.tombstone
    if mark is None or not mark.at_ns:
        return "it was deleted"
    when = f"{datetime.fromtimestamp(mark.at_ns // 10**9, UTC):%Y-%m-%d %H:%M} UTC"
    how = f"by policy {mark.policy} ({mark.reason})" if mark.policy else f"deleted by {mark.by}"
    copy = f"; a copy is in {mark.archive}" if mark.archive else ""
    tell = f"`lichtstrom retention show {info.start.beamtime}` tells its account"
    return f"it went on {when}, {how}{copy}; {tell}"


__all__ = ["Catalogue", "fate", "key_of", "stream_id"]
