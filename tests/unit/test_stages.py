"""The stages that are shipped as examples, on frames of the simulators' scene."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyFAI.calibrant import get_calibrant

from pipeline.detectors.scene import Geometry, plant_spots, ring_images
from pipeline.errors import InvalidArgumentError
from pipeline.spots import count_spots
from pipeline.workers.function import load

STAGES = Path(__file__).parents[2] / "examples" / "stages"
SHAPE = (300, 420)
#: Nothing in the middle, and not square: exchanged axes show.
GEOMETRY = Geometry(distance_m=0.04, pixel_m=100e-6, wavelength_a=0.7, center=(130.0, 235.0))
METADATA: dict[str, Any] = {
    "distance_m": 0.04,
    "beam_center_y": 130.0,
    "beam_center_x": 235.0,
    "pixel_size_m": 100e-6,
    "wavelength_A": 0.7,
}


def stage(name: str) -> Any:
    return load(f"{STAGES}/{name}")


def frame(image: Any, number: int = 0, stream: str = "c1/d/s") -> Any:
    image.flags.writeable = False  # as readers get them
    return SimpleNamespace(array=image, shape=image.shape, number=number, stream=stream)


class Session:
    """Streams with metadata, attachments and lineage, as far as the stages ask for them."""

    def __init__(self, **streams: dict[str, Any]) -> None:
        self.streams = streams

    def stream(self, beamtime: str, detector: str, name: str) -> Any:
        known = self.streams[detector]

        def attachment(which: str) -> Any:
            if which not in known.get("attachments", {}):
                raise InvalidArgumentError("name", f"no attachment {which!r}")
            return known["attachments"][which]

        source = known.get("source")
        return nullcontext(
            SimpleNamespace(
                metadata=known.get("metadata", {}),
                settings={"lineage": {"source": source} if source else {}},
                attachment=attachment,
            )
        )


def context(stream: str = "c1/d/s", **streams: dict[str, Any]) -> Any:
    return SimpleNamespace(stream=stream, session=Session(**streams))


def peaks_deg(curve: Any) -> Any:
    """Two theta of LaB6's first rings in an integrated curve, by their centre of mass."""
    angles, counts = curve
    calibrant = get_calibrant("LaB6")
    calibrant.wavelength = 0.7e-10
    expected = np.rad2deg(calibrant.get_2th()[1:5])
    found = []
    for angle in expected:
        near = np.abs(angles - angle) < 1.0
        strength = np.clip(counts[near] - np.percentile(counts[near], 30), 0, None)
        found.append(np.average(angles[near], weights=strength))
    return expected, np.array(found)


def test_the_rings_of_a_calibrant_are_integrated_where_they_must_be() -> None:
    (image,) = ring_images(SHAPE, count=1, mean=200.0, geometry=GEOMETRY)
    curve = stage("integrate.py:Integration")(context(d={"metadata": METADATA}))(frame(image))
    assert curve.shape == (2, 1000)
    expected, found = peaks_deg(curve)
    # a pixel is 0.14 degrees here; a beam that is wrong by one moves a ring's parts by so much
    assert found == pytest.approx(expected, abs=0.07)


def test_integration_with_exchanged_axes_would_not_find_the_rings() -> None:
    (image,) = ring_images(SHAPE, count=1, mean=200.0, geometry=GEOMETRY)
    wrong = {**METADATA, "beam_center_x": 130.0, "beam_center_y": 235.0}
    curve = stage("integrate.py:Integration")(context(d={"metadata": wrong}))(frame(image))
    expected, found = peaks_deg(curve)
    assert np.abs(found - expected).max() > 0.2


@pytest.mark.parametrize(("dtype", "gap"), [("int32", -1), ("uint16", 65535)])
def test_pixels_that_were_not_measured_do_not_count(dtype: str, gap: int) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[100:140] = True
    whole, gaps = (
        ring_images(SHAPE, count=1, mean=200.0, geometry=GEOMETRY, dtype=dtype, mask=m)[0]
        for m in (None, mask)
    )
    assert (gaps[mask] == gap).all()
    integrate = stage("integrate.py:Integration")(context(d={"metadata": METADATA}))
    one, other = integrate(frame(whole)), integrate(frame(gaps))
    assert np.array_equal(one[0], other[0]), "the angles are those of the whole detector"
    outer = slice(200, None)  # near the beam too few pixels are left
    assert np.median(np.abs(one[1] - other[1])[outer]) < 0.05 * one[1].mean()


