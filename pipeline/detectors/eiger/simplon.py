"""Questions to an Eiger's control unit (SIMPLON API 1.6 to 1.8): read only.

Source: DECTRIS, SIMPLON API Reference 1.8.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.detectors.eiger.messages import known_names
from pipeline.detectors.rest import Device, NotThereError
from pipeline.errors import SourceError
from pipeline.frame import AttributeValue

#: Settings that a start message of little detail does not tell.
_CONFIG = (
    "description",
    "detector_number",
    "sensor_material",
    "sensor_thickness",
    "x_pixel_size",
    "y_pixel_size",
    "beam_center_x",
    "beam_center_y",
    "detector_distance",
    "photon_energy",
    "wavelength",
    "count_time",
    "frame_time",
    "nimages",
    "ntrigger",
    "trigger_mode",
    "bit_depth_image",
    "compression",
    "countrate_correction_count_cutoff",
    "software_version",
)


class Simplon:
    """The control unit of one detector.

    Parameters
    ----------
    version:
        Of the interface, like ``1.8.0``; ``auto`` asks.
    """

    def __init__(self, device: Device, version: str = "auto") -> None:
        self.device = device
        self._version = version

    @property
    def version(self) -> str:
        """Version of the interface; raises SourceError when the control unit is away."""
        if self._version == "auto":
            found = _value(self.device.get("/detector/api/version/"))
            if not isinstance(found, str) or len(found) > 20:
                raise SourceError(f"{self.device.endpoint}: no SIMPLON API: version {found!r:.60}")
            self._version = found
        return self._version

    def get(self, module: str, path: str) -> Any:
        """Return the value of a parameter, for example ``detector``, ``status/state``."""
        return _value(self.device.get(f"/{module}/api/{self.version}/{path}"))

    def put(self, module: str, path: str, value: Any) -> Any:
        """Set a parameter; return what the control unit says has changed."""
        return self.device.put(f"/{module}/api/{self.version}/{path}", {"value": value})

    def dropped(self) -> int | None:
        """Return how many images the stream has dropped since it was armed; None without answer."""
        try:
            found = self.get("stream", "status/dropped")
        except SourceError:
            return None
        return found if isinstance(found, int) and found >= 0 else None

    def config(self) -> Mapping[str, AttributeValue]:
        """Return the settings under the well-known names; what cannot be asked is left out."""
        found: dict[str, Any] = {}
        for key in _CONFIG:
            try:
                value = self.get("detector", f"config/{key}")
            except NotThereError:
                continue
            except SourceError:
                break
            if isinstance(value, (int, float, str)):
                found[key] = value
        return known_names(found)

    def facts(self) -> dict[str, AttributeValue]:
        """Return what ``--check`` tells; raises SourceError when the control unit is away."""
        facts: dict[str, AttributeValue] = {"api": self.version}
        for name, module, path in (
            ("state", "detector", "status/state"),
            ("detector", "detector", "config/description"),
            ("serial", "detector", "config/detector_number"),
            ("stream_mode", "stream", "config/mode"),
            ("stream_format", "stream", "config/format"),
            ("stream_state", "stream", "status/state"),
            ("stream_dropped", "stream", "status/dropped"),
            ("filewriter_mode", "filewriter", "config/mode"),
            ("filewriter_state", "filewriter", "status/state"),
        ):
            try:
                facts[name] = self.get(module, path)
            except NotThereError:
                continue  # older firmware, or before it was initialised
            except SourceError:
                if "state" not in facts:
                    raise
                # it is there: some answer so for what they do not know
        return facts


def _value(answer: Any) -> Any:
    """Return the value of an answer: an object with ``value``, or bare on old versions."""
    return answer.get("value") if isinstance(answer, dict) and "value" in answer else answer
