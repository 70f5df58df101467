"""A session: one configuration, one set of connections, any number of streams."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from pipeline import config
from pipeline.config import Settings
from pipeline.errors import (
    InvalidArgumentError,
    PipelineError,
    StoreUnavailableError,
    StreamNotFoundError,
    StreamTimeoutError,
    TopicMissingError,
)
from pipeline.frame import AttributeValue, Module
from pipeline.manifest.combined import CombinedLog
from pipeline.manifest.stored import StoredLog, discover
from pipeline.naming import StreamId, check_name, new_nonce, new_stream_key
from pipeline.protocols import StreamLog
from pipeline.publisher import Publisher
from pipeline.publishing import claims, deleting, ending
from pipeline.publishing.opening import Claiming
from pipeline.publishing.window import Role
from pipeline.reading.limits import check_number, check_timeout
from pipeline.records import Start, State, StreamInfo
from pipeline.services import Services
from pipeline.stream import Stream
from pipeline.value_publisher import ValuePublisher
from pipeline.wire.catalogue import fate

if TYPE_CHECKING:
    from pipeline.shared import Delivery
    from pipeline.sharing.following import FollowedFrames
    from pipeline.sharing.sequential import SequentialStage

#: How often ``follow`` looks for new streams.
_FOLLOW_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One line of a listing."""

    name: StreamId
    info: StreamInfo

    @property
    def state(self) -> State:
        """Open, or how it ended."""
        return self.info.state


