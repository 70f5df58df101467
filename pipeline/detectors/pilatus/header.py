"""Header lines of Pilatus files: ``# Exposure_time 0.0190000 s`` and the like.

The keywords of the vendor's headers, and what was seen in real files beyond them;
``docs/detectors/pilatus.md`` lists the keywords with their names and units here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from functools import lru_cache

Value = int | float | str
#: name, value, unit (empty where it has none)
_Values = list[tuple[str, Value, str]]
#: from the words behind the keyword, and the line
_Parser = Callable[[list[str], str], _Values]

# The vendor's rule: these characters count as spaces.
_BLANKS = str.maketrans("#=:,()", "      ")
_DATE = re.compile(
    r"(\d{4})[-/](\d{2}|[A-Za-z]{3})[-/](\d{2})[T ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?",
    re.ASCII,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# camserver's lines stay under 100 characters; anything long is not a detector's word
_MAX_TEXT = 1024
_MAX_LINES = 500
_UNITS = {"pixels": "pixel", "counts": "count", "deg.": "deg"}


def parse_date(text: str, timezone: tzinfo | None = None) -> int | None:
    """Return a header's date as ns since 1970 (UTC), or None if ``text`` is no date.

    Forms seen: ``2019-09-11T13:20:28.989``, ``2011-Aug-04T15:27:22.593``, the same with slashes
    and a blank (``2011/Aug/04 15:27:22.593``), and without a fraction.
    """
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    year, month, *rest = match.groups()
    fraction = rest.pop() or "0"
    if not month.isdigit():
        if month.lower() not in _MONTHS:
            return None
        month = str(_MONTHS.index(month.lower()) + 1)
    day, hour, minute, second = (int(part) for part in rest)
    try:
        # two steps: a datetime holds microseconds, the fraction may have nine digits
        moment = datetime(int(year), int(month), day, hour, minute, second, tzinfo=timezone or UTC)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * 10**9 + int(fraction.ljust(9, "0")) if seconds >= 0 else None


def parse_header(text: str) -> tuple[dict[str, Value], dict[str, str], list[str]]:
    """Return the attributes and units of ``# ...`` header lines, and the lines that are dates.

    Lines that cannot be read become text under their own name; nothing in a header is an error.
    """
    attributes: dict[str, Value] = {}
    units: dict[str, str] = {}
    dates: list[str] = []
    for line in text.replace("\r", "\n").split("\n", _MAX_LINES)[:_MAX_LINES]:
        content = line.strip().lstrip("#").strip().replace("\0", "")[:_MAX_TEXT]
        if not content:
            continue
        if _DATE.fullmatch(content):
            dates.append(content)
            continue
        for name, value, unit in _parse_line(content):
            if name in attributes:
                continue  # a keyword given twice: the first is camserver's own
            attributes[name] = value
            if unit:
                units[name] = unit
    return attributes, units, dates


@lru_cache(maxsize=1024)
def _parse_line(content: str) -> _Values:
    words = content.translate(_BLANKS).split()
    if not words:
        return []
    if len(words) > 1 and words[1].lower() == "sensor":
        return _sensor(words, content)
    keyword, rest = words[0], words[1:]
    parser = _PARSERS.get(keyword.lower())
    try:
        values = parser(rest, content) if parser else []
    except (ValueError, IndexError):
        values = []
    return values or _generic(keyword, rest, content)


def _number(word: str) -> int | float:
    """Return the number a word is; ValueError for anything else, as ``nan`` or ``1_000``."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII):
        raise ValueError(word)
    if re.fullmatch(r"[+-]?\d{1,18}", word):
        return int(word)
    value = float(word)
    if value in (float("inf"), float("-inf")):
        raise ValueError(word)
    return value


def _generic(keyword: str, rest: list[str], content: str) -> _Values:
    """One number with or without a unit, else the text behind the keyword."""
    name = re.sub(r"[^a-z0-9]+", "_", keyword.lower()).strip("_")
    if not name or not rest:
        return [(name, "", "")] if name else []
    if len(rest) <= 2:
        try:
            unit = rest[1] if len(rest) == 2 else ""
            return [(name, _number(rest[0]), _unit(unit))]
        except ValueError:
            pass
    return [(name, content[content.index(keyword) + len(keyword) :].strip(" \t=:,"), "")]


