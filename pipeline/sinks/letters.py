"""Dead letters of a sink: which frames it could not write, and why, on a topic of the broker."""

from __future__ import annotations

import logging

from pipeline.errors import PipelineError
from pipeline.naming import record_key
from pipeline.publishing.claims import holder
from pipeline.records import Pointer, Start
from pipeline.services import Services
from pipeline.wire import codec

log = logging.getLogger(__name__)


class DeadLetters:
    """One pointer a frame, as worker groups write them (``docs/workers.md``); for one thread.

    The topic is made with the first letter.  What cannot be sent is logged: the file and its
    account name the frames in any case.
    """

    def __init__(self, services: Services, start: Start, *, group: str) -> None:
        self.topic = services.names.dead_letters(start.beamtime, start.detector, group)
        self._services = services
        self._stream_key = start.stream_key
        self._group = group
        self._is_ready = False
        self._failed = False

    def send(self, number: int, reason: str) -> None:
        """Write a letter; blocks until the broker has it, once as long as its settings allow."""
        if self._failed or not self._services.has_broker:
            return
        pointer = Pointer(
            stream_key=self._stream_key,
            number=number,
            attempt=1,
            group=self._group,
            member=holder(),
            reason=reason[:10_000],
        )
        key = record_key(self._stream_key, number)
        limit_s = self._services.settings.kafka.timeout_s
        try:
            if not self._is_ready:
                self._services.admin.create_topic(self.topic, partitions=1)
                self._is_ready = True
            self._services.producer.append_wait(self.topic, 0, key, codec.encode(pointer), limit_s)
        except PipelineError as error:
            self._failed = True  # no other frame waits for a broker that is away
            log.warning("no dead letters can be sent topic=%s error=%s", self.topic, error)
