"""EPICS areaDetector over PV Access: each update of the PVA plugin's channel is a frame.

``docs/detectors/areadetector.md`` says what begins and ends a series.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pipeline.detectors.areadetector import wire
from pipeline.detectors.areadetector.channels import Channels, environment, read_once
from pipeline.detectors.areadetector.series import Acquisition, Events
from pipeline.detectors.options import Option
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.frame import AttributeValue
from pipeline.protocols import AdapterEvent

log = logging.getLogger(__name__)
#: 3 s of 200 Hz; a first stream takes over a second to open, and 200 lost 38 of 2000 images then.
QUEUE = 600
_CLOCKS = ("auto", "unix", "late")
_CHECK_S = 4.0


class AreaDetectorAdapter:
    """Monitors the channel of an areaDetector PVA plugin.

    Parameters
    ----------
    channel:
        Of the NTNDArray, such as ``13SIM1:Pva1:Image``.
    address:
        Hosts to ask, ``HOST`` or ``HOST:PORT`` (UDP), separated by commas; nobody else is asked.
        Empty: what the environment says (``EPICS_PVA_ADDR_LIST``).
    acquire_channel:
        ``...:cam1:Acquire_RBV`` or ``...:cam1:DetectorState_RBV``, served over PV Access: begins
        and ends series.  Empty: they end when the numbers start again, and by silence.
    counter_channel:
        ``...:cam1:NumImagesCounter_RBV``: at the end of a series, how many were made.
    queue:
        Updates that may wait while the store is slow; each is one image of memory.
    clock:
        ``unix``: time stamps are right; ``late``: 631152000 s too late; ``auto``: what fits.
    grace_s:
        Images may come so much later than the end that ``acquire_channel`` told.
    idle_end_s:
        Seconds of silence that end a series; None: never.

    Raises
    ------
    InvalidArgumentError
        Names the setting that is wrong.
    """

    name = "areadetector"
    #: A camera makes one series at a time.
    exclusive: ClassVar[bool] = True

    def __init__(
        self,
        *,
        channel: str,
        address: str = "",
        acquire_channel: str = "",
        counter_channel: str = "",
        queue: int = QUEUE,
        clock: str = "auto",
        grace_s: float = 1.0,
        idle_end_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not channel:
            raise InvalidArgumentError("channel", "is empty")
        if not 2 <= queue <= 100_000:
            raise InvalidArgumentError("queue", f"{queue} is outside 2 to 100000")
        if clock not in _CLOCKS:
            raise InvalidArgumentError("clock", f"{clock!r} is not one of {', '.join(_CLOCKS)}")
        if grace_s < 0 or (idle_end_s is not None and idle_end_s < 0):
            raise InvalidArgumentError("grace_s", "grace_s and idle_end_s must not be negative")
        environment(address)  # says what is wrong with it
        self.channel = channel
        self.idle_end_s = idle_end_s
        self._address = address
        self._acquire = acquire_channel
        self._counter = counter_channel
        self._queue = queue
        self._clock = clock
        self._monotonic = monotonic
        self._channels: Channels | None = None
        self._device = Acquisition(
            channel=channel, has_state=bool(acquire_channel), grace_s=grace_s, monotonic=monotonic
        )

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set; ``idle_end_s`` is everybody's."""
        return [
            Option(
                name="channel",
                help="channel of the PVA plugin's image, such as 13SIM1:Pva1:Image",
                unit="NAME",
                required=True,
            ),
            Option(
                name="address",
                default="",
                help="hosts to ask for it, and no others; default: EPICS_PVA_ADDR_LIST",
                unit="HOST[:PORT]",
            ),
            Option(
                name="acquire_channel",
                default="",
                help="Acquire_RBV or DetectorState_RBV over PV Access: begins and ends series",
                unit="NAME",
            ),
            Option(
                name="counter_channel",
                default="",
                help="NumImagesCounter_RBV: how many images were made, read at the end",
                unit="NAME",
            ),
            Option(
                name="queue",
                type=int,
                default=QUEUE,
                help="images that may wait in memory while the store is slow",
                unit="N",
            ),
            Option(
                name="clock",
                default="auto",
                help="whether time stamps are right (unix), or 631152000 s late",
                choices=_CLOCKS,
            ),
            Option(
                name="grace_s",
                type=float,
                default=1.0,
                help="images may come so much later than the end of their series",
                unit="SECONDS",
            ),
        ]

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; see :class:`pipeline.protocols.DetectorAdapter`."""
        channels = self._channels = Channels(self._address)
        if self._acquire:
            channels.watch(self._acquire, queue=64)
        if self._counter:
            channels.watch(self._counter, queue=4)
        channels.watch(self.channel, queue=self._queue)
        silent_s = self._monotonic()
        while True:
            came = channels.wait(min(poll_s, self._device.pause_s))
            yield from self._take_all(channels)
            yield from self._device.tick(self.idle_end_s)
            now_s = self._monotonic()
            if came:
                silent_s = now_s
            elif now_s - silent_s >= poll_s:
                silent_s = now_s
                yield None

    def _take_all(self, channels: Channels) -> Events:
        """Take what came: images before states, but where an image shows that a state is due."""
        states = self._new_states(channels)
        for update in channels.take(self.channel):
            if update == "gone":
                self._device.on_gone()
                continue
            try:
                image = wire.parse_image(update, clock=self._clock, now_ns=time.time_ns())
            except InvalidFrameError as error:
                yield from self._device.on_bad(str(error))
                continue
            if image is None:
                self._device.on_nothing()
                continue
            if self._device.awaits_state(image):
                for activity in (*states, *self._new_states(channels)):
                    yield from self._device.on_activity(activity)
                states = []
            yield from self._device.on_image(image)
        for activity in states:
            yield from self._device.on_activity(activity)

    def _new_states(self, channels: Channels) -> list[str]:
        """Return what the state channel said since; the counter is read on the way."""
        if self._counter:
            for update in channels.take(self._counter):
                self._device.count = None if update == "gone" else wire.count_of(update)
        states: list[str] = []
        for update in channels.take(self._acquire) if self._acquire else ():
            if update == "gone":
                self._device.on_state_gone()
                continue
            try:
                states.append(wire.parse_activity(update))
            except InvalidFrameError as error:
                log.warning("channel %s says nothing: %s", self._acquire, error)
        return states

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Do nothing: the device keeps no image."""

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a series with these run facts would be one of ours."""
        return run.get("adapter") == self.name and run.get("channel") == self.channel

    def check(self) -> Mapping[str, AttributeValue]:
        """Read the channels once and say what is there.

        Raises SourceError within some seconds if the channel does not answer or is no image.
        """
        update = read_once(self._address, self.channel, timeout_s=_CHECK_S)
        found: dict[str, AttributeValue] = {"channel": self.channel}
        try:
            image = wire.parse_image(update, clock=self._clock, now_ns=time.time_ns())
        except InvalidFrameError as error:
            found["unreadable"] = str(error)
        else:
            found |= _described(image)
        if self._acquire:
            state = read_once(self._address, self._acquire, timeout_s=_CHECK_S)
            try:
                found["state"] = wire.parse_activity(state)
            except InvalidFrameError as error:
                found["state"] = str(error)
        return found

    def close(self) -> None:
        """Let go of the channels; may be called twice."""
        if self._channels is not None:
            self._channels.close()
            self._channels = None


def _described(image: wire.Image | None) -> dict[str, AttributeValue]:
    if image is None:
        return {"image": "none yet"}
    return {
        "unique_id": image.unique_id,
        "shape": list(image.shape),
        "dtype": image.dtype,
        "encoding": image.encoding,
        "color_mode": image.color_mode,
    }
