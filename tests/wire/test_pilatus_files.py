"""Ten files of a real Pilatus3 6M (thaumatin, 2019), with fabio as the judge of pixels."""

from __future__ import annotations

import bz2
import os
from pathlib import Path

import fabio
import numpy as np
import pytest

from pipeline import codecs
from pipeline.codecs import cbf
from pipeline.codecs.byte_offset import encode_byte_offset
from pipeline.detectors.pilatus import wire

SHARED = Path(os.environ.get("LICHTSTROM_SHARED") or Path(__file__).parents[3] / "shared")
FOLDER = SHARED / "data" / "pilatus6m"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"REAL FILES NOT TESTED: {FOLDER} does not exist; name its parent in LICHTSTROM_SHARED",
)


@pytest.fixture(scope="module")
def first() -> bytes:
    return bz2.decompress((FOLDER / "thau_3_2_0001.cbf.bz2").read_bytes())


@pytest.mark.parametrize("number", range(1, 11))
def test_pixels_of_real_files_equal_those_of_fabio(number: int, tmp_path: Path) -> None:
    name = f"thau_3_2_{number:04d}.cbf"
    payload = bz2.decompress((FOLDER / f"{name}.bz2").read_bytes())
    (tmp_path / name).write_bytes(payload)
    with fabio.open(str(tmp_path / name)) as file:
        expected = file.data
    facts = wire.read_cbf(payload)
    codecs.check(payload, encoding="cbf", shape=facts.shape, dtype=facts.dtype)
    pixels = codecs.decode(payload, encoding="cbf", shape=facts.shape, dtype=facts.dtype)
    assert pixels.dtype == expected.dtype == np.int32
    assert np.array_equal(pixels, expected)
    image = cbf.parse(payload)
    assert cbf.matches_md5(payload, image)
    # camserver's own encoder and ours agree to the byte
    block = payload[image.binary_offset : image.binary_offset + image.binary_size]
    assert encode_byte_offset(pixels) == block
    assert wire.split_name(name) == ("thau_3_2", number)


def test_header_values_of_the_first_file_are_those_in_its_text(first: bytes) -> None:
    facts = wire.read_cbf(first)
    assert facts.shape == (2527, 2463)
    assert facts.dtype == "int32"
    assert facts.encoding == "cbf"
    assert facts.timestamp_ns == 1_568_208_028_989_000_000  # 2019-09-11T13:20:28.989 as UTC
    assert facts.attributes == {
        "detector_description": "PILATUS3 6M",
        "detector_serial": "60-0119",
        "x_pixel_size_m": 172e-6,
        "y_pixel_size_m": 172e-6,
        "sensor_material": "Silicon",
        "sensor_thickness_m": 0.00045,
        "exposure_s": 0.019,
        "frame_time_s": 0.02,
        "tau_s": 0.0,
        "saturation_value": 115897,
        "threshold_eV": 6400.0,
        "gain_setting": "autog",
        "vrf_V": 1.0,
        "n_excluded_pixels": 609,
        "excluded_pixels": "badpixel_mask.tif",
        "flat_field": "FF_p60-0119_E20000_T6400_vrf_m0p100.tif",
        "trim_file": "p60-0119_E20000_T6400.bin",
        "image_path": "/ramdisk/2019/cm23007-4/xraycentring/queue_test/thaumatin/",
        "comment": "Mini kappa not in use",
        "ratecorr_lut_directory": "ContinuousStandard_v1.1",
        "retrigger_mode": 1,
        "wavelength_A": 0.96859,
        "energy_range_low_eV": 0.0,
        "energy_range_high_eV": 0.0,
        "distance_m": 0.351,
        "detector_voffset": 0.0,
        "beam_center_x": 1261.61,
        "beam_center_y": 1306.96,
        "flux": 1.396021,
        "filter_transmission": 0.2547,
        "start_angle_deg": 89.9997,
        "angle_increment_deg": 0.0,
        "detector_2theta": 0.0,
        "polarization": 0.99,
        "alpha": 0.0,
        "kappa": 0.0,
        "phi": 0.0,
        "phi_increment": 0.0,
        "omega": 89.9997,
        "omega_increment": 0.0,
        "chi": 0.0,
        "chi_increment": 0.0,
        "oscillation_axis": "X.CW +SLOW",
        "n_oscillations": 1,
    }
    assert facts.units["wavelength_A"] == "A"
    assert facts.units["omega"] == "deg"
    assert facts.units["saturation_value"] == "count"
    assert facts.units["detector_voffset"] == "m"


@pytest.mark.parametrize("missing", [1, 4, 8, 40, 60, 4000, 5000, 6_000_000])
def test_a_real_file_cut_short_is_not_complete(first: bytes, missing: int) -> None:
    # the last four bytes are empty lines: nothing is lost with them
    assert (wire.complete_cbf(first[:-missing]) is None) == (missing <= 4)


def test_a_damaged_block_does_not_match_its_md5(first: bytes) -> None:
    damaged = bytearray(first)
    damaged[3_000_000] ^= 1
    assert not cbf.matches_md5(damaged, cbf.parse(damaged))