class Session:
    """Access to the streams of one broker and store, or of a store alone.

    Thread-safe. Use it as a context manager; streams and publishers got from it must not outlive
    it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._services = Services(settings)
        self._lock = threading.Lock()
        self._opened: list[Publisher | Stream] = []

    @property
    def services(self) -> Services:
        """The connections, for commands that administer."""
        return self._services

    # -- writing --------------------------------------------------------------------------------

    def publish(
        self,
        beamtime: str,
        detector: str,
        stream: str,
        *,
        rate_hz: float | None = None,
        metadata: Mapping[str, AttributeValue] | None = None,
        modules: Sequence[Module] = (),
        module: int | Sequence[int] | None = None,
        expected: int | None = None,
        frames_per_chunk: int | None = None,
        frame_nbytes: int | None = None,
        reopen: bool = False,
        takeover: bool = False,
        instance: str = "",
        run: Mapping[str, AttributeValue] | None = None,
        lineage: Mapping[str, AttributeValue] | None = None,
        role: Role | None = None,
        **changes: Any,
    ) -> Publisher:
        """Open a stream for writing; an open one whose writer is gone is continued.

        Parameters
        ----------
        rate_hz:
            Frames per second, if known; it decides how frames spread over partitions.
        metadata:
            What is true for the whole stream, units in the names (``energy_eV``).
        modules:
            The detector's modules; empty for a detector that is one image.
        module:
            Write this module, or these, only; others have writers of their own.
        expected:
            How many frames the source will make, if it knows.
        frames_per_chunk:
            Consecutive frames that share a partition; 1 where each frame is much work.
        reopen:
            Go on with a stream that has ended.
        takeover:
            Take the stream from a writer that is alive.
        instance:
            Who we are across restarts (adapter@host): may claim again at once after a crash.
        role:
            Under which claim to write; workers' results go under their group's.
        changes:
            Settings of the publisher (``durability="disk"``, ``spool="/dir"``, ...).

        Blocks until the stream is claimed (about 50 ms), at most ``kafka.timeout_s`` a step.

        Raises
        ------
        InvalidNameError, StreamExistsError, WriterActiveError, TopicMissingError,
        BrokerUnavailableError
        """
        if frames_per_chunk is not None:
            frames_per_chunk = check_number("frames_per_chunk", frames_per_chunk, least=1)
        if expected is not None:
            expected = check_number("expected", expected)
        if rate_hz is not None and not (isinstance(rate_hz, (int, float)) and 0 < rate_hz < 1e9):
            raise InvalidArgumentError("rate_hz", f"{rate_hz!r} is not a rate")
        _check_modules(modules, module)
        written = (module,) if isinstance(module, int) else tuple(module or ())
        name = StreamId(beamtime, detector, stream)
        self._services.names.bucket(beamtime)  # names that cannot be stored fail before anything
        self._services.names.topic(beamtime, detector)
        start = Start(
            stream_key=new_stream_key(),
            beamtime=name.beamtime,
            detector=name.detector,
            stream=name.stream,
            created_ns=time.time_ns(),
            partitions=0,
            frames_per_chunk=frames_per_chunk or 0,
            offsets=(),
            modules=tuple(modules),
            rate_hz=rate_hz,
            expected=expected,
            metadata=claims.check_metadata(metadata),
            run=claims.check_metadata(run),
            lineage=claims.check_metadata(lineage),
            writer=claims.holder(),
            nonce=new_nonce(),
        )
        out = Publisher(
            self._services,
            start,
            config.with_publish(self.settings, **changes).publish,
            modules=written or None,
            claiming=Claiming(reopen=reopen, takeover=takeover, instance=instance),
            role=role,
            frame_nbytes=frame_nbytes,
        )
        self._keep(out)
        try:
            out.open()
        except BaseException:
            out.abandon()
            raise
        return out

    def publish_values(
        self,
        beamtime: str,
        channel: str,
        stream: str,
        *,
        metadata: Mapping[str, AttributeValue] | None = None,
        units: Mapping[str, str] | None = None,
        tick_s: float | None = None,
        settle_s: float = 0.2,
        **options: Any,
    ) -> ValuePublisher:
        """Open a stream of named values over time: motor positions, ring current, scan points.

        Parameters
        ----------
        channel:
            What the values come from (``motors``); it stands where detectors have their name.
        stream:
            Named as the frames' stream, so that ``stream.join(channel)`` finds it.
        units:
            Unit of each value; kept as ``units`` in the metadata.
        tick_s:
            After so much silence the stream says that nothing has changed, so that frames need
            not wait for values that are rare.  Only where times are those of this computer.
        settle_s:
            ... up to so long ago: values may be put so much later than their time.
        options:
            As for :meth:`publish` (``reopen``, ``durability``, ...); 16 values share a partition.

        Blocks and raises as :meth:`publish`.
        """
        said = {**(metadata or {}), **({"units": dict(units)} if units else {})}
        options = {"frames_per_chunk": 16, **options}
        out = self.publish(beamtime, channel, stream, metadata=said, **options)
        return ValuePublisher(out, tick_s=tick_s, settle_s=settle_s)

    def _keep(self, item: Publisher | Stream) -> None:
        """Remember what the session has to close, and forget what was closed: it holds buffers."""
        with self._lock:
            self._opened = [known for known in self._opened if not known.is_closed]
            self._opened.append(item)

    # -- reading --------------------------------------------------------------------------------

    def stream(self, beamtime: str, detector: str, stream: str) -> Stream:
        """Return a stream for reading, live or stored.

        Raises StreamNotFoundError, BrokerUnavailableError, StoreUnavailableError.
        """
        name = StreamId(beamtime, detector, stream)
        info = self._find(name)
        opened = Stream(
            self._log(info),
            self._services.store,
            name=name,
            read=self.settings.read,
            shared=self._shared,
            opener=lambda other: self.stream(other.beamtime, other.detector, other.stream),
            group=self._group,
        )
        self._keep(opened)
        return opened

    def _shared(self, stream: Stream, **options: Any) -> Iterator[Delivery]:
        from pipeline.shared import open_shared  # groups are loaded by who uses them

        services = self._services if self._services.has_broker else None
        return open_shared(services, stream, **options)

    def _group(self, stream: Stream, name: str, state: Path | str | None) -> Any:
        from pipeline.sharing.group import open_group

        services = self._services if self._services.has_broker else None
        return open_group(services, stream, name, state)

    def streams(self, pattern: str = "*/*/*") -> list[StreamSummary]:
        """Return the streams whose name matches a shell pattern (``c1/*/scan_*``), oldest first."""
        found = [
            StreamSummary(name=claims.name_of(info.start), info=info)
            for beamtime in self._beamtimes(pattern)
            for info in self._infos(beamtime)
        ]
        matching = [s for s in found if fnmatch.fnmatchcase(str(s.name), pattern)]
        return sorted(matching, key=lambda s: (s.info.start.created_ns, s.info.position))

    def follow(
        self, pattern: str = "*/*/*", *, timeout_s: float | None = 30.0
    ) -> Iterator[StreamSummary]:
        """Yield matching streams, those that exist and then new ones as they begin.

        Raises StreamTimeoutError when no new one began for ``timeout_s``.
        """
        if timeout_s is not None and timeout_s < 0:
            raise InvalidArgumentError("timeout_s", f"{timeout_s} is negative")
        seen: set[bytes] = set()
        since = time.monotonic()
        pause = threading.Event()
        while True:
            for summary in self.streams(pattern):
                if summary.info.start.stream_key not in seen:
                    seen.add(summary.info.start.stream_key)
                    yield summary
                    since = time.monotonic()
            if timeout_s is not None and time.monotonic() - since >= timeout_s:
                raise StreamTimeoutError(pattern, timeout_s, "no new stream began")
            pause.wait(_FOLLOW_EVERY_S)

    def follow_ordered(
        self,
        group: str,
        pattern: str = "*/*/*",
        *,
        timeout_s: float | None = 30.0,
        on_end: Callable[[StreamId], object] | None = None,
    ) -> FollowedFrames:
        """Read all streams of a pattern in order, split by stream among a group's members.

        Parameters are those of :func:`pipeline.sharing.following.follow_ordered`.  Raises
        InvalidNameError, BrokerUnavailableError, PipelineError where there is no broker.
        """
        from pipeline.sharing.following import follow_ordered

        return follow_ordered(
            self._services,
            group=check_name("group", group),
            listing=lambda: self.streams(pattern),
            opening=lambda name: self.stream(name.beamtime, name.detector, name.stream),
            timeout_s=check_timeout(timeout_s),
            on_end=on_end,
        )

    def sequential(
        self,
        source: Stream,
        detector: str,
        *,
        timeout_s: float | None = 30.0,
        metadata: Mapping[str, AttributeValue] | None = None,
        **changes: Any,
    ) -> SequentialStage:
        """Make a derived stream in order, in one process, across its restarts.

        It has the source's beamtime and name; ``timeout_s`` as for :meth:`Stream.ordered`, the
        others as for :meth:`publish`.  See :class:`pipeline.sharing.sequential.SequentialStage`.

        To begin, it reads the records of both streams (no pixels): a second or two for a million
        frames.  A second process on the same stage takes it from the first, which then gets
        WriterSupersededError.  Raises PipelineError for a stream that was not made so.
        """
        from pipeline.sharing.sequential import SequentialStage

        stage = SequentialStage(
            source,
            StreamId(source.name.beamtime, detector, source.name.stream),
            publish=self.publish,
            opening=lambda name: self.stream(name.beamtime, name.detector, name.stream),
            timeout_s=check_timeout(timeout_s),
            options={**changes, "metadata": {"source": str(source.name), **(metadata or {})}},
        )
        try:
            stage.open()
        except BaseException:
            stage.close()
            raise
        return stage

    def _find(self, name: StreamId) -> StreamInfo:
        for info in self._infos(name.beamtime):
            if (info.start.detector, info.start.stream) == (name.detector, name.stream):
                return info
        where = self.settings.kafka.bootstrap or self._services.store.url
        hint = self.fate(name)
        if not hint:
            known = [s.info.start.stream for s in self.streams(f"{name.beamtime}/*/*")][-5:]
            hint = f"streams there: {', '.join(known)}" if known else "`lichtstrom streams` lists"
        raise StreamNotFoundError(name, where=where, hint=hint)

    def fate(self, name: StreamId) -> str:
        """Return what became of the last stream of this name that went, empty if there is none."""
        if not self._services.has_broker:
            return ""
        try:
            gone = self._services.catalogue(name.beamtime).look().deleted()
        except TopicMissingError:
            return ""
        for info in reversed(gone):
            if (info.start.detector, info.start.stream) == (name.detector, name.stream):
                return fate(info)
        return ""

    def _infos(self, beamtime: str) -> list[StreamInfo]:
        if not self._services.has_broker:
            self._check_directory()
            names = self._services.names
            return discover(self._services.store, names, beamtime)
        try:
            return self._services.catalogue(beamtime).look().streams()
        except TopicMissingError:
            return []

    def _beamtimes(self, pattern: str) -> list[str]:
        if self._services.has_broker:
            known = self._services.admin.beamtimes()
        else:
            self._check_directory()
            folders = self._services.store.folders("")
            found = (self._services.names.beamtime_of_bucket(f) for f in folders)
            known = [beamtime for beamtime in found if beamtime is not None]
        wanted = pattern.partition("/")[0]
        return [b for b in known if fnmatch.fnmatchcase(b.replace("/", "%2F"), wanted)]

    def _check_directory(self) -> None:
        """Tell a mistyped export from an empty one."""
        url = self._services.store.url
        path = Path(unquote(url.removeprefix("file://")))
        if url.startswith("file://") and not path.is_dir():
            raise StoreUnavailableError(url, "there is no such directory")

    def _log(self, info: StreamInfo) -> StreamLog:
        if not self._services.has_broker:
            return StoredLog(self._services.store, self._services.prefix(info))
        return CombinedLog(self._services.log(info), self._services.store)

    # -- administration -------------------------------------------------------------------------

    def takes(self, beamtime: str) -> bool:
        """Tell whether streams of this beamtime can begin: it exists, or is made with the first.

        Blocks as long as a question to the broker; raises BrokerUnavailableError.
        """
        if self.settings.create or not self._services.has_broker:
            return True
        return beamtime in self._services.admin.beamtimes()

    def create_beamtime(
        self,
        beamtime: str,
        detector: str | None = None,
        *,
        partitions: int | None = None,
        replication: int | None = None,
    ) -> list[str]:
        """Make the topics and the bucket of a beamtime; return their names."""
        return claims.create_beamtime(
            self._services, beamtime, detector, partitions=partitions, replication=replication
        )

    def end(self, beamtime: str, detector: str, stream: str, *, state: State = "lost") -> None:
        """End an open stream whose writer is gone.

        Raises WriterActiveError if it is not, InvalidArgumentError if the stream has ended.
        """
        name = StreamId(beamtime, detector, stream)
        info = self._find(name)
        if info.state != "open":
            raise InvalidArgumentError("stream", f"{name} has ended already ({info.state})")
        ending.end_abandoned(self._services, info, state=state)

    def delete(self, beamtime: str, detector: str, stream: str, *, force: bool = False) -> int:
        """Delete a stream: its records first, then its blobs; return how many blobs went.

        The name may be used again afterwards. Raises WriterActiveError while it is written.
        """
        info = self._find(StreamId(beamtime, detector, stream))
        return deleting.delete(self._services, info, force=force)

    def close(self) -> None:
        """Close what was opened: streams, publishers (unflushed frames are lost), connections."""
        with self._lock:
            opened, self._opened = self._opened, []
        for item in opened:
            if isinstance(item, Publisher):
                item.abandon()
            else:
                item.close()
        self._services.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_modules(modules: Sequence[Module], written: int | Sequence[int] | None) -> None:
    """Refuse modules that no reader could take for some."""
    if not all(isinstance(m, Module) for m in modules):
        raise InvalidArgumentError("modules", "must be a sequence of pipeline.Module")
    indices = [m.index for m in modules]
    if len(set(indices)) != len(indices) or any(not 0 <= i < 2**15 for i in indices):
        raise InvalidArgumentError("modules", f"indices {indices}: each once, 0 to 32767")
    for module in (written,) if isinstance(written, int) else written or ():
        if module not in (indices or [0]):
            raise InvalidArgumentError("module", f"{module!r} is not one of {indices or [0]}")


def connect(
    store: str | None = None,
    *,
    credentials: str | Path | None = None,
    settings: Settings | None = None,
) -> Session:
    """Return a session; nothing is contacted yet.

    Parameters
    ----------
    store:
        ``file`` or ``s3``: which way to the store of the local runtime. A URL
        (``file:///export``, ``s3://bucket/prefix``) alone is a session on stored streams, without
        a broker, unless ``credentials`` name one.
    credentials:
        The file that ``lichtstrom access grant --json`` printed: who we are, and where.
    settings:
        Instead of those from the environment and files.

    Raises ConfigError.
    """
    if settings is None:
        settings = config.load(store, credentials=credentials)
        if store is not None and "://" in store and credentials is None:
            settings = replace(settings, kafka=replace(settings.kafka, bootstrap=""))
    if not settings.store.url:
        raise PipelineError(
            "no store is configured: run `lichtstrom up`, or set LICHTSTROM_STORE_URL"
        )
    return Session(settings)
