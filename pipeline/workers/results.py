"""The derived stream of a group: results under the source's frame numbers (design section 5.6).

A frame is acknowledged in the group only after its result is published and confirmed; so a worker
that dies loses nothing, and what is done twice carries the same number, of which the first counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pipeline.errors import (
    InvalidFrameError,
    PipelineError,
    StreamExistsError,
    TopicMissingError,
    WriterActiveError,
    WriterSupersededError,
)
from pipeline.naming import StreamId
from pipeline.publisher import Publisher
from pipeline.publishing import claims, ending
from pipeline.publishing.window import Role
from pipeline.reading.frame import Frame
from pipeline.records import StreamInfo
from pipeline.session import Session
from pipeline.sharing import runs
from pipeline.sharing.delivery import Delivery
from pipeline.stream import Stream
from pipeline.telemetry.traces import origin_of
from pipeline.workers.floors import GroupFloors
from pipeline.workers.function import Result

log = logging.getLogger(__name__)
#: Frames without result are said in one record for as many as come in this time.
_SKIP_EVERY_S = 0.1
_MANY = 256
#: How long members that begin or end at once sort out who does it.
_PATIENCE_S = 5.0
_FRAMES_PER_CHUNK = 16


class Answer(Protocol):
    """Whom to tell that a frame's result is safe."""

    @property
    def frame(self) -> Frame:
        """The source's frame."""
        ...

    def ack(self) -> None:
        """Note that the result is safe."""
        ...


class Shared:
    """One delivery whose frame has results in several derived streams."""

    def __init__(self, delivery: Delivery, outs: int) -> None:
        self.frame = delivery.frame
        self._delivery = delivery
        self._left = outs

    def ack(self) -> None:
        """Acknowledge the delivery once the last of the results is safe."""
        self._left -= 1
        if not self._left:
            self._delivery.ack()


