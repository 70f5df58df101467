"""HiDRA as a source: files that its senders stream, as if they lay in a directory.

Names, numbers, series and headers follow the rules of :mod:`pipeline.detectors.files`;
``docs/detectors/hidra.md`` says what is peculiar.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import zmq

from pipeline.detectors.files import FilesAdapter, FileSeries, FoundFile
from pipeline.detectors.hidra import wire
from pipeline.detectors.hidra.assembly import Assembly, Partial
from pipeline.detectors.hidra.signals import SignalPort
from pipeline.detectors.options import Option
from pipeline.detectors.reading import reason_of
from pipeline.detectors.watch import ReadyFile
from pipeline.detectors.zeromq import Receiver, only_reader
from pipeline.errors import InvalidArgumentError, InvalidFrameError, SourceError
from pipeline.frame import AttributeValue
from pipeline.protocols import AdapterEvent, Quarantined, SeriesEnd

log = logging.getLogger(__name__)
#: The path of files that lie nowhere.
_ROOT = "/hidra"
_CHECK_S = 3.0
_SIGNALS_EVERY_S = 0.2
#: Messages that wait in memory: chunks have up to 10 MiB.
_QUEUE = 20


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is confirmed to the sender once the file is safe."""

    file: wire.FileId
    topic: str
    version: str | None
    count: int


