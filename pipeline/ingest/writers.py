"""The publishers of one ingest run: opened, written to, confirmed, ended, and waited for."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.codecs.checksum import crc32c
from pipeline.errors import (
    BrokerUnavailableError,
    FlushTimeoutError,
    PipelineError,
    QueueFullError,
    SpoolFullError,
    StoreUnavailableError,
    StreamExistsError,
)
from pipeline.ingest.runs import RunStream
from pipeline.ingest.session import Session
from pipeline.ingest.waiting import Waiting
from pipeline.ingest.writer import Writer
from pipeline.protocols import (
    PlacedFrame,
    SeriesEnd,
    SourceFile,
    SourceFrame,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

#: What passes when somebody starts the server again.
AWAY = (BrokerUnavailableError, StoreUnavailableError)
#: Streams written at the same time; past it the one that rested longest is closed, and opened
#: again when it is needed.
_MAX_OPEN = 16
_END_TIMEOUT_S = 5.0
#: What an attempt to end a stream may cost those that are written, every _END_TIMEOUT_S.
_END_AGAIN_S = 1.0


class Writers:
    """All publishers of a run.  For one thread.

    Parameters
    ----------
    settings:
        Passed to ``session.publish``.
    patient:
        Wait for a server that is away; False where the publisher has a spool.
    waiting:
        Where one waits.
    adapter:
        Name of the adapter: a writer of the same name and host may go on at once after a crash.
    on_confirmed:
        Gets the tokens of frames that are safe.
    """

    def __init__(
        self,
        session: Session,
        *,
        settings: Mapping[str, Any],
        patient: bool,
        adapter: str,
        takeover: bool,
        waiting: Waiting,
        on_confirmed: Callable[[Sequence[Any]], None],
    ) -> None:
        self._session = session
        self._settings = settings
        self._patient = patient
        self._adapter = adapter
        self._takeover = takeover
        self._waiting = waiting
        self._on_confirmed = on_confirmed
        self._writers: list[Writer] = []

    def wait_for(self, call: Callable[[], T], *, always: bool = False) -> T:
        """Return what ``call`` returns; while a server is away try again, and say so.

        Raises StoppedError when the user wants to stop meanwhile.
        """
        while True:
            try:
                result = call()
            except AWAY as error:
                if not (self._patient or always):
                    raise
                self._waiting.for_server(error)
            else:
                self._waiting.over()
                return result

    # -- opening --------------------------------------------------------------------------------

    def open(self, writer: Writer) -> None:
        """Start or continue the writer's stream, unless it is open.

        Raises
        ------
        StreamExistsError
            Somebody has ended it, or has taken its name.
        WriterActiveError
            Somebody else writes it.
        """
        if writer not in self._writers:
            self._writers.append(writer)
        writer.used_s = time.monotonic()
        if writer.out is None:
            self._rest_one()
            try:
                writer.out = self.wait_for(lambda: self._publish(writer))
            except StreamExistsError:
                self._writers.remove(writer)
                raise

    def _publish(self, writer: Writer) -> Any:
        stream, begin = writer.stream, writer.begin
        out = self._session.publish(
            stream.name.beamtime,
            stream.name.detector,
            stream.name.stream,
            rate_hz=begin.rate_hz,
            metadata=begin.metadata,
            modules=begin.modules,
            module=begin.share or None,
            expected=begin.expected,
            run=writer.run,
            instance="" if stream.writer_is_alive else self._instance(writer),
            takeover=self._takeover,
            **self._settings,
        )
        ours = out.info is None or out.info.start.run.get("run_id") == stream.run_id
        if not stream.known and not ours:
            # between our look at the catalogue and now: the name belongs to somebody else
            out.abandon()
            raise StreamExistsError(stream.name, out.info.state)
        stream.known, stream.holder = True, ""
        return out

    def _instance(self, writer: Writer) -> str:
        """Say who we are: one source, not only one adapter and host, or two of them would mix."""
        told = sorted((k, v) for k, v in writer.run.items() if k != "run_id")
        facts = repr((told, writer.begin.share) if writer.begin.share else told)
        return f"{self._adapter}@{socket.gethostname()}:{crc32c(facts.encode()):08x}"

    def _rest_one(self) -> None:
        """Close the stream that rested longest if there are too many, losing nothing."""
        resting = [w for w in self._writers if w.out is not None and w.ending is None]
        if len(resting) < _MAX_OPEN:
            return
        writer = min(resting, key=lambda w: w.used_s)
        try:
            writer.out.flush(_END_TIMEOUT_S)
            writer.out.close()
        except FlushTimeoutError:
            return  # one more than usual, until things move again
        self._take_confirmed(writer)
        writer.out = None

    # -- writing --------------------------------------------------------------------------------

    def write(self, writer: Writer, frame: SourceFrame) -> None:
        """Hand a frame to the publisher; wait for room, and for servers.

        Raises StoppedError, and what ``Publisher.write`` raises.
        """
        header = frame.header
        key = (header.number, header.module)

        def attempt() -> None:
            self.open(writer)
            writer.out.write(
                frame.payload,
                number=header.number,
                timestamp_ns=header.timestamp_ns,
                attributes=header.attributes,
                encoding=header.encoding,
                shape=header.shape,
                dtype=header.dtype,
                module=header.module,
                token=((key,), frame.token),
            )

        self._wait_for_room(lambda: self.wait_for(attempt))
        writer.unconfirmed.add(key)

    def write_file(
        self,
        writer: Writer,
        file: SourceFile,
        frames: Sequence[PlacedFrame],
        checksums: Sequence[int],
        token: Any,
    ) -> None:
        """Have a file stored and these of its frames announced; wait for room, and for servers.

        Raises StoppedError, and what ``Publisher.write_file`` raises.
        """
        keys = tuple((placed.header.number, placed.header.module) for placed in frames)

        def attempt() -> None:
            self.open(writer)
            writer.out.write_file(file.payload, frames, checksums=checksums, token=(keys, token))

        # Also with a spool: a file is kept by its source, so it waits there.
        self._wait_for_room(lambda: self.wait_for(attempt, always=True))
        writer.unconfirmed.update(keys)

    def _wait_for_room(self, call: Callable[[], None]) -> None:
        while True:
            try:
                return call()
            except (QueueFullError, SpoolFullError) as error:
                self._waiting.for_room(error)
                self.confirm()

    def find(self, stream: RunStream) -> Writer | None:
        """Return the writer of a stream, if it has one."""
        return next((w for w in self._writers if w.stream is stream), None)

    @property
    def names(self) -> set[str]:
        """Names of the streams that are written, some perhaps not in the catalogue yet."""
        return {writer.stream.name.stream for writer in self._writers}

    @property
    def pending(self) -> int:
        """How many frames are not confirmed."""
        return sum(len(writer.unconfirmed) for writer in self._writers)

    @property
    def spooled(self) -> int:
        """How many frames are on local disk."""
        return sum(w.out.position.spooled for w in self._writers if w.out is not None)

    def confirm(self) -> None:
        """Pass on what the publishers have confirmed."""
        for writer in self._writers:
            self._take_confirmed(writer)

    def _take_confirmed(self, writer: Writer) -> None:
        confirmed = writer.out.take_confirmed() if writer.out is not None else ()
        if confirmed:
            for keys, _ in confirmed:
                writer.unconfirmed.difference_update(keys)
            self._on_confirmed([token for _, token in confirmed])

    # -- beside the frames ----------------------------------------------------------------------

    def _tell_beside(self, writer: Writer, now_s: float) -> None:
        """Write notes, metadata and arrays of a stream, if its servers are there."""
        waits = writer.notes or writer.metadata or writer.attachments
        if not waits or writer.ending is not None or now_s < writer.beside_s:
            return
        self.open(writer)
        # The stream has its first frame: its chunk length follows from that. While frames are
        # spooled each attempt would cost a device the time that a broker is given to answer.
        if writer.out.info is None or writer.is_spooled:
            return
        try:
            writer.send_beside()
        except AWAY as error:
            log.debug("what belongs beside the frames waits: %s", error)
            writer.beside_s = time.monotonic() + _END_TIMEOUT_S

    def tick(self) -> list[RunStream]:
        """Do what waits for time or servers; return the streams that were ended."""
        self.confirm()
        now_s = time.monotonic()
        for writer in list(self._writers):
            self._tell_beside(writer, now_s)
        due = [w for w in self._writers if w.ending is not None and now_s >= w.retry_s]
        return [w.stream for w in due if self.try_end(w, _END_AGAIN_S)]

    # -- ending ---------------------------------------------------------------------------------

    def end(self, writer: Writer, event: SeriesEnd) -> bool:
        """End the stream; False if that must wait, it is tried again by :meth:`tick`."""
        self.open(writer)
        writer.ending = event
        writer.stream.ended = True
        return self.try_end(writer, _END_AGAIN_S if writer.is_spooled else _END_TIMEOUT_S)

    def try_end(self, writer: Writer, timeout_s: float = _END_TIMEOUT_S) -> bool:
        """Try to end a stream that is to be ended."""
        event = writer.ending
        if event is None:
            return False
        if writer.is_spooled and timeout_s <= _END_AGAIN_S:
            return False  # the publisher goes on by itself; the next series must not wait for it
        try:
            if writer.out is None:
                writer.out = self._publish(writer)
            writer.metadata.update(event.metadata)
            writer.send_beside()
            writer.out.end(event.state, expected=event.expected, timeout_s=timeout_s)
        except FlushTimeoutError as error:
            log.warning("end of stream waits stream=%s reason=%s", writer.stream.name, error)
        except AWAY as error:
            log.warning("end of stream waits stream=%s reason=%s", writer.stream.name, error)
            self._let_rest(writer)
        except StreamExistsError:
            # its end was written, but we did not hear of it
            self._remove(writer)
            return True
        else:
            self._remove(writer)
            return True
        writer.retry_s = time.monotonic() + _END_TIMEOUT_S
        return False

    def _let_rest(self, writer: Writer) -> None:
        """Give up a publisher that may be shut already; nothing queued is in it if it is."""
        position = writer.out.position if writer.out is not None else None
        if position is not None and not position.queued and not position.spooled:
            self._take_confirmed(writer)
            writer.out.abandon()
            writer.out = None

    def _remove(self, writer: Writer) -> None:
        self._take_confirmed(writer)
        if writer.ending is not None and writer.ending.token is not None:
            self._on_confirmed([writer.ending.token])
        writer.out = None
        self._writers.remove(writer)

    def close(self, timeout_s: float) -> int:
        """Flush and close all, ending what is to be ended; return how many frames were left."""
        deadline = time.monotonic() + timeout_s
        left = 0
        failure: PipelineError | None = None
        for writer in list(self._writers):
            try:
                if self.try_end(writer, timeout_s=max(0.0, deadline - time.monotonic())):
                    continue
                if writer.out is not None:
                    writer.out.close(timeout_s=max(0.0, deadline - time.monotonic()))
            except FlushTimeoutError as error:
                log.warning("not flushed: %s", error)
            except PipelineError as error:
                failure = failure or error
            self._take_confirmed(writer)
            left += len(writer.unconfirmed)
        self._writers.clear()
        if failure is not None:
            raise failure
        return left

    def abandon(self) -> int:
        """Stop at once; return how many frames were not confirmed."""
        left = 0
        for writer in self._writers:
            if writer.out is not None:
                writer.out.abandon()
            self._take_confirmed(writer)
            left += len(writer.unconfirmed)
        self._writers.clear()
        return left
