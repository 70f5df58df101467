"""The writing end of a stream: what ``session.publish`` returns."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.codecs import byte_view
from pipeline.codecs.checksum import crc32c
from pipeline.config import PublishSettings
from pipeline.errors import (
    BrokerUnavailableError,
    ClosedError,
    FlushTimeoutError,
    InvalidArgumentError,
    InvalidFrameError,
    PipelineError,
    QueueFullError,
    SpoolError,
    SpoolFullError,
    WriterActiveError,
)
from pipeline.frame import AttributeValue, Buffer
from pipeline.naming import StreamId, attachment_key, check_name, new_nonce
from pipeline.protocols import PlacedFrame
from pipeline.publishing import claims, ending
from pipeline.publishing.clock import Clock
from pipeline.publishing.container import Row, checked_rows, drafts_of, fresh_rows, suffix_of
from pipeline.publishing.draft import Layout
from pipeline.publishing.inputs import LayoutChecks, integer, prepared
from pipeline.publishing.measured import Measured
from pipeline.publishing.opening import Claiming, Opened, needs_frame, open_stream
from pipeline.publishing.packer import Packer
from pipeline.publishing.sealing import PartWriter
from pipeline.publishing.spooling import Spooling
from pipeline.publishing.tally import Known, Spooled, Tally
from pipeline.publishing.window import Role
from pipeline.reading.limits import check_timeout
from pipeline.records import ENDED_STATES, Attachment, Start, State, StreamInfo, UserMetadata
from pipeline.services import Services
from pipeline.wire.columns import check_attributes

log = logging.getLogger(__name__)
#: How often marks, the spool and the manifest are looked after.
_TICK_S = 0.05
#: How long a broker that was away may take to answer before it is asked again.
_ANSWERS_S = 0.5
#: The same before the first frame, where there is a spool.
_SOON_S = 2.0
#: Drafts from the spool that are on their way at a time: bounded memory, and writers get a turn.
_DRAIN_AT_ONCE = 16
#: A file is taken when fewer records than this are on their way: their number is not bounded by
#: buffers, since their payloads are stored already.
_RECORDS_AT_ONCE = 256
#: How often more of them are moved.
_DRAIN_S = 0.01
#: One for all frames without attributes; nobody changes it.
_NO_ATTRIBUTES: dict[str, AttributeValue] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How many frames are where.

    ``queued``: in memory, ``spooled``: on local disk, ``acknowledged``: published and confirmed,
    ``refused``: not taken because the queue was full, ``repeated``: given twice, sent once.
    """

    queued: int
    spooled: int
    acknowledged: int
    refused: int
    repeated: int


