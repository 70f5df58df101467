"""The mean of several frames: ``for frames in stream.chunks(10): image, facts = mean(frames)``.

A function of a list of frames, with one result for all of them.
"""

from __future__ import annotations

import numpy as np


def mean(frames):
    """Return the mean image, float64, and which frames it is made of."""
    total = np.zeros(frames[0].shape)
    for frame in frames:  # one image in memory at a time, beside the sum
        total += frame.array
    numbers = [frame.number for frame in frames]
    return total / len(frames), {"first": min(numbers), "last": max(numbers), "of": len(numbers)}
