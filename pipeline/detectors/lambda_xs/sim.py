"""A stand-in for a Lambda: the xspd server with its data ports, or a writer of NeXus files."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pipeline.detectors.lambda_xs.sim_server import BITS, COMPRESSORS, Detector, Server
from pipeline.detectors.options import Option
from pipeline.errors import InvalidArgumentError

log = logging.getLogger(__name__)
_RATE_HZ = 2000.0


class LambdaSimulator:
    """Serves xspd's REST interface, and sends the frames of its modules by one port each.

    Parameters
    ----------
    frames:
        Frames in a run; with 0 nothing is started, and the REST interface is served until stopped.
    rate_hz:
        Frames per second; 0 is as fast as can be.
    series:
        How many runs, one after the other.
    port:
        Of REST, on loopback; 0 is any, then see the attribute of this name.
    modules, shape:
        How many, one below the other; rows and columns of each.
    bit_depth:
        1, 6, 12 or 24.
    compressor:
        One of ``none``, ``zlib``, ``blosc/lz4``, ``blosc/zstd``, ``blosc/blosclz``.
    dual:
        Two thresholds: two images with each number.
    lose, lose_module, bad_status:
        See :class:`pipeline.detectors.lambda_xs.sim_server.Detector`.
    reader_s:
        How long to wait for readers before the first run.
    queue:
        Messages that wait for a slow reader at each port, before images are dropped.
    pause_s:
        How long the detector rests after a run.
    truth:
        A file that gets one JSON object a line for each image of each module.

    Raises
    ------
    InvalidArgumentError
        Names the parameter that is out of range.
    """

    def __init__(
        self,
        *,
        frames: int = 1000,
        rate_hz: float = _RATE_HZ,
        series: int = 1,
        port: int = 0,
        modules: int = 3,
        shape: tuple[int, int] = (512, 1536),
        bit_depth: int = 12,
        compressor: str = "none",
        dual: bool = False,
        lose: tuple[int, ...] = (),
        lose_module: tuple[int, ...] = (),
        bad_status: tuple[int, ...] = (),
        reader_s: float = 30.0,
        queue: int = 1000,
        pause_s: float = 2.0,
        truth: Path | None = None,
        seed: int = 0,
    ) -> None:
        if frames < 0 or series < 1 or modules < 1:
            raise InvalidArgumentError("frames", "frames 0 or more, series and modules 1 or more")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if bit_depth not in BITS:
            raise InvalidArgumentError("bit_depth", f"{bit_depth} is not one of {list(BITS)}")
        if compressor not in COMPRESSORS:
            raise InvalidArgumentError("compressor", f"not one of {', '.join(COMPRESSORS)}")
        self.frames, self.rate_hz, self.series = frames, rate_hz, series
        self._reader_s, self._pause_s = reader_s, pause_s
        self._held = ExitStack()
        file = self._held.enter_context(truth.open("w")) if truth is not None else None
        self.detector = Detector(
            modules=modules,
            shape=shape,
            bit_depth=bit_depth,
            compressor=compressor,
            dual=dual,
            seed=seed,
            lose=lose,
            lose_module=lose_module,
            bad_status=bad_status,
            truth=file,
            queue=queue,
        )
        self._held.callback(self.detector.close)
        self.detector.variables["n_frames"] = max(1, frames)
        self.detector.variables["shutter_time"] = 1e3 / rate_hz if rate_hz else 0.0
        with ExitStack() as failed:
            failed.callback(self._held.close)  # else a taken port would leave sockets open
            self._server = self._held.enter_context(Server(self.detector, port))
            failed.pop_all()
        self.port = self._server.port

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(
                name="frames",
                type=int,
                default=1000,
                help="frames in a run; 0 serves the REST interface until it is stopped",
                unit="N",
            ),
            Option(name="rate_hz", type=float, default=_RATE_HZ, help="frames per second"),
            Option(name="series", type=int, default=1, help="how many runs", unit="N"),
            Option(name="port", type=int, default=8008, help="of REST; 0 is any", unit="PORT"),
            Option(name="modules", type=int, default=3, help="modules of the detector", unit="N"),
            Option(name="bit_depth", type=int, default=12, help="1, 6, 12 or 24 bits", unit="BITS"),
            Option(
                name="compressor",
                default="none",
                help="how images are compressed",
                choices=COMPRESSORS,
            ),
            Option(name="dual", type=bool, default=False, help="two thresholds"),
            Option(
                name="reader_s",
                type=float,
                default=30.0,
                help="how long to wait for readers",
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
        """Make the runs; return how many frames were made. Blocks until they are sent."""
        stop = stop or threading.Event()
        made = 0
        try:
            if not self.frames:
                stop.wait()
                return 0
            self.detector.prepare()
            if not self.detector.wait_for_readers(self._reader_s):
                log.warning("nobody reads: what is made now is lost")
            for _ in range(self.series):
                if stop.is_set():
                    break
                made += self.detector.start(stop, on_frame)
                stop.wait(self._pause_s)  # who asks finds it ready
        finally:
            self.close()
        return made

    def close(self) -> None:
        """Leave the network; may be called twice."""
        self._held.close()
