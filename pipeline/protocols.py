"""Every seam in one file: what a store, a log, an adapter and a sink promise.

Each docstring is a contract; ``tests/contracts`` checks it sentence by sentence against every
implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

from pipeline.frame import AttributeValue, Buffer, FrameHeader, Module
from pipeline.records import Located, State, StreamInfo

Durability = Literal["process", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """One object of a store, as a listing shows it."""

    key: str
    nbytes: int
    modified_ns: int


class BlobStore(Protocol):
    """Where payloads lie.  Keys are the same in every kind of store.

    The first part of a key is its bucket.  Objects are written once, under unique keys.  All
    methods may be called from several threads.  Every call raises StoreUnavailableError (retry
    later), StoreFullError or StoreDeniedError when the store cannot do it; no call waits longer
    than the store's ``timeout_s`` setting (a put of a large file: plus 1 s for each 50 MB).

    A store can be pickled, its keys included: a process that unpickles it opens it once.
    """

    @property
    def url(self) -> str:
        """The address for people and messages; never holds a secret."""
        ...

    def put(self, key: str, parts: Sequence[Buffer], *, durability: Durability) -> None:
        """Write one object made of ``parts`` back to back.

        When it returns, the whole object can be read by everybody, and it survives the death of
        any process (``disk``: also the loss of power, where the store can promise it).  Nothing is
        ever visible under ``key`` but the whole object.  The caller's buffers are not kept, and a
        large one (a mapped file) is not copied: memory stays bounded.
        """
        ...

    def get(self, key: str, offset: int, length: int) -> memoryview:
        """Return exactly ``length`` bytes from ``offset``; a fresh buffer that the caller owns.

        Raises BlobNotFoundError if there is no such object and ChecksumError never (the reader
        checks). A shorter object raises BlobNotFoundError too.
        """
        ...

    def size(self, key: str) -> int:
        """Return the object's length in bytes, or raise BlobNotFoundError."""
        ...

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield all objects whose key begins with ``prefix`` (a bucket and a slash at least)."""
        ...

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the next path parts below ``prefix`` (which is empty or ends in a slash)."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; keys that do not exist are no error."""
        ...

    def create_bucket(self, bucket: str) -> None:
        """Make the bucket; one that exists is no error."""
        ...

    def close(self) -> None:
        """Release connections; may be called twice."""
        ...


class Cursor(Protocol):
    """A position in every partition of a log; not for use by two threads."""

    def poll(self, timeout_s: float) -> list[Located]:
        """Return the next records of this stream, in order within each partition.

        Returns as soon as there is one, an empty list after ``timeout_s``.
        """
        ...

    def positions(self) -> list[int]:
        """Return per partition the offset below which everything has been returned or skipped."""
        ...

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop returning records of these partitions (bounded memory for readers)."""
        ...

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with paused partitions, losing nothing."""
        ...

    def close(self) -> None:
        """Release connections; may be called twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What a search for one frame found.

    ``records``: every segment that holds it (one per module and copy), in log order.
    ``passed``: the floors of all writers have passed it, so it will not come any more.
    """

    records: tuple[Located, ...]
    passed: bool


class StreamLog(Protocol):
    """The records of one stream, live on a topic or stored in a manifest: the same to readers."""

    def info(self, *, refresh: bool) -> StreamInfo:
        """Return what the catalogue says; with ``refresh`` as of a look begun now."""
        ...

    def bounds(self) -> tuple[list[int], list[int]]:
        """Return per partition the first and the next offset of the stream's records now."""
        ...

    def cursor(self, start: Sequence[int] | None = None) -> Cursor:
        """Return a cursor at ``start`` (an offset per partition; default: the stream's start)."""
        ...

    def find(self, number: int, *, timeout_s: float) -> Lookup:
        """Find the records of one frame in its partition by search, not by reading through."""
        ...

    def seek(self, number: int) -> list[int]:
        """Return start offsets such that no record of a frame >= ``number`` lies before them."""
        ...

    def tail(self, *, timeout_s: float) -> list[Located]:
        """Return per partition its last segment (none for partitions without frames)."""
        ...

    def close(self) -> None:
        """Release connections; may be called twice."""
        ...


