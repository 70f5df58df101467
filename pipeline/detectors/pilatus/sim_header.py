"""Header lines of camserver's files, written for the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline.detectors.scene import Geometry

_READOUT_S = 0.00095  # of a Pilatus3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFacts:
    """What the lines of all images of a series say.

    ``settings`` are keywords and values that take the place of the usual ones.
    """

    model: str
    directory: str
    shape: tuple[int, int]
    geometry: Geometry
    period_s: float
    cutoff: int
    settings: Mapping[str, str] = field(default_factory=dict)


def header_lines(facts: HeaderFacts, index: int, timestamp_ns: int) -> list[str]:
    """Return the lines camserver writes, each with ``# `` in front."""
    rows, columns = facts.shape
    exposure_s = max(facts.period_s - _READOUT_S, facts.period_s / 2)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=timestamp_ns // 1000)
    date = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
    angle = 0.1 * index
    lines = [
        f"Detector: PILATUS3 {facts.model}, S/N 00-0000 (simulated)",
        date,
        "Pixel_size 172e-6 m x 172e-6 m",
        "Silicon sensor, thickness 0.000450 m",
        f"Exposure_time {exposure_s:.7f} s",
        f"Exposure_period {facts.period_s:.7f} s",
        "Tau = 0 s",
        f"Count_cutoff {facts.cutoff} counts",
        "Threshold_setting: 6200 eV",
        "Gain_setting: autog (vrf = 1.000)",
        "N_excluded_pixels = 0",
        "Excluded_pixels: (nil)",
        "Flat_field: (nil)",
        "Trim_file: simulated.bin",
        f"Image_path: {facts.directory}/",
        "Retrigger_mode: 1",
        f"Wavelength {facts.geometry.wavelength_a} A",
        "Energy_range (0, 0) eV",
        f"Detector_distance {facts.geometry.distance_m:.5f} m",
        "Detector_Voffset 0.00000 m",
        f"Beam_xy ({columns / 2:.2f}, {rows / 2:.2f}) pixels",
        "Flux 1.0e+11",
        "Filter_transmission 1.0000",
        f"Start_angle {angle:.4f} deg.",
        "Angle_increment 0.1000 deg.",
        "Detector_2theta 0.0000 deg.",
        "Polarization 0.990",
        "Kappa 0.0000 deg.",
        "Phi 0.0000 deg.",
        "Chi 0.0000 deg.",
        f"Omega {angle:.4f} deg.",
        "Omega_increment 0.1000 deg.",
        "Oscillation_axis OMEGA",
        "N_oscillations 1",
    ]
    return [f"# {_with_setting(line, facts.settings)}" for line in lines]


def _with_setting(line: str, settings: Mapping[str, str]) -> str:
    keyword = line.partition(" ")[0]
    value = settings.get(keyword)
    return line if value is None else f"{keyword} {value}"
