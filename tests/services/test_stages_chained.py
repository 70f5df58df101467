"""Two of the stages in `examples/stages`, run one after the other by the worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_shared import LIMIT_S

from pipeline.detectors.scene import Geometry, ring_images
from pipeline.session import connect
from pipeline.worker import run_worker

STAGES = Path(__file__).parents[2] / "examples" / "stages"
SHAPE = (120, 160)
FRAMES = 6
METADATA = {
    "distance_m": 0.016,
    "pixel_size_m": 100e-6,
    "wavelength_A": 0.7,
    "beam_center_x": 85.0,
    "beam_center_y": 55.0,
}


def test_dark_subtraction_and_integration_chained_show_the_rings(
    home_env: Path, beamtime: str
) -> None:
    geometry = Geometry(distance_m=0.016, pixel_m=100e-6, wavelength_a=0.7, center=(55.0, 85.0))
    dark = np.full(SHAPE, 500, np.uint16) + np.arange(SHAPE[1], dtype=np.uint16) * 20
    images = ring_images(SHAPE, count=FRAMES, mean=200.0, geometry=geometry)
    with connect() as session:
        with session.publish(beamtime, "d", "s", metadata=METADATA) as out:
            out.attach("dark", dark)
            for image in images:
                out.write(image + dark)
        for stage, source, made in (
            ("dark.py:DarkSubtraction", "d", "corrected"),
            ("integrate.py:Integration", "corrected", "integrated"),
        ):
            report = run_worker(
                f"{STAGES}/{stage}",
                f"{beamtime}/{source}/s",
                group="g",
                out=made,
                timeout_s=LIMIT_S,
            )
            assert report.results == FRAMES
        corrected = session.stream(beamtime, "corrected", "s")
        integrated = session.stream(beamtime, "integrated", "s")
        assert integrated.account()["complete"]
        for number, image in enumerate(images):
            assert np.array_equal(corrected.frame(number).array, image)
            angles, counts = integrated.frame(number).array
            strongest = angles[counts.argmax()]
            # (1 1 0) of LaB6 at 0.7 angstrom: 2 asin(0.7 sqrt(2) / (2 4.1568)) = 13.68 degrees
            assert abs(strongest - 13.68) < 0.36, "a pixel"
