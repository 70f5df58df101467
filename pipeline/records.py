"""The records on the topics, as Python sees them; :mod:`pipeline.wire` turns them into bytes.

A :class:`Segment` announces 1..n frames of one module in order; a :class:`Mark` says how far a
writer is; the others are the aspects of a stream in the catalogue.  Arrays are 1-D numpy arrays of
one length per segment, row i belonging to frame i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.frame import AttributeValue, Module
from pipeline.policy import Policy

Int64s = npt.NDArray[np.int64]
UInt32s = npt.NDArray[np.uint32]

ColumnKind = Literal["int64", "float64", "text"]
State = Literal["open", "complete", "aborted", "timeout", "lost"]
ENDED_STATES: frozenset[str] = frozenset({"complete", "aborted", "timeout", "lost"})
#: A floor that says nothing: the writer promises nothing about any number.
NO_FLOOR = -1
#: A ceil before any frame was sent.
NO_CEIL = -1


def _no_numbers() -> Int64s:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One attribute of all frames of a segment.

    Parameters
    ----------
    values:
        int64 or float64 array of length n; for text a tuple of n strings.
    present:
        bool array of length n, False where the frame has no such attribute; None: all have it.
    """

    name: str
    kind: ColumnKind
    values: Int64s | npt.NDArray[np.float64] | tuple[str, ...]
    present: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """What is stored and announced at once: frames of one module, one record, one object.

    Parameters
    ----------
    stream_key:
        The 8 bytes of the stream's id.
    floor:
        All numbers below are acknowledged everywhere or will never come from this writer;
        ``NO_FLOOR`` promises nothing.
    ceil:
        Highest number this writer has sent to this partition, this record included.
    blob:
        Key of the object that holds the payloads; empty when they are ``inline`` or there are none.
    inline:
        The payloads themselves, back to back, when they are small.
    offsets, lengths:
        Where each payload lies in the object (or in ``inline``), bytes.
    checksums:
        CRC-32C of each payload.
    digests:
        CRC-32C of each frame's shape, dtype, encoding and source attributes.
    extra:
        Per frame a JSON object of the attributes that no column can hold, "" for none; empty
        tuple when no frame has any.
    member, generation:
        For derived streams: which member of the group wrote it, in which generation.
    skipped, rejected:
        Derived streams: source frames that gave no result, or were given up.
    """

    stream_key: bytes
    epoch: int
    module: int
    floor: int
    ceil: int
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    blob: str
    inline: bytes
    numbers: Int64s
    timestamps_ns: Int64s
    offsets: Int64s
    lengths: UInt32s
    checksums: UInt32s
    digests: UInt32s
    columns: tuple[Column, ...] = ()
    extra: tuple[str, ...] = ()
    member: str = ""
    generation: int = 0
    skipped: Int64s = field(default_factory=_no_numbers)
    rejected: Int64s = field(default_factory=_no_numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mark:
    """A writer's sign of life in one partition; ``kind`` says why it was written.

    ``claim``: the first record of an epoch in this partition; ``idle``: nothing to send;
    ``closing``: the last record before the end.
    """

    stream_key: bytes
    epoch: int
    module: int
    floor: int
    ceil: int
    nonce: str
    kind: Literal["claim", "idle", "closing"]
    member: str = ""
    skipped: Int64s = field(default_factory=_no_numbers)
    rejected: Int64s = field(default_factory=_no_numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A segment or mark where it was found."""

    partition: int
    offset: int
    #: Milliseconds since 1970 by the broker's clock (LogAppendTime).
    timestamp_ms: int
    value: Segment | Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """One frame of a stream for a group: to be tried again, or (``reason``) given up.

    ``attempt``: how many times the frame was delivered so far; ``due_ms``: not before this time.
    """

    stream_key: bytes
    number: int
    attempt: int
    due_ms: int = 0
    group: str = ""
    member: str = ""
    reason: str = ""
    trace: str = ""


# -- the catalogue ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The first record of a stream: what it is and how its frames are spread.

    Parameters
    ----------
    offsets:
        Next offset of each partition when the stream began: nothing of it lies before.
    frames_per_chunk:
        Frame n is in partition ``(n // frames_per_chunk) % partitions``.
    modules:
        The detector's modules; empty for a detector that is one image (module 0).
    expected:
        How many frames the source says it will make; None if unknown or only an upper bound.
    metadata:
        What is true for the whole stream; units in the names.
    run:
        What the adapter needs to find its stream again: adapter, source, prefix, run id.
    lineage:
        Derived streams: source stream, its id, group, code version.
    writer:
        host:pid of who opened it.
    """

    stream_key: bytes
    beamtime: str
    detector: str
    stream: str
    created_ns: int
    partitions: int
    frames_per_chunk: int
    offsets: tuple[int, ...]
    modules: tuple[Module, ...] = ()
    rate_hz: float | None = None
    expected: int | None = None
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    run: Mapping[str, AttributeValue] = field(default_factory=dict)
    lineage: Mapping[str, AttributeValue] = field(default_factory=dict)
    writer: str = ""
    nonce: str = ""

    def partition_of(self, number: int) -> int:
        """Return the partition where frame ``number`` is announced."""
        return (number // self.frames_per_chunk) % self.partitions

    @property
    def module_indices(self) -> tuple[int, ...]:
        """The modules a complete frame has; ``(0,)`` for a detector that is one image."""
        return tuple(m.index for m in self.modules) or (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A writer takes a stream's module. With ``closing`` it does so in order to end it."""

    stream_key: bytes
    module: int
    epoch: int
    nonce: str
    #: host:pid, for people.
    holder: str
    #: adapter@host: the same instance may claim again at once after a crash.
    instance: str = ""
    closing: bool = False
    reopen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of a stream's module; it counts only from the newest claim before it.

    Parameters
    ----------
    offsets:
        Per partition the first offset behind everything of the stream.
    account:
        The account as JSON at this moment, the facts of the whole stream when it was sealed.
    """

    stream_key: bytes
    module: int
    epoch: int
    nonce: str
    state: State
    offsets: tuple[int, ...]
    expected: int | None = None
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRef:
    """A durable part of the manifest (``part`` >= 0) or its seal (``part`` == -1).

    ``offsets``: per partition, records below are in this part or an earlier one.
    ``account``: of the whole stream, with the seal only.
    """

    stream_key: bytes
    epoch: int
    nonce: str
    part: int
    key: str
    offsets: tuple[int, ...]
    frames: int = 0
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMetadata:
    """Metadata or quarantine notes added after the start; later values win by name."""

    stream_key: bytes
    nonce: str
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    quarantined: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A named array kept beside the stream (mask, flat field), as an .npy object."""

    stream_key: bytes
    nonce: str
    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """The stream is gone for good; its name may be used again.

    What is said here stays for ever: who did it, when (ns since 1970) and why; by which policy
    (its nonce; counts only while it is in force, and for a stream with this ``seal``); where its
    records ended; how much it was; where the copy is; the SHA-256 of an erase's receipt.
    """

    stream_key: bytes
    nonce: str
    by: str = ""
    at_ns: int = 0
    reason: str = ""
    policy: str = ""
    seal: str = ""
    offsets: tuple[int, ...] = ()
    frames: int = 0
    objects: int = 0
    nbytes: int = 0
    archive: str = ""
    receipt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A finished stream as its manifest keeps it; the seal with the highest epoch counts.

    Parameters
    ----------
    start, ends:
        The stream's start and the end of each module, each as it stands on the wire, so that a
        newer version's fields are kept.
    attachments:
        Name to key.
    frames:
        Frames in all parts, copies counted.
    parts:
        In the order of the log; :class:`pipeline.manifest.part.Part` is an entry.
    """

    stream_key: bytes
    epoch: int
    nonce: str
    start: bytes
    ends: tuple[bytes, ...]
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    attachments: Mapping[str, str] = field(default_factory=dict)
    quarantined: Sequence[Mapping[str, str]] = ()
    account: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 0
    parts: tuple[Mapping[str, Any], ...] = ()


CatalogueRecord = Start | Claim | End | ManifestRef | UserMetadata | Attachment | Deleted | Policy


# -- what the fold of the catalogue says --------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class ModuleState:
    """Who writes one module of a stream, and whether it has ended."""

    claim: Claim | None = None
    end: End | None = None
    #: When the claim and the end were appended, ms since 1970 by the broker's clock.
    claimed_ms: int = 0
    ended_ms: int = 0


@dataclass(slots=True, kw_only=True)
class StreamInfo:
    """One stream as the catalogue (or a manifest's seal) describes it."""

    start: Start
    #: Order of appearance in the catalogue; later streams have higher values.
    position: int = 0
    modules: dict[int, ModuleState] = field(default_factory=dict)
    metadata: dict[str, AttributeValue] = field(default_factory=dict)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    attachments: dict[str, str] = field(default_factory=dict)
    parts: list[ManifestRef] = field(default_factory=list)
    seal: ManifestRef | None = None
    deleted: bool = False
    #: How it was deleted.
    tombstone: Deleted | None = None

    @property
    def ended_ms(self) -> int:
        """When the last module ended, ms since 1970 by the broker's clock; 0 while it is open."""
        return max(m.ended_ms for m in self.modules.values()) if self.ends else 0

    @property
    def is_sealed(self) -> bool:
        """Whether the manifest has the whole stream: sealed since it ended the last time."""
        ends, seal = self.ends, self.seal
        return bool(ends) and seal is not None and seal.epoch >= sum(e.epoch for e in ends)

    @property
    def ends(self) -> list[End]:
        """The ends of all modules, empty while any module goes on."""
        ends = [self.modules.get(i, ModuleState()).end for i in self.start.module_indices]
        return [e for e in ends if e is not None] if all(e is not None for e in ends) else []

    @property
    def state(self) -> State:
        """``open``, or how the stream ended; the worst of its modules."""
        states = {end.state for end in self.ends}
        for state in ("lost", "timeout", "aborted", "complete"):
            if state in states:
                return state
        return "open"

    @property
    def end_offsets(self) -> tuple[int, ...] | None:
        """Per partition the offset behind the stream's last record; None while it is open."""
        ends = self.ends
        if not ends:
            return None
        return tuple(max(values) for values in zip(*(e.offsets for e in ends), strict=True))

    @property
    def expected(self) -> int | None:
        """How many frames the source says it made; an end's word is newer than the start's."""
        for end in self.ends:
            if end.expected is not None:
                return end.expected
        return self.start.expected
