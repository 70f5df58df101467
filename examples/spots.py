"""Count the spots of an image: ``lichtstrom worker examples/spots.py:count STREAM --group spots``.

A spot is a pixel well above its surroundings that no neighbour exceeds.
"""

from __future__ import annotations

import numpy as np

#: How many standard deviations of the counting noise a spot stands out.
SIGMAS = 6.0


def count(frame):
    """Return how many spots the image has; pixels that were not measured are left out."""
    image = frame.array.astype(np.int32)
    measured = image >= 0  # Pilatus: -1 between modules, -2 for bad pixels
    background = np.median(image[measured][::17]) if measured.any() else 0.0
    threshold = background + SIGMAS * np.sqrt(background + 1.0) + 3.0
    return {"spots": int(maxima(image, threshold)), "background": float(background)}


def maxima(image, threshold):
    """Count local maxima above ``threshold``; a plateau counts once.

    Only the few bright pixels are compared with their neighbours, so the cost is one pass.
    """
    padded = np.pad(image, 1, constant_values=-1)
    rows, columns = np.nonzero(padded > threshold)
    centre = padded[rows, columns]
    is_maximum = np.ones(len(centre), dtype=bool)
    for down, right in ((-1, -1), (-1, 0), (-1, 1), (0, -1)):
        is_maximum &= centre > padded[rows + down, columns + right]
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        is_maximum &= centre >= padded[rows + down, columns + right]
    return np.count_nonzero(is_maximum)
