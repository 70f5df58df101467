"""A stand-in for an areaDetector IOC: serves NTNDArrays and the state of a camera with p4p."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detectors.areadetector.sim_payloads import CODECS, encode
from pipeline.detectors.options import Option
from pipeline.detectors.scene import ring_images, stamp
from pipeline.errors import InvalidArgumentError

log = logging.getLogger(__name__)
DTYPES = ("uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_EPICS_EPOCH_S = 631_152_000
_UNIONS = {
    "int8": "byteValue",
    "int16": "shortValue",
    "int32": "intValue",
    "int64": "longValue",
    "uint8": "ubyteValue",
    "uint16": "ushortValue",
    "uint32": "uintValue",
    "uint64": "ulongValue",
    "float32": "floatValue",
    "float64": "doubleValue",
}
# The numbers that pvData gives its scalar types.
_SCALARS = {name: number for number, name in enumerate(list(_UNIONS), 1)}
_CYCLE = 4
#: Of DetectorState_RBV (ADCore, ``ADBase.template``).
_STATES = (
    *("Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting"),
    *("Initializing", "Disconnected", "Aborted"),
)
#: A slow client gets the last updates before the server goes.
_LINGER_S = 2.0


class AreaDetectorSimulator:
    """Serves images on a channel, and whether the camera acquires on another.

    Parameters
    ----------
    channel:
        Of the images; its first part with ``cam1:Acquire_RBV`` and ``cam1:NumImagesCounter_RBV``
        tells the state (``SIM:Pva1:Image`` goes with ``SIM:cam1:Acquire_RBV``).
    address:
        The one interface to serve on.
    port:
        UDP port of searches; 0 takes a free one.
    frames:
        Images of each series.
    series:
        How many series; numbers start again with each.
    rate_hz:
        Images per second; 0 is as fast as it goes.
    codec:
        A name from areaDetector's codec plugin, or empty; ``-hdf5`` behind ``lz4`` and ``bslz4``
        keeps the header of HDF5's chunks.
    color_mode:
        ``mono`` or ``RGB1``.
    late_clock:
        Time stamps 631152000 s too late, as drivers make them that store Unix time.
    gap_every, repeat_every:
        Every so many images one is made and not sent, or is sent twice; 0: never.
    stamped:
        Put its number into each image; without, encoded images are sent again and again.
    wait_s:
        How long to wait for somebody to monitor the channel before the first image.
    truth:
        A file that gets a JSON line for each image.

    Raises
    ------
    InvalidArgumentError
        Names the parameter that is out of range.
    """

    def __init__(
        self,
        *,
        channel: str = "SIM:Pva1:Image",
        address: str = "127.0.0.1",
        port: int = 0,
        frames: int = 100,
        series: int = 1,
        rate_hz: float = 10.0,
        shape: tuple[int, int] = (600, 1000),
        dtype: str = "uint16",
        codec: str = "",
        color_mode: str = "mono",
        first_number: int = 1,
        late_clock: bool = False,
        gap_every: int = 0,
        repeat_every: int = 0,
        stamped: bool = True,
        wait_s: float = 10.0,
        truth: Path | None = None,
        seed: int = 0,
    ) -> None:
        if codec not in CODECS:
            raise InvalidArgumentError("codec", f"{codec!r} is not one of {', '.join(CODECS)}")
        if dtype not in DTYPES or (codec == "jpeg" and dtype != "uint8"):
            raise InvalidArgumentError("dtype", f"{dtype!r} with codec {codec!r}")
        if color_mode not in ("mono", "RGB1"):
            raise InvalidArgumentError("color_mode", f"{color_mode!r} is not mono or RGB1")
        if frames < 0 or series < 1 or min(gap_every, repeat_every) < 0:
            raise InvalidArgumentError("frames", "counts cannot be negative")
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise InvalidArgumentError("rate_hz", f"{rate_hz} is not 0 or more")
        if min(shape) < 8 or max(shape) > 20_000:
            raise InvalidArgumentError("shape", f"{shape} is outside 8 to 20000 rows and columns")
        self.channel = channel
        self.frames, self.series, self.rate_hz = frames, series, rate_hz
        self.shape, self.dtype, self.codec, self.color_mode = shape, dtype, codec, color_mode
        self.late_clock = late_clock
        self.gap_every, self.repeat_every = gap_every, repeat_every
        self.stamped, self.wait_s, self.truth, self.seed = stamped, wait_s, truth, seed
        self.first_number = first_number
        self.number = first_number - 1
        self.serial = 0
        self._address, self._port = address, port
        self._images: list[npt.NDArray[Any]] = []
        self._encoded: dict[int, tuple[npt.NDArray[Any], str, str]] = {}
        self._server: Any = None
        self._provider: Any = None
        self._pvs: dict[str, Any] = {}
        self._watchers = Event()
        self._state_watchers = Event()

    @classmethod
    def options(cls) -> list[Option]:
        """Return what the command line may set."""
        return [
            Option(name="channel", default="SIM:Pva1:Image", help="of the images", unit="NAME"),
            Option(name="address", default="127.0.0.1", help="interface to serve on", unit="IP"),
            Option(name="port", type=int, default=5076, help="UDP port of searches", unit="PORT"),
            Option(name="frames", type=int, default=100, help="images of each series", unit="N"),
            Option(name="series", type=int, default=1, help="how many series", unit="N"),
            Option(
                name="rate_hz",
                type=float,
                default=10.0,
                help="images per second; 0: at once",
                unit="HZ",
            ),
            Option(name="dtype", default="uint16", help="type of the pixels", choices=DTYPES),
            Option(name="codec", default="", help="compression", choices=CODECS),
            Option(name="color_mode", default="mono", help="colours", choices=("mono", "RGB1")),
            Option(
                name="late_clock", type=bool, default=False, help="time stamps 631152000 s late"
            ),
            Option(name="gap_every", type=int, default=0, help="every Nth is never sent", unit="N"),
            Option(
                name="repeat_every", type=int, default=0, help="every Nth is sent twice", unit="N"
            ),
            Option(
                name="truth",
                type=Path,
                help="file that gets a JSON line for each image",
                unit="FILE",
            ),
            Option(name="seed", type=int, default=0, help="of the random numbers", unit="N"),
        ]

    # -- the device, step by step ---------------------------------------------------------------

    @contextmanager
    def serving(self) -> Iterator[AreaDetectorSimulator]:
        """Serve the channels; :attr:`address` says where."""
        self.open()
        try:
            yield self
        finally:
            self.close()

    def open(self) -> None:
        """Begin to serve."""
        from p4p import Value
        from p4p.nt import NTEnum, NTNDArray, NTScalar
        from p4p.server import StaticProvider
        from p4p.server.raw import SharedPV

        class Watched:
            def __init__(self, watched: Event) -> None:
                self._watched = watched

            def onFirstConnect(self, _pv: Any) -> None:  # noqa: N802 -- p4p's name
                self._watched.set()

            def onLastDisconnect(self, _pv: Any) -> None:  # noqa: N802 -- p4p's name
                self._watched.clear()

        empty = Value(NTNDArray.buildType(), {})
        self._pvs = {
            self.channel: SharedPV(initial=empty, handler=Watched(self._watchers)),
            self.acquire_channel: SharedPV(
                nt=NTScalar("i"), initial=0, handler=Watched(self._state_watchers)
            ),
            self.state_channel: SharedPV(
                nt=NTEnum(),
                initial={"index": 0, "choices": [*_STATES]},
                handler=Watched(self._state_watchers),
            ),
            self.counter_channel: SharedPV(nt=NTScalar("i"), initial=0),
        }
        self._provider = StaticProvider("areadetector-sim")
        for name, pv in self._pvs.items():
            self._provider.add(name, pv)
        self.plug()

    def plug(self) -> None:
        """Put the network cable in; the port is the one it had before."""
        from p4p.server import Server

        conf = {
            "EPICS_PVAS_INTF_ADDR_LIST": self._address,
            "EPICS_PVAS_BROADCAST_PORT": str(self._port),
            "EPICS_PVAS_SERVER_PORT": "0",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_PVAS_BEACON_ADDR_LIST": self._address,
        }
        self._server = Server(providers=[self._provider], conf=conf, useenv=False)
        self._port = int(self._server.conf()["EPICS_PVAS_BROADCAST_PORT"])

    def unplug(self) -> None:
        """Pull the network cable; the camera goes on."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        self._watchers.clear()
        self._state_watchers.clear()

    def close(self) -> None:
        """Stop serving; may be called twice."""
        self.unplug()
        for pv in self._pvs.values():
            pv.close(destroy=True)
        self._pvs = {}

    @property
    def address(self) -> str:
        """HOST:PORT where the channels are found."""
        return f"{self._address}:{self._port}"

    @property
    def acquire_channel(self) -> str:
        """The channel that is 1 while the camera acquires."""
        return self.channel.partition(":")[0] + ":cam1:Acquire_RBV"

    @property
    def state_channel(self) -> str:
        """The channel that says in a word what the camera does."""
        return self.channel.partition(":")[0] + ":cam1:DetectorState_RBV"

    @property
    def counter_channel(self) -> str:
        """The channel that counts the images of the series."""
        return self.channel.partition(":")[0] + ":cam1:NumImagesCounter_RBV"

    def wait_watched(self, timeout_s: float, *, state: bool = False) -> bool:
        """Wait until somebody monitors the images (and the state)."""
        end_s = time.monotonic() + timeout_s
        if state and not self._state_watchers.wait(timeout_s):
            return False
        return self._watchers.wait(max(0.0, end_s - time.monotonic()))

    def begin(self, *, told: bool = True) -> None:
        """Begin a series; numbers start again."""
        self.serial += 1
        self.number = self.first_number - 1
        if told:
            self._pvs[self.acquire_channel].post(1)
            self._pvs[self.state_channel].post(_STATES.index("Acquire"))

    def end(self, *, told: bool = True, state: str = "Idle") -> None:
        """End the series; ``state`` is ``Idle`` or ``Aborted``."""
        self._pvs[self.counter_channel].post(self.number - self.first_number + 1)
        if told:
            self._pvs[self.acquire_channel].post(0)
            self._pvs[self.state_channel].post(_STATES.index(state))

    def make(self, *, sent: bool = True, times: int = 1) -> dict[str, Any]:
        """Make the next image, and send it so many times; return its line of the truth."""
        self.number += 1
        timestamp_ns = time.time_ns()
        image, digest, codec = self._encode(self.number)
        if sent:
            update = self._update(image, codec, timestamp_ns)
            for _ in range(times):
                self.post(update)
        line = {
            "series": self.serial,
            "number": self.number,
            "timestamp_ns": timestamp_ns,
            "pixels_sha256": digest,
        }
        return line if sent else {**line, "lost": True}

    def post(self, update: dict[str, Any]) -> None:
        """Serve an update as it is."""
        from p4p import Value
        from p4p.nt import NTNDArray

        self._pvs[self.channel].post(Value(NTNDArray.buildType(), update))

    # -- by itself ------------------------------------------------------------------------------

    def run(self, stop: Event | None = None, on_frame: Callable[[int], None] | None = None) -> int:
        """Serve the series and return how many images were made.

        Waits ``wait_s`` for a client first.
        """
        stop = stop or Event()
        made = 0
        truth = self.truth.open("w", encoding="utf-8") if self.truth else None
        try:
            with self.serving():
                self._prepare()
                if not self.wait_watched(self.wait_s):
                    log.warning("nobody reads: what is made now is lost")
                for _ in range(self.series):
                    for line in self.acquire(stop):
                        made += 1
                        if truth:
                            truth.write(json.dumps(line) + "\n")
                        if on_frame:
                            on_frame(line["number"])
                # the last updates leave before the server does
                stop.wait(_LINGER_S)
        finally:
            if truth:
                truth.close()
        return made

    def acquire(self, stop: Event) -> Iterator[dict[str, Any]]:
        """Make one series at the rate; yield its lines of the truth."""
        self.begin()
        begin_s = time.monotonic()
        period_s = 1 / self.rate_hz if self.rate_hz else 0.0
        for index in range(self.frames):
            if stop.wait(max(0.0, begin_s + index * period_s - time.monotonic())):
                break
            is_gap = bool(self.gap_every) and (index + 1) % self.gap_every == 0
            twice = bool(self.repeat_every) and (index + 1) % self.repeat_every == 0
            yield self.make(sent=not is_gap, times=2 if twice else 1)
        self.end()

    def _prepare(self) -> None:
        if not self._images:
            self._images = ring_images(
                self.shape, count=_CYCLE, seed=self.seed, dtype=self.dtype, mean=20.0
            )
            if self.color_mode == "RGB1":
                self._images = [np.stack([i, i // 2, i // 3], axis=-1) for i in self._images]

    def _encode(self, number: int) -> tuple[npt.NDArray[Any], str, str]:
        """Return the value array, the digest of the pixels, and the codec's name."""
        self._prepare()
        place = number % len(self._images)
        if not self.stamped and place in self._encoded:
            return self._encoded[place]
        image = self._images[place]
        if self.stamped:
            image = stamp(image, number) if image.ndim == 2 else image.copy()
            if image.ndim == 3:
                image[0, 0] = number % 251
        value, pixels, codec = encode(image, self.codec)
        found = (value, hashlib.sha256(pixels.tobytes()).hexdigest(), codec)
        if not self.stamped:
            self._encoded[place] = found
        return found

    def _update(self, value: npt.NDArray[Any], codec: str, timestamp_ns: int) -> dict[str, Any]:
        extents: Sequence[int] = self.shape if self.color_mode == "mono" else (*self.shape, 3)
        plain = math.prod(extents) * np.dtype(self.dtype).itemsize
        seconds = timestamp_ns // 10**9 + (_EPICS_EPOCH_S if self.late_clock else 0)
        stamped = {"secondsPastEpoch": seconds, "nanoseconds": timestamp_ns % 10**9}
        mode = 0 if self.color_mode == "mono" else 2
        attributes = {"ColorMode": mode, "AcquireTime": 0.01, "Sample": "LaB6"}
        return {
            "value": (_UNIONS[value.dtype.name], value.reshape(-1)),
            # also without one: a server keeps what an update does not tell
            "codec": {"name": codec, "parameters": _SCALARS[self.dtype]},
            "compressedSize": value.nbytes,
            "uncompressedSize": plain,
            "uniqueId": (self.number + (1 << 31)) % (1 << 32) - (1 << 31),
            "dataTimeStamp": stamped,
            "timeStamp": stamped,
            "dimension": [
                {"size": n, "offset": 0, "fullSize": n, "binning": 1, "reverse": False}
                for n in reversed(extents)
            ],
            "attribute": [
                {"name": name, "value": item, "descriptor": "", "sourceType": 0, "source": ""}
                for name, item in attributes.items()
            ],
        }
