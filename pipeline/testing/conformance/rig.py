"""What the kit must know of an instrument: a rig plays its device and its wire."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame (one module of it) that the device sent, as readers must see it.

    Parameters
    ----------
    number:
        The source's number, unwrapped, as the adapter is to publish it.
    pixels_sha256:
        Hex digest of the decoded pixels, see :func:`pixels_sha256`.
    """

    number: int
    pixels_sha256: str
    module: int = 0


def pixels_sha256(pixels: npt.NDArray[Any]) -> str:
    """Return the digest of an image: its bytes in C order, little-endian."""
    return hashlib.sha256(little_endian(pixels).tobytes()).hexdigest()


def little_endian(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the image in C order and little-endian."""
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))


#: What a hostile thing returns: frames that must come all the same (:class:`Sent`), and numbers
#: that the device made and nobody can read (int); nothing at all is fine, too.
Harm = Callable[[], "Iterable[Sent | int] | None"]


class Rig(Protocol):
    """Plays one instrument for one fault: a new rig is made for each, in an empty folder.

    All methods are called from one thread.  None waits for the adapter but ``ready``; with nobody
    there a device goes on, so ``frames`` must return then, too.  Pixels differ from frame to frame
    and from series to series (numbers repeat after a restart), or mixed series would not show.

    Optional attributes, with their defaults
    ----------------------------------------
    idle_end_s = None:
        Seconds of silence that end a series, for sources that do not tell their ends.
    states = {}:
        How series may be found ended after a fault, where it is not as the kit expects:
        ``{"missing_end": ("complete",)}`` for files, of which nobody tells the end.
    tells_count = True:
        The device says how many frames it made, so that a loss at the end is known.
    splits = {}:
        Fault and the reason why a series goes on in a second stream after it.
    """

    #: Name of the adapter's entry point.
    adapter: str
    #: The source keeps frames until they are confirmed (files): a killed adapter loses nothing.
    keeps: bool
    #: Faults that cannot happen with this source, and why.
    unsupported: Mapping[str, str]

    def __init__(self, folder: Path) -> None: ...

    def settings(self) -> Mapping[str, Any]:
        """Return the adapter's settings for this source; values survive JSON."""
        ...

    def ready(self, timeout_s: float) -> None:
        """Return once the adapter, which the kit has started, hears the device; files: at once."""
        ...

    def begin(self) -> str:
        """Start a series; return its name for people."""
        ...

    def begin_silently(self) -> str:
        """Start one without the adapter being told."""
        ...

    def frames(self, count: int) -> list[Sent]:
        """Make and send so many frames; of each as many entries as there are modules."""
        ...

    def lose(self, count: int) -> list[int]:
        """Make so many frames that never reach the adapter; return their numbers."""
        ...

    def end(self, how: str = "complete") -> None:
        """End the series: ``complete`` or ``aborted``."""
        ...

    def end_silently(self) -> None:
        """End it without the adapter being told."""
        ...

    def end_again(self) -> None:
        """Repeat the last message of an end."""
        ...

    def disconnect(self) -> None:
        """Pull the cable (files: the directory goes away)."""
        ...

    def reconnect(self) -> None:
        """Put it in again."""
        ...

    def restart(self) -> None:
        """Switch the device off and on: numbers and ids from scratch, the same addresses."""
        ...

    def hostile(self) -> Mapping[str, Harm]:
        """Return bad things by name; each is done in the midst of a running series.

        The beginning of the name says to which fault it belongs: ``shape``, ``size``, ``zero``,
        ``growing``; all others are ``hostile``.
        """
        ...

    def close(self) -> None:
        """Switch off and release everything."""
        ...
