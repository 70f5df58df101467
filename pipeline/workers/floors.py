"""How far a whole group is: the floor of its derived stream (design section 4).

A member knows what it has done itself, and nothing of the others.  What the group has committed is
known to the broker: everything below the committed offsets is acknowledged, and a frame is only
acknowledged after its result is confirmed.  So a floor that a source partition showed before its
committed offset holds for that partition's results, and the least of them for the stream.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pipeline.errors import PipelineError
from pipeline.kafka import groups
from pipeline.naming import record_key
from pipeline.publisher import Publisher
from pipeline.records import NO_FLOOR, Mark
from pipeline.services import Services
from pipeline.stream import Stream
from pipeline.wire import codec

log = logging.getLogger(__name__)
#: Live readers in order learn of the group's progress this often.
_EVERY_S = 1.0


class GroupFloors:
    """Sends marks with the group's floor to the derived stream; any member may, several do no harm.

    In a thread of its own, from the start to ``close``: a broker that is away is waited for.
    ``known``: tells the floor, where this member alone has all frames; else it is found out from
    the group's offsets.
    """

    def __init__(
        self,
        services: Services,
        source: Stream,
        out: Publisher,
        *,
        group: str,
        known: Callable[[], int] | None = None,
    ) -> None:
        self._services = services
        self._known = known
        self._source = source
        self._out = out
        begun, names = source.start, services.names
        self._topic = names.topic(begun.beamtime, begun.detector)
        self._work = names.work(begun.beamtime, begun.detector, group)
        self._group_id = names.group(begun.beamtime, group, begun.stream_key)
        self._log = services.log(source.info)
        self._sent = NO_FLOOR
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"floors {group}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            try:
                self._look()
            except PipelineError as error:
                log.debug("the group's floor is not known now: %s", error)
        self._log.close()

    def _look(self) -> None:
        """Send the floor if it has risen."""
        floor = self._floor() if self._known is None else self._known()
        if floor > self._sent and not self._stop.is_set():
            self._send(floor)
            self._sent = floor

    def _floor(self) -> int:
        """Return a number below which every source frame is acknowledged in the group."""
        admin, begun = self._services.admin, self._source.start
        waiting = groups.next_offsets(admin, self._work, admin.partitions(self._work))
        done = admin.committed(self._group_id, self._work, len(waiting))
        if any(c.offset < end for c, end in zip(done, waiting, strict=True)):
            return NO_FLOOR  # a frame to be tried again may be any
        committed = admin.committed(self._group_id, self._topic, begun.partitions)
        floors = [
            min(self._log.floor_before(c.partition, c.offset, m) for m in begun.module_indices)
            for c in committed
        ]
        return min(floors, default=NO_FLOOR)

    def _send(self, floor: int) -> None:
        info = self._out.info
        if info is None:
            return
        start, claim = info.start, info.modules[0].claim
        if claim is None or claim.closing:
            return
        mark = Mark(
            stream_key=start.stream_key,
            epoch=claim.epoch,
            module=0,
            floor=floor,
            ceil=floor - 1,
            nonce=claim.nonce,
            kind="idle",
        )
        topic = self._services.names.topic(start.beamtime, start.detector)
        key, value = record_key(start.stream_key, floor), codec.encode(mark)
        entries = [(topic, partition, key, value) for partition in range(start.partitions)]
        self._services.producer.append_all(entries, self._services.settings.kafka.timeout_s)

    def close(self) -> None:
        """Stop; waits for a look that has begun, a second at most."""
        self._stop.set()
        self._thread.join(1.0)
