"""The writing end of a stream: what ``session.publish`` returns."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline import codecs
from pipeline.config import PublishSettings
from pipeline.errors import (
    ClosedError,
    FlushTimeoutError,
    InvalidArgumentError,
    InvalidFrameError,
    PipelineError,
    QueueFullError,
    WriterActiveError,
)
from pipeline.frame import AttributeValue, Buffer, FrameHeader
from pipeline.naming import StreamId, attachment_key, check_name, new_nonce
from pipeline.publishing import claims, ending
from pipeline.publishing.claims import Held
from pipeline.publishing.clock import Clock
from pipeline.publishing.draft import BufferPool, Draft, Layout, digest_of, known_frames
from pipeline.publishing.floors import Progress
from pipeline.publishing.spooling import Spooling
from pipeline.publishing.window import Member, Window
from pipeline.records import Attachment, Start, State, StreamInfo, UserMetadata
from pipeline.services import Services
from pipeline.wire.columns import check_attributes

log = logging.getLogger(__name__)
#: Numbers whose content is remembered, to tell a repeated frame from a contradiction at once;
#: readers find the others when they merge.
_REMEMBERED = 65_536
_EMPTY = np.empty(0, np.uint8)


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
        reopen: bool = False,
        takeover: bool = False,
        instance: str = "",
        frame_nbytes: int | None = None,
        member: Member | None = None,
    ) -> None:
        self.stream = StreamId(start.beamtime, start.detector, start.stream)
        self._services = services
        self._start = start
        self._settings = settings
        self._modules = modules or start.module_indices
        self._claiming = {"reopen": reopen, "takeover": takeover, "instance": instance}
        self._frame_nbytes = frame_nbytes
        self._member = member or Member()
        self._lock = threading.RLock()
        count = max(2, settings.queue_nbytes // max(1, settings.segment_nbytes))
        self._pool = BufferPool(count, max(1, settings.segment_nbytes))
        self._open_draft: Draft | None = None
        self._ticket = 0
        self._known: OrderedDict[tuple[int, int], tuple[int, int, int]] = OrderedDict()
        self._next = 0
        self._last_write_s = 0.0
        self._interval_s = 1.0
        self._digests: dict[Layout, int] = {}
        self._counts = {"acknowledged": 0, "refused": 0, "repeated": 0}
        self._confirmed: list[Any] = []
        self._tally = threading.Lock()
        self._closed = False
        self._info: StreamInfo | None = None
        self._held: dict[int, Held] = {}
        self._progress: dict[int, Progress] = {}
        self._window: Window | None = None
        self._clock: Clock | None = None
        self._spooling = Spooling(settings, self.stream, start, sync=settings.durability == "disk")

    # -- opening --------------------------------------------------------------------------------

    def open(self) -> None:
        """Contact the broker and claim the stream, as far as that is possible before a frame.

        Without an announced rate the chunk length follows from the first frame's size, so a new
        stream is only started by it. With a spool a broker that is away is no error: frames are
        spooled, and the stream is opened when the broker answers.

        Raises BrokerUnavailableError, TopicMissingError, StreamExistsError, WriterActiveError.
        """
        try:
            partitions = claims.ensure_topics(self._services, self.stream)
            catalogue = self._services.catalogue(self.stream.beamtime)
            info = catalogue.look().find(self.stream.detector, self.stream.stream)
            self._start = replace(self._start, partitions=partitions)
            known = self._start.rate_hz or self._frame_nbytes or self._start.frames_per_chunk
            if info is not None or known:
                self._claim()
        except PipelineError as error:
            if not (error.retriable and self._spooling.possible and not _is_conflict(error)):
                raise
            log.warning("%s: spooling until this passes: %s", self.stream, error)
            self._spooling.begin()
        self._clock = Clock(self._tick, name=f"clock {self.stream.stream}")
        self._clock.start()

    def _claim(self) -> None:
        """Start or continue the stream, and get ready to send."""
        frames = self._start.frames_per_chunk or claims.default_frames_per_chunk(
            rate_hz=self._start.rate_hz,
            frame_nbytes=self._frame_nbytes,
            segment_nbytes=self._settings.segment_nbytes,
        )
        if not self._start.partitions:
            partitions = claims.ensure_topics(self._services, self.stream)
            self._start = replace(self._start, partitions=partitions)
        self._start = replace(self._start, frames_per_chunk=frames)
        info = claims.find_or_start(self._services, self._start)
        if self._settings.durability == "disk":
            names = self._services.names
            topic = names.topic(self.stream.beamtime, self.stream.detector)
            self._services.admin.flush_every_record(topic)
        held = {}
        for module in self._modules:
            if module not in info.start.module_indices:
                raise InvalidFrameError("module", f"{self.stream} has no module {module}")
            held[module] = self._hold(info, module)
        self._adopt(info, held)

    def _hold(self, info: StreamInfo, module: int) -> Held:
        current = info.modules[module].claim
        if self._member.name and current is not None and current.instance == self._instance:
            # The group claimed once; its members write under that claim.
            offsets = list(info.start.offsets)
            return Held(claim=current, marks=offsets, ceils=[-1] * len(offsets))
        claim = claims.claim(self._services, info, module, **self._claiming)  # type: ignore[arg-type]
        return claims.resume(self._services, info, claim)

    @property
    def _instance(self) -> str:
        return str(self._claiming["instance"])

    def _adopt(self, info: StreamInfo, held: dict[int, Held]) -> None:
        self._info, self._held, self._start = info, held, info.start
        for module, ours in held.items():
            progress = Progress(info.start.partitions, hole_wait_s=self._settings.hole_wait_s)
            progress.resume(ours.floor, ours.ceils)
            self._progress[module] = progress
            self._next = max(self._next, progress.highest + 1)
            for number, length, checksum, digest in known_frames(ours.records, module):
                self._remember(module, number, (length, checksum, digest))
        self._window = Window(
            self._services,
            info,
            held,
            self._progress,
            self._settings,
            member=self._member,
            on_confirmed=self._on_confirmed,
            on_released=self._release,
        )
        self._window.start()

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
        """
        payload, header = _prepared(data, encoding, shape, dtype)
        checked = check_attributes(attributes) if attributes else {}
        with self._lock:
            self._check_open()
            if self._window is None and not self._spooling.active:
                self._frame_nbytes = len(payload)
                self._claim()
            chosen = self._next if number is None else _integer("number", number)
            layout = self._layout(header, module)
            stamp = (
                time.time_ns() if timestamp_ns is None else _integer("timestamp_ns", timestamp_ns)
            )
            digest = self._validate(layout, chosen, stamp, checked, payload)
            if self._is_repeated(layout[3], chosen, payload, digest, token):
                return
            self._append(layout, chosen, stamp, checked, payload, digest, token)
            self._next = max(self._next, chosen + 1)

    def _layout(self, header: tuple[tuple[int, ...], str, str], module: int | None) -> Layout:
        if module is None:
            if len(self._modules) > 1:
                raise InvalidFrameError("module", f"must be one of {list(self._modules)}")
            module = self._modules[0]
        elif module not in self._modules:
            raise InvalidFrameError("module", f"{module!r} is not one of {list(self._modules)}")
        return (*header, module)

    def _validate(
        self,
        layout: Layout,
        number: int,
        stamp: int,
        attributes: Mapping[str, AttributeValue],
        payload: npt.NDArray[np.uint8],
    ) -> int:
        """Check one frame; return its digest. A layout is checked once, then remembered."""
        shape, dtype, encoding, module = layout
        cached = self._digests.get(layout)
        if cached is None or number < 0 or stamp < 0 or number >= 2**63 - 1 or stamp >= 2**63:
            FrameHeader(
                number=number,
                timestamp_ns=stamp,
                shape=shape,
                dtype=dtype,
                encoding=encoding,
                module=module,
            )
            _check_module_shape(self._start, module, shape)
            cached = self._digests[layout] = digest_of(shape, dtype, encoding, {})
        codecs.check(payload, encoding=encoding, shape=shape, dtype=dtype)
        return digest_of(shape, dtype, encoding, attributes) if attributes else cached

    def _is_repeated(
        self,
        module: int,
        number: int,
        payload: npt.NDArray[np.uint8],
        digest: int,
        token: Any,
    ) -> bool:
        known = self._known.get((module, number))
        if known is None:
            return False
        if known != (len(payload), codecs.crc32c(payload), digest):
            raise InvalidFrameError(
                "number", f"frame {number} was published before with other content"
            )
        with self._tally:
            self._counts["repeated"] += 1
        if self._window is not None:
            self._dispatch()  # so that the ticket waited for is a submitted one
            self._window.echo(token)
        return True

    def _append(
        self,
        layout: Layout,
        number: int,
        stamp: int,
        attributes: Mapping[str, AttributeValue],
        payload: npt.NDArray[np.uint8],
        digest: int,
        token: Any,
    ) -> None:
        now = time.monotonic()
        self._interval_s += 0.2 * (now - self._last_write_s - self._interval_s)
        self._last_write_s = now
        attribute_nbytes = 24 * len(attributes) if attributes else 0
        draft = self._open_draft
        if draft is not None and not (
            draft.takes(layout, number, len(payload), attribute_nbytes)
            and self._same_chunk(draft.numbers[-1], number)
        ):
            self._dispatch()
            draft = None
        if draft is None:
            draft = self._new_draft(layout, number, len(payload))
        elif not self._spooling.active and self._window is not None:
            self._window.note(layout[3], number)
        checksum = draft.add(
            payload,
            number=number,
            timestamp_ns=stamp,
            attributes=attributes,
            digest=digest,
            token=token,
        )
        draft.attribute_nbytes += attribute_nbytes
        self._remember(layout[3], number, (len(payload), checksum, digest))
        # Slow sources wait for nothing: a frame that comes alone leaves alone.
        if self._interval_s > self._settings.linger_s / 2 or draft.used >= len(draft.buffer):
            self._dispatch()

    def _same_chunk(self, last: int, number: int) -> bool:
        frames = self._start.frames_per_chunk or 1
        return last // frames == number // frames

    def _new_draft(self, layout: Layout, number: int, nbytes: int) -> Draft:
        buffer = self._buffer()
        if nbytes > len(buffer):
            self._pool.release(buffer)
            buffer = np.empty(nbytes, np.uint8)
        draft = Draft(layout=layout, buffer=buffer, opened_s=time.monotonic())
        if not self._spooling.active and self._window is not None:
            self._ticket = self._window.open(layout[3], number)
        self._open_draft = draft
        if self._clock is not None:
            self._clock.wake()
        return draft

    def _buffer(self) -> npt.NDArray[np.uint8]:
        """Wait for room: refuse, spool or block when there is none, as the settings say."""
        if self._spooling.active:
            return self._spooling.buffer(self._pool.nbytes)
        waited_from = time.monotonic()
        complained_s = 10.0
        while True:
            buffer = self._pool.acquire(0.0 if self._settings.when_full == "refuse" else 0.1)
            if buffer is not None:
                return buffer
            self._check_open()
            waited_s = time.monotonic() - waited_from
            if self._settings.when_full == "refuse":
                with self._tally:
                    self._counts["refused"] += 1
                raise QueueFullError(f"{self.stream}: the queue is full; the frame was not taken")
            if self._spooling.possible and waited_s > self._settings.spool_after_s:
                log.warning("%s: nothing moves, spooling: %s", self.stream, self._trouble())
                self._spooling.begin()
                return self._spooling.buffer(self._pool.nbytes)
            if waited_s > complained_s:
                log.warning("%s: waiting for %.0f s: %s", self.stream, waited_s, self._trouble())
                complained_s *= 2

    def _trouble(self) -> str:
        window = self._window
        return (window.trouble if window else "") or "the broker does not acknowledge"

    def _dispatch(self) -> None:
        """Send the open draft on its way."""
        draft, self._open_draft = self._open_draft, None
        if draft is None:
            return
        if self._spooling.active or self._window is None:
            self._spooling.put(draft, epoch=self._epoch(draft.layout[3]))
            self._release(draft)
        else:
            self._window.submit(draft, self._ticket)

    def _epoch(self, module: int) -> int:
        held = self._held.get(module)
        return held.claim.epoch if held else 0

    def _release(self, draft: Draft) -> None:
        with self._tally:
            draft.shares[0] -= 1
            last = draft.shares[0] == 0
        if last and not self._spooling.owns(draft.buffer):
            self._pool.release(draft.buffer)

    def _remember(self, module: int, number: int, content: tuple[int, int, int]) -> None:
        self._known[(module, number)] = content
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _on_confirmed(self, tokens: Any, frames: int) -> None:
        with self._tally:
            self._counts["acknowledged"] += frames
            self._confirmed.extend(token for token in tokens if token is not None)

    # -- time -----------------------------------------------------------------------------------

    def _tick(self) -> float:
        """Do what is due; return how many seconds until something may be due again."""
        with self._lock:
            if self._closed:
                return 1.0
            if self._spooling.active:
                self._drain_some()
                return 0.05
            draft = self._open_draft
            if draft is not None:
                left_s = draft.opened_s + self._settings.linger_s - time.monotonic()
                if left_s > 0:
                    return left_s
                self._dispatch()
            if self._window is not None and self._window.failure is None and not self._member.name:
                ending.send_idle_marks(self._services, self._window, self._info, self._held)
            return 0.05

    def _drain_some(self) -> None:
        """Move what was spooled to the window, in order, as far as it takes it at once."""
        self._dispatch()
        try:
            if self._window is None:
                self._claim()
        except PipelineError as error:
            if not error.retriable or _is_conflict(error):
                raise
            return
        window = self._window
        if window is None or window.unannounced > 2 or window.failure is not None:
            return
        for _ in range(16):
            draft = self._spooling.next()
            if draft is None:
                if not self._spooling.waiting:
                    self._spooling.finish()
                return
            for part in draft.split(self._start.frames_per_chunk):
                ticket = window.open(part.layout[3], part.numbers[0])
                for number in part.numbers[1:]:
                    window.note(part.layout[3], number)
                window.submit(part, ticket)

    # -- what became of it ----------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """How many frames are queued, spooled, acknowledged."""
        window, draft = self._window, self._open_draft
        queued = (window.pending if window else 0) + (len(draft) if draft else 0)
        with self._tally:
            return Position(queued=queued, spooled=self._spooling.frames, **self._counts)

    def take_confirmed(self) -> list[Any]:
        """Return the tokens of the frames that became safe since the last call."""
        with self._tally:
            tokens, self._confirmed = self._confirmed, []
        return tokens

    @property
    def info(self) -> StreamInfo | None:
        """The stream in the catalogue; None until it has been opened."""
        return self._info

    def flush(self, timeout_s: float | None = 30.0) -> None:
        """Wait until every frame written so far is published and confirmed.

        Raises FlushTimeoutError, or what stopped the publisher.
        """
        if timeout_s is not None and timeout_s < 0:
            raise InvalidArgumentError("timeout_s", f"{timeout_s} is negative")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            self._check_failed()
            if not self._spooling.active:
                self._dispatch()
        self._wait_drained(deadline, timeout_s)
        window = self._window
        if window is not None:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not window.wait_empty(left_s):
                self._check_failed()
                self._flush_failed(timeout_s)

    def _wait_drained(self, deadline: float | None, timeout_s: float | None) -> None:
        while self._spooling.active:
            self._check_failed()
            if deadline is not None and time.monotonic() >= deadline:
                self._flush_failed(timeout_s)
            self._spooling.wait(0.1)

    def _flush_failed(self, timeout_s: float | None) -> None:
        position = self.position
        raise FlushTimeoutError(
            self.stream,
            timeout_s=timeout_s or 0.0,
            queued=position.queued + position.spooled,
            spooled=position.spooled,
        )

    def _check_failed(self) -> None:
        failure = self._window.failure if self._window else None
        failure = failure or (self._clock.failure if self._clock else None)
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
        info = self._opened()
        nonce = new_nonce()
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
        info = self._opened()
        record = UserMetadata(stream_key=info.start.stream_key, nonce=new_nonce(), **fields)
        self._services.catalogue(self.stream.beamtime).append(record)

    def _opened(self) -> StreamInfo:
        with self._lock:
            self._check_open()
            if self._info is None:
                self._claim()
            assert self._info is not None
            return self._info

    def skip(self, numbers: list[int]) -> None:
        """Derived streams: say that these source frames gave no result."""
        ending.send_numbers(self._services, self._opened(), self._held, skipped=numbers)

    def give_up(self, numbers: list[int]) -> None:
        """Derived streams: say that these source frames were rejected."""
        ending.send_numbers(self._services, self._opened(), self._held, rejected=numbers)

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
        if state not in ("complete", "aborted", "timeout", "lost"):
            raise InvalidArgumentError("state", f"{state!r} is not how a stream ends")
        self._opened()
        self.flush(timeout_s)
        self._shut()
        info = self._info
        assert info is not None
        ending.end_held(
            self._services,
            info,
            self._held,
            {m: (p.current_floor(), p.ceils) for m, p in self._progress.items()},
            state=state,
            expected=expected,
            durability=self._settings.durability,
        )

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Flush and stop writing; the stream stays open, to be continued. May be called twice.

        Raises FlushTimeoutError when frames are left: they are in the spool if there is one.
        """
        if self._closed:
            return
        try:
            self.flush(timeout_s)
        except FlushTimeoutError:
            self._rescue()
            raise
        finally:
            self._shut()

    def _rescue(self) -> None:
        """Put what could not be published into the spool, for a later writer to find."""
        if not self._spooling.possible:
            return
        with self._lock:
            if not self._spooling.active:
                self._spooling.begin()
            self._dispatch()
            for draft in self._window.drafts() if self._window else []:
                self._spooling.put(draft, epoch=self._epoch(draft.layout[3]))

    def _shut(self) -> None:
        with self._lock:
            self._closed = True
        if self._clock is not None:
            self._clock.close()
        if self._window is not None:
            self._window.close()
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
            elif issubclass(kind, PipelineError):
                # Our own trouble (superseded, ...) is no reason to end the stream as aborted.
                self.abandon()
            else:
                self.end("aborted")
        except PipelineError:
            self.abandon()
            if kind is None:
                raise


def _prepared(
    data: npt.NDArray[Any] | Buffer | None,
    encoding: str | None,
    shape: tuple[int, ...] | None,
    dtype: str | None,
) -> tuple[npt.NDArray[np.uint8], tuple[tuple[int, ...], str, str]]:
    """Return (payload as bytes, (shape, dtype, encoding)) of what was given to ``write``."""
    if data is None:
        if encoding not in (None, "none") or shape not in (None, ()):
            raise InvalidFrameError("payload", f"is missing for encoding {encoding!r}")
        return _EMPTY, ((), dtype or "uint8", "none")
    if isinstance(data, np.ndarray) and encoding in (None, "raw"):
        if shape is not None and tuple(shape) != data.shape:
            raise InvalidFrameError("shape", f"{shape} is not the array's {data.shape}")
        return _pixels(data)
    try:
        payload = np.frombuffer(data, dtype=np.uint8)  # type: ignore[arg-type]  # tested by trying
    except (TypeError, ValueError, BufferError) as error:
        if isinstance(data, (bytes, bytearray, memoryview)) and not len(data):
            payload = _EMPTY
        else:
            raise InvalidFrameError("payload", f"is not C-contiguous bytes: {error}") from error
    if encoding is None or (encoding != "none" and (shape is None or dtype is None)):
        raise InvalidFrameError("encoding", "bytes need encoding, shape and dtype")
    return payload, (tuple(shape or ()), dtype or "uint8", encoding)


def _pixels(
    array: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.uint8], tuple[tuple[int, ...], str, str]]:
    name = array.dtype.name
    if array.dtype.hasobject or array.dtype.kind not in "biufc":
        raise InvalidFrameError("dtype", f"{array.dtype} cannot be pixels")
    if not array.size:
        raise InvalidFrameError("shape", f"{array.shape} holds no pixels")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    contiguous = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(np.uint8), (array.shape, name, "raw")


def _integer(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidFrameError(field, f"must be an integer, not {type(value).__name__}")
    return int(value)


def _check_module_shape(start: Start, module: int, shape: tuple[int, ...]) -> None:
    for known in start.modules:
        if known.index == module and shape not in ((), tuple(known.shape)):
            raise InvalidFrameError("shape", f"{shape} is not module {module}'s {known.shape}")


def _is_conflict(error: PipelineError) -> bool:
    return isinstance(error, WriterActiveError)
