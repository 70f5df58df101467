"""PV Access by p4p: updates of a few channels, in the order of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pipeline.errors import InvalidArgumentError, SourceError

Update = Mapping[str, Any] | Literal["gone"]


def import_p4p() -> Any:
    """Return the package p4p; SourceError says how to install it."""
    try:
        import p4p
        import p4p.client.raw
        import p4p.client.thread
    except ImportError as error:
        raise SourceError(
            f"EPICS is read with p4p, which cannot be loaded ({error}):"
            " pip install 'lichtstrom[epics]'"
        ) from error
    return p4p


def environment(address: str) -> dict[str, str] | None:
    """Return the settings of a PVA client that asks only these hosts; None: the environment's.

    Parameters
    ----------
    address:
        Hosts, each with its UDP port if it is not 5076, separated by commas or blanks.
    """
    hosts = address.replace(",", " ").split()
    if not hosts:
        return None
    for host in hosts:
        _, _, port = host.partition(":")
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise InvalidArgumentError("address", f"{host!r} is not HOST or HOST:PORT")
    return {"EPICS_PVA_ADDR_LIST": " ".join(hosts), "EPICS_PVA_AUTO_ADDR_LIST": "NO"}


class Channels:
    """Monitors of channels; :meth:`take` returns what has come.

    Updates wait in the queue that PV Access keeps for each monitor (``record[queueSize]``), in
    memory; a full one drops, which the uniqueId shows.  Not for use from several threads.
    """

    def __init__(self, address: str) -> None:
        self._p4p = import_p4p()
        conf = environment(address)
        self._context = self._p4p.client.raw.Context(
            "pva", conf=conf or {}, useenv=conf is None, nt=False, unwrap=False
        )
        self._changed = threading.Event()
        self._monitors: dict[str, Any] = {}

    def watch(self, name: str, *, queue: int) -> None:
        """Begin to monitor a channel; it need not exist yet."""
        self._monitors[name] = self._context.monitor(
            name,
            self._changed.set,
            request=f"field()record[queueSize={queue}]",
        )

    def wait(self, timeout_s: float) -> bool:
        """Wait until something may have come; False after ``timeout_s``."""
        came = self._changed.wait(timeout_s)
        self._changed.clear()
        return came

    def take(self, name: str) -> Iterator[Update]:
        """Yield the updates of a channel that have come; ``gone`` where it was disconnected."""
        monitor = self._monitors[name]
        while True:
            try:
                update = monitor.pop()
            except RuntimeError as error:  # what the server refuses
                update = error
            if update is None:
                return
            yield "gone" if isinstance(update, Exception) else update.todict()

    def close(self) -> None:
        """Let go of the channels; may be called twice."""
        for monitor in self._monitors.values():
            monitor.close()
        self._monitors.clear()
        self._context.close()


def read_once(address: str, name: str, *, timeout_s: float) -> Mapping[str, Any]:
    """Return a channel's value now; SourceError after ``timeout_s``."""
    p4p = import_p4p()
    conf = environment(address)
    with p4p.client.thread.Context(
        "pva", conf=conf or {}, useenv=conf is None, nt=False, unwrap=False
    ) as context:
        try:
            found: Mapping[str, Any] = context.get(name, timeout=timeout_s).todict()
        except TimeoutError:
            where = address or "the hosts of EPICS_PVA_ADDR_LIST"
            raise SourceError(
                f"no answer for channel {name!r} from {where} in {timeout_s:g} s. Is the IOC"
                " running, its PVA plugin loaded, and its UDP port 5076 open? `pvinfo` of EPICS"
                " asks the same"
            ) from None
        except RuntimeError as error:
            raise SourceError(f"channel {name!r}: {error}") from error
    return found
