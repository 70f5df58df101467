"""Messages of xspd's data ports: bytes to facts, no input or output.

Sources: the xspd REST documentation and open drivers for it; a message has three parts: topic,
header, pixels.  Open drivers read the header as four bytes and more recent servers send longer
ones, so that who reads it can be exchanged.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import InvalidArgumentError, InvalidFrameError

#: What the status byte says; 0 is fine.
STATUS = {1: "incomplete", 2: "missing", 3: "compression failed"}
#: The one-byte number comes again after so many frames.
WRAP = 256
#: Bits of a pixel on delivery, by numpy name.
DTYPES = {
    1: "uint8",
    6: "uint8",
    8: "uint8",
    12: "uint16",
    16: "uint16",
    24: "uint32",
    32: "uint32",
}
_BLOSC = frozenset(("lz4", "blosclz", "lz4hc", "zlib", "zstd"))


#: The frame time tells of more than 256 lost frames only after so many of them ...
_SURE_FRAMES = 200.0
#: ... and is measured by so many.
_MEASURED_FRAMES = 1000


@dataclass(frozen=True, slots=True)
class Head:
    """What the header of a sub-image says.

    Parameters
    ----------
    number:
        As on the wire, from 0.
    counter:
        0, or 1 for the second threshold of the dual mode.
    wrap:
        How many different numbers there are; 0 where the number is whole.
    """

    number: int
    counter: int
    status: int
    wrap: int = WRAP


HeaderParser = Callable[[memoryview], Head]


def bytes4(header: memoryview) -> Head:
    """Read number, counter and status from the first bytes; what follows is not looked at.

    Raises InvalidFrameError for fewer than four bytes.
    """
    if header.nbytes < 4:
        raise InvalidFrameError("header", f"{header.nbytes} bytes, at least 4 are needed")
    return Head(header[0], header[1], header[2])


def parser_of(name: str) -> HeaderParser:
    """Return ``bytes4``, or the function that ``package.module:function`` names.

    Raises InvalidArgumentError when there is no such function.
    """
    if name == "bytes4":
        return bytes4
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgumentError("header", f"{name!r}: {error}") from error
    if not callable(found):
        raise InvalidArgumentError("header", f"{name!r} is not bytes4 or package.module:function")
    return found  # type: ignore[no-any-return]


def encoding_of(compressor: str) -> str:
    """Return our name of a server's ``compressor``.

    Raises InvalidFrameError for one that is not known.
    """
    kind, _, codec = compressor.partition("/")
    if compressor in ("none", ""):
        return "raw"
    if compressor == "zlib":
        return "gzip"
    if kind == "blosc" and codec in _BLOSC:
        return "blosc"
    raise InvalidFrameError("compressor", f"{compressor!r:.60} is unknown")


class Unwrapper:
    """Makes whole numbers of those of one port, which come in order.

    Parameters
    ----------
    first:
        Whether the port is heard from the beginning of a run.
    """

    def __init__(self) -> None:
        self.last: int | None = None
        self.repeated = 0

    def whole(self, head: Head, *, passed: float = 0.0, frames: int | None = None) -> int | None:
        """Return the whole number; None for one that has come before.

        Parameters
        ----------
        passed:
            How many frames the detector can have made since the last one, by its frame time; 0
            where that is not known.  More than 256 lost frames are found by this alone.
        frames:
            How many the run has, if that is known: no number is as high.
        """
        if self.last is None or not head.wrap:
            if self.last is not None and head.number <= self.last:
                self.repeated += 1
                return None
            self.last = head.number
            return head.number
        ahead = (head.number - self.last) % head.wrap
        ahead += head.wrap * max(0, round((passed - ahead) / head.wrap))
        if frames is not None and ahead > head.wrap:
            above = max(0, self.last + ahead + 1 - frames)
            ahead -= head.wrap * min(-(-above // head.wrap), ahead // head.wrap)
        if not ahead:
            self.repeated += 1
            return None
        self.last += ahead
        return self.last


class Pace:
    """How many frames one port's detector has made since its last message, by its frame time.

    Only arrivals that are known count: what waited in a queue while nobody took it came earlier
    than it was read, and who counted that time would find frames lost that are all there.

    Parameters
    ----------
    period_s:
        Announced time between two frames; corrected by what is seen.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._first: tuple[int, float] | None = None
        self._known: tuple[int, float] | None = None

    def passed(self, last: int, now_s: float) -> float:
        """Return how many frames were made after number ``last`` until now; 0 if it is not sure."""
        if self._known is None or self._first is None:
            return 0.0
        (begun, begun_s), (number, known_s) = self._first, self._known
        period_s = self._period_s
        if number - begun >= _MEASURED_FRAMES and known_s > begun_s:
            period_s = (known_s - begun_s) / (number - begun)
        passed = (now_s - known_s) / period_s - (last - number)
        return passed if passed >= _SURE_FRAMES else 0.0

    def arrived(self, number: int, now_s: float) -> None:
        """Take note of a frame that has come just now."""
        self._first = self._first or (number, now_s)
        self._known = (number, now_s)