def test_a_stream_without_geometry_is_refused_before_its_first_frame() -> None:
    with pytest.raises(LookupError, match="c1/d/s: its metadata must have distance_m"):
        stage("integrate.py:Integration")(context(d={}))


def test_a_dark_image_is_subtracted_and_gaps_stay_gaps() -> None:
    image = np.full((4, 5), 100, np.int32)
    image[1] = -1
    dark = np.arange(20.0).reshape(4, 5)
    subtract = stage("dark.py:DarkSubtraction")(context(d={"attachments": {"dark": dark}}))
    corrected = subtract(frame(image))
    assert corrected.dtype == np.float32
    assert np.isnan(corrected[1]).all()
    assert np.array_equal(corrected[[0, 2, 3]], 100 - dark[[0, 2, 3]])
    assert image[0, 0] == 100, "the frame is left as it is"


def test_a_stream_without_a_dark_is_refused_before_its_first_frame() -> None:
    with pytest.raises(InvalidArgumentError, match="dark"):
        stage("dark.py:DarkSubtraction")(context(d={}))


def test_of_a_pattern_each_stream_has_its_own_dark() -> None:
    subtract = stage("dark.py:DarkSubtraction")(
        context(
            "c1/*/s",
            d={"attachments": {"dark": np.full((2, 2), 1)}},
            e={"attachments": {"dark": np.full((2, 2), 5)}},
        )
    )
    image = np.full((2, 2), 9, np.uint16)
    assert (subtract(frame(image)) == 8).all()
    assert (subtract(frame(image, stream="c1/e/s")) == 4).all()


def test_the_dark_of_a_detector_hides_rings_until_it_is_subtracted() -> None:
    """The two stages chained by hand; the derived stream takes its geometry from its source."""
    rng = np.random.default_rng(2)
    dark = rng.uniform(0, 4000, SHAPE[1]).astype(np.uint16) + np.zeros(SHAPE, np.uint16)
    (image,) = ring_images(SHAPE, count=1, mean=200.0, geometry=GEOMETRY)
    streams: dict[str, Any] = {
        "d": {"metadata": METADATA, "attachments": {"dark": dark}},
        "corrected": {"source": "c1/d/s"},
    }
    subtract = stage("dark.py:DarkSubtraction")(context(**streams))
    integrate = stage("integrate.py:Integration")(context("c1/corrected/s", **streams))
    corrected = subtract(frame(image + dark))
    assert np.array_equal(corrected, image)
    expected, found = peaks_deg(integrate(frame(corrected, stream="c1/corrected/s")))
    assert found == pytest.approx(expected, abs=0.07)


def test_images_with_spots_are_hits_and_blanks_are_vetoed() -> None:
    hits = stage("hits.py:hits")
    diffuse = Geometry(distance_m=5.0, pixel_m=100e-6, wavelength_a=0.7, center=(150.0, 210.0))
    for image in ring_images(SHAPE, count=3, spots=30, seed=4, geometry=diffuse):
        array, attributes = hits(frame(image))
        assert array is image
        assert attributes["spots"] >= 20
    blanks = ring_images(SHAPE, count=3, seed=5, geometry=diffuse)
    assert [hits(frame(image)) for image in blanks] == [None] * 3


def test_the_spots_that_were_planted_are_counted() -> None:
    rng = np.random.default_rng(7)
    for wanted in (0, 1, 12, 40):
        counts = np.full(SHAPE, 8.0, np.float32)
        planted = plant_spots(counts, rng, count=wanted)
        assert count_spots(rng.poisson(counts).astype(np.int32)) == len(planted)


def test_the_mean_of_a_chunk_says_what_it_is_made_of() -> None:
    images = [np.full((3, 4), value, np.uint16) for value in (1, 2, 65535)]
    array, attributes = stage("mean.py:mean")([frame(i, n) for n, i in enumerate(images, 6)])
    assert np.allclose(array, 65538 / 3)
    assert attributes == {"first": 6, "last": 8, "of": 3}
