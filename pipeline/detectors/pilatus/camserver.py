"""What camserver says on its port: bytes to facts, no input or output.

Replies are ``<code> OK|ERR <text>`` and end with the byte 0x18; the text may have several lines
(PILATUS user manuals, chapter on control from a specific environment).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.detectors.pilatus.wire import split_name
from pipeline.errors import InvalidFrameError

#: Replies end with it, and so may commands.
END = b"\x18"
CAMSETUP, DF, EXPOSURE_END, IMGPATH, KILL, GENERIC, PID, THREAD = 2, 5, 7, 10, 13, 15, 16, 215
# The longest reply (a threshold with its trim files) has some kilobytes.
_MAX_REPLY = 1 << 16
_REPLY = re.compile(r"(\d{1,6}) (OK|ERR)(?: (.*))?", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_CHANNEL = re.compile(
    r"Temperature\s*=\s*([-+\d.]{1,12})\s*C.{0,20}?Humidity\s*=\s*([-+\d.]{1,12})\s*%"
)
#: Fewer digits than these behind the last underscore are part of the prefix.
_FEWEST_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One reply of camserver."""

    code: int
    ok: bool
    text: str


class Replies:
    """Cuts what comes from the port into replies; holds 64 KiB at most."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that are complete with these bytes.

        Raises
        ------
        InvalidFrameError
            The bytes are no replies: something else listens on that port.
        """
        *whole, self._rest = (self._rest + data).split(END)
        if len(self._rest) > _MAX_REPLY:
            raise InvalidFrameError("reply", f"more than {_MAX_REPLY} bytes without an end")
        return [parse_reply(reply) for reply in whole if reply.strip(b"\0\r\n ")]


def parse_reply(data: bytes) -> Reply:
    """Return one reply, given without its end; InvalidFrameError if it is none."""
    text = data.decode("latin-1").strip("\0\r\n ")
    match = _REPLY.fullmatch(text)
    if match is None:
        raise InvalidFrameError("reply", f"{text[:60]!r} is no reply of camserver")
    return Reply(code=int(match[1]), ok=match[2] == "OK", text=(match[3] or "").strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What ``CamSetup`` shows, to every client: empty or None where the reply lacks a line.

    Parameters
    ----------
    state:
        ``idle``, ``exposing``, ``preparing``, ...
    target:
        Path of the image or series that was begun last.
    completed:
        Path of the last image that is complete.
    controller:
        Process number of the connection that may command.
    """

    name: str = ""
    state: str = ""
    target: str = ""
    completed: str = ""
    controller: int | None = None
    exposure_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being exposed."""
        return self.state.lower() in ("idle", "")


def parse_setup(text: str) -> Setup:
    """Read the reply to ``CamSetup``: lines ``keyword: value``, some with the value below."""
    values: dict[str, str] = {}
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")[:200]]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        keyword, colon, value = line.partition(":")
        if colon:
            values.setdefault(keyword.lower(), value.strip() or following)
    controller = number_in(values.get("controlling pid is", ""))
    return Setup(
        name=values.get("camera name", ""),
        state=values.get("camera state", ""),
        target=_path(values.get("target file", "")),
        completed=_path(values.get("last completed image", "") or values.get("last image", "")),
        controller=None if controller is None else int(controller),
        exposure_s=number_in(values.get("exposure time", "")),
    )


def number_in(text: str) -> float | None:
    """Return the first number in a reply's text (``N images set to: 10``), None without one."""
    found = _NUMBER.search(text[:500])
    return float(found[0]) if found and len(found[0]) <= 20 else None


def parse_channels(text: str) -> tuple[list[float], list[float]]:
    """Return the temperatures (degrees Celsius) and humidities (%) of a reply to ``THread``."""
    channels = _CHANNEL.findall(text[:4000])[:16]
    try:
        pairs = [(float(temperature), float(humidity)) for temperature, humidity in channels]
    except ValueError:
        return [], []
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def split_target(path: str) -> tuple[str, int, str]:
    """Return prefix, first number and extension of the files that a start command asks for.

    Three digits or more behind the last underscore give the first number; otherwise numbers
    begin at 0 behind the whole name: ``t_2_0035.cbf`` is ``t_2`` from 35, ``t_.tif`` is ``t`` from
    0, ``t_014B.tif`` is ``t_014B`` from 0.
    """
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    if not dot:
        stem, extension = extension, ""
    found = split_name(f"{stem}.")
    if found is not None and len(stem) - len(found[0]) - 1 >= _FEWEST_DIGITS:
        return found[0], found[1], f".{extension.lower()}"
    return stem.removesuffix("_"), 0, f".{extension.lower()}"


def _path(text: str) -> str:
    return text if "/" in text or "." in text else ""
