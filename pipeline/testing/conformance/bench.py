"""The servers below the script: some to work on, others of our own to break."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pipeline import config
from pipeline.config import Settings
from pipeline.local import RuntimeInfo, down, up
from pipeline.local.processes import wait_until

Server = Literal["broker", "store"]
#: Length of an outage when nobody says otherwise, seconds; the full form has 20.
_OUTAGE_S = 3.0


class Bench:
    """A real broker and a real store, and a second pair whose processes may be killed.

    Parameters
    ----------
    folder:
        Empty; the servers that are ours alone keep their data in it.
    home:
        A running local runtime (``lichtstrom up``) for all faults but the outages, which saves its
        start; it is left as it is.
    outage_s:
        How long broker and store are away; default ``LICHTSTROM_OUTAGE_S``, else 3 s.

    Servers start when they are needed (some seconds), and stop on leaving.
    """

    def __init__(
        self, folder: Path, *, home: Path | None = None, outage_s: float | None = None
    ) -> None:
        self._own = folder / "servers"
        self._home = home
        self._has_own = False
        named = os.environ.get("LICHTSTROM_OUTAGE_S", "")
        self.outage_s = float(named or _OUTAGE_S) if outage_s is None else outage_s

    def environment(self, *, breakable: bool = False) -> dict[str, str]:
        """Return the environment of processes that work on these servers."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LICHTSTROM_")}
        home = self._home
        if breakable or home is None:
            home = self._own
            up(home)
            self._has_own = True
        else:
            up(home)
        # An outage is one of a server, so the store is behind one then.
        return kept | {
            "LICHTSTROM_HOME": str(home),
            "LICHTSTROM_STORE_URL": "s3" if breakable else "file",
        }

    def settings(self, *, breakable: bool = False) -> Settings:
        """Return the settings of sessions on these servers."""
        settings = config.load(environment=self.environment(breakable=breakable))
        if breakable:  # the spool takes over soon, and the short form shows it, too
            kafka = replace(settings.kafka, timeout_s=2.0)
            store = replace(settings.store, timeout_s=2.0)
            settings = replace(settings, kafka=kafka, store=store)
            settings = config.with_publish(settings, spool_after_s=0.3)
        return settings

    def break_down(self, server: Server) -> None:
        """Kill a server with SIGKILL; returns when it is gone."""
        info = up(self._own)
        pid = _pid(info, server)
        os.kill(pid, signal.SIGKILL)
        if not wait_until(lambda: _is_gone(pid), timeout_s=10.0):
            raise TimeoutError(f"the {server}, process {pid}, survived SIGKILL")

    def repair(self) -> None:
        """Start what was killed again, on its data and its port."""
        up(self._own)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._has_own:
            down(self._own)


def _pid(info: RuntimeInfo, server: Server) -> int:
    if server == "broker":
        return info.kafka.pid
    if info.s3 is None:
        raise LookupError("no S3 server on this machine: `lichtstrom doctor` says why")
    return info.s3.pid


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"
