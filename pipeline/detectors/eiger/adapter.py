"""Eiger detectors: the stream (V1 or V2) or the FileWriter of a DECTRIS control unit.

``docs/detectors/eiger.md`` tells the rules.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.detectors.eiger.filewriter import FileWriterSource
from pipeline.detectors.eiger.simplon import Simplon
from pipeline.detectors.eiger.streams import StreamSource
from pipeline.detectors.options import Option
from pipeline.detectors.rest import Device
from pipeline.detectors.timezones import timezone_of
from pipeline.errors import InvalidArgumentError, SourceError
from pipeline.frame import AttributeValue
from pipeline.protocols import AdapterEvent

INTERFACES = ("auto", "stream1", "stream2", "filewriter")
#: Ports of the streams: legacy, and CBOR.
_PORTS = {"stream1": 9999, "stream2": 31001}
_CHECK_S = 3.0


class EigerAdapter:
    """Publishes what a DECTRIS Eiger sends by its stream, or keeps as HDF5 files.

    Parameters
    ----------
    endpoint:
        The control unit, ``http://HOST[:PORT]``; empty with a stream endpoint alone.
    interface:
        ``stream1`` (legacy), ``stream2`` (CBOR), ``filewriter``; ``auto`` takes the stream that
        is enabled, else the FileWriter.
    stream_endpoint:
        ``tcp://HOST:PORT``; default is the host of ``endpoint`` and the vendor's port.
    api:
        Version of the interface, like ``1.6.0``; ``auto`` asks.
    enable_stream:
        Enable the stream on the control unit; the adapter sets nothing else there, ever.
    lost_after_s:
        How long the stream's connection may be gone before a series ends as lost.
    queue:
        Messages of the stream that may wait in memory.
    poll_every_s, folder:
        Of the FileWriter: seconds between two listings; where a file is fetched to.
    timezone:
        Of the FileWriter: where the control unit's clock is.
    after:
        Of the FileWriter: ``keep`` or ``delete``.

    Raises
    ------
    InvalidArgumentError
        Names the setting that is wrong.
    """

    name = "eiger"
    exclusive = True

    def __init__(
        self,
        *,
        endpoint: str = "",
        interface: str = "auto",
        stream_endpoint: str = "",
        api: str = "auto",
        enable_stream: bool = False,
        lost_after_s: float = 60.0,
        queue: int = 1000,
        poll_every_s: float = 0.5,
        folder: str = "",
        timezone: str = "UTC",
        idle_end_s: float | None = None,
        after: str = "keep",
    ) -> None:
        if interface not in INTERFACES:
            raise InvalidArgumentError(
                "interface", f"{interface!r} is not one of {', '.join(INTERFACES)}"
            )
        if not endpoint and (interface == "filewriter" or not stream_endpoint):
            raise InvalidArgumentError(
                "endpoint",
                "give --endpoint http://HOST, the control unit, or for its stream alone"
                " --stream-endpoint tcp://HOST:PORT",
            )
        if stream_endpoint and urlsplit(stream_endpoint).scheme != "tcp":
            raise InvalidArgumentError(
                "stream_endpoint", f"{stream_endpoint!r} is not like tcp://HOST:31001"
            )
        if queue < 1 or lost_after_s < 0:
            raise InvalidArgumentError("queue", "queue and lost_after_s must be positive")
        self.after = after
        self.idle_end_s = idle_end_s
        self._interface, self._stream_endpoint = interface, stream_endpoint
        self._device = Device(endpoint) if endpoint else None
        self._simplon = Simplon(self._device, api) if self._device is not None else None
        self._enable_stream = enable_stream
        self._lost_after_s, self._queue = lost_after_s, queue
        self._files: dict[str, Any] = {
            "folder": Path(folder) if folder else None,
            "poll_every_s": poll_every_s,
            "timezone": timezone_of(timezone),
            "after": after,
        }
        self._source: StreamSource | FileWriterSource | None = None

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(name="endpoint", default="", help="the control unit", unit="URL"),
            Option(
                name="interface",
                default="auto",
                help="how images come: stream1 (legacy), stream2 (CBOR), filewriter (HDF5 files);"
                " auto takes the stream that is enabled, else the FileWriter",
                choices=INTERFACES,
            ),
            Option(
                name="stream_endpoint",
                default="",
                help="address of the stream, tcp://HOST:PORT; default: port 9999 (stream1) or"
                " 31001 (stream2) of the control unit; alone it is enough",
                unit="URL",
            ),
            Option(name="api", default="auto", help="version of the interface", unit="VERSION"),
            Option(
                name="enable_stream",
                type=bool,
                default=False,
                help="enable the stream on the control unit; nothing else is ever set there",
            ),
            Option(
                name="lost_after_s",
                type=float,
                default=60.0,
                help="how long the stream's connection may be gone before a series ends as lost",
                unit="SECONDS",
            ),
            Option(
                name="queue",
                type=int,
                default=1000,
                help="messages of the stream that may wait in memory; past it the detector holds"
                " back, and counts what it drops",
                unit="N",
            ),
            Option(
                name="poll_every_s",
                type=float,
                default=0.5,
                help="time between two listings of the FileWriter's files",
                unit="SECONDS",
            ),
            Option(
                name="folder",
                default="",
                help="where one file at a time is fetched to; default: a temporary directory",
                unit="DIR",
            ),
            Option(
                name="timezone",
                default="UTC",
                help="where the control unit's clock is, for dates in files that do not tell",
                unit="ZONE",
            ),
        ]

    # -- the adapter ----------------------------------------------------------------------------

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; see :class:`pipeline.protocols.DetectorAdapter`."""
        source = self._open()
        if isinstance(source, StreamSource):
            source.idle_end_s = self.idle_end_s
            if self._enable_stream and self._simplon is not None:
                self._simplon.put("stream", "config/mode", "enabled")
        yield from source.events(poll_s=poll_s)

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Let go of files of the FileWriter; a stream keeps nothing."""
        if self._source is not None:
            self._source.acknowledge(tokens)

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a series with these run facts would be one of ours."""
        return run.get("adapter") == self.name and self._open().owns(run)

    def check(self) -> Mapping[str, AttributeValue]:
        """Ask the control unit for its state, and whether the stream's port is open.

        The stream itself is not read: its messages would be lost to the adapter that does.
        """
        facts: dict[str, AttributeValue] = {}
        if self._simplon is not None:
            facts.update(self._simplon.facts())
        interface, address = self._chosen()
        facts["interface"] = interface
        if interface == "filewriter":
            source = self._open()
            facts.update(source.check() if isinstance(source, FileWriterSource) else {})
        else:
            _check_port(address)
            facts["stream_endpoint"] = address
        return facts

    def close(self) -> None:
        """Release the source; may be called twice."""
        if self._source is not None:
            self._source.close()
        if self._device is not None:
            self._device.close()

    # -- which source ---------------------------------------------------------------------------

    def _open(self) -> StreamSource | FileWriterSource:
        if self._source is None:
            interface, address = self._chosen()
            if interface == "filewriter":
                assert self._device is not None and self._simplon is not None  # noqa: PT018
                self._source = FileWriterSource(self._device, self._simplon.version, **self._files)
            else:
                simplon = self._simplon
                self._source = StreamSource(
                    address,
                    interface=interface,  # type: ignore[arg-type]
                    dropped=simplon.dropped if simplon is not None else lambda: None,
                    config=simplon.config if simplon is not None else dict,
                    lost_after_s=self._lost_after_s,
                    queue=self._queue,
                )
        return self._source

    def _chosen(self) -> tuple[str, str]:
        """Return the interface, and the address of a stream; asks the control unit if need be."""
        interface = self._interface
        if interface == "filewriter" or self._stream_endpoint:
            return interface, self._stream_endpoint
        if interface == "auto":
            interface = self._enabled()
        if interface == "filewriter" or self._device is None:
            return interface, ""
        return interface, f"tcp://{self._device.host}:{_PORTS[interface]}"

    def _enabled(self) -> str:
        """Return what is switched on; raises SourceError if nothing is."""
        assert self._simplon is not None
        if self._enable_stream or self._simplon.get("stream", "config/mode") == "enabled":
            try:
                form = self._simplon.get("stream", "config/format")
            except SourceError:
                form = "legacy"  # older firmware knows no other
            return "stream2" if form == "cbor" else "stream1"
        if self._simplon.get("filewriter", "config/mode") == "enabled":
            return "filewriter"
        raise SourceError(
            f"{self._simplon.device.endpoint}: neither stream nor FileWriter is enabled; use"
            " --enable-stream, or set stream/config/mode on the control unit"
        )


def _check_port(address: str) -> None:
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_CHECK_S):
            pass
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{address}: nobody listens ({error}); is the detector initialised and its stream"
            " enabled?"
        ) from error
