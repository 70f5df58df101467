"""Questions to xspd, the server on a Lambda's PC: read only.  Source: xspd REST API, version 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.detectors.rest import Device, NotThereError
from pipeline.errors import SourceError
from pipeline.frame import AttributeValue

#: Detector variables that are told with a run, and what they are called there.
_VARIABLES = {
    "n_frames": "n_frames",
    "shutter_time": "shutter_time_ms",
    "bit_depth": "bit_depth",
    "counter_mode": "counter_mode",
    "thresholds": "thresholds_keV",
    "beam_energy": "beam_energy_keV",
    "trigger_mode": "trigger_mode",
    "gating_mode": "gating_mode",
    "charge_summing": "charge_summing",
    "roi_rows": "roi_rows",
    "summed_frames": "summed_frames",
    "compressor": "compressor",
    "compression_level": "compression_level",
    "shuffle_mode": "shuffle_mode",
    "user_data": "user_data",
}
_MAX_EXTENT = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One data port: the images of a module, or of the whole detector.

    Parameters
    ----------
    ref:
        What it shows, like ``lambda/1``.
    shape:
        Pixels as (rows, columns).
    position:
        Row and column of its first pixel in the whole image.
    """

    ref: str
    address: str
    shape: tuple[int, int]
    position: tuple[int, int]
    rotation_deg: float
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How the detector is set for a run."""

    metadata: dict[str, AttributeValue] = field(default_factory=dict)
    n_frames: int | None = None
    period_s: float | None = None
    compressor: str = "none"
    bit_depth: int = 12
    counters: int = 1
    #: It makes frames by itself, without waiting for triggers.
    free_running: bool = False


class Xspd:
    """The server of one detector; raises SourceError when it is away or answers rubbish."""

    def __init__(self, device: Device, device_id: str = "") -> None:
        self.device = device
        self._device_id = device_id
        self._detector = ""

    def version(self) -> str:
        """Return the server's version."""
        found = self.device.get("/api")
        if not isinstance(found, dict) or "xspd version" not in found:
            raise SourceError(f"{self.device.endpoint}: no xspd: /api answers {found!r:.80}")
        return str(found["xspd version"])[:40]

    def value(self, path: str) -> Any:
        """Return a variable, for example ``lambda/n_frames``; None if there is no such."""
        try:
            found = self.device.get(f"/api/v1/devices/{self.device_id}/variables", path=path)
        except NotThereError:
            return None
        return found.get("value") if isinstance(found, dict) else None

    @property
    def device_id(self) -> str:
        """The device that was asked for, or the only one."""
        if not self._device_id:
            found = self.device.get("/api/v1/devices")
            entries = found.get("devices", []) if isinstance(found, dict) else found
            ids = [str(e.get("id", "")) for e in entries if isinstance(e, dict)]
            if len(ids) != 1:
                raise SourceError(
                    f"{self.device.endpoint}: choose one of the devices {ids} with --device"
                )
            self._device_id = ids[0]
        return self._device_id

    @property
    def detector(self) -> str:
        """Name of the detector in front of its variables, like ``lambda``."""
        if not self._detector:
            self._detector = str(_first(self._system().get("detectors"), "id") or "lambda")
        return self._detector

    def _system(self) -> dict[str, Any]:
        found = self.device.get(f"/api/v1/devices/{self.device_id}")
        system = found.get("system") if isinstance(found, dict) else None
        if not isinstance(system, dict):
            raise SourceError(f"{self.device.endpoint}: device {self.device_id} has no system")
        return system

    def status(self) -> str:
        """Return connected, ready or busy."""
        return str(self.value(f"{self.detector}/status"))

    def ports(self) -> list[Port]:
        """Return the data ports in the server's order."""
        system = self._system()
        entries = system.get("data-ports")
        if not isinstance(entries, list) or not entries:
            raise SourceError(f"{self.device.endpoint}: the server has no data ports")
        return [self._port(entry) for entry in entries if isinstance(entry, dict)]

    def _port(self, entry: dict[str, Any]) -> Port:
        ref, number = str(entry.get("ref", "")), entry.get("port")
        host = str(entry.get("ip", ""))
        if host in ("", "0.0.0.0", "*"):  # noqa: S104 -- it listens everywhere: take the host we know
            host = self.device.host
        names = ("frame_height", "frame_width", "frame_depth")
        sizes = [self.value(f"{ref}/{name}") for name in names]
        if not all(isinstance(s, int) and 0 < s < _MAX_EXTENT for s in sizes[:2]):
            raise SourceError(f"{self.device.endpoint}: {ref} has no frame size: {sizes}")
        # x, y, z of the first pixel
        position = self.value(f"{ref}/position")
        x, y = (position[0], position[1]) if _is_point(position) else (0, 0)
        turn = self.value(f"{ref}/rotation")
        turn = turn[-1] if isinstance(turn, list) and turn else turn
        return Port(
            ref=ref,
            address=f"tcp://{host}:{number}",
            shape=(sizes[0], sizes[1]),
            position=(round(y), round(x)),
            rotation_deg=float(turn) if isinstance(turn, (int, float)) else 0.0,
            depth=sizes[2] if isinstance(sizes[2], int) else 16,
        )

    def setup(self) -> Setup:
        """Return how the detector is set now."""
        found = {key: self.value(f"{self.detector}/{key}") for key in _VARIABLES}
        metadata: dict[str, AttributeValue] = {
            _VARIABLES[key]: value for key, value in found.items() if value is not None
        }
        if isinstance(found["beam_energy"], (int, float)):
            metadata["energy_eV"] = found["beam_energy"] * 1e3
        shutter = found["shutter_time"]
        period_s = shutter / 1e3 if isinstance(shutter, (int, float)) and shutter > 0 else None
        if period_s is not None:
            metadata["exposure_s"] = metadata["frame_time_s"] = period_s
        frames = found["n_frames"]
        return Setup(
            metadata=metadata,
            n_frames=frames if isinstance(frames, int) and frames > 0 else None,
            period_s=period_s,
            compressor=str(found["compressor"] or "none"),
            bit_depth=found["bit_depth"] if isinstance(found["bit_depth"], int) else 12,
            counters=2 if str(found["counter_mode"]).upper() == "DUAL" else 1,
            free_running=str(found["trigger_mode"]).upper() in ("SOFTWARE", "EXT_SEQUENCE"),
        )


def _first(entries: Any, key: str) -> Any:
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        return entries[0].get(key)
    return None


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in value[:2])
    )
