"""A stand-in for an Eiger and its control unit: REST, and the stream V1 or V2.

It shares no code with the readers.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pipeline.detectors.eiger.sim_rest import Server
from pipeline.detectors.eiger.sim_unit import Unit
from pipeline.detectors.options import Option
from pipeline.errors import InvalidArgumentError

log = logging.getLogger(__name__)
#: Images per second when nobody says.
_RATE_HZ = 100.0


class EigerSimulator:
    """Serves the REST interface and sends series by the stream, by itself or as it is told.

    Parameters
    ----------
    frames:
        Images in a series; with 0 nothing is armed, and the REST interface is served until stopped.
    rate_hz:
        Images per second; 0 is as fast as they are taken.
    series:
        How many series, one after the other.
    port, stream_port:
        Of REST and of the stream, on loopback; 0 is any, then see the attributes of these names.
    stream_format:
        ``cbor`` (V2) or ``legacy`` (V1).
    header_detail:
        ``none``, ``basic`` or ``all`` (with mask, flat field and count rate table).
    shape:
        Rows and columns.
    compression:
        ``bslz4``, ``lz4`` or ``none``.
    channels:
        Thresholds, for V2 only.
    lose:
        Numbers of images that the detector drops.
    reader_s:
        How long to wait for a reader before the first series.
    queue:
        Messages that wait for a slow reader, before images are dropped.
    truth:
        A file that gets one JSON object a line for each image.
    mean:
        Counts in a pixel, on average; the size of a compressed image follows from it.

    Raises
    ------
    InvalidArgumentError
        Names the parameter that is out of range.
    """

    def __init__(
        self,
        *,
        frames: int = 100,
        rate_hz: float = _RATE_HZ,
        series: int = 1,
        port: int = 0,
        stream_port: int = 0,
        stream_format: str = "cbor",
        header_detail: str = "basic",
        shape: tuple[int, int] = (514, 1030),
        dtype: str = "uint16",
        compression: str = "bslz4",
        channels: tuple[str, ...] = ("threshold_1",),
        lose: tuple[int, ...] = (),
        reader_s: float = 30.0,
        queue: int = 1000,
        truth: Path | None = None,
        mean: float = 20.0,
        seed: int = 0,
    ) -> None:
        if frames < 0 or series < 1:
            raise InvalidArgumentError("frames", "frames must be 0 or more, series 1 or more")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if stream_format not in ("cbor", "legacy"):
            raise InvalidArgumentError("stream_format", f"{stream_format!r} is not cbor or legacy")
        if stream_format == "legacy" and len(channels) > 1:
            raise InvalidArgumentError("channels", "the legacy stream has one threshold")
        self.frames, self.rate_hz, self.series = frames, rate_hz, series
        self._reader_s = reader_s
        self._held = ExitStack()
        file = self._held.enter_context(truth.open("w")) if truth is not None else None
        self.unit = Unit(
            shape=shape,
            dtype=dtype,
            compression=compression,
            stream_format=stream_format,
            detail=header_detail,
            channels=channels,
            stream_port=stream_port,
            seed=seed,
            mean=mean,
            lose=lose,
            truth=file,
            queue=queue,
        )
        self._held.callback(self.unit.close)
        self.unit.config["nimages"] = max(1, frames)
        self.unit.config["frame_time"] = 1 / (rate_hz or _RATE_HZ)
        self.unit.config["count_time"] = 0.99 / (rate_hz or _RATE_HZ)
        with ExitStack() as failed:
            failed.callback(self._held.close)  # else a taken port would leave sockets open
            self._server = self._held.enter_context(Server(self.unit, port))
            failed.pop_all()
        self.port, self.stream_port = self._server.port, self.unit.stream_port

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(
                name="frames",
                type=int,
                default=100,
                help="images in a series; 0 serves the REST interface until it is stopped",
                unit="N",
            ),
            Option(name="rate_hz", type=float, default=_RATE_HZ, help="images per second"),
            Option(name="series", type=int, default=1, help="how many series", unit="N"),
            Option(name="port", type=int, default=8000, help="of REST; 0 is any", unit="PORT"),
            Option(
                name="stream_port",
                type=int,
                default=31001,
                help="of the stream; 0 is any",
                unit="PORT",
            ),
            Option(
                name="stream_format",
                default="cbor",
                help="cbor is V2, legacy is V1",
                choices=("cbor", "legacy"),
            ),
            Option(
                name="header_detail",
                default="basic",
                help="what a series' start tells",
                choices=("none", "basic", "all"),
            ),
            Option(
                name="compression",
                default="bslz4",
                help="of the images",
                choices=("bslz4", "lz4", "none"),
            ),
            Option(
                name="reader_s",
                type=float,
                default=30.0,
                help="how long to wait for a reader of the stream",
                unit="SECONDS",
            ),
            Option(
                name="truth", type=Path, help="gets one JSON object for each image", unit="FILE"
            ),
        ]

    def run(
        self,
        stop: threading.Event | None = None,
        on_frame: Callable[[int], None] | None = None,
    ) -> int:
        """Send the series; return how many images were made. Blocks until they are sent."""
        stop = stop or threading.Event()
        made = 0
        try:
            self.unit.initialize()
            if not self.frames:
                stop.wait()
                return 0
            self.unit.prepare()
            if not self.unit.wait_for_reader(self._reader_s):
                log.warning("nobody reads: what is made now is lost")
            for _ in range(self.series):
                if stop.is_set():
                    break
                self.unit.arm()
                made += self.unit.trigger(
                    self.frames, rate_hz=self.rate_hz, stop=stop, on_frame=on_frame
                )
                self.unit.disarm()
        finally:
            self.close()
        return made

    def close(self) -> None:
        """Leave the network; may be called twice."""
        self._held.close()
