"""What simulated detectors see: powder rings of LaB6, background, beam stop, Bragg spots, noise.

A simulator needs pictures in which a mistake shows: a shifted row, two modules exchanged, axes
transposed.  Rings whose radii follow from Bragg's law tell all three, and their radii can be
compared with those of any program that knows the calibrant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvalidArgumentError

#: Lattice constant of lanthanum hexaboride in angstrom: certificate of NIST SRM 660c (2015).
LAB6_LATTICE_A = 4.156826
#: The ring of (3 1 1), 30 degrees at 0.7 angstrom, is the largest that a default geometry shows.
_WIDEST_RAD = math.radians(30.0)
# Full range of the numbers that can be planted: what a signed 64-bit counter holds.
_NUMBER_BITS = 63
_SPOT_WINDOW = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A flat detector across the beam.

    Parameters
    ----------
    distance_m:
        From the sample to the detector.
    pixel_m:
        Edge of a square pixel.
    wavelength_a:
        Of the X-rays, in angstrom.
    center:
        Where the beam hits, as (row, column) in pixels; the middle of pixel (0, 0) is (0.5, 0.5).
    """

    distance_m: float
    pixel_m: float
    wavelength_a: float
    center: tuple[float, float]

    @classmethod
    def fitting(
        cls, shape: tuple[int, int], *, pixel_m: float = 100e-6, wavelength_a: float = 0.7
    ) -> Self:
        """Return a geometry that puts 30 degrees onto the edge of the longer side."""
        rows, columns = shape
        reach_m = max(rows, columns) / 2 * pixel_m
        return cls(
            distance_m=round(reach_m / math.tan(_WIDEST_RAD), 5),
            pixel_m=pixel_m,
            wavelength_a=wavelength_a,
            center=(rows / 2, columns / 2),
        )

    def radii(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return each pixel's distance from the beam, in pixels."""
        row = np.arange(shape[0], dtype=np.float32)[:, None] + (0.5 - self.center[0])
        column = np.arange(shape[1], dtype=np.float32)[None, :] + (0.5 - self.center[1])
        radii: npt.NDArray[np.float32] = np.hypot(row, column, dtype=np.float32)
        return radii

    def rings(self, within: float) -> list[tuple[float, float]]:
        """Return (radius in pixels, relative strength) of the LaB6 rings up to a radius.

        Strength is the number of lattice planes that share the spacing, weakened by the
        Lorentz factor; the structure factor is left out.
        """
        rings: list[tuple[float, float]] = []
        for squares, planes in _plane_families():
            spacing_a = LAB6_LATTICE_A / math.sqrt(squares)
            sine = self.wavelength_a / (2 * spacing_a)  # Bragg: wavelength = 2 d sin(theta)
            if sine >= math.sin(math.pi / 4):
                break  # beyond two theta of 90 degrees a flat detector sees nothing
            theta = math.asin(sine)
            radius = self.distance_m * math.tan(2 * theta) / self.pixel_m
            if radius > within:
                break
            rings.append((radius, planes / (math.sin(theta) * math.sin(2 * theta))))
        return rings


def ring_images(
    shape: tuple[int, int],
    *,
    count: int = 4,
    seed: int = 0,
    dtype: str = "uint16",
    mean: float = 20.0,
    mask: npt.NDArray[np.bool_] | None = None,
    geometry: Geometry | None = None,
    spots: int = 0,
    saturation: int | None = None,
    masked_value: int | None = None,
) -> list[npt.NDArray[Any]]:
    """Return images of a powder, equal but for their noise (and their Bragg spots).

    An image of 4 megapixels takes 0.2 s; equal arguments give equal images.

    Parameters
    ----------
    shape:
        Rows and columns.
    count:
        How many images.
    dtype:
        Of the pixels: an integer or floating type.
    mean:
        Counts per pixel, averaged over the picture before spots.
    mask:
        True where there are no pixels (gaps, dead ones).
    geometry:
        Default is :meth:`Geometry.fitting`.
    spots:
        Bragg spots per image, at most; they keep clear of each other and of the mask.
    saturation:
        The largest count; default is what the type holds.
    masked_value:
        What masked pixels show: by default -1, for unsigned types their largest value.
    """
    rng = np.random.default_rng(seed)
    powder = expected_counts(shape, mean=mean, geometry=geometry)
    images = []
    for _ in range(count):
        counts = powder.copy() if spots else powder
        if spots:
            plant_spots(counts, rng, count=spots, mask=mask)
        image = noisy(counts, rng, dtype=dtype, saturation=saturation)
        if mask is not None:
            image[mask] = gap_value(dtype) if masked_value is None else masked_value
        images.append(image)
    return images


def expected_counts(
    shape: tuple[int, int], *, mean: float, geometry: Geometry | None = None
) -> npt.NDArray[np.float32]:
    """Return the picture without noise: rings on a background, behind a beam stop."""
    geometry = geometry or Geometry.fitting(shape)
    reach = math.hypot(*shape)
    # one profile along the radius serves all pixels: exponentials of 16 million would cost 1 s
    radius = np.linspace(0, reach, 8 * math.ceil(reach) + 2, dtype=np.float32)
    width = max(1.0, 0.004 * max(shape))
    profile = 1 + 4 * np.exp(-radius / (0.15 * max(shape)))
    rings = geometry.rings(reach)
    strongest = max((strength for _, strength in rings), default=1.0)
    for ring_radius, strength in rings:
        profile += 12 * strength / strongest * np.exp(-(((radius - ring_radius) / width) ** 2))
    radii = geometry.radii(shape)
    counts: npt.NDArray[np.float32] = np.interp(radii, radius, profile).astype(np.float32)
    counts[_beam_stop(radii, rings, geometry)] *= 0.02
    counts *= mean / float(counts.mean(dtype=np.float64))
    return counts


def plant_spots(
    counts: npt.NDArray[np.float32],
    rng: np.random.Generator,
    *,
    count: int,
    mask: npt.NDArray[np.bool_] | None = None,
    strength: tuple[float, float] = (200.0, 4000.0),
) -> list[tuple[int, int]]:
    """Add Bragg spots to a picture in place; return their centres as (row, column), sorted.

    At most ``count``: a place too near another spot, a masked pixel or an edge is given up.
    ``strength`` are the limits of the counts in a spot's central pixel.
    """
    rows, columns = counts.shape
    half = _SPOT_WINDOW // 2
    spots: list[tuple[int, int]] = []
    if min(rows, columns) < 2 * _SPOT_WINDOW + 2:
        return spots
    line = np.exp(-0.5 * (np.arange(-half, half + 1) / 1.2) ** 2)
    for _ in range(count):
        row = int(rng.integers(half + 1, rows - half - 1))
        column = int(rng.integers(half + 1, columns - half - 1))
        window = np.s_[row - half : row + half + 1, column - half : column + half + 1]
        near = any(abs(row - r) < 9 and abs(column - c) < 9 for r, c in spots)
        if near or (mask is not None and mask[window].any()):
            continue
        counts[window] += rng.uniform(*strength) * np.outer(line, line)
        spots.append((row, column))
    return sorted(spots)


def noisy(
    counts: npt.NDArray[np.float32],
    rng: np.random.Generator,
    *,
    dtype: str,
    saturation: int | None = None,
) -> npt.NDArray[Any]:
    """Return a picture as it is counted: Poisson noise, cut off where the counter is full."""
    kind = np.dtype(dtype)
    if saturation is None:
        saturation = int(np.iinfo(kind).max) if kind.kind in "iu" else 2**53
    drawn = rng.poisson(counts)
    np.minimum(drawn, min(saturation, 2**62), out=drawn)
    return drawn.astype(kind)


def gap_value(dtype: str) -> int:
    """Return what detectors write where there are no pixels: -1, or the largest value."""
    kind = np.dtype(dtype)
    return int(np.iinfo(kind).max) if kind.kind == "u" else -1


def stamp(image: npt.NDArray[Any], number: int, *, bits: int | None = None) -> npt.NDArray[Any]:
    """Return a copy of an image with a number in its first pixels, the lowest bits first.

    An image's pixels are then unique, and tell which frame they are.  As many pixels are used as
    63 bits need: the number's low bits are the first pixel's value, so that up to 65535 a uint16
    image shows the number itself.

    Parameters
    ----------
    bits:
        How many bits of a pixel may be used (a camera of 12 bits); default is what the type holds.

    Raises
    ------
    InvalidArgumentError
        The number is outside 0 to 2**63 - 1, or the image has too few pixels.
    """
    width = _planted_bits(image, bits)
    if not 0 <= number < 1 << _NUMBER_BITS:
        raise InvalidArgumentError("number", f"{number} is outside 0 to 2**63 - 1")
    stamped = image.copy(order="C")
    pixels = stamped.reshape(-1)
    for index in range(_planted_pixels(image, width)):
        pixels[index] = number >> index * width & (1 << width) - 1
    return stamped


def stamped_number(image: npt.NDArray[Any], *, bits: int | None = None) -> int:
    """Return the number that :func:`stamp` planted; ``bits`` as given there."""
    width = _planted_bits(image, bits)
    pixels = image.reshape(-1)
    return sum(
        int(pixels[index]) << index * width for index in range(_planted_pixels(image, width))
    )


def _planted_bits(image: npt.NDArray[Any], bits: int | None) -> int:
    """Return how many bits each pixel carries: those of a mantissa, or without the sign."""
    kind = image.dtype
    most = np.finfo(kind).nmant if kind.kind == "f" else np.iinfo(kind).bits - (kind.kind == "i")
    if bits is not None and not 1 <= bits <= most:
        raise InvalidArgumentError("bits", f"{bits} is outside 1 to {most}, which {kind} holds")
    return int(bits or most)


def _planted_pixels(image: npt.NDArray[Any], width: int) -> int:
    needed = -(-_NUMBER_BITS // width)
    if image.size < needed:
        raise InvalidArgumentError("image", f"{image.size} pixels cannot hold a number")
    return needed


def _plane_families() -> list[tuple[int, int]]:
    """Return (h2 + k2 + l2, number of planes) of a primitive cubic lattice, in rising order."""
    found: dict[int, int] = {}
    most = 9  # (9 0 0) is beyond 90 degrees for every wavelength over 0.65 angstrom
    indices = range(-most, most + 1)
    for h in indices:
        for k in indices:
            for m in indices:
                squares = h * h + k * k + m * m
                if 0 < squares <= most * most:
                    found[squares] = found.get(squares, 0) + 1
    return sorted(found.items())


def _beam_stop(
    radii: npt.NDArray[np.float32], rings: list[tuple[float, float]], geometry: Geometry
) -> npt.NDArray[np.bool_]:
    """Return the shadow of a disc within the first ring, and of the wire that holds it."""
    reach = max(radii.shape) / 2
    disc = 0.3 * min(rings[0][0], reach) if rings else 0.1 * reach
    column = np.arange(radii.shape[1]) + 0.5
    row = np.arange(radii.shape[0]) + 0.5
    wire = (np.abs(column - geometry.center[1]) < max(0.5, disc / 8))[None, :]
    # the wire comes from below only: a picture upside down shows
    below = (row > geometry.center[0])[:, None]
    shadow: npt.NDArray[np.bool_] = (radii < disc) | (wire & below)
    return shadow
