"""When series begin and end, told from images and from whether the device acquires."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.detectors.areadetector.numbering import Numbering
from pipeline.detectors.areadetector.wire import Image
from pipeline.frame import AttributeValue, FrameHeader
from pipeline.protocols import AdapterEvent, Quarantined, SeriesBegin, SeriesEnd, SourceFrame
from pipeline.records import State

log = logging.getLogger(__name__)
Events = Iterator[AdapterEvent]
#: An image that was there when we came belongs to what goes on if the next follows so soon.
_STALE_NS = 10 * 10**9
_PAUSE_S = 0.1


@dataclass(slots=True, kw_only=True, eq=False)
class _Open:
    """A series that has begun."""

    key: str
    numbering: Numbering = field(default_factory=Numbering)
    last_s: float
    #: Its first image was faster than the state that goes with it.
    is_early: bool = False
    #: Shape and dtype of its images; readers rely on them.
    layout: tuple[tuple[int, ...], str] | None = None
    bad: int = 0
    skipped: int = 0
    disconnected: int = 0
    ending: State | None = None
    ending_s: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Acquisition:
    """What is known of the device.

    Parameters
    ----------
    has_state:
        Whether a channel tells when it acquires.
    count:
        What the counter says now.
    """

    channel: str
    has_state: bool
    grace_s: float
    monotonic: Callable[[], float] = time.monotonic
    count: int | None = None
    _series: _Open | None = None
    _serial: int = 0
    _activity: str = ""
    #: The value that the channel had when we came.
    _held: Image | None = None
    _is_fresh: bool = True
    #: Of the last series: its last image is served again after each reconnection.
    _last: tuple[int, int | None] | None = None
    _saw_start: bool = False
    #: The state channel was away: what it says next may be of a device that began anew.
    _was_away: bool = False

    @property
    def pause_s(self) -> float:
        """How long nothing need be looked at."""
        waits = self._series is not None and self._series.ending is not None
        return max(0.01, min(_PAUSE_S, self.grace_s / 4)) if waits else 60.0

    # -- images ---------------------------------------------------------------------------------

    def awaits_state(self, image: Image) -> bool:
        """Tell whether the state must be looked at before this image is taken."""
        series = self._series
        if not self.has_state or series is None or series.ending is not None:
            return self.has_state
        return series.numbering.judge(image.unique_id, image.timestamp_ns or 0)[0] == "restart"

    def on_nothing(self) -> None:
        """Take an update without an image, which a device has that has made none: none is old."""
        self._is_fresh = False

    def on_image(self, image: Image) -> Events:
        """Take an image; the first one after coming may be of long ago."""
        identity = (image.unique_id, image.timestamp_ns)
        if self._is_fresh:
            self._is_fresh = False
            if self._activity == "busy":
                yield from self._publish(image, late=not self._saw_start)
            else:
                # whether it is old shows with the next, or with the state
                self._held = image if not self._activity else None
                self._last = identity
            return
        held, self._held = self._held, None
        if held is not None and _follows(held, image):
            yield from self._publish(held, late=True)
        if self._series is None and identity == self._last:
            return  # served again after a reconnection
        late = held is not None and image.unique_id > held.unique_id and not self.has_state
        yield from self._publish(image, late=late)

    def _publish(self, image: Image, *, late: bool) -> Events:
        now_ns = time.time_ns()
        time_ns = now_ns if image.timestamp_ns is None else image.timestamp_ns
        series = self._series
        if series is None:
            series, begin = self._begin_early(image, time_ns, late=late)
            yield begin
        verdict, number = series.numbering.judge(image.unique_id, time_ns)
        if verdict == "repeat":
            series.numbering.repeated += 1
            return
        if verdict == "restart":
            yield from self._end("lost" if series.disconnected or self.has_state else "complete")
            series, begin = self._begin_early(image, time_ns, late=False)
            yield begin
        series.numbering.note(number, time_ns)
        series.last_s = self.monotonic()
        series.skipped += image.skipped
        self._last = (image.unique_id, image.timestamp_ns)
        layout = image.shape, image.dtype
        series.layout = series.layout or layout
        if layout != series.layout:
            series.bad += 1
            reason = f"shape: {layout} in a series of {series.layout}"
            source = f"{self.channel} {image.unique_id}"
            yield Quarantined(series=series.key, source=source, reason=reason)
            return
        yield SourceFrame(
            series=series.key,
            header=FrameHeader(
                number=number,
                timestamp_ns=time_ns,
                shape=image.shape,
                dtype=image.dtype,
                encoding=image.encoding,
                attributes=_attributes(image, number),
            ),
            payload=image.payload,
            source=f"{self.channel} {image.unique_id}",
        )

    def on_bad(self, reason: str) -> Events:
        """Take an update that is no image."""
        series = self._series
        if series is None:
            if self._activity != "busy":
                log.warning("no image from channel=%s: %s", self.channel, reason)
                return
            series, begin = self._begin(None, time.time_ns(), late=not self._saw_start)
            yield begin
        series.bad += 1
        series.last_s = self.monotonic()
        source = f"{self.channel} after {series.numbering.last} ({series.bad})"
        yield Quarantined(series=series.key, source=source, reason=reason)

    def on_gone(self) -> None:
        """Note that the channel was disconnected, or is not there yet."""
        if self._series is not None:
            self._series.disconnected += 1
            log.warning("disconnected channel=%s, waiting for it", self.channel)
        elif self._is_fresh:
            log.info("waiting for channel=%s", self.channel)

    def on_state_gone(self) -> None:
        """Note that the state channel was disconnected, or is not there yet."""
        self._was_away = self._activity != ""

    # -- series ---------------------------------------------------------------------------------

    def on_activity(self, activity: str) -> Events:
        """Take what the state channel says: ``busy``, ``idle``, ``aborted``."""
        before, self._activity = self._activity, activity
        was_away, self._was_away = self._was_away, False
        series = self._series
        held, self._held = self._held, None
        if activity == "busy":
            if held is not None:
                yield from self._publish(held, late=True)
            elif series is not None and series.is_early:
                series.ending, series.is_early = None, False
            elif series is not None and series.ending is not None:
                yield from self._end(series.ending)
            self._saw_start = before in ("idle", "aborted")
            if self._saw_start and self._series is None:
                yield self._begin(None, time.time_ns(), late=False)[1]
        elif series is not None and series.ending is None:
            series.ending = "aborted" if activity == "aborted" else "complete"
            is_counted = self.count is not None and self.count >= series.numbering.received
            if was_away and activity == "idle" and not is_counted:
                series.ending = "lost"  # ended meanwhile, or switched off: nobody tells
            series.ending_s = self.monotonic()
        elif series is not None and activity == "aborted":
            series.ending = "aborted"

    def tick(self, idle_end_s: float | None) -> Events:
        """End what is over."""
        series = self._series
        if series is None:
            return
        now_s = self.monotonic()
        if series.ending is not None:
            if now_s - max(series.ending_s, series.last_s) >= self.grace_s:
                yield from self._end(series.ending)
        elif idle_end_s is not None and now_s - series.last_s >= idle_end_s:
            yield from self._end("timeout" if self._activity == "busy" else "complete")

    def _begin(self, image: Image | None, time_ns: int, *, late: bool) -> tuple[_Open, SeriesBegin]:
        self._serial += 1
        key = f"{self.channel}#{self._serial}"
        series = self._series = _Open(key=key, last_s=self.monotonic())
        run: dict[str, AttributeValue] = {"adapter": "areadetector", "channel": self.channel}
        if not late:
            run |= {"started_ns": time_ns}
        metadata: dict[str, AttributeValue] = {"source_channel": self.channel}
        if image is not None:
            metadata |= {"color_mode": image.color_mode, **image.region}
        return series, SeriesBegin(series=key, metadata=metadata, run=run, late=late)

    def _begin_early(self, image: Image, time_ns: int, *, late: bool) -> tuple[_Open, SeriesBegin]:
        """Begin with an image whose state is late, or was missed: then nothing else will end it."""
        series, begin = self._begin(image, time_ns, late=late)
        if self._activity in ("idle", "aborted"):
            series.ending, series.ending_s = "complete", self.monotonic()
            series.is_early = True
        return series, begin

    def _end(self, state: State) -> Events:
        series, self._series = self._series, None
        if series is None:
            return
        numbering = series.numbering
        counts = {
            "device_dropped": numbering.missing,
            "repeated": numbering.repeated,
            "bad_messages": series.bad,
            "attributes_skipped": series.skipped,
            "disconnections": series.disconnected,
        }
        if any(counts.values()):
            told = " ".join(f"{name}={count}" for name, count in counts.items() if count)
            log.warning("series of channel=%s: %s", self.channel, told)
        count = self.count
        # a counter that is read late counts the next series already
        is_counted = state == "complete" and count is not None and count >= numbering.received
        yield SeriesEnd(
            series=series.key,
            state=state,
            expected=count if is_counted else None,
            metadata={name: count for name, count in counts.items() if count},
        )


def _follows(held: Image, image: Image) -> bool:
    """Tell whether an image comes right behind the one that was there."""
    if held.timestamp_ns is None or image.timestamp_ns is None:
        return False
    step = image.unique_id - held.unique_id
    return 0 < step < 1000 and 0 <= image.timestamp_ns - held.timestamp_ns < _STALE_NS


def _attributes(image: Image, number: int) -> dict[str, AttributeValue]:
    attributes = dict(image.attributes)
    if number != image.unique_id:
        attributes["device_number"] = image.unique_id
    if image.color_mode != "mono":
        attributes["color_mode"] = image.color_mode
    return attributes