class HidraAdapter(FilesAdapter):
    """Receives files from HiDRA's senders (``STREAM``).

    Parameters
    ----------
    endpoint:
        Senders' hosts, separated by commas; ``HOST:PORT`` where the signal port is another.
    signal_port:
        Of the senders (``com_port``); 0 where they send to us by their own configuration
        (``data_stream_targets``), without registration.
    data_port:
        Of this machine, to which the senders connect.
    confirmation_port:
        Of this machine, where receipts are told (``remove_data: with_confirmation``); 0: none.
    receive_host:
        This machine's name as the senders know it and have it in their whitelist.
    bind:
        The address of this machine on which the ports are open.
    file_pattern:
        Regular expression of the files to send.
    max_pending_mb:
        Memory for files of which chunks are missing, 10**6 bytes.
    chunk_timeout_s:
        A file of which nothing came for so long is given up, and told.
    settings:
        ``name_pattern``, ``idle_end_s`` as for :class:`pipeline.detectors.files.FilesAdapter`.
    """

    name = "hidra"

    def __init__(
        self,
        *,
        endpoint: str,
        signal_port: int = 50000,
        data_port: int = 50101,
        confirmation_port: int = 0,
        receive_host: str = "",
        bind: str = "*",
        file_pattern: str = ".*",
        max_pending_mb: float = 2000.0,
        chunk_timeout_s: float = 30.0,
        name_pattern: str = "",
        idle_end_s: float | None = None,
        after: str = "keep",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            watch=_ROOT,
            method="poll",
            name_pattern=name_pattern,
            idle_end_s=idle_end_s,
            clock=monotonic,
        )
        if after not in ("keep", "delete"):
            raise InvalidArgumentError("after", f"{after!r}: the sender moves its files, not we")
        for name, port in (("signal_port", signal_port), ("confirmation_port", confirmation_port)):
            if not 0 <= port < 65536:
                raise InvalidArgumentError(name, f"{port} is no port")
        if not 0 < data_port < 65536:
            raise InvalidArgumentError("data_port", f"{data_port} is no port")
        if max_pending_mb <= 0 or chunk_timeout_s <= 0:
            raise InvalidArgumentError("max_pending_mb", "limits must be above 0")
        hosts = endpoint.replace(",", " ").split()
        if not hosts:
            raise InvalidArgumentError("endpoint", "is empty")
        try:
            re.compile(file_pattern)
        except re.error as error:
            raise InvalidArgumentError("file_pattern", str(error)) from error
        self.after = after
        self.bad_messages = 0
        self._endpoint = ",".join(hosts)
        self._signal_ports = [
            f"tcp://{host}" if ":" in host else f"tcp://{host}:{signal_port}" for host in hosts
        ] * (signal_port > 0)
        self._bind, self._data_port = bind, data_port
        self._confirmation_port = confirmation_port
        self._target = f"{receive_host or socket.getfqdn()}:{data_port}"
        self._pattern = file_pattern
        self._assembly = Assembly(
            max_nbytes=round(max_pending_mb * 1e6), timeout_s=chunk_timeout_s, monotonic=monotonic
        )
        self._open = ExitStack()
        self._signals: list[SignalPort] = []
        self._confirmations: zmq.Socket[bytes] | None = None
        self._signals_s = 0.0
        self._said: dict[str, int] = {}

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set; ``idle_end_s`` is everybody's."""
        pattern = next(option for option in super().options() if option.name == "name_pattern")
        return [
            Option(
                name="endpoint",
                help="hosts of HiDRA's senders, separated by commas",
                unit="HOST[:PORT]",
                required=True,
            ),
            Option(
                name="signal_port",
                type=int,
                default=50000,
                help="their port for registration; 0: they send to us by their configuration",
                unit="PORT",
            ),
            Option(
                name="data_port",
                type=int,
                default=50101,
                help="port of this machine to which they send",
                unit="PORT",
            ),
            Option(
                name="confirmation_port",
                type=int,
                default=0,
                help="port of this machine for with_confirmation (50053 by custom); 0: none",
                unit="PORT",
            ),
            Option(
                name="receive_host",
                default="",
                help="this machine's name as in their whitelist; default: its full name",
                unit="HOST",
            ),
            Option(name="bind", default="*", help="address to open the ports on", unit="IP"),
            Option(name="file_pattern", default=".*", help="files to ask for", unit="REGEX"),
            Option(
                name="max_pending_mb",
                type=float,
                default=2000.0,
                help="memory for files of which chunks are missing",
                unit="MB",
            ),
            Option(
                name="chunk_timeout_s",
                type=float,
                default=30.0,
                help="how long a missing chunk may take before its file is given up",
                unit="SECONDS",
            ),
            pattern,
        ]

    # -- the adapter ----------------------------------------------------------------------------

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what comes; see :class:`pipeline.protocols.DetectorAdapter`."""
        receiver = self._connect()
        silent_s = self._clock()
        while True:
            self._tend_signals()
            messages = receiver.receive(min(poll_s, _SIGNALS_EVERY_S), limit=10)
            for _, parts in messages:
                yield from self._message(parts)
            for partial in self._assembly.given_up():
                yield from self._lost(partial)
            now_s = self._clock()
            if messages:
                silent_s = now_s
                continue
            yield from self._end_idle()
            if now_s - silent_s >= poll_s:
                silent_s = now_s
                yield None

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Confirm files that are safe to the senders that asked for it."""
        for token in tokens:
            if isinstance(token, Receipt):
                self._confirm(token)

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a series with these run facts would be one of ours."""
        return run.get("adapter") == self.name and run.get("endpoint") == self._endpoint

    def check(self) -> Mapping[str, AttributeValue]:
        """Ask each sender for its version and whether it would send here; registers nothing."""
        found: dict[str, AttributeValue] = {"target": self._target}
        for endpoint in self._signal_ports:
            port = self._signal_port(endpoint)
            try:
                found[endpoint] = f"HiDRA {port.check(_CHECK_S)}"
            finally:
                port.close()
        return found

    def close(self) -> None:
        """Deregister and close the ports; may be called twice."""
        super().close()
        self._open.close()
        self._signals.clear()
        self._confirmations = None

    # -- sockets --------------------------------------------------------------------------------

    def _connect(self) -> Receiver:
        data = f"tcp://{self._bind}:{self._data_port}"
        self._open.enter_context(only_reader(f"hidra {data}"))
        try:
            receiver = Receiver([data], kind="pull", bind=True, queue=_QUEUE)
        except InvalidArgumentError as error:
            raise SourceError(f"cannot listen on {data}: {error}") from error
        self._open.callback(receiver.close)
        if self._confirmation_port:
            self._open_confirmations()
        for endpoint in self._signal_ports:
            port = self._signal_port(endpoint)
            self._open.callback(port.close)
            self._signals.append(port)
        return receiver

    def _open_confirmations(self) -> None:
        context = zmq.Context()
        self._open.callback(context.destroy, linger=1000)
        self._confirmations = context.socket(zmq.PUB)
        # a confirmation that is dropped keeps a file on the sender for ever
        self._confirmations.setsockopt(zmq.SNDHWM, 0)
        address = f"tcp://{self._bind}:{self._confirmation_port}"
        try:
            self._confirmations.bind(address)
        except zmq.ZMQError as error:
            raise SourceError(f"cannot listen on {address}: {error}") from error

    def _signal_port(self, endpoint: str) -> SignalPort:
        appid = f"lichtstrom-{socket.gethostname()}-{self._data_port}"
        return SignalPort(endpoint, appid=appid, target=self._target, pattern=self._pattern)

    def _tend_signals(self) -> None:
        now_s = self._clock()
        if now_s >= self._signals_s:
            self._signals_s = now_s + _SIGNALS_EVERY_S
            for port in self._signals:
                port.tend()

    def _confirm(self, receipt: Receipt) -> None:
        if self._confirmations is None:
            return
        for number in range(receipt.count):
            self._confirmations.send_multipart(
                wire.make_confirmation(receipt.file, receipt.topic, receipt.version, number)
            )

    # -- files ----------------------------------------------------------------------------------

    def _message(self, parts: Sequence[memoryview]) -> Iterator[AdapterEvent]:
        try:
            chunk = wire.parse_message(parts)
        except InvalidFrameError as error:
            self._bad(str(error))
            return
        if not isinstance(chunk, wire.Chunk):
            return
        series = self._series_at(chunk.file)
        series.last_s = self._clock()
        was_begun = self._assembly.is_begun(chunk.file)
        payload = self._assembly.add(chunk)
        is_begun = self._assembly.is_begun(chunk.file)
        series.waiting += is_begun - was_begun
        if payload is not None:
            yield from self._whole(series, chunk, payload)

    def _whole(
        self, series: FileSeries, chunk: wire.Chunk, payload: memoryview
    ) -> Iterator[AdapterEvent]:
        file = chunk.file
        prefix, number, extension = self._split(_path(file))
        token = ReadyFile(_path(file), 0, file.nbytes, file.mtime_ns)
        found = FoundFile(
            prefix=prefix, number=number, extension=extension, token=token, payload=payload
        )
        receipt = Receipt(file, chunk.topic, chunk.version, chunk.count) if chunk.topic else None
        try:
            events = self._frames(series, found)
        except (ValueError, OSError) as error:
            yield from self._refuse(series, file, reason_of(error))
            return
        for event in events:
            yield _with_token(event, receipt)

    def _lost(self, partial: Partial) -> Iterator[AdapterEvent]:
        series = self._series_at(partial.file)
        series.waiting = max(0, series.waiting - 1)
        series.last_s = self._clock()
        yield from self._refuse(series, partial.file, partial.reason)

    def _refuse(self, series: FileSeries, file: wire.FileId, reason: str) -> Iterator[AdapterEvent]:
        prefix, _, extension = self._split(_path(file))
        yield from self._begin(series, prefix, extension, _path(file), None)
        yield Quarantined(series=series.key, source=file.path, reason=reason)

    def _series_at(self, file: wire.FileId) -> FileSeries:
        path = _path(file)
        prefix, _, extension = self._split(path)
        return self._series_of(path, prefix, extension)

    def _bad(self, reason: str) -> None:
        self.bad_messages += 1
        if self.bad_messages <= 10:
            log.warning("no message of HiDRA: %s", reason)

    def _end(self, series: FileSeries) -> Iterator[AdapterEvent]:
        counts = {"repeated": self._assembly.repeated, "bad_messages": self.bad_messages}
        new = {name: count - self._said.get(name, 0) for name, count in counts.items()}
        self._said = counts
        metadata: dict[str, AttributeValue] = {name: n for name, n in new.items() if n}
        yield SeriesEnd(series=series.key, metadata=metadata)

    def _facts(self, prefix: str, extension: str, path: str) -> dict[str, AttributeValue]:
        return {
            "adapter": self.name,
            "endpoint": self._endpoint,
            "directory": self._relative(path).rpartition("/")[0],
            "prefix": prefix,
            "extension": extension,
        }


def _path(file: wire.FileId) -> str:
    return f"{_ROOT}/{file.path}"


def _with_token(event: AdapterEvent, receipt: Receipt | None) -> AdapterEvent:
    from dataclasses import replace

    from pipeline.protocols import SourceFrame

    return replace(event, token=receipt) if isinstance(event, SourceFrame) else event
