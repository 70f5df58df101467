"""Marks of an idle writer, and the end of a stream: closing claim, marks, end, seal."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pipeline.naming import record_key
from pipeline.protocols import Durability
from pipeline.publishing import claims
from pipeline.publishing.claims import Held
from pipeline.publishing.opening import Opened
from pipeline.publishing.sealing import seal
from pipeline.records import NO_FLOOR, Claim, End, Mark, State, StreamInfo
from pipeline.services import Services
from pipeline.wire import codec

log = logging.getLogger(__name__)
#: An idle writer gives a sign of life this often ...
MARK_EVERY_S = 1.0
#: ... and says this soon after its last frame how far it is, so that readers need not wait.
MARK_SOON_S = 0.1


def send_idle_marks(
    services: Services,
    opened: Opened,
) -> None:
    """Tell partitions that have heard nothing for a while how far the writer is."""
    now = time.monotonic()
    window, held, start = opened.window, opened.held, opened.info.start
    topic = services.names.topic(start.beamtime, start.detector)
    with window.changed:
        for module, ours in held.items():
            progress = opened.progress[module]
            floor = progress.current_floor()
            for partition, ceil in enumerate(progress.ceils):
                silent_s = now - window.last_sent_s[partition]
                news = floor > window.sent_floor[module][partition]
                if (module, partition) in window.marks_out:
                    continue  # while the broker is away they would pile up
                if silent_s < MARK_EVERY_S and not (news and silent_s >= MARK_SOON_S):
                    continue
                mark = Mark(
                    stream_key=start.stream_key,
                    epoch=ours.claim.epoch,
                    module=module,
                    floor=floor,
                    ceil=ceil,
                    nonce=ours.claim.nonce,
                    kind="idle",
                )
                window.last_sent_s[partition] = now
                window.sent_floor[module][partition] = floor
                key = record_key(start.stream_key, max(ceil + 1, 0))
                window.marks_out.add((module, partition))
                done = partial(_arrived, window.marks_out, (module, partition))
                services.producer.append(topic, partition, key, codec.encode(mark), done)


def _arrived(out: set[tuple[int, int]], place: tuple[int, int], _: object) -> None:
    """Let the next mark go; one that did not arrive is followed by another one anyway."""
    out.discard(place)


def send_numbers(
    services: Services,
    opened: Opened,
    *,
    skipped: Sequence[int] = (),
    rejected: Sequence[int] = (),
) -> None:
    """Say on their partitions that these frames gave no result, and wait for it."""
    start = opened.info.start
    topic = services.names.topic(start.beamtime, start.detector)
    (module, ours), *_ = opened.held.items()
    entries = []
    for partition in range(start.partitions):
        ours_skipped = [n for n in skipped if start.partition_of(n) == partition]
        ours_rejected = [n for n in rejected if start.partition_of(n) == partition]
        if not (ours_skipped or ours_rejected):
            continue
        highest = max([*ours_skipped, *ours_rejected])
        mark = Mark(
            stream_key=start.stream_key,
            epoch=ours.claim.epoch,
            module=module,
            floor=NO_FLOOR,
            ceil=highest,
            nonce=ours.claim.nonce,
            kind="idle",
            member=ours.claim.nonce,
            skipped=np.array(sorted(ours_skipped), dtype=np.int64),
            rejected=np.array(sorted(ours_rejected), dtype=np.int64),
        )
        key = record_key(start.stream_key, highest)
        entries.append((topic, partition, key, codec.encode(mark)))
    if entries:
        services.producer.append_all(entries, services.settings.kafka.timeout_s)


def end_held(
    services: Services,
    opened: Opened,
    *,
    state: State,
    expected: int | None,
    durability: Durability,
) -> None:
    """End the modules that a publisher holds, and seal the stream if they were its last.

    Raises WriterSupersededError if somebody else claimed a module first.
    """
    progress = {m: (p.current_floor(), p.ceils) for m, p in opened.progress.items()}
    _end_modules(
        services,
        opened.info,
        opened.held,
        progress,
        state=state,
        expected=expected,
        durability=durability,
    )


def _end_modules(
    services: Services,
    info: StreamInfo,
    held: Mapping[int, Held],
    progress: Mapping[int, tuple[int, Sequence[int]]],
    *,
    state: State,
    expected: int | None,
    durability: Durability,
) -> None:
    catalogue = services.catalogue(info.start.beamtime)
    for module, ours in held.items():
        closing = claims.claim(
            services,
            info,
            module,
            instance=ours.claim.instance,  # so that it may finish what it began to end
            closing=True,
            known=ours.claim,
        )
        floor, ceils = progress[module]
        marks = claims.send_marks(services, info, closing, floor=floor, ceils=ceils, kind="closing")
        catalogue.append(_end(closing, marks, state, expected))
        _check_ended(services, info, module, closing)
    fresh = catalogue.look().by_key(info.start.stream_key)
    if fresh is not None and fresh.end_offsets is not None:
        seal(services, fresh, durability=durability)


def end_abandoned(
    services: Services, info: StreamInfo, *, state: State, takeover: bool = False
) -> None:
    """End a stream whose writer has been silent too long; any process may do so.

    Raises WriterActiveError if a writer is alive.
    """
    held, progress = {}, {}
    for module in info.start.module_indices:
        if info.modules[module].end is None:
            claim = claims.claim(services, info, module, takeover=takeover)
            ours = claims.resume(services, info, claim)
            held[module] = ours
            progress[module] = (ours.floor, ours.ceils)
    _end_modules(services, info, held, progress, state=state, expected=None, durability="process")


def _end(closing: Claim, marks: Sequence[int], state: State, expected: int | None) -> End:
    return End(
        stream_key=closing.stream_key,
        module=closing.module,
        epoch=closing.epoch,
        nonce=closing.nonce,
        state=state,
        offsets=tuple(offset + 1 for offset in marks),
        expected=expected,
    )


def _check_ended(services: Services, info: StreamInfo, module: int, closing: Claim) -> None:
    """Raise WriterSupersededError if a newer claim came before the end."""
    fresh = services.catalogue(info.start.beamtime).look().by_key(info.start.stream_key)
    state = fresh.modules[module] if fresh is not None and not fresh.deleted else None
    if state is None or state.end is None or state.end.nonce != closing.nonce:
        current = state.claim if state is not None else None
        raise claims.superseded(claims.name_of(info.start), current)