class Publisher:
    """Publishes the frames of one stream; thread-safe.

    Use it as a context manager: leaving the block flushes and ends the stream (``complete``, or
    ``aborted`` after an exception).  ``close`` instead leaves the stream open, to be continued.
    """

    def __init__(
        self,
        services: Services,
        start: Start,
        settings: PublishSettings,
        *,
        modules: tuple[int, ...] | None = None,
        claiming: Claiming | None = None,
        role: Role | None = None,
        frame_nbytes: int | None = None,
    ) -> None:
        self.stream = StreamId(start.beamtime, start.detector, start.stream)
        self._services = services
        self._start = start
        self._settings = settings
        self._modules = modules or start.module_indices
        self._claiming = claiming or Claiming()
        self._role = role or Role()
        self._frame_nbytes = frame_nbytes
        self._lock = threading.RLock()
        #: Held by ``write`` throughout; the lock is given up while it waits for room.
        self._turn = threading.Lock()
        self._closed = False
        self._next = 0
        self._known = Known()
        #: Of frames given again while the spool is in use.
        self._repeated_tokens: list[Any] = []
        self._tally = Tally()
        self._layouts = LayoutChecks()
        self._spooling = Spooling(settings, self.stream, start, sync=settings.durability == "disk")
        self._packer = Packer(
            self.stream,
            settings,
            self._spooling,
            self._tally,
            check=self._check_open,
            unlocked=self._unlocked,
        )
        self._measured = Measured(
            self.stream,
            tally=self._tally,
            spooling=self._spooling,
            packer=self._packer,
            limit_nbytes=settings.spool_nbytes if settings.spool else 0,
            is_result=bool(self._role.member),
        )
        self._clock = Clock(self._tick, name=f"publisher {self.stream.stream}")
        self._parts: PartWriter | None = None
        #: When the clock has to look at more than the open draft.
        self._rounds_s = 0.0

    # -- opening --------------------------------------------------------------------------------

    def open(self) -> None:
        """Contact the broker and claim the stream, as far as that is possible before a frame.

        Without an announced rate the chunk length follows from the first frame's size, so a new
        stream is only started by it. With a spool a broker that is away is no error: frames are
        spooled, and the stream is opened when the broker answers.

        Raises BrokerUnavailableError, TopicMissingError, StreamExistsError, WriterActiveError.
        """
        self._open_or_spool(later=True)
        self._clock.start()

    def _open_or_spool(self, *, later: bool = False) -> None:
        try:
            if self._spooling.possible and not self._services.admin.answers(_SOON_S):
                # what can be spooled does not wait as long as a broker may take
                raise BrokerUnavailableError(self._services.admin.settings.bootstrap, "no answer")
            if later:
                claims.ensure_topics(self._services, self.stream)
            if not (later and needs_frame(self._services, self._start, self._frame_nbytes)):
                self._open_now()
        except PipelineError as error:
            if not self._spools(error):
                raise
            log.warning("%s: spooling until this passes: %s", self.stream, error)
            self._spooling.begin()

    def _spools(self, error: PipelineError) -> bool:
        passes = error.retriable and not isinstance(error, WriterActiveError)
        return passes and self._spooling.possible

    def _open_now(self) -> Opened:
        opened = open_stream(
            self._services,
            self._start,
            self._settings,
            modules=self._modules,
            claiming=self._claiming,
            role=self._role,
            frame_nbytes=self._frame_nbytes,
            known=self._known,
            on_confirmed=self._tally.confirmed,
            on_released=self._packer.release,
            on_safe=self._measured.confirmed,
        )
        self._start = opened.info.start
        self._next = max(self._next, opened.following)
        self._packer.adopt(opened)
        if self._role.owns:
            self._parts = PartWriter(self._services, opened, self._settings.durability)
        self._spooling.opened(self._start)
        self._next = max(self._next, self._spooling.adopt_left_behind(self._is_other) + 1)
        return opened

    def _is_other(self, stream_key: bytes) -> bool:
        found = self._services.catalogue(self.stream.beamtime).state.by_key(stream_key)
        return found is not None and found.start.stream_key != self._start.stream_key

    # -- writing --------------------------------------------------------------------------------

    def write(
        self,
        data: npt.NDArray[Any] | Buffer | None,
        *,
        number: int | None = None,
        timestamp_ns: int | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        encoding: str | None = None,
        shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
        module: int | None = None,
        token: Any = None,
    ) -> None:
        """Queue one frame (or one module of it).

        Parameters
        ----------
        data:
            A numpy array (pixels as rows, columns; stored raw, C order, little-endian), bytes in
            ``encoding`` with ``shape`` and ``dtype`` given, or None for a frame of attributes
            only. It is copied before this returns.
        number:
            Defaults to the next one.
        timestamp_ns:
            Start of exposure, ns since 1970 (UTC); defaults to now.
        token:
            Anything; comes back from :meth:`take_confirmed` when the frame is safe.

        Blocks while the queue is full (``when_full = "block"``), without limit but for a failure
        of the stream.

        Raises
        ------
        InvalidFrameError
            Names the field; nothing of the frame was published.
        QueueFullError
            With ``when_full = "refuse"``; the frame was counted as refused.
        WriterSupersededError
            Another writer took over.
        SpoolError
            The spool is full or cannot be written; this frame was not taken.
        """
        payload, header = prepared(data, encoding, shape, dtype)
        checked = dict(check_attributes(attributes)) if attributes else _NO_ATTRIBUTES
        with self._turn, self._lock:
            self._check_open()
            layout = self._layout(header, module)
            chosen = self._next if number is None else integer("number", number)
            stamp = (
                time.time_ns() if timestamp_ns is None else integer("timestamp_ns", timestamp_ns)
            )
            digest = self._layouts.digest(
                self._start,
                layout,
                number=chosen,
                timestamp_ns=stamp,
                attributes=checked,
                payload=payload,
            )
            if self._packer.opened is None and not self._spooling.active:
                self._frame_nbytes = max(1, len(payload))
                self._open_or_spool()
            if self._is_repeated(layout[3], chosen, payload, digest, token):
                return
            fresh = self._packer.draft is None
            checksum = self._packer.add(
                layout,
                payload,
                number=chosen,
                timestamp_ns=stamp,
                attributes=checked,
                digest=digest,
                token=token,
            )
            self._known.add(layout[3], chosen, (len(payload), checksum, digest))
            self._next = max(self._next, chosen + 1)
            if fresh and self._packer.draft is not None:
                self._clock.wake()  # a linger has begun

    def write_file(
        self,
        payload: Buffer,
        frames: Sequence[PlacedFrame],
        *,
        token: Any = None,
        checksums: Sequence[int] | None = None,
    ) -> int:
        """Store a file as it is, once, and queue the frames in it; return how many are new.

        The file is one object, byte for byte; it is there before the first frame is announced.
        Frames that are known to be published (the last 65,536 of a module; of an earlier writer
        those above its floor) are not announced again; if all are, the file is not stored.
        A writer that died in between has left an object without frames, or with some of
        them: the next one stores the file anew for the rest.

        Parameters
        ----------
        payload:
            The whole file. It is read twice and never copied as a whole; a ``mmap`` keeps the
            memory free. It may change or be closed once this has returned.
        frames:
            Where each frame lies. A range may be shared, and ranges need not touch.
        token:
            Comes back once from :meth:`take_confirmed`, when all of ``frames`` are safe.
        checksums:
            CRC-32C of each frame's bytes, where they are known already.

        Blocks until the file is stored; with ``when_full = "block"`` also while broker or store
        are away, and while the queue or the spool hold earlier frames.  A file is not copied to
        the spool, nor are records that are left when the publisher closes: it waits where it is.

        Raises
        ------
        InvalidFrameError
            One of the frames, told by ``frame``; nothing of the file was published.
        QueueFullError, StoreUnavailableError, BrokerUnavailableError
            Not now, with ``when_full = "refuse"``; nothing of the file was published.
        """
        with self._turn:
            with self._lock:
                opened = self._wait_for_turn(sum(f.nbytes for f in frames) // max(1, len(frames)))
            began_s = time.monotonic()
            view = byte_view(payload)
            rows = checked_rows(
                view,
                frames,
                checksums,
                start=self._start,
                modules=self._modules,
                layouts=self._layouts,
            )
            fresh = fresh_rows(rows, self._known)
            key = self._store_file(opened, view, fresh[0]) if fresh else ""
            with self._lock:
                self._check_open()
                self._announce_file(opened, fresh, key, token, began_s)
                self._tally.repeated += len(rows) - len(fresh)
            return len(fresh)

    def _wait_for_turn(self, frame_nbytes: int) -> Opened:
        """Wait until a file can be taken: nothing is spooled, and earlier records are out."""
        refuse = self._settings.when_full == "refuse"
        while True:
            self._check_open()
            if self._packer.opened is None and not self._spooling.active:
                self._frame_nbytes = max(1, frame_nbytes)
                self._open_or_spool()
            opened = self._packer.direct
            if opened is not None:
                self._packer.dispatch()
                if opened.window.in_flight < _RECORDS_AT_ONCE:
                    return opened
            if refuse:
                self._tally.refused += 1
                raise QueueFullError(f"{self.stream}: the queue is full; the file was not taken")
            with self._unlocked():
                self._spooling.wait(_TICK_S) if opened is None else opened.window.pause(_TICK_S)

    def _store_file(self, opened: Opened, view: memoryview, first: Row) -> str:
        """Put the file, without the lock; return its key."""
        key = opened.window.file_key(first.layout[3], first.number, suffix_of(view))
        pause_s = _TICK_S
        while True:
            try:
                self._services.store.put(key, [view], durability=self._settings.durability)
            except PipelineError as error:
                if not error.retriable or self._settings.when_full == "refuse":
                    raise
                if pause_s == _TICK_S:
                    log.warning("%s: waiting for the store: %s", self.stream, error)
            else:
                return key
            opened.window.pause(pause_s)
            pause_s = min(1.0, pause_s * 2)
            self._check_open()

    def _announce_file(
        self, opened: Opened, rows: list[Row], key: str, token: Any, began_s: float
    ) -> None:
        window, start = opened.window, opened.info.start
        for draft in drafts_of(
            rows,
            key,
            frames_per_chunk=start.frames_per_chunk,
            segment_nbytes=self._settings.segment_nbytes,
        ):
            draft.opened_s = began_s
            window.submit(draft, window.open(draft.layout[3], draft.numbers[0]))
        for row in rows:
            self._known.add(row.layout[3], row.number, row.content)
            self._next = max(self._next, row.number + 1)
        window.echo(token)  # after all records, and after those of frames given before

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _layout(self, header: tuple[tuple[int, ...], str, str], module: int | None) -> Layout:
        if module is None:
            if len(self._modules) > 1:
                raise InvalidFrameError("module", f"must be one of {list(self._modules)}")
            module = self._modules[0]
        elif (module := integer("module", module)) not in self._modules:
            raise InvalidFrameError("module", f"is not one of {list(self._modules)}")
        return (*header, module)

    def _is_repeated(
        self,
        module: int,
        number: int,
        payload: npt.NDArray[np.uint8],
        digest: int,
        token: Any,
    ) -> bool:
        known = self._known.get(module, number)
        if known is None:
            return False
        if known != (len(payload), crc32c(payload), digest):
            raise InvalidFrameError(
                "number", f"frame {number} was published before with other content"
            )
        self._tally.repeated += 1
        if (opened := self._packer.direct) is not None:
            self._packer.dispatch()  # so that the ticket waited for is a submitted one
            opened.window.echo(token)
        elif token is not None:
            self._repeated_tokens.append(token)  # safe when what is spooled now is
        return True

    # -- time -----------------------------------------------------------------------------------

    def _tick(self) -> float:
        """Do what is due; return how many seconds until something may be due again."""
        # Asked without the lock: while the broker is away, ``write`` must not wait for it.
        reachable = not self._opens_later() or self._services.admin.answers(_ANSWERS_S)
        with self._lock:
            if self._closed:
                return 1.0
            left_s = self._packer.lingering_s()
            if left_s is not None and left_s > 0 and time.monotonic() < self._rounds_s:
                return left_s
            # Else a source that always has a young draft would keep all the rest from its turn.
            every_s = _DRAIN_S if self._spooling.active else _TICK_S
            self._rounds_s = time.monotonic() + every_s
            if left_s is not None and left_s <= 0:
                self._dispatch_late()
            self._spooling.published(self._tally.take_published())
            if self._spooling.active and reachable:
                self._drain_some()
            opened = self._packer.opened
            left_s = self._packer.lingering_s()
        if opened is not None and self._role.owns and opened.window.failure is None:
            ending.send_idle_marks(self._services, opened)
        if self._parts is not None:
            self._parts.look()
        try:
            self._tell_damaged()
        except PipelineError as error:
            if not error.retriable:
                raise
        pause_s = _DRAIN_S if self._spooling.active and reachable else _TICK_S
        return pause_s if left_s is None else min(pause_s, max(0.001, left_s))

    def _tell_damaged(self) -> None:
        """Name files of the spool that could not be read in the account."""
        while self._spooling.damaged:
            self.quarantine(*self._spooling.damaged[0])
            del self._spooling.damaged[0]

    def _dispatch_late(self) -> bool:
        """Send the open draft; one that a full spool does not take stays, ``write`` tells of it."""
        try:
            self._packer.dispatch()
        except SpoolError as error:
            log.debug("%s", error)
            return False
        return True

    def _opens_later(self) -> bool:
        return self._spooling.active and self._packer.opened is None

    def _drain_some(self) -> None:
        """Move what was spooled to the window, in order, as far as it takes it at once."""
        try:
            opened = self._packer.opened or self._open_now()
        except WriterActiveError as error:
            if error.holder != claims.holder():
                raise
            return  # a claim of ours whose acknowledgement we did not live to see
        except PipelineError as error:
            if not error.retriable:
                raise
            return
        settings = self._settings
        most = max(1, min(_DRAIN_AT_ONCE, settings.queue_nbytes // settings.segment_nbytes))
        while opened.window.failure is None and opened.window.in_flight < most:
            draft = self._spooling.next()
            if draft is not None:
                self._packer.admit(draft)
            elif not self._dispatch_late():  # no room on the disk, but there is on the way
                self._packer.admit_open()
            elif not self._spooling.waiting:
                self._spooling.finish()
                for token in self._repeated_tokens:
                    opened.window.echo(token)
                self._repeated_tokens.clear()
                return

    # -- what became of it ----------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, ended or abandoned."""
        return self._closed

    @property
    def position(self) -> Position:
        """How many frames are queued, spooled, acknowledged."""
        opened, draft = self._packer.opened, self._packer.draft
        queued = opened.window.pending if opened is not None else 0
        return Position(
            queued=queued + (len(draft) if draft is not None else 0),
            spooled=self._spooling.frames,
            acknowledged=self._tally.acknowledged,
            refused=self._tally.refused,
            repeated=self._tally.repeated,
        )

    def take_confirmed(self) -> list[Any]:
        """Return the tokens of the frames that became safe since the last call."""
        return self._tally.take()

    @property
    def info(self) -> StreamInfo | None:
        """The stream in the catalogue; None until it has been opened."""
        return self._packer.opened.info if self._packer.opened is not None else None

    def flush(self, timeout_s: float | None = 30.0) -> None:
        """Wait until every frame written so far is published and confirmed.

        Raises FlushTimeoutError, or what stopped the publisher.
        """
        timeout_s = check_timeout(timeout_s)
        if timeout_s is not None and timeout_s < 0:
            raise InvalidArgumentError("timeout_s", f"{timeout_s} is negative")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._sent_all() or self._spooling.active:
            if deadline is not None and time.monotonic() >= deadline:
                raise self._not_flushed(timeout_s)
            self._spooling.wait(_TICK_S)
        opened = self._packer.opened
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if opened is not None and not opened.window.wait_empty(left_s):
            self._check_failed()
            raise self._not_flushed(timeout_s)

    def _sent_all(self) -> bool:
        """Send the open draft on its way; False while the spool is full."""
        with self._lock:
            self._check_failed()
            try:
                self._packer.dispatch()
            except SpoolFullError as error:
                log.debug("%s", error)
                return False
            return True

    def _not_flushed(self, timeout_s: float | None) -> FlushTimeoutError:
        position = self.position
        return FlushTimeoutError(
            self.stream,
            timeout_s=timeout_s or 0.0,
            queued=position.queued + position.spooled,
            spooled=position.spooled,
        )

    def check(self) -> None:
        """Raise what has stopped the publishing, if anything has; returns at once."""
        self._check_failed()

    def _check_failed(self) -> None:
        opened = self._packer.opened
        failure = (opened.window.failure if opened is not None else None) or self._clock.failure
        if failure is not None:
            raise failure

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.stream}: this publisher was closed")
        self._check_failed()

    # -- beside the frames ----------------------------------------------------------------------

    def attach(self, name: str, array: npt.NDArray[Any]) -> None:
        """Keep an array (mask, flat field) beside the stream; ``stream.attachment(name)`` reads it.

        Raises InvalidFrameError for object arrays. Blocks until it is stored.
        """
        check_name("attachment", name)
        if array.dtype.hasobject:
            raise InvalidFrameError("attachment", f"{name}: object arrays cannot be stored")
        info, nonce = self._opened().info, new_nonce()
        key = attachment_key(self._services.prefix(info), name=name, nonce=nonce)
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        self._services.store.put(key, [file.getvalue()], durability=self._settings.durability)
        record = Attachment(stream_key=info.start.stream_key, nonce=nonce, name=name, key=key)
        self._services.catalogue(self.stream.beamtime).append(record)

    def update_metadata(self, metadata: Mapping[str, AttributeValue]) -> None:
        """Add to the stream's metadata; later values win. Blocks until it is in the catalogue."""
        self._note(metadata=claims.check_metadata(metadata))

    def quarantine(self, source: str, reason: str) -> None:
        """Name something that could not be read as a frame; it appears in the account."""
        self._note(quarantined=({"source": source, "reason": reason},))

    def _note(self, **fields: Any) -> None:
        info = self._opened().info
        record = UserMetadata(stream_key=info.start.stream_key, nonce=new_nonce(), **fields)
        self._services.catalogue(self.stream.beamtime).append(record)

    def _opened(self) -> Opened:
        with self._lock:
            self._check_open()
            return self._packer.opened or self._open_now()

    def skip(self, numbers: list[int]) -> None:
        """Say that these source frames gave no result (derived streams)."""
        ending.send_numbers(self._services, self._opened(), skipped=numbers)

    def give_up(self, numbers: list[int]) -> None:
        """Say that these source frames were rejected (derived streams)."""
        ending.send_numbers(self._services, self._opened(), rejected=numbers)

    # -- ending ---------------------------------------------------------------------------------

    def end(
        self,
        state: State = "complete",
        *,
        expected: int | None = None,
        timeout_s: float | None = 60.0,
    ) -> None:
        """Flush, end the stream and seal it.

        Parameters
        ----------
        state:
            complete, aborted, timeout or lost.
        expected:
            How many frames the source says it made.

        Raises FlushTimeoutError when not all frames could be published: the stream stays open.
        """
        if state not in ENDED_STATES:
            raise InvalidArgumentError("state", f"{state!r} is not how a stream ends")
        if expected is not None and expected < 0:
            raise InvalidArgumentError("expected", f"{expected} is negative")
        check_timeout(timeout_s)
        opened = self._opened()
        self.flush(timeout_s)
        self._tell_damaged()
        self._shut()
        ending.end_held(
            self._services,
            opened,
            state=state,
            expected=expected,
            durability=self._settings.durability,
        )

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Flush and stop writing; the stream stays open, to be continued. May be called twice.

        Raises FlushTimeoutError when frames are left: they are in the spool if there is one with
        room for them; else the log says that they are lost, if their source has not kept them.
        """
        if self._closed:
            return
        try:
            self.flush(timeout_s)
        except FlushTimeoutError:
            self._rescue_or_tell()
            raise
        finally:
            self._shut()

    def _rescue_or_tell(self) -> None:
        try:
            self._rescue()
        except SpoolError:
            log.exception("%s: frames that were not published are lost", self.stream)

    def _rescue(self) -> None:
        """Put what could not be published into the spool, for a later writer to find."""
        failure = self._packer.opened.window.failure if self._packer.opened is not None else None
        superseded = failure is not None and not failure.retriable
        if self._closed or superseded or not self._spooling.possible:
            return
        with self._lock:
            if not self._spooling.active:
                self._spooling.begin()
            self._packer.dispatch()
            opened = self._packer.opened
            for draft in opened.window.drafts() if opened is not None else []:
                if draft.blob or isinstance(draft.tokens[-1], Spooled):
                    continue  # kept by its source; or its file is still there
                self._spooling.put(draft, epoch=opened.epoch(draft.layout[3]) if opened else 0)

    def _shut(self) -> None:
        with self._lock:
            self._closed = True
        self._clock.close()
        if self._parts is not None:
            self._parts.close()
        if self._packer.opened is not None:
            self._packer.opened.window.close()
        self._measured.close()
        self._spooling.published(self._tally.take_published())
        self._spooling.close()

    def abandon(self) -> None:
        """Stop at once, without flushing; what is not confirmed is not published."""
        if not self._closed:
            self._shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        try:
            if kind is None:
                self.end()
            elif not issubclass(kind, PipelineError):
                # Our own trouble (superseded, ...) is no reason to end the stream as aborted.
                self.end("aborted")
        except PipelineError:
            if kind is None:
                raise
            log.exception("%s could not be ended", self.stream)
        finally:
            self._rescue_or_tell()
            self.abandon()
