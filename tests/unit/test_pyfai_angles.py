"""Who integrates a file of the HDF5 sink finds a calibrant's rings where they must be.

The images are made by pyFAI for one geometry; the integration takes its own from the file alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- readers without it cannot decompress
import numpy as np
import pytest
from pyFAI.calibrant import get_calibrant
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from test_hdf5_sink import FULL_METADATA, frame, make_info

from pipeline.sinks.hdf5.files import Files, Options
from pipeline.sinks.hdf5.master import write_master
from pipeline.sinks.hdf5.sink import WHOLE

SHAPE = (400, 360)
FIRST, COUNT, MISSING = 5, 8, 9
#: Beam centre off the middle and pixels that are not square: nothing may stand for another.
GEOMETRY: dict[str, float] = {
    "distance_m": 0.06,
    "beam_center_x": 155.3,
    "beam_center_y": 228.8,
    "x_pixel_size_m": 172e-6,
    "y_pixel_size_m": 150e-6,
    "wavelength_A": 0.9793,
}
RINGS = 4
WIDTH_DEG = 0.5
#: Pixels that count too much, beside the first ring.
HOT = (slice(227, 230), slice(234, 237))
# The noise of counting moves a quarter of a ring by 0.01 pixel.  A beam centre that is wrong by the
# half pixel between a pixel's corner and its middle moves it by 0.25 pixel and more.
TOLERANCE_PIXEL = 0.1
QUARTERS = [(-180, -90), (-90, 0), (0, 90), (90, 180)]
LAYOUTS: dict[str, Mapping[str, Any]] = {
    "nxmx": {},
    "nxmx of several files": {"frames_per_file": 4},
    "dectris": {"layout": "dectris", "frames_per_file": 4},
}


def integrator(of: Mapping[str, float]) -> Any:
    return AzimuthalIntegrator(
        dist=of["distance_m"],
        poni1=of["beam_center_y"] * of["y_pixel_size_m"],
        poni2=of["beam_center_x"] * of["x_pixel_size_m"],
        pixel1=of["y_pixel_size_m"],
        pixel2=of["x_pixel_size_m"],
        wavelength=of["wavelength_A"] * 1e-10,
    )


def lab6(wavelength_a: float) -> Any:
    calibrant = get_calibrant("LaB6")
    calibrant.wavelength = wavelength_a * 1e-10
    return calibrant


@pytest.fixture(scope="module")
def images() -> Any:
    """(frames, rows, columns) uint16, with Poisson noise."""
    rings = lab6(GEOMETRY["wavelength_A"]).fake_calibration_image(
        integrator(GEOMETRY), SHAPE, Imax=60, Imin=4, resolution=WIDTH_DEG
    )
    noisy = np.random.default_rng(1).poisson(rings, (COUNT, *SHAPE)).astype(np.uint16)
    noisy[:, *HOT] = 60_000
    return noisy


def write(directory: Path, images: Any, options: Options) -> Path:
    """Write the images, one of them missing; returns the file that users open."""
    info = make_info(metadata={**FULL_METADATA, **GEOMETRY, "detector_description": "EIGER"})
    given = [frame(FIRST + i, image) for i, image in enumerate(images) if FIRST + i != MISSING]
    account = {"missing": [[MISSING, MISSING]]}
    span = FIRST, FIRST + len(images) - 1
    with Files(directory, info, options) as files:
        files.open()
        for each in given:
            sink = files.sink(0, each.number)
            assert sink is not None
            sink.write(each)
        if files.is_plain:
            return Path(files.open_sinks[WHOLE].finish(account))
        files.finish_parts(account, span, given[0])
    return Path(write_master(directory, info, files.options, account, span=span, invalid=[]))


def mask() -> Any:
    bits = np.zeros(SHAPE, np.uint32)
    bits[HOT] = 1 << 4
    return bits


def geometry_of(path: Path) -> dict[str, float]:
    """Return the geometry as the file has it, in the units that it names."""
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        wavelength = file["entry/instrument/beam/incident_wavelength"]
        fields = {
            "distance_m": (detector["distance"], b"m"),
            "beam_center_x": (detector["beam_center_x"], b"pixel"),
            "beam_center_y": (detector["beam_center_y"], b"pixel"),
            "x_pixel_size_m": (detector["x_pixel_size"], b"m"),
            "y_pixel_size_m": (detector["y_pixel_size"], b"m"),
            "wavelength_A": (wavelength, b"angstrom"),
        }
        for name, (field, unit) in fields.items():
            assert field.attrs["units"] == unit, name
        return {name: float(field[()]) for name, (field, _) in fields.items()}


def by_fabio(path: Path) -> Any:
    import fabio

    with fabio.open(str(path)) as file:
        return np.stack([file.get_frame(i).data for i in range(file.nframes)])


def by_silx(path: Path) -> Any:
    """Return the frames by URLs, as silx' and pyFAI's programs take them."""
    import silx.io

    with silx.io.open(str(path)) as file:
        names = [name for name in file["entry/data"] if name.startswith("data")]
    url = f"silx:{path}?path=/entry/data/"
    return np.concatenate([silx.io.get_data(url + name) for name in sorted(names)])


def errors_pixel(path: Path, frames: Any) -> list[float]:
    """Return how far each quarter of each ring is from where the calibrant has it."""
    geometry = geometry_of(path)
    with h5py.File(path) as file:
        valid = file["entry/instrument/detector/frame_valid"][:] == 1
        bad = (file["entry/instrument/detector/pixel_mask"][:] & 0xFFFF) != 0
    image = frames[valid].sum(axis=0, dtype=np.float64)
    angles = np.degrees(lab6(geometry["wavelength_A"]).get_2th()[:RINGS])
    found = []
    for quarter in QUARTERS:
        two_theta, counts = integrator(geometry).integrate1d(
            image, 2000, unit="2th_deg", mask=bad, azimuth_range=quarter, radial_range=(8, 30)
        )
        found += [_pixels(geometry, a, _middle(two_theta, counts, a) - a) for a in angles]
    return found


def _middle(two_theta: Any, counts: Any, angle: float) -> float:
    """Return the middle of the peak that is nearest to an angle."""
    near = np.abs(two_theta - angle) < 1.5 * WIDTH_DEG
    x, y = two_theta[near], counts[near]
    top = x[y.argmax()]
    around = np.abs(x - top) < WIDTH_DEG
    above = np.clip(y - np.percentile(y, 10), 0, None) * around
    return float((x * above).sum() / above.sum())


def _pixels(geometry: Mapping[str, float], angle: float, by: float) -> float:
    """Return an angle's error (degree) as one of the radius."""
    radius_m = geometry["distance_m"] / np.cos(np.radians(angle)) ** 2 * np.radians(by)
    return float(radius_m / geometry["x_pixel_size_m"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rings_are_at_their_angles_by_the_files_own_geometry(
    tmp_path: Path, images: Any, layout: str
) -> None:
    path = write(tmp_path, images, Options(pixel_mask=mask(), **LAYOUTS[layout]))
    assert geometry_of(path) == GEOMETRY
    frames = by_fabio(path)
    np.testing.assert_array_equal(by_silx(path), frames)
    there = np.arange(FIRST, FIRST + COUNT) != MISSING
    np.testing.assert_array_equal(frames[there], images[there])
    errors = errors_pixel(path, frames)
    assert len(errors) == RINGS * len(QUARTERS)
    assert np.abs(errors).max() < TOLERANCE_PIXEL, errors


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("detector/distance", 1.005),
        ("detector/beam_center_x", 1 + 0.5 / 155.3),
        ("detector/beam_center_y", 1 + 0.5 / 228.8),
        ("detector/x_pixel_size", 1.01),
        ("beam/incident_wavelength", 1.005),
    ],
)
def test_a_field_that_is_slightly_wrong_shows_in_the_rings(
    tmp_path: Path, images: Any, field: str, change: float
) -> None:
    path = write(tmp_path, images, Options(pixel_mask=mask()))
    with h5py.File(path, "r+") as file:
        file["entry/instrument"][field][...] *= change
    assert np.abs(errors_pixel(path, by_fabio(path))).max() > 2 * TOLERANCE_PIXEL


def test_without_the_mask_of_the_file_hot_pixels_pass_for_a_ring(
    tmp_path: Path, images: Any
) -> None:
    path = write(tmp_path, images, Options())
    assert np.abs(errors_pixel(path, by_fabio(path))).max() > TOLERANCE_PIXEL
