"""Values from EPICS: monitors of PVs over PV Access, published as they change."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.detectors.areadetector.channels import Channels, Update
from pipeline.errors import InvalidArgumentError, InvalidFrameError
from pipeline.frame import AttributeValue
from pipeline.value_publisher import ValuePublisher

log = logging.getLogger(__name__)
#: Updates of one PV that may wait: 10 s of 100 Hz.
QUEUE = 1000
#: Elements of a waveform beyond which it is no attribute.
_MOST_ELEMENTS = 64
_LOOK_S = 0.2


class EpicsValues:
    """Publishes what PVs say, each update at the time that its IOC gives it.

    A PV that is disconnected is not known from then on: NaN for numbers, empty for text.

    Parameters
    ----------
    names:
        Name of the value for each PV.
    address:
        Hosts to ask, ``HOST`` or ``HOST:PORT`` (UDP); empty: what ``EPICS_PVA_ADDR_LIST`` says.
    """

    def __init__(self, out: ValuePublisher, names: Mapping[str, str], *, address: str = "") -> None:
        if not names:
            raise InvalidArgumentError("pv", "name at least one PV")
        if len(set(names.values())) != len(names):
            raise InvalidArgumentError("pv", "two PVs have the same name")
        self._out = out
        self._names = dict(names)
        self._channels = Channels(address)
        self._known: dict[str, AttributeValue] = {}
        #: PVs whose values were refused, each told of once.
        self._refused: set[str] = set()
        #: Updates that were published.
        self.count = 0

    @property
    def connected(self) -> list[str]:
        """The PVs that have said something and were not lost since."""
        return sorted(self._known)

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set; raises SourceError and what publishing raises."""
        try:
            for pv in self._names:
                self._channels.watch(pv, queue=QUEUE)
            while not stop.is_set():
                self._channels.wait(_LOOK_S)
                self.look()
        finally:
            self._channels.close()

    def look(self) -> None:
        """Publish what has come, in the order of its time."""
        found = [(self._stamp(u), pv, u) for pv in self._names for u in self._channels.take(pv)]
        for stamp, pv, update in sorted(found, key=lambda entry: entry[0]):
            value = self._value(pv, update)
            if value is not None:
                self._put(pv, value, stamp)

    def _put(self, pv: str, value: AttributeValue, stamp: int) -> None:
        try:
            self._out.put_all({self._names[pv]: value}, stamp)
        except InvalidFrameError as error:
            self._refuse(pv, str(error))
        else:
            self.count += 1

    def _stamp(self, update: Update) -> int:
        """Return the IOC's time; now where it gives none."""
        stamp = update.get("timeStamp", {}) if update != "gone" else {}
        seconds = int(stamp.get("secondsPastEpoch", 0))
        return seconds * 10**9 + int(stamp["nanoseconds"]) if seconds > 0 else time.time_ns()

    def _value(self, pv: str, update: Update) -> AttributeValue:
        """Return what an update says; None for nothing."""
        if update == "gone":
            if pv not in self._known:
                return None
            log.warning("PV lost pv=%s", pv)
            was = self._known.pop(pv)
            return "" if isinstance(was, str) else math.nan
        value = plain(update.get("value"))
        if value is None:
            self._refuse(pv, "neither a number, a text, a choice nor a short waveform")
            return None
        self._known[pv] = value
        return value

    def _refuse(self, pv: str, problem: str) -> None:
        if pv not in self._refused:
            self._refused.add(pv)
            log.warning("PV not published pv=%s: %s", pv, problem)


def plain(value: Any) -> AttributeValue:
    """Return a PV's value as an attribute: choices by their name; None for what is none."""
    if isinstance(value, Mapping):
        index, choices = value.get("index"), value.get("choices")
        if isinstance(index, int) and choices is not None and 0 <= index < len(choices):
            return str(choices[index])
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return value if len(value) <= _MOST_ELEMENTS else None
    return value if isinstance(value, (bool, int, float, str)) else None
