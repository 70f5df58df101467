"""Header lines of Pilatus files in every form seen, and file names."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detectors.pilatus import wire
from pipeline.detectors.pilatus.header import parse_date, parse_header
from pipeline.detectors.pilatus.sim_files import cbf_file, edf_file, tiff_file
from pipeline.errors import InvalidFrameError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("# Tau = 1697.2e-09 s", {"tau_s": 1697.2e-9}),
        ("# Tau = 0 s", {"tau_s": 0.0}),
        ("# Oscillation_axis X.CW +SLOW", {"oscillation_axis": "X.CW +SLOW"}),
        ("# Oscillation_axis X, CW", {"oscillation_axis": "X, CW"}),
        ("# Comment: a = b, (c): d # e", {"comment": "a = b, (c): d # e"}),
        ("# Comment: 17", {"comment": 17}),
        ("# Detector: PILATUS 6M SN: 60-0001", None),
        ("# Detector: PILATUS 2M, S/N 24-0107 Diamond", None),
        ("# Pixel_size 172e-6 m x 172e-6 m", {"x_pixel_size_m": 172e-6, "y_pixel_size_m": 172e-6}),
        ("# CdTe sensor thickness 1e-3 m", {"sensor_material": "CdTe", "sensor_thickness_m": 1e-3}),
        ("# Si sensor, thickness ?", {"sensor_material": "Si", "sensor": "Si sensor, thickness ?"}),
        ("# Beam_xy (1261.6, 1306.9) pixels", {"beam_center_x": 1261.6, "beam_center_y": 1306.9}),
        ("# Beam_x 10 pixels", {"beam_center_x": 10.0}),
        ("# Beam_xy 12", {"beam_xy": 12}),
        ("# Count_cutoff 1048500 counts", {"saturation_value": 1048500}),
        ("# Threshold_setting: 6200 eV", {"threshold_eV": 6200.0}),
        ("# Threshold_setting: not set", {"threshold_setting": "not set"}),
        ("# Gain_setting: autog (vrf = 1.000)", {"gain_setting": "autog", "vrf_V": 1.0}),
        ("# Gain_setting: mid gain (vrf = -0.200)", {"gain_setting": "mid gain", "vrf_V": -0.2}),
        ("# Gain_setting: high", {"gain_setting": "high"}),
        ("# Excluded_pixels: (nil)", {"excluded_pixels": "(nil)"}),
        ("# Flat_field: (nil)", {"flat_field": "(nil)"}),
        ("# Image_path: /ramdisk/a b/", {"image_path": "/ramdisk/a b/"}),
        ("# Retrigger_mode: 1", {"retrigger_mode": 1}),
        ("# Energy_range (0, 12.5) eV", {"energy_range_low_eV": 0.0, "energy_range_high_eV": 12.5}),
        ("# Flux 0 ph/s", {"flux": 0.0}),
        ("# Start_angle 89.9997 deg.", {"start_angle_deg": 89.9997}),
        ("# Phi 0.5000 deg.", {"phi": 0.5}),
        ("# Wavelength 1e999 A", {"wavelength": "1e999 A"}),
        ("# Wavelength nan A", {"wavelength": "nan A"}),
        ("# Count_cutoff 1e30 counts", {"count_cutoff": 1e30}),
        ("# My-Own.Key! 3 mm", {"my_own_key": 3}),
        ("Wavelength = 1.5 A", {"wavelength_A": 1.5}),
        ("# Wavelength 1 A\n# Wavelength 2 A", {"wavelength_A": 1.0}),
        ("#", {}),
        ("# ((( ,,,", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_lines_become_typed_attributes(line: str, expected: dict[str, object] | None) -> None:
    attributes, _, dates = parse_header(line)
    assert not dates
    if expected is None:
        assert attributes["detector_description"].startswith("PILATUS ")  # type: ignore[union-attr]
        assert "-0" in str(attributes["detector_serial"])
        return
    assert attributes == expected
    assert [type(a) for a in attributes.values()] == [type(e) for e in expected.values()]


def test_units_are_kept_as_written_where_the_name_has_none() -> None:
    _, units, _ = parse_header("# My_key 3 mm\n# Flux 1e9 ph/s\n# Phi 1 deg.\n# Beam_x 3 pixels")
    assert units == {"my_key": "mm", "flux": "ph/s", "phi": "deg", "beam_center_x": "pixel"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2011-Aug-04T15:27:22.593", 1_312_471_642_593_000_000),
        ("2011/Aug/04 15:27:22.593", 1_312_471_642_593_000_000),
        ("2024-01-01T10:00:00.123", 1_704_103_200_123_000_000),
        ("2024-01-01T10:00:00", 1_704_103_200_000_000_000),
        ("2024-01-01T10:00:00.123456789", 1_704_103_200_123_456_789),
        ("2024-13-01T10:00:00", None),
        ("2024-Foo-01T10:00:00", None),
        ("2024-02-30T10:00:00", None),
        ("1904-01-01T10:00:00", None),
        ("yesterday", None),
    ],
)
def test_dates_are_ns_since_1970(text: str, expected: int | None) -> None:
    assert parse_date(text) == expected


def test_the_detectors_clock_may_be_in_another_zone_with_summer_time() -> None:
    zone = ZoneInfo("Europe/Berlin")
    hour_ns = 3600 * 10**9
    for text, hours in (("2024-01-01T10:00:00.5", 1), ("2024-07-01T10:00:00.5", 2)):
        utc, local = parse_date(text), parse_date(text, zone)
        assert utc is not None
        assert local == utc - hours * hour_ns


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_header_text_is_an_error(text: str) -> None:
    attributes, units, _ = parse_header("# Wavelength 1 A\n" + text)
    assert attributes["wavelength_A"] == 1.0
    assert set(units) <= set(attributes)


@given(
    st.sampled_from(["Wavelength", "Beam_xy", "Pixel_size", "Count_cutoff", "Gain_setting"]),
    st.text(max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_known_keywords_take_any_rest(keyword: str, rest: str) -> None:
    for value in parse_header(f"# {keyword} {rest}")[0].values():
        assert isinstance(value, int | float | str)
        if isinstance(value, int):
            assert abs(value) < 2**63


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t_2_0035.cbf", ("t_2", 35)),
        ("t_00000.tif", ("t", 0)),
        ("t_100000.tif", ("t", 100000)),
        ("a/b_1/t_014.tif", ("t", 14)),
        ("_7.cbf", ("", 7)),
        ("t.with.dots_3.cbf", ("t.with.dots", 3)),
        ("t.tif", None),
        ("t_.tif", None),
        ("t_014B.tif", None),
        ("t014.tif", None),
        ("t_-3.tif", None),
        ("t_\u0663.tif", None),
        ("t_" + "9" * 30 + ".tif", None),
        ("", None),
    ],
)
def test_numbers_are_the_digits_after_the_last_underscore(
    name: str, expected: tuple[str, int] | None
) -> None:
    assert wire.split_name(name) == expected


def test_a_file_without_header_lines_still_has_its_shape() -> None:
    facts = wire.read_cbf(cbf_file((2, 3), b"\1\2\3\4\5\6", [], "x"))
    assert (facts.shape, facts.dtype, facts.timestamp_ns) == ((2, 3), "int32", None)
    assert facts.attributes == {}


@pytest.mark.parametrize("read", [wire.read_cbf, wire.read_tiff, wire.read_edf])
@pytest.mark.parametrize("payload", [b"", b"\0" * 9000, b"{", b"II*\0\x08\0\0\0", b"###CBF: "])
def test_what_is_no_image_file_is_refused_with_its_field(read: object, payload: bytes) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        read(payload)  # type: ignore[operator]
    assert caught.value.field == "payload"


def test_each_format_cut_short_is_refused() -> None:
    import numpy as np

    image = np.zeros((20, 30), np.int32)
    header = ["# Detector: x", "# 2024-01-01T00:00:00"]
    for read, payload in (
        (wire.read_cbf, cbf_file((20, 30), bytes(600), header, "x")[:-60]),
        (wire.read_tiff, tiff_file(image, header)[:-1]),
        (wire.read_edf, edf_file(image, header)[:-1]),
    ):
        with pytest.raises(InvalidFrameError, match="cut short"):
            read(payload)
    assert wire.complete_tiff(tiff_file(image, header)) is None
    assert "ends at byte 6496" in str(wire.complete_tiff(tiff_file(image, header)[:-1]))
    assert wire.complete_tiff(b"x") is not None
    assert wire.complete_cbf(b"x") is not None
