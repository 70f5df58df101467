"""Telling systemd that the work goes on: ready, alive, in a few words how far.

The protocol is sd_notify(3): a datagram of lines ``KEY=value`` to the socket that NOTIFY_SOCKET
names.  Only the loops that do the work call :func:`beat`: one that hangs stops feeding, and systemd
kills and restarts the process after its ``WatchdogSec``.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)
#: Where nobody asked for a sign of life: how often the few words are told anew.
_WORDS_S = 10.0


class Watchdog:
    """Feeds the service manager; does nothing where there is none.  For any thread.

    Parameters
    ----------
    environment:
        NOTIFY_SOCKET: path of a Unix socket, ``@`` in front: an abstract one.  WATCHDOG_USEC: after
        so many microseconds of silence we are killed.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        limit = environment.get("WATCHDOG_USEC", "")
        limit_s = int(limit) / 1e6 if limit.isdigit() else 0.0
        self._every_s = limit_s / 4 if limit_s else _WORDS_S
        self._next_s = 0.0
        self._is_ready = False

    def beat(self, words: str = "") -> None:
        """Say that the work goes on; costs a look at the clock but four times in the limit.

        The first one says that the service is ready.
        """
        if not self._address:
            return
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + self._every_s
        lines = ["WATCHDOG=1", *([f"STATUS={words}"] if words else [])]
        if not self._is_ready:
            self._is_ready = True
            lines.insert(0, "READY=1")
        self._send("\n".join(lines))

    def stopping(self) -> None:
        """Say that the end has begun: what is queued is finished first."""
        if self._address:
            self._send("STOPPING=1\nWATCHDOG=1")

    def _send(self, text: str) -> None:
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.sendto(text.encode(), address)
        except OSError as error:  # the work matters more than who watches it
            log.debug("the service manager does not listen: %s", error)


#: That of this process.
WATCHDOG = Watchdog(os.environ)
beat = WATCHDOG.beat
