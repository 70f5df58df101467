"""The connection to camserver: watches series begin and end, and never commands.

camserver serves each connection by a process of its own (its source as published by PSI, 2010):

- Whoever connects while nobody holds the control token gets it.  A watcher must not: it looks whose
  the token is, and hangs up at once if it got it.
- The code-7 reply at the end of a series goes to the connection that began it, to no other.
  What everybody sees is ``CamSetup``: state, target and last completed image are shared.
- ``ExpTime``, ``NImages`` and the like are those of the moment when the connection was made.
  Therefore each look is a connection of its own.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from pipeline.detectors.pilatus import camserver
from pipeline.detectors.pilatus.camserver import Reply, Setup
from pipeline.errors import InvalidArgumentError, InvalidFrameError, SourceError
from pipeline.frame import AttributeValue

log = logging.getLogger(__name__)
#: Of the detector's computer, in the vendor's deployments.
DEFAULT_PORT = 41234
#: Replies to questions come within 2 ms; a driver allows a second.
_REPLY_TIMEOUT_S = 2.0
#: While nobody else is connected each look holds the token for some milliseconds: look rarely.
_CONTROL_PAUSE_S = 5.0
_QUESTIONS = ("ExpTime", "ExpPeriod", "NImages", "ImgPath", "THread")
#: Things seen and not yet taken; a detector begins a few series in a second at most.
_MAX_SEEN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A series was begun: what camserver says of it; ``seen_ns`` is this host's time.

    ``late``: it was going on already at the first look.
    """

    target: str
    late: bool = False
    seen_ns: int
    images: int | None = None
    period_s: float | None = None
    metadata: dict[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """camserver is idle again; ``last`` is the path of the last image, empty if not told."""

    last: str
    killed: bool = False


Seen = Began | Ended


class Conversation:
    """One connection: ask, get the answer.  For one thread."""

    def __init__(self, address: tuple[str, int], *, timeout_s: float = _REPLY_TIMEOUT_S) -> None:
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._timeout_s = timeout_s
        self._replies = camserver.Replies()
        self._waiting: deque[Reply] = deque()
        #: Replies that answered nothing: ends of series and kills.
        self.unasked: list[Reply] = []

    def ask(self, question: str, code: int) -> Reply | None:
        """Return the answer with this code; None if it was refused.

        Raises
        ------
        OSError
            No answer in time, or the connection is gone.
        InvalidFrameError
            What came is no reply.
        """
        self._socket.sendall(question.encode() + b"\n")
        until_s = time.monotonic() + self._timeout_s
        while True:
            while self._waiting:
                reply = self._waiting.popleft()
                if reply.code == code and reply.ok:
                    return reply
                if reply.code in (camserver.EXPOSURE_END, camserver.KILL):
                    self.unasked = [*self.unasked[-9:], reply]
                elif not reply.ok:
                    return None  # "access denied", or an older version does not know it
            if time.monotonic() > until_s:
                raise TimeoutError(f"no answer to {question}")
            data = self._socket.recv(1 << 14)
            if not data:
                raise ConnectionResetError("camserver closed the connection")
            self._waiting.extend(self._replies.feed(data))

    def close(self) -> None:
        """Hang up; may be called twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        self.close()


class CamserverLink:
    """Looks at camserver again and again, in a thread of its own.

    Parameters
    ----------
    address:
        ``HOST`` or ``HOST:PORT``.
    every_s:
        Seconds between two looks; a series shorter than that is seen when it is over.
    low_gb:
        Free space of the image directory, in 10**9 bytes, below which a warning is logged.
    """

    def __init__(
        self,
        address: str,
        *,
        every_s: float = 0.5,
        low_gb: float = 1.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.address = _parse_address(address)
        self.is_up: bool | None = None
        self._every_s = self._pause_s = every_s
        self._low_gb = low_gb
        self._clock_ns = clock_ns
        self._seen: deque[Seen] = deque(maxlen=_MAX_SEEN)
        self._before: Setup | None = None
        self._current: Began | None = None
        self._is_low = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="camserver", daemon=True)
            self._thread.start()

    def take(self) -> list[Seen]:
        """Return what was seen since the last call, in order."""
        return [self._seen.popleft() for _ in range(len(self._seen))]

    def close(self) -> None:
        """Stop looking; waits for a look that is under way.  May be called twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * _REPLY_TIMEOUT_S * (len(_QUESTIONS) + 3))
            self._thread = None

    def check(self) -> dict[str, AttributeValue]:
        """Look once and say what is seen; SourceError if camserver does not answer."""
        try:
            with Conversation(self.address) as talk:
                setup, is_ours = _setup(talk)
        except (OSError, InvalidFrameError) as error:
            host, port = self.address
            raise SourceError(
                f"camserver on {host} port {port} does not answer ({error}): is it running, and"
                " may this machine connect?"
            ) from error
        facts: dict[str, AttributeValue] = {"camera": setup.name, "state": setup.state}
        return facts | {"control": "nobody's" if is_ours else "another client's"}

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self.look()
                self._tell_up(None)
            except (OSError, InvalidFrameError) as error:
                self._tell_up(error)
            if self._stop.wait(self._pause_s):
                return

    def _tell_up(self, error: Exception | None) -> None:
        is_up = error is None
        if is_up != self.is_up:
            host, port = self.address
            if is_up:
                log.info("camserver answers host=%s port=%d", host, port)
            else:
                log.warning(
                    "camserver does not answer host=%s port=%d reason=%s: series end by silence"
                    " until it does",
                    host,
                    port,
                    error,
                )
        self.is_up = is_up

    def look(self) -> None:
        """Look once; raises OSError or InvalidFrameError when there is no answer."""
        with Conversation(self.address) as talk:
            setup, is_ours = _setup(talk)
            self._pause_s = max(self._every_s, _CONTROL_PAUSE_S) if is_ours else self._every_s
            if is_ours:
                # no question beyond: a program that is about to command must find the token free
                self._compare(setup, None)
                return
            self._compare(setup, talk)
            free = talk.ask("Df", camserver.DF)
            self._watch_space(None if free is None else camserver.number_in(free.text))
            for reply in talk.unasked:
                if reply.code == camserver.EXPOSURE_END and self._current is not None:
                    self._end(reply.text if reply.ok else setup.completed, killed=not reply.ok)

    def _compare(self, setup: Setup, talk: Conversation | None) -> None:
        """Tell from two looks what happened between them."""
        before, self._before = self._before, setup
        if not setup.is_idle:
            if self._current is not None and _is_another(self._current.target, setup.target):
                self._end(setup.completed)  # over and another begun between two looks
            if self._current is None:
                self._begin(setup, talk, late=before is None)
            return
        if self._current is not None:
            self._end(setup.completed)
        elif before is not None and setup.completed not in ("", before.completed):
            self._begin(setup, talk)
            self._end(setup.completed)

    def _begin(self, setup: Setup, talk: Conversation | None, *, late: bool = False) -> None:
        self._current = replace(_describe(setup, talk, self._clock_ns()), late=late)
        self._seen.append(self._current)
        log.info("camserver began target=%s images=%s", setup.target, self._current.images)

    def _end(self, last: str, *, killed: bool = False) -> None:
        current, self._current = self._current, None
        if current is not None and current.images and not killed:
            prefix, first, extension = camserver.split_target(current.target)
            known = camserver.split_target(last)
            same = (known[0], known[2]) == (prefix, extension)
            killed = same and current.images > 1 and known[1] - first + 1 < current.images
        self._seen.append(Ended(last=last, killed=killed))
        log.info("camserver ended last=%s killed=%s", last, killed)

    def _watch_space(self, blocks: float | None) -> None:
        """Warn once when the image directory gets full; a block of ``Df`` has 1024 bytes."""
        if blocks is None:
            return
        free_gb = blocks * 1024 / 1e9
        if free_gb < self._low_gb and not self._is_low:
            log.warning("camserver's image directory is nearly full free_gb=%.2f", free_gb)
        self._is_low = free_gb < self._low_gb


