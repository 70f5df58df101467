"""Lambda detectors: live from an xspd server, or the NeXus files of other servers.

``docs/detectors/lambda.md`` and ``docs/detectors/lambda-files.md`` tell the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.detectors.lambda_xs.files import NxsFiles
from pipeline.detectors.lambda_xs.live import LiveSource
from pipeline.detectors.lambda_xs.wire import parser_of
from pipeline.detectors.lambda_xs.xspd import Xspd
from pipeline.detectors.options import Option
from pipeline.detectors.rest import Device
from pipeline.errors import InvalidArgumentError
from pipeline.frame import AttributeValue
from pipeline.protocols import AdapterEvent


class LambdaAdapter:
    """Publishes the frames of an X-Spectrum Lambda: from xspd, or from its NeXus files.

    Parameters
    ----------
    endpoint:
        The xspd server, ``http://HOST:8008``.  Exactly one of ``endpoint`` and ``watch`` is given.
    ports:
        Which of the server's data ports, as ``0,2``; empty for all.
    share:
        The same, in one stream with other processes that read the other ports.
    others_wait_s:
        How long those may take to end their modules of a run.
    device:
        Id of the device, where the server has several.
    header:
        Who reads the headers of messages: ``bytes4``, or ``package.module:function``.
    queue, status_every_s, lost_after_s:
        See :class:`pipeline.detectors.lambda_xs.live.LiveSource`.
    watch:
        A directory of NeXus files.
    files:
        As for :class:`pipeline.detectors.lambda_xs.files.NxsFiles`.

    Raises
    ------
    InvalidArgumentError
        Names the setting that is wrong.
    """

    name = "lambda"

    def __init__(
        self,
        *,
        endpoint: str = "",
        ports: str = "",
        share: str = "",
        others_wait_s: float = 30.0,
        device: str = "",
        header: str = "bytes4",
        queue: int = 1000,
        status_every_s: float = 0.5,
        lost_after_s: float = 60.0,
        watch: str = "",
        idle_end_s: float | None = None,
        after: str = "keep",
        **files: Any,
    ) -> None:
        if bool(endpoint) == bool(watch):
            raise InvalidArgumentError("endpoint", "give either --endpoint or --watch")
        if ports and share:
            raise InvalidArgumentError("share", "give either --ports or --share")
        self.others_wait_s = others_wait_s
        if watch and (ports or share):
            name = "share" if share else "ports"
            raise InvalidArgumentError(name, "files have no ports: it goes with --endpoint")
        self._device = Device(endpoint, timeout_s=2.0) if endpoint else None
        self._source: LiveSource | NxsFiles
        if self._device is not None:
            if after != "keep":
                raise InvalidArgumentError("after", "xspd keeps no frames: only files can go")
            self._source = LiveSource(
                Xspd(self._device, device),
                ports=_numbers("ports", ports),
                shared=_numbers("share", share),
                header=parser_of(header),
                queue=queue,
                poll_every_s=status_every_s,
                lost_after_s=lost_after_s,
            )
            self._source.idle_end_s = idle_end_s
        else:
            self._source = NxsFiles(watch=watch, idle_end_s=idle_end_s, after=after, **files)

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        own = (
            Option(name="endpoint", default="", help="the xspd server", unit="URL"),
            Option(
                name="ports",
                default="",
                help="data ports to read, counted from 0, such as 0,2; all by default. A stream"
                " has these only",
                unit="N,N",
            ),
            Option(
                name="share",
                default="",
                help="the same, but in one stream with other processes that read the other ports",
                unit="N,N",
            ),
            Option(
                name="others_wait_s",
                type=float,
                default=30.0,
                help="with --share: how long others may take to end theirs, after that the run"
                " ends as lost when they write no more",
                unit="SECONDS",
            ),
            Option(name="device", default="", help="id of the device, of several", unit="ID"),
            Option(
                name="header",
                default="bytes4",
                help="who reads the headers of messages: bytes4, or package.module:function",
                unit="NAME",
            ),
            Option(
                name="queue",
                type=int,
                default=1000,
                help="messages that may wait in memory per port; what comes then is lost, and told",
                unit="N",
            ),
            Option(
                name="status_every_s",
                type=float,
                default=0.5,
                help="time between two questions to the server",
                unit="SECONDS",
            ),
            Option(
                name="lost_after_s",
                type=float,
                default=60.0,
                help="how long the server may be away before a run ends as lost",
                unit="SECONDS",
            ),
            Option(name="watch", default="", help="directory of NeXus files", unit="DIR"),
        )
        names = {option.name for option in own}
        return [*own, *(o for o in NxsFiles.options() if o.name not in names)]

    @property
    def exclusive(self) -> bool:
        """A server makes one run at a time; files of several may lie in a directory."""
        return isinstance(self._source, LiveSource)

    def share(self, count: int) -> tuple[int, ...]:
        """Return which modules of a stream of so many are ours; none where nothing is shared."""
        return self._source.share(count) if isinstance(self._source, LiveSource) else ()

    @property
    def after(self) -> str:
        """What becomes of files."""
        return self._source.after if isinstance(self._source, NxsFiles) else "keep"

    @property
    def idle_end_s(self) -> float | None:
        """Seconds of silence that end a run."""
        return self._source.idle_end_s

    @idle_end_s.setter
    def idle_end_s(self, seconds: float | None) -> None:
        self._source.idle_end_s = seconds

    def events(self, *, poll_s: float) -> Iterator[AdapterEvent | None]:
        """Yield what happens; see :class:`pipeline.protocols.DetectorAdapter`."""
        yield from self._source.events(poll_s=poll_s)

    def acknowledge(self, tokens: Sequence[Any]) -> None:
        """Let go of files; a server keeps nothing."""
        self._source.acknowledge(tokens)

    def owns(self, run: Mapping[str, AttributeValue]) -> bool:
        """Tell whether a run with these facts would be one of ours."""
        return self._source.owns(run)

    def check(self) -> Mapping[str, AttributeValue]:
        """Ask the server, or look into the directory."""
        return self._source.check()

    def close(self) -> None:
        """Release the source; may be called twice."""
        self._source.close()
        if self._device is not None:
            self._device.close()


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidArgumentError(name, f"{text!r} is not like 0,2") from error
    if len(set(found)) != len(found) or any(number < 0 for number in found):
        raise InvalidArgumentError(name, f"{text!r}: each once, counted from 0")
    return found
