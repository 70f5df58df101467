"""Series from the messages of an Eiger's stream, V1 or V2, told apart by their first bytes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.detectors.eiger import wire_v1, wire_v2
from pipeline.detectors.eiger.channels import modules, modules_of
from pipeline.detectors.eiger.messages import End, Image, Message, Start
from pipeline.detectors.zeromq import Receiver, only_reader
from pipeline.errors import InvalidFrameError
from pipeline.frame import AttributeValue, FrameHeader
from pipeline.protocols import AdapterEvent, Quarantined, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.records import State

log = logging.getLogger(__name__)
#: Reasons of damaged messages that are told by name; past it they are only counted.
_MAX_TOLD = 20

Interface = Literal["stream1", "stream2", "auto"]


@dataclass(slots=True, eq=False)
class _Series:
    """The series that goes on."""

    key: str
    number: int
    unique: str | None
    start: Start | None
    #: When the detector's clock was at zero, as far as this adapter can tell.
    epoch_ns: int | None = None
    channels: tuple[str, ...] = ()
    #: Shape and pixel type of each channel's first image.
    layouts: dict[str, tuple[tuple[int, int], str]] = field(default_factory=dict)
    begun: bool = False
    frames: int = 0
    highest: int = -1
    touched_s: float = 0.0
    #: What did not become a frame, by reason.
    bad: Counter[str] = field(default_factory=Counter)

    def unlike(self, image: Image) -> str:
        """Return why an image is not like the others of its series; empty if it is."""
        for pixels in image.pixels:
            layout = (pixels.shape, pixels.dtype)
            first = self.layouts.setdefault(pixels.channel, layout)
            if layout != first:
                return f"image {image.number} is {layout}, the series {first}"
        return ""

    def images(self) -> int:
        """Return how many images came."""
        return self.frames // max(1, len(self.channels))

    def holes(self) -> int:
        """Return how many images below the last one did not come, that is known of at least."""
        return max(0, self.highest + 1 - self.images() - self.bad.total())

    def is_of(self, message: Image | End) -> bool:
        """Tell whether a message belongs to it."""
        if self.unique and message.unique:
            return self.unique == message.unique
        return self.number == message.series


class StreamSource:
    """Reads the PUSH socket of one detector.  Not for use from several threads.

    Parameters
    ----------
    endpoint:
        Like ``tcp://host:31001``.
    interface:
        Refuse messages of the other version; ``auto`` takes both.
    dropped:
        Asks the detector how many images of the present series it has dropped; None where there
        is nobody to ask, or no answer.
    config:
        Asks for settings that the start did not tell.
    lost_after_s:
        How long the connection may be gone before an open series is over.
    queue:
        Messages that may wait in memory.
    """

    name = "eiger"
    exclusive = True

    def __init__(
        self,
        endpoint: str,
        *,
        interface: Interface = "auto",
        dropped: Callable[[], int | None] = lambda: None,
        config: Callable[[], Mapping[str, AttributeValue]] = lambda: {},
        lost_after_s: float = 60.0,
        queue: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.idle_end_s: float | None = None
        self._interface = interface
        self._dropped = dropped
        self._config = config
        self._lost_after_s = lost_after_s
        self._queue = queue
        self._clock = clock
        self._series: _Series | None = None
        self._ended: _Series | None = None
        self._away_s: float | None = None
        self._stray = 0
        self._held = ExitStack()

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; raises SourceError when another adapter here reads the socket."""
        with ExitStack() as held:
            held.enter_context(only_reader(self.endpoint))
            receiver = Receiver([self.endpoint], kind="pull", queue=self._queue)
            held.callback(receiver.close)
            self._held = held
            while True:
                messages = receiver.receive(poll_s)
                for _, parts in messages:
                    yield from self._message(parts)
                if not messages:
                    yield from self._silence(receiver.connections()[0])
                    yield None

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a series with these facts would come from this socket."""
        ours = run.get("interface") == "stream"
        return ours and run.get("endpoint") == self.endpoint

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Do nothing: a stream keeps no frames."""

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._held.close()

    # -- messages -------------------------------------------------------------------------------

    def _message(self, parts: list[memoryview]) -> Iterator[AdapterEvent]:
        try:
            message = self._parse(parts)
        except InvalidFrameError as error:
            yield from self._bad(str(error))
            return
        match message:
            case Start():
                yield from self._start(message)
            case Image():
                yield from self._image(message)
            case End():
                yield from self._end_message(message)

    def _parse(self, parts: list[memoryview]) -> Message:
        second = len(parts) == 1 and wire_v2.is_message(parts[0])
        if self._interface != "auto" and (self._interface == "stream2") != second:
            raise InvalidFrameError("message", f"not of {self._interface}: --interface auto")
        return wire_v2.parse(parts[0]) if second else wire_v1.parse(parts)

    def _start(self, start: Start) -> Iterator[AdapterEvent]:
        series = self._series
        if series is not None:
            repeated = _same(series, start)
            if repeated and not series.frames:
                return
            yield from self._over(series, "lost")
        series = _Series(
            key=start.unique or f"{start.series} {time.time_ns()}",
            number=start.series,
            unique=start.unique,
            start=start,
            channels=start.channels,
            touched_s=self._clock(),
        )
        self._series = series
        for problem in start.problems:
            series.bad[problem] += 1
        if start.shape is not None and start.channels:
            yield self._begin(series)  # else with the first image, which tells both

    def _image(self, image: Image) -> Iterator[AdapterEvent]:
        series = self._series
        if series is None or not series.is_of(image):
            if self._ended is not None and self._ended.is_of(image) and image.unique:
                yield from self._bad(f"image {image.number} came behind its end")
                return
            if series is not None:
                yield from self._over(series, "lost")
            series = self._attach(image)
        series.touched_s = self._clock()
        if unlike := series.unlike(image):
            yield from self._bad(unlike)
            return
        if not series.begun:
            yield self._begin(series, image)
        try:
            frames = list(self._frames(series, image))
        except InvalidFrameError as error:
            yield from self._bad(f"image {image.number}: {error}")
            return
        series.highest = max(series.highest, image.number)
        series.frames += len(frames)
        yield from frames

    def _attach(self, image: Image) -> _Series:
        """Take up a series whose start was missed."""
        log.warning("series %d was joined late, at image %d", image.series, image.number)
        self._series = _Series(
            key=image.unique or f"{image.series} late {time.time_ns()}",
            number=image.series,
            unique=image.unique,
            start=None,
        )
        return self._series

    def _end_message(self, end: End) -> Iterator[AdapterEvent]:
        series = self._series
        if series is None or not series.is_of(end):
            self._stray += 1  # a second time, or of a series that nobody here has seen
            log.info("end of series %d, which is not open, is ignored", end.series)
            return
        yield from self._over(series, "complete")

    # -- series ---------------------------------------------------------------------------------

    def _begin(self, series: _Series, image: Image | None = None) -> SeriesBegin:
        start, series.begun = series.start, True
        if image is not None and not series.channels:
            series.channels = tuple(pixels.channel for pixels in image.pixels)
        # the images themselves tell their size; what a start announces is not always true
        shape = image.pixels[0].shape if image is not None else start.shape if start else None
        run: dict[str, AttributeValue] = {
            "adapter": self.name,
            "interface": "stream",
            "endpoint": self.endpoint,
            "series": series.number,
        }
        if series.unique is not None:
            run["unique"] = series.unique
        elif start is not None:
            run["begun"] = series.key  # V1: only a new start tells that the numbers began anew
        channels: list[Any] = [name for name in series.channels if name]
        metadata: dict[str, AttributeValue] = {"source_interface": "stream", "channels": channels}
        if start is not None:
            metadata |= {**self._config(), **start.metadata}
            if start.announced is not None:
                metadata["images_announced"] = start.announced
        frame_time_s = start.frame_time_s if start is not None else None
        return SeriesBegin(
            series=series.key,
            name=f"series_{series.number}",
            metadata=metadata,
            run=run,
            modules=modules(series.channels, shape),
            rate_hz=1 / frame_time_s if frame_time_s else None,
            attachments=start.attachments if start is not None else {},
            late=start is None and series.unique is None,
        )

    def _frames(self, series: _Series, image: Image) -> Iterator[SourceFrame]:
        """Yield a frame for each channel; raises InvalidFrameError for what can be none."""
        places = modules_of(series.channels, image.pixels)
        timestamp_ns = self._timestamp_ns(series, image)
        for module, pixels in zip(places, image.pixels, strict=True):
            header = FrameHeader(
                number=image.number,
                timestamp_ns=timestamp_ns,
                shape=pixels.shape,
                dtype=pixels.dtype,
                encoding=pixels.encoding,
                module=module,
                attributes=image.attributes,
            )
            # damaged pixels are named by who publishes: it checks the framing of every payload
            yield SourceFrame(
                series=series.key,
                header=header,
                payload=pixels.payload,
                source=f"image {image.number}",
            )

    @staticmethod
    def _timestamp_ns(series: _Series, image: Image) -> int:
        """Return when the exposure began, ns since 1970."""
        if image.start_ns is None:
            return time.time_ns()
        if series.epoch_ns is None:
            series.epoch_ns = image.epoch_ns
        if series.epoch_ns is None:
            # a free-running clock: its zero is taken from the arrival of the first image
            series.epoch_ns = time.time_ns() - image.start_ns
        return max(0, series.epoch_ns + image.start_ns)

    def _over(self, series: _Series, state: State) -> Iterator[AdapterEvent]:
        """End a series: a device that can be asked says how many images it has dropped."""
        if not series.begun:
            yield self._begin(series)
        self._series, self._ended = None, series
        dropped = self._dropped() if state == "complete" else None
        if dropped is not None and dropped < series.holes():
            dropped = None  # the count began anew: the next series is armed already
        announced = series.start.announced if series.start is not None else None
        metadata: dict[str, AttributeValue] = {}
        if dropped is not None:
            metadata["device_dropped"] = dropped
        if series.bad:
            metadata["bad_messages"] = series.bad.total()
        if self._stray:
            metadata["stray_messages"], self._stray = self._stray, 0
        yield SeriesEnd(
            series=series.key,
            state=state,
            expected=_expected(series, announced, dropped, state),
            metadata=metadata,
        )

    # -- what is not as it should be ------------------------------------------------------------

    def _bad(self, reason: str) -> Iterator[AdapterEvent]:
        """Count a message that cannot be read; name it where a series is open."""
        series = self._series
        if series is None:
            self._stray += 1
            log.warning("message ignored, no series is open: %s", reason)
            return
        yield from self._quarantine(series, f"message {series.bad.total() + 1}", reason)

    def _quarantine(self, series: _Series, source: str, reason: str) -> Iterator[AdapterEvent]:
        series.bad[reason] += 1
        told = series.bad.total()
        if told <= _MAX_TOLD:
            if not series.begun:
                yield self._begin(series)
            yield Quarantined(series=series.key, source=source, reason=reason)
        elif told == _MAX_TOLD + 1:
            log.warning("series %s: further damaged messages are only counted", series.key)

    def _silence(self, connections: int) -> Iterator[AdapterEvent]:
        """End a series whose detector is gone, or says nothing for too long."""
        now_s = self._clock()
        if connections:
            self._away_s = None
        elif self._away_s is None:
            self._away_s = now_s
        series = self._series
        if series is None:
            return
        if self._away_s is not None and now_s - self._away_s >= self._lost_after_s:
            log.warning("%s: the detector is gone", self.endpoint)
            yield from self._over(series, "lost")
        elif self.idle_end_s is not None and now_s - series.touched_s >= self.idle_end_s:
            yield from self._over(series, "timeout")


def _same(series: _Series, start: Start) -> bool:
    """Tell whether a start is that of the series once more."""
    known = series.start
    if known is None or start.unique is not None:
        return known is not None and start.unique == series.unique
    return (known.series, known.metadata) == (start.series, start.metadata)


def _expected(
    series: _Series, announced: int | None, dropped: int | None, state: State
) -> int | None:
    """Return how many images were made, None where only an upper bound is known.

    The detector's count of drops tells it exactly; else the announced number does when the last
    image of it has come.
    """
    if state != "complete":
        return None
    if dropped is not None:
        return max(series.highest + 1, series.images() + dropped)
    return announced if announced == series.highest + 1 else None