def _setup(talk: Conversation) -> tuple[Setup, bool]:
    """Return what CamSetup shows, and whether this connection has got the control token."""
    reply = talk.ask("CamSetup", camserver.CAMSETUP)
    if reply is None:
        raise InvalidFrameError("reply", "CamSetup was refused")
    setup = camserver.parse_setup(reply.text)
    own = talk.ask("ShowPID", camserver.PID)
    is_ours = own is not None and camserver.number_in(own.text) == setup.controller
    return setup, is_ours


def _is_another(target: str, later: str) -> bool:
    """Tell whether a target is of another series: other names, or numbers from the start."""
    prefix, number, extension = camserver.split_target(target)
    other, other_number, other_extension = camserver.split_target(later)
    return (other, other_extension) != (prefix, extension) or other_number < number


def _describe(setup: Setup, talk: Conversation | None, now_ns: int) -> Began:
    answers: dict[str, str] = {}
    for question in _QUESTIONS if talk is not None else ():
        code = {"ImgPath": camserver.IMGPATH, "THread": camserver.THREAD}.get(question)
        reply = talk.ask(question, code or camserver.GENERIC) if talk is not None else None
        if reply is not None:
            answers[question] = reply.text
    images = camserver.number_in(answers.get("NImages", ""))
    period_s = camserver.number_in(answers.get("ExpPeriod", ""))
    exposure_s = setup.exposure_s
    if exposure_s is None:
        exposure_s = camserver.number_in(answers.get("ExpTime", ""))
    metadata: dict[str, AttributeValue] = {
        "camera_name": setup.name or None,
        "exposure_s": exposure_s,
        "frame_time_s": period_s,
        "images_announced": int(images) if images is not None else None,
        "image_path": answers.get("ImgPath"),
    }
    temperatures, humidities = camserver.parse_channels(answers.get("THread", ""))
    if temperatures:
        metadata |= {"temperatures_C": list(temperatures), "humidities_percent": list(humidities)}
    return Began(
        target=setup.target or setup.completed,
        seen_ns=now_ns,
        images=int(images) if images is not None and images >= 1 else None,
        period_s=period_s if period_s is not None and period_s > 0 else None,
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def _parse_address(text: str) -> tuple[str, int]:
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        host, port = port, str(DEFAULT_PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgumentError("camserver", f"{text!r} is not HOST or HOST:PORT")
    return host, int(port)
