"""What is on its way: uploaded by several threads, announced in order, confirmed by a look.

Blob first, then record: a record on a topic promises that its bytes can be read.  Records leave in
the order in which drafts were submitted, whichever upload finishes first, so that floor and ceil
never fall.  Success is said after a look at the catalogue, begun after the acknowledgement, shows
that nobody else has claimed the stream (one look covers all earlier acknowledgements).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.config import PublishSettings
from pipeline.errors import PipelineError, of_ours
from pipeline.kafka.producer import Acknowledged
from pipeline.naming import new_nonce, record_key, segment_key
from pipeline.publishing.claims import Held, name_of, superseded
from pipeline.publishing.draft import Draft
from pipeline.publishing.floors import Progress
from pipeline.records import NO_CEIL, NO_FLOOR, Segment, StreamInfo
from pipeline.services import Services
from pipeline.wire import codec

log = logging.getLogger(__name__)
#: File names that other programs recognise, for objects that hold a single file.
SUFFIXES: Mapping[str, str] = {"cbf": ".cbf", "tiff": ".tif", "edf": ".edf", "hdf5": ".h5"}
#: A record holds 900 kB at most: columns first, payloads in what they leave.
_MAX_INLINE_NBYTES = 128 * 1024
#: Looks at the catalogue are this far apart while frames are under way.
_LOOK_EVERY_S = 0.02


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A draft in the window."""

    ticket: int
    draft: Draft
    segment: Segment | None = None
    uploaded: bool = False
    acknowledged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Under which claim a publisher writes.

    By default its own.  A ``member`` of a group writes a derived stream under the group's claim.
    One that ``drains`` a spool adds to a stream under the claim of its present writer.  Neither
    promises anything about numbers it does not know: their floors say nothing.
    """

    member: str = ""
    generation: int = 0
    drains: bool = False

    @property
    def owns(self) -> bool:
        """Whether the claim is its own."""
        return not self.member and not self.drains


class Window:
    """Moves drafts of one publisher to store and topic.

    ``submit`` never blocks: what it holds is bounded by the publisher's buffers.  ``on_confirmed``,
    ``on_safe`` and ``on_released`` are called from the window's threads.
    """

    def __init__(
        self,
        services: Services,
        info: StreamInfo,
        held: Mapping[int, Held],
        progress: Mapping[int, Progress],
        settings: PublishSettings,
        *,
        role: Role,
        on_confirmed: Callable[[Sequence[Any], int], None],
        on_released: Callable[[Draft], None],
        on_safe: Callable[[list[Draft]], object] | None = None,
    ) -> None:
        self._services = services
        self._info = info
        self._held = held
        self.progress = progress
        self._settings = settings
        self.role = role
        self._drain_nonce = new_nonce() if role.drains else ""
        self._on_confirmed = on_confirmed
        self._on_released = on_released
        self._on_safe = on_safe
        start = info.start
        self._topic = services.names.topic(start.beamtime, start.detector)
        self._prefix = services.prefix(info)
        self.changed = threading.Condition()
        self.failure: PipelineError | None = None
        #: Why nothing moves at the moment, for messages; "" while all is well.
        self.trouble = ""
        #: Puts that failed and were tried again.
        self.retries = 0
        self._uploads: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._in_order: deque[Entry] = deque()
        self._acked: list[Entry] = []
        #: By ticket, which only rises: the first is the oldest.
        self._unconfirmed: OrderedDict[int, Entry] = OrderedDict()
        self._echoes: list[tuple[int, Any]] = []
        self._ticket = 0
        self._stop = threading.Event()
        #: (module, partition) where an idle mark is on its way.
        self.marks_out: set[tuple[int, int]] = set()
        self.last_sent_s = [0.0] * start.partitions
        self.sent_floor = {m: [NO_FLOOR] * start.partitions for m in held}
        self._threads = [
            threading.Thread(target=self._upload_loop, name=f"upload-{i}", daemon=True)
            for i in range(max(1, settings.uploads))
        ]
        confirm = threading.Thread(target=self._confirm_loop, name="confirm", daemon=True)
        self._threads.append(confirm)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    # -- handing over ---------------------------------------------------------------------------

    def open(self, module: int, number: int) -> int:
        """Return the ticket of a new draft beginning with ``number``, which holds the floor."""
        with self.changed:
            self._ticket += 1
            self.progress[module].queued(self._ticket, number)
            self.progress[module].taken(number)
            return self._ticket

    def submit(self, draft: Draft, ticket: int) -> None:
        """Take a draft that crosses no chunk, in the order of the tickets."""
        entry = Entry(ticket=ticket, draft=draft)
        with self.changed:
            # Until now the ticket held the floor at its first number: these lie above.
            self.progress[draft.layout[3]].taken_all(draft.numbers)
            self._in_order.append(entry)
            self._unconfirmed[ticket] = entry
        self._uploads.put(entry)

    def echo(self, token: Any) -> None:
        """Confirm ``token`` once everything submitted so far is confirmed (a known frame)."""
        with self.changed:
            self._echoes.append((self._ticket, token))
            self.changed.notify_all()

    @property
    def pending(self) -> int:
        """Frames submitted and not yet confirmed."""
        with self.changed:
            return sum(len(entry.draft) for entry in self._unconfirmed.values())

    @property
    def in_flight(self) -> int:
        """Drafts submitted and not yet confirmed; few of them mean that things move."""
        return len(self._unconfirmed)

    def wait_empty(self, timeout_s: float | None) -> bool:
        """Wait until all so far is confirmed; False when that failed or took too long."""
        with self.changed:
            last = self._ticket  # what others submit meanwhile is not waited for

            def is_empty() -> bool:
                echoed = not self._echoes or self._echoes[0][0] > last
                return echoed and self._oldest(last + 1) > last

            self.changed.wait_for(lambda: self.failure is not None or is_empty(), timeout_s)
            return is_empty()

    def pause(self, timeout_s: float) -> None:
        """Wait until something changes, or the time is over."""
        with self.changed:
            if self.failure is None:
                self.changed.wait(timeout_s)

    def drafts(self) -> list[Draft]:
        """Return what is not on the topic yet, for a spool that takes over at the last moment.

        The buffers of acknowledged ones may hold other frames by now.
        """
        with self.changed:
            entries = [self._unconfirmed[ticket] for ticket in sorted(self._unconfirmed)]
            return [entry.draft for entry in entries if not entry.acknowledged]

    # -- store ----------------------------------------------------------------------------------

    def _upload_loop(self) -> None:
        while (entry := self._uploads.get()) is not None:
            try:
                entry.segment = self._stored(entry)
                if entry.segment is None:  # stopped while the store was away
                    return
                with self.changed:
                    entry.uploaded = True
                    self._announce()
            except Exception as error:  # noqa: BLE001 -- a thread that died in silence would stop everything
                self._fail(of_ours(error))
                return

    def _stored(self, entry: Entry) -> Segment | None:
        """Write the payload; return the record without floor and ceil, None when stopped."""
        draft, held = entry.draft, self._held[entry.draft.layout[3]]
        if draft.blob:  # of a file that was stored as a whole
            return self._segment(draft, draft.blob, b"")
        inline = draft.used <= min(self._settings.inline_nbytes, _MAX_INLINE_NBYTES)
        blob = ""
        if draft.used and not inline:
            suffix = SUFFIXES.get(draft.layout[2], ".bin") if len(draft) == 1 else ".bin"
            blob = self._key(held, entry.ticket, draft.numbers[0], suffix)
            if not self._put(blob, draft):
                return None
        return self._segment(draft, blob, bytes(draft.payload) if inline else b"")

    def _segment(self, draft: Draft, blob: str, inline: bytes) -> Segment:
        return draft.segment(
            stream_key=self._info.start.stream_key,
            epoch=self._held[draft.layout[3]].claim.epoch,
            floor=NO_FLOOR,
            ceil=NO_CEIL,
            blob=blob,
            inline=inline,
            member=self.role.member,
            generation=self.role.generation,
        )

    def _key(self, held: Held, sequence: int, first: int, suffix: str) -> str:
        return segment_key(
            self._prefix,
            epoch=held.claim.epoch,
            # A draining publisher writes under a claim that is not its own.
            nonce=self._drain_nonce or self.role.member or held.claim.nonce,
            module=held.claim.module,
            first=first,
            sequence=sequence,
            suffix=suffix,
        )

    def file_key(self, module: int, first: int, suffix: str) -> str:
        """Return a new key for a file whose first frame is ``first``."""
        with self.changed:
            self._ticket += 1  # no draft will have it
            return self._key(self._held[module], self._ticket, first, suffix)

    def _put(self, key: str, draft: Draft) -> bool:
        """Put until it succeeds; False when stopped first. Raises what cannot pass by waiting."""
        pause_s = 0.05
        while not self._stop.is_set():
            try:
                self._services.store.put(key, [draft.payload], durability=self._settings.durability)
                self.trouble = ""
                return True
            except PipelineError as error:
                if not error.retriable:
                    raise
                if not self.trouble:
                    log.warning("waiting for the store: %s", error)
                self.trouble = str(error)
                self.retries += 1
                self._stop.wait(pause_s)
                pause_s = min(1.0, pause_s * 2)
        return False

    # -- topic ----------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Send the records of all uploaded drafts at the head of the line; lock held."""
        while self._in_order and self._in_order[0].uploaded and self.failure is None:
            entry = self._in_order.popleft()
            assert entry.segment is not None
            module = entry.draft.layout[3]
            progress = self.progress[module]
            last = entry.draft.numbers[-1]
            partition = self._info.start.partition_of(last)
            floor = progress.current_floor() if self.role.owns else NO_FLOOR
            segment = replace(entry.segment, floor=floor, ceil=progress.sent(partition, last))
            self.last_sent_s[partition] = time.monotonic()
            self.sent_floor[module][partition] = floor
            self._services.producer.append(
                self._topic,
                partition,
                record_key(segment.stream_key, entry.draft.numbers[0]),
                codec.encode(segment),
                partial(self._delivered, entry),
            )

    def _delivered(self, entry: Entry, outcome: Acknowledged | PipelineError) -> None:
        if isinstance(outcome, PipelineError):
            self._fail(outcome)
            return
        with self.changed:
            self.progress[entry.draft.layout[3]].acknowledged(entry.ticket)
            entry.acknowledged = True
            self._acked.append(entry)
            self.changed.notify_all()
        self._on_released(entry.draft)

    # -- catalogue ------------------------------------------------------------------------------

    def _confirm_loop(self) -> None:
        looked_s = 0.0
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._acked or self._echo_due() or self._stopped())
                if not self._acked and not self._echo_due():
                    return
                # One look covers all acknowledgements so far, and costs the broker as much as a
                # record: while more are under way, it can wait for them a little.
                self.changed.wait_for(
                    lambda: len(self._acked) == len(self._unconfirmed) or self._stopped(),
                    max(0.0, looked_s + _LOOK_EVERY_S - time.monotonic()),
                )
                acked, self._acked = self._acked, []
            looked_s = time.monotonic()
            if not self._look():
                return
            self._confirm(acked)

    def _stopped(self) -> bool:
        return self._stop.is_set() or self.failure is not None

    def _echo_due(self) -> bool:
        return bool(self._echoes) and self._echoes[0][0] < self._oldest(self._ticket + 1)

    def _oldest(self, default: int) -> int:
        return next(iter(self._unconfirmed), default)

    def _look(self) -> bool:
        """Look at the catalogue until it answers; False when stopped or superseded."""
        while not self._stopped():
            try:
                catalogue = self._services.catalogue(self._info.start.beamtime)
                info = catalogue.look().by_key(self._info.start.stream_key)
            except Exception as found:  # noqa: BLE001 -- told to the writer
                error = of_ours(found)
                if not error.retriable:
                    self._fail(error)
                    return False
                self.trouble = str(error)
                self._stop.wait(0.2)
                continue
            self.trouble = ""
            lost = lost_module(info, self._held, self.role)
            if lost is None:
                return True
            claim = info.modules[lost].claim if info and not info.deleted else None
            self._fail(superseded(name_of(self._info.start), claim, self.pending))
        return False

    def _confirm(self, acked: Sequence[Entry]) -> None:
        tokens = [token for entry in acked for token in entry.draft.tokens]
        with self.changed:
            for entry in acked:
                del self._unconfirmed[entry.ticket]
            frames = sum(len(entry.draft) for entry in acked)
            while self._echo_due():
                tokens.append(self._echoes.pop(0)[1])
            self._on_confirmed(tokens, frames)
            if self._on_safe is not None:
                self._on_safe([entry.draft for entry in acked])
            self.changed.notify_all()

    def _fail(self, error: PipelineError) -> None:
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()
        log.error("publishing stopped: %s", error)

    def close(self) -> None:
        """Stop the threads; what is not confirmed is not."""
        self._stop.set()
        with self.changed:
            self.changed.notify_all()
        for _ in self._threads[:-1]:
            self._uploads.put(None)
        for thread in self._threads:
            thread.join(self._services.settings.store.timeout_s + 5)


def lost_module(info: StreamInfo | None, held: Mapping[int, Held], role: Role) -> int | None:
    """Return a module that this publisher may not write any more, or None."""
    for module, ours in held.items():
        if info is None or info.deleted:
            return module
        state = info.modules[module]
        if state.end is not None or state.claim is None:
            return module
        # A spool may be drained under any claim that does not end the stream.
        if state.claim.closing if role.drains else state.claim != ours.claim:
            return module
    return None