class Results:
    """Publishes what the function returned, then settles the delivery; not thread-safe."""

    def __init__(
        self,
        session: Session,
        source: Stream,
        *,
        detector: str,
        group: str,
        member: str,
        code: str,
        known_floor: Callable[[], int] | None = None,
    ) -> None:
        self._session = session
        self._source = source
        self._group = group
        self._code = code
        self._known_floor = known_floor
        self._member = member
        self._base = self.name = StreamId(source.name.beamtime, detector, source.name.stream)
        #: A reset of the group begins another run, whose name ends with its number.
        self._run = 1
        self._skipped: list[Answer] = []
        self._since_s = 0.0
        #: Numbers whose result is not confirmed, with deliveries that gave another one meanwhile.
        self._unconfirmed: dict[int, list[Answer]] = {}
        self._out: Publisher | None = None
        self._floors: GroupFloors | None = None

    def open(self) -> None:
        """Join the derived stream, or start it. An ended one is no error before a result comes."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            self.name, self._run = self._newest_run()
            try:
                self._out = self._publish()
                break
            except StreamExistsError:
                return
            except WriterActiveError:
                # Another member claimed at this very moment: the next look finds its claim.
                if time.monotonic() >= deadline:
                    raise
                threading.Event().wait(0.1)
        self._check_lineage()
        services = self._session.services
        self._floors = GroupFloors(
            services, self._source, self._out, group=self._group, known=self._known_floor
        )

    def _newest_run(self) -> tuple[StreamId, int]:
        try:
            return runs.current(self._session.services, self._base)
        except TopicMissingError:  # made with the first stream, where that is allowed
            return self._base, 1

    def _publish(self) -> Publisher:
        begun = self._source.start
        return self._session.publish(
            self.name.beamtime,
            self.name.detector,
            self.name.stream,
            frames_per_chunk=_FRAMES_PER_CHUNK,
            metadata={"source": str(self._source.name)},
            lineage={
                "source": str(self._source.name),
                "source_id": self._source.start.stream_key.hex(),
                "group": self._group,
                "code": self._code,
                **({"run": self._run} if self._run > 1 else {}),
                # of results of results: whose frames they are in the end
                **({"origin_id": origin_of(begun).hex()} if begun.lineage else {}),
            },
            instance=runs.instance_of(self._group),
            role=Role(member=self._member),
        )

    def _check_lineage(self) -> None:
        info = self._out.info if self._out is not None else None
        lineage: Mapping[str, Any] = info.start.lineage if info is not None else {}
        ours = (self._source.start.stream_key.hex(), self._group)
        if (lineage.get("source_id"), lineage.get("group")) != ours:
            raise PipelineError(
                f"{self.name} exists and was not made by group {self._group} from"
                f" {self._source.name}: choose another --out"
            )

    @property
    def pending(self) -> int:
        """Results that are not confirmed yet."""
        return len(self._unconfirmed)

    # -- one frame --------------------------------------------------------------------------------

    def take(self, delivery: Answer, result: Result) -> str:
        """Publish a result; return what it was: results, skipped or repeated.

        Raises InvalidFrameError for what cannot be a frame.
        """
        if result is None:
            self._since_s = self._since_s if self._skipped else time.monotonic()
            self._skipped.append(delivery)
            return "skipped"
        array, attributes = result
        frame = delivery.frame
        try:
            self._writer().write(
                array,
                number=frame.number,
                timestamp_ns=frame.timestamp_ns,
                attributes=attributes,
                token=delivery,
            )
        except InvalidFrameError as error:
            if error.field != "number":
                raise
            # Delivered again and computed differently: the first result counts.
            log.warning("frame %d gave another result the second time: %s", frame.number, error)
            again = self._unconfirmed.get(frame.number)
            if again is None:
                delivery.ack()
            else:
                again.append(delivery)
            return "repeated"
        self._unconfirmed.setdefault(frame.number, [])
        return "results"

    def give_up(self, number: int) -> None:
        """Say in the account that the frame was rejected."""
        self._writer().give_up([number])

    def skip(self, numbers: list[int]) -> None:
        """Say in the account that these frames were left out on purpose."""
        self._writer().skip(numbers)

    def settle(self) -> None:
        """Acknowledge what is safe by now."""
        if self._out is None:
            return
        self._out.check()
        for delivery in self._out.take_confirmed():
            delivery.ack()
            for again in self._unconfirmed.pop(delivery.frame.number, ()):
                again.ack()
        due = time.monotonic() - self._since_s >= _SKIP_EVERY_S
        if self._skipped and (due or len(self._skipped) >= _MANY):
            self._send_skipped()

    def _send_skipped(self) -> None:
        skipped, self._skipped = self._skipped, []
        if skipped:
            self._writer().skip([delivery.frame.number for delivery in skipped])
        for delivery in skipped:
            delivery.ack()

    def _writer(self) -> Publisher:
        if self._out is None:
            raise StreamExistsError(self.name, "it ended before")
        return self._out

    # -- ending -----------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> None:
        """Wait until all results are safe, and acknowledge them."""
        if self._out is None:
            return
        self._send_skipped()
        self._out.flush(timeout_s)
        self.settle()

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop writing; the stream stays open for the group's other members."""
        self._release()
        if self._out is not None:
            self._out.close(timeout_s)

    def abandon(self) -> None:
        """Stop writing at once; what is not confirmed is lost here and made again."""
        self._release()
        if self._out is not None:
            self._out.abandon()

    def end(self) -> None:
        """End the derived stream as the source ended; the group has finished it.

        All members may do so at once: one succeeds, the others see that it is done.
        """
        self._release()
        if self._out is None:
            return
        state = self._source.state
        try:
            self._out.end(state)
        except (WriterSupersededError, WriterActiveError, StreamExistsError):
            if not self._wait(lambda info: info.state != "open"):
                # Whoever began to end it died over it.
                info = self._look()
                services = self._session.services
                ending.end_abandoned(services, info, state=state, takeover=True)

    def _release(self) -> None:
        if self._floors is not None:
            self._floors.close()
            self._floors = None

    def _look(self) -> StreamInfo:
        catalogue = self._session.services.catalogue(self.name.beamtime)
        info = catalogue.look().find(self.name.detector, self.name.stream)
        if info is None:
            raise claims.superseded(self.name, None)
        return info

    def _wait(self, fine: Callable[[StreamInfo], bool]) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if fine(self._look()):
                return True
            threading.Event().wait(0.05)
        return False
