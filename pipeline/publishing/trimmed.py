"""Resuming a stream whose first records have left the topic: the manifest has them."""

from __future__ import annotations

from pipeline.errors import FrameExpiredError
from pipeline.kafka.log import KafkaStreamLog
from pipeline.manifest.cursor import StoredCursor
from pipeline.manifest.partset import PartSet
from pipeline.manifest.writer import known_parts
from pipeline.records import NO_FLOOR, Located
from pipeline.services import Services

#: A topic may be trimmed while it is read; not again and again within milliseconds.
_TRIES = 3


def progress(
    services: Services, live: KafkaStreamLog, module: int, *, timeout_s: float
) -> tuple[int, list[int]]:
    """Return the highest floor and, per partition, the highest ceil of a module's writers."""
    held = live.available_from()
    floor, ceils = live.progress(module, timeout_s=timeout_s)
    parts = _parts(services, live, held)
    if parts is not None:
        for partition in range(len(ceils)):
            known = parts.progress(partition, module)
            floor, ceils[partition] = max(floor, known[0]), max(ceils[partition], known[1])
    return floor, ceils


def read_back(
    services: Services, live: KafkaStreamLog, floor: int, end: list[int], *, timeout_s: float
) -> list[Located]:
    """Return the records of frames >= ``floor`` up to the offsets ``end``, as far as they are left.

    What neither topic nor manifest has is left out: the account tells of it when the stream ends.
    """
    for left in reversed(range(_TRIES)):
        held = live.available_from()
        begin = live.seek(floor) if floor > NO_FLOOR else live.bounds()[0]
        try:
            found = _stored(services, live, held, floor)
            first = [max(pair) for pair in zip(begin, held, strict=True)]
            return found + live.read(first, end, timeout_s=timeout_s)
        except FrameExpiredError:
            if not left:
                raise
    return []


def _parts(services: Services, live: KafkaStreamLog, held: list[int]) -> PartSet | None:
    """Return the manifest's parts; None if the topic holds the whole stream."""
    starts = live.info(refresh=False).start.offsets
    if all(first <= start for first, start in zip(held, starts, strict=True)):
        return None
    return known_parts(live.info(refresh=True), services.store)


def _stored(services: Services, live: KafkaStreamLog, held: list[int], floor: int) -> list[Located]:
    parts = _parts(services, live, held)
    if parts is None:
        return []
    ends = [min(pair) for pair in zip(parts.covered, held, strict=True)]
    begin = [parts.seek(p, floor) if floor > NO_FLOOR else at for p, at in enumerate(parts.starts)]
    cursor = StoredCursor(parts, [min(pair) for pair in zip(begin, ends, strict=True)], ends)
    found: list[Located] = []
    try:
        while not cursor.exhausted():
            found += cursor.poll(0)
    finally:
        cursor.close()
    return found
