"""The pictures of the simulators show what a real detector would: judged by pyFAI."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detectors import scene
from pipeline.detectors.scene import Geometry, ring_images, stamp, stamped_number
from pipeline.errors import InvalidArgumentError


def test_ring_radii_are_those_of_pyfais_lab6() -> None:
    pytest.importorskip("pyFAI")
    from pyFAI.calibrant import get_calibrant

    geometry = Geometry(distance_m=0.15, pixel_m=75e-6, wavelength_a=0.7, center=(1081.0, 1034.5))
    calibrant = get_calibrant("LaB6")
    calibrant.wavelength = 0.7e-10
    angles = [angle for angle in calibrant.get_2th() if angle < np.radians(45)]
    expected = [0.15 * np.tan(angle) / 75e-6 for angle in angles]
    found = [radius for radius, _ in geometry.rings(expected[-1] + 0.5)]
    assert len(found) > 10
    assert found == pytest.approx(expected, abs=0.1)


def test_the_rings_in_the_picture_are_where_pyfai_expects_them() -> None:
    pytest.importorskip("pyFAI")
    from pyFAI.calibrant import get_calibrant
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    shape = (600, 480)
    geometry = Geometry.fitting(shape, pixel_m=172e-6)
    image = ring_images(shape, count=1, dtype="int32", mean=200)[0]
    integrator = AzimuthalIntegrator(
        dist=geometry.distance_m,
        poni1=geometry.center[0] * geometry.pixel_m,
        poni2=geometry.center[1] * geometry.pixel_m,
        pixel1=geometry.pixel_m,
        pixel2=geometry.pixel_m,
        wavelength=geometry.wavelength_a * 1e-10,
    )
    angle, intensity = integrator.integrate1d(image, 1500, unit="2th_deg")
    calibrant = get_calibrant("LaB6")
    calibrant.wavelength = geometry.wavelength_a * 1e-10
    for expected in np.degrees(calibrant.get_2th()[:5]):
        near = np.abs(angle - expected) < 0.6
        assert angle[near][intensity[near].argmax()] == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32"])
def test_images_have_the_asked_shape_type_and_mean(dtype: str) -> None:
    images = ring_images((60, 90), count=3, dtype=dtype, mean=12)
    assert [image.shape for image in images] == [(60, 90)] * 3
    assert all(image.dtype == np.dtype(dtype) for image in images)
    assert np.mean(images) == pytest.approx(12, rel=0.05)
    assert not np.array_equal(images[0], images[1])


def test_equal_seeds_give_equal_images() -> None:
    first, again, other = (ring_images((20, 30), count=1, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_counts_stop_where_the_counter_is_full() -> None:
    assert ring_images((20, 30), dtype="uint8", mean=1000)[0].max() == 255
    assert ring_images((20, 30), mean=1000, saturation=500)[0].max() == 500


def test_masked_pixels_show_what_detectors_write_there() -> None:
    mask = np.zeros((40, 50), bool)
    mask[10:12] = True
    for dtype, value in (("int32", -1), ("uint16", 65535), ("uint32", 2**32 - 1)):
        image = ring_images((40, 50), dtype=dtype, mask=mask, spots=20)[0]
        assert (image[10:12] == value).all()
        assert (image[~mask] != value).all()
    assert (ring_images((40, 50), mask=mask, masked_value=7)[0][10:12] == 7).all()


def test_spots_are_bright_and_apart() -> None:
    counts = scene.expected_counts((200, 300), mean=3)
    spots = scene.plant_spots(counts, np.random.default_rng(0), count=30)
    assert len(spots) > 15
    assert all(counts[spot] > 190 for spot in spots)


def test_the_beam_stop_is_dark_and_its_wire_tells_up_from_down() -> None:
    counts = scene.expected_counts((301, 301), mean=100)
    assert counts[150, 150] < 30
    assert counts[290, 150] < 0.1 * counts[10, 150]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (6, 8), (4371, 5)])
def test_any_shape_gets_a_picture(shape: tuple[int, int]) -> None:
    assert ring_images(shape, count=1, spots=3)[0].shape == shape


@given(
    number=st.integers(0, 2**63 - 1),
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int32", "uint64", "float32", "float64"]),
)
def test_a_stamped_number_can_be_read_back(number: int, dtype: str) -> None:
    image = np.ones((3, 7), dtype)
    stamped = stamp(image, number)
    assert stamped_number(stamped) == number
    assert (image == 1).all()
    assert stamped.dtype == image.dtype


def test_the_first_pixel_shows_small_numbers() -> None:
    assert stamp(np.zeros((2, 8), np.uint16), 4711)[0, 0] == 4711
    assert stamp(np.zeros((2, 8), np.int32), 4711)[0, 0] == 4711


def test_a_camera_of_12_bits_gets_no_larger_values() -> None:
    stamped = stamp(np.zeros((2, 8), np.uint16), 2**63 - 1, bits=12)
    assert stamped.max() == 4095
    assert stamped_number(stamped, bits=12) == 2**63 - 1


@pytest.mark.parametrize(
    ("field", "shape", "number", "bits"),
    [
        ("number", (4, 4), -1, None),
        ("number", (4, 4), 2**63, None),
        ("image", (1, 2), 1, None),
        ("bits", (4, 4), 1, 17),
    ],
)
def test_what_cannot_be_planted_is_refused(
    field: str, shape: tuple[int, int], number: int, bits: int | None
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        stamp(np.zeros(shape, np.uint16), number, bits=bits)
    assert caught.value.field == field