# -- adapters -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesBegin:
    """A series (one stream) begins.

    Parameters
    ----------
    name:
        What the device or the files call it; None where there is no name.
    run:
        Facts by which the stream is found again after a crash: two begins with equal ``run`` are
        the same source (adapter, directory, prefix), not necessarily the same acquisition.
    rate_hz:
        Frames per second, where the source says so; the stream then exists before its first frame.
    expected:
        How many frames will come; None where the source tells an upper bound only.
    attachments:
        Arrays that are kept beside the stream (mask, flat field, a file as uint8), by name.
    share:
        Indices of the modules that this process writes of a stream that it shares with others of
        equal ``run``; empty: it writes them all.
    after_ns:
        Of a shared series: it has not begun before this time, ns since 1970 (UTC).
    late:
        The beginning was missed: the series belongs to the newest open stream whose facts include
        ``run``, else it gets a stream of its own.
    """

    series: str
    name: str | None = None
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    run: Mapping[str, AttributeValue] = field(default_factory=dict)
    modules: tuple[Module, ...] = ()
    rate_hz: float | None = None
    expected: int | None = None
    attachments: Mapping[str, Any] = field(default_factory=dict)
    share: tuple[int, ...] = ()
    after_ns: int = 0
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrame:
    """A frame as the source gave it.

    ``token`` comes back in :meth:`DetectorAdapter.acknowledge` when it is safe to let go of the
    source (delete the file, answer the device).
    """

    series: str
    header: FrameHeader
    payload: Buffer
    token: Any = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFrame:
    """A frame inside a file: its bytes are ``payload[offset : offset + nbytes]`` of the file."""

    header: FrameHeader
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file with many frames, stored verbatim; each frame is a range of its bytes.

    Parameters
    ----------
    payload:
        The whole file; a ``mmap`` keeps the memory free. It must not change until the token comes
        back or the next event is asked for, whichever is first.
    frames:
        In the order of their numbers.
    token:
        Comes back once, when all frames are confirmed.
    """

    series: str
    payload: Buffer
    frames: tuple[PlacedFrame, ...]
    token: Any = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEnd:
    """The series is over; ``state`` says how, ``metadata`` what is only known now.

    A series that had a begin gets a stream, also without a single frame.  ``token`` comes back
    when the end is written, with all that was attached.
    """

    series: str
    state: State = "complete"
    expected: int | None = None
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict)
    token: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Something that cannot be read as a frame; never published, named in the account."""

    series: str
    source: str
    reason: str


AdapterEvent = SeriesBegin | SourceFrame | SourceFile | SeriesEnd | Quarantined


@runtime_checkable
class DetectorAdapter(Protocol):
    """Turns one instrument into events.  It knows neither Kafka nor the publisher.

    The runner calls ``events`` once and iterates it in one thread; ``acknowledge`` comes from
    that same thread, between two events.

    Optional: ``idle_end_s`` (seconds of silence that end a series), ``after``, ``owns(run)``
    (whether an open stream with these facts is one of ours), ``share(count)`` (which modules of a
    stream of so many this process writes, where others write the rest; none where it writes all)
    with ``others_wait_s`` (how long those may take to end theirs), and ``exclusive = True`` for a
    device that makes one series at a time: a new begin then ends, as lost, what is open of an
    earlier one.
    """

    name: str

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; ``None`` at least every ``poll_s`` seconds of silence.

        Ends when the source is over for good; raises SourceError when it is unusable.
        """
        ...

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Let go of the sources of these frames: they are published and confirmed."""
        ...

    def check(self) -> Mapping[str, AttributeValue]:
        """Contact the source and say what is seen, for ``--check``."""
        ...

    def close(self) -> None:
        """Release the source; may be called twice."""
        ...


class Simulator(Protocol):
    """A stand-in for a device."""

    def run(self, stop: Any = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Produce until done or ``stop`` is set; return how many frames were made."""
        ...


# -- sinks --------------------------------------------------------------------------------------


class FrameLike(Protocol):
    """What a sink sees of a frame; :class:`pipeline.stream.Frame` is one."""

    @property
    def number(self) -> int: ...  # noqa: D102 -- see FrameHeader
    @property
    def timestamp_ns(self) -> int: ...  # noqa: D102 -- see FrameHeader
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102 -- see FrameHeader
    @property
    def dtype(self) -> str: ...  # noqa: D102 -- see FrameHeader
    @property
    def encoding(self) -> str: ...  # noqa: D102 -- see FrameHeader
    @property
    def attributes(self) -> Mapping[str, AttributeValue]: ...  # noqa: D102 -- see FrameHeader
    @property
    def payload(self) -> memoryview: ...  # noqa: D102 -- bytes as published, checked
    @property
    def array(self) -> Any: ...  # noqa: D102 -- decoded pixels


class Sink(Protocol):
    """Writes one stream somewhere else.  It does not know Kafka."""

    def open(self, info: StreamInfo) -> None:
        """Prepare the output; raises SinkError if it cannot be written."""
        ...

    def write(self, frame: FrameLike) -> None:
        """Take one frame; frames may come in any order, each once."""
        ...

    def finish(self, account: Mapping[str, Any]) -> str:
        """Make the output complete and visible under its final name, which is returned."""
        ...

    def abort(self) -> None:
        """Close without publishing the output; may be called twice, and after ``finish``."""
        ...

    def __enter__(self) -> Self:
        """Return self."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort unless finished."""
        ...