def _sensor(words: list[str], content: str) -> _Values:
    values: _Values = [("sensor_material", words[0], "")]
    if "thickness" in words:
        try:
            thickness = float(_number(words[words.index("thickness") + 1]))
        except (ValueError, IndexError):
            return [*values, ("sensor", content, "")]
        values.append(("sensor_thickness_m", thickness, "m"))
    return values


def _one(name: str, unit: str, *, whole: bool = False) -> _Parser:
    """Parse the first word behind the keyword as a number; its unit is in the line if not given."""

    def parse(rest: list[str], _content: str) -> _Values:
        value = _number(rest[0])
        if whole and abs(value) >= 2**63:
            raise ValueError(rest[0])
        found = unit or (_unit(rest[1]) if len(rest) == 2 else "")
        return [(name, int(value) if whole else float(value), found)]

    return parse


def _unit(word: str) -> str:
    return _UNITS.get(word, word)


def _many(*names: str, unit: str) -> _Parser:
    """Parse the first words behind the keyword as numbers of one unit."""

    def parse(rest: list[str], _content: str) -> _Values:
        return [(name, float(_number(rest[index])), unit) for index, name in enumerate(names)]

    return parse


def _detector(_rest: list[str], content: str) -> _Values:
    text = content.partition("Detector")[2].strip(" \t:=")
    description, *serial = re.split(r"[,\s]+S/?N[:\s]+", text, maxsplit=1)
    values: _Values = [("detector_description", description.strip(), "")]
    return [*values, ("detector_serial", serial[0].strip(), "")] if serial else values


def _pixel_size(rest: list[str], _content: str) -> _Values:
    # "172e-6 m x 172e-6 m"; the first is along the fast axis
    return [
        ("x_pixel_size_m", float(_number(rest[0])), "m"),
        ("y_pixel_size_m", float(_number(rest[3])), "m"),
    ]


def _gain(rest: list[str], _content: str) -> _Values:
    # "autog (vrf = 1.000)", also "high gain (vrf = -0.150)"
    if "vrf" not in rest:
        return [("gain_setting", " ".join(rest), "")]
    at = rest.index("vrf")
    return [
        ("gain_setting", " ".join(rest[:at]), ""),
        ("vrf_V", float(_number(rest[at + 1])), "V"),
    ]


_ANGLES = (
    "detector_2theta",
    "alpha",
    "kappa",
    "phi",
    "phi_increment",
    "chi",
    "chi_increment",
    "omega",
    "omega_increment",
)
# fractions by nature, so a whole number in one file must not make an integer of them; any unit
# is the beamline's choice and read from the line
_PLAIN = (
    "flux",
    "filter_transmission",
    "polarization",
    "start_position",
    "position_increment",
    "shutter_time",
)
_PARSERS: dict[str, _Parser] = {
    "detector": _detector,
    "pixel_size": _pixel_size,
    "exposure_time": _one("exposure_s", "s"),
    "exposure_period": _one("frame_time_s", "s"),
    "tau": _one("tau_s", "s"),
    "count_cutoff": _one("saturation_value", "count", whole=True),
    "threshold_setting": _one("threshold_eV", "eV"),
    "gain_setting": _gain,
    "n_excluded_pixels": _one("n_excluded_pixels", "", whole=True),
    "wavelength": _one("wavelength_A", "A"),
    "energy_range": _many("energy_range_low_eV", "energy_range_high_eV", unit="eV"),
    "detector_distance": _one("distance_m", "m"),
    "detector_voffset": _one("detector_voffset", "m"),
    "beam_xy": _many("beam_center_x", "beam_center_y", unit="pixel"),
    "beam_x": _one("beam_center_x", "pixel"),
    "beam_y": _one("beam_center_y", "pixel"),
    "start_angle": _one("start_angle_deg", "deg"),
    "angle_increment": _one("angle_increment_deg", "deg"),
    **{name: _one(name, "deg") for name in _ANGLES},
    **{name: _one(name, "") for name in _PLAIN},
}
