"""Integrate images around the beam with pyFAI (``pip install 'lichtstrom[integration]'``).

``lichtstrom worker examples/stages/integrate.py:Integration STREAM --group rings --out integrated``
"""

from __future__ import annotations

import numpy as np
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

BINS = 1000
#: Each pixel is shared among the bins it covers; the table for that is made with the first frame.
METHOD = ("bbox", "csr", "cython")
#: What the stream's metadata, or those of the stream it was made from, must say.
GEOMETRY = ("distance_m", "beam_center_x", "beam_center_y", "pixel_size_m", "wavelength_A")


class Integration:
    """Each frame becomes float64 (2, BINS): two theta in degrees, and mean counts of a pixel."""

    def __init__(self, context):
        self._session = context.session
        self._integrators = {}
        if not set(context.stream) & set("*?["):  # of a pattern, the streams are not known yet
            self._integrator(context.stream)  # a stream without geometry fails here

    def __call__(self, frame):
        image = frame.array
        engine = self._integrator(str(frame.stream))
        # The whole detector's range: by default it would depend on which pixels were measured.
        widest_deg = float(engine.center_array(image.shape, unit="2th_deg").max())
        result = engine.integrate1d(
            image.astype(np.float32),  # a copy: frames are read-only, which pyFAI cannot take
            BINS,
            unit="2th_deg",
            radial_range=(0.0, widest_deg),
            mask=not_measured(image),
            method=METHOD,
        )
        return np.stack([result.radial, result.intensity])

    def _integrator(self, name):
        if name not in self._integrators:
            self._integrators[name] = integrator(geometry(self._session, name))
        return self._integrators[name]

    def close(self):
        self._integrators.clear()


def geometry(session, name):
    """Return the geometry of a stream, or of the nearest one it was made from."""
    with session.stream(*name.split("/")) as stream:
        metadata, source = stream.metadata, stream.settings["lineage"].get("source")
    if all(key in metadata for key in GEOMETRY):
        return {key: float(metadata[key]) for key in GEOMETRY}
    if source is None:
        raise LookupError(f"{name}: its metadata must have {', '.join(GEOMETRY)}")
    return geometry(session, source)


def integrator(of):
    """Return pyFAI's integrator; it counts from the first pixel's outer corner, as metadata do."""
    return AzimuthalIntegrator(
        dist=of["distance_m"],
        poni1=of["beam_center_y"] * of["pixel_size_m"],
        poni2=of["beam_center_x"] * of["pixel_size_m"],
        pixel1=of["pixel_size_m"],
        pixel2=of["pixel_size_m"],
        wavelength=of["wavelength_A"] * 1e-10,
    )


def not_measured(image):
    """Return where a detector has no pixels: -1 and below, or the highest value if unsigned."""
    if image.dtype.kind == "u":
        return image == np.iinfo(image.dtype).max
    return np.isnan(image) if image.dtype.kind == "f" else image < 0
