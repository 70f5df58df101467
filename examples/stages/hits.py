"""Keep the images that have Bragg spots, and let the others go: a vetoing stage.

For diffuse backgrounds: the maxima of sharp powder rings count as spots, too.

``lichtstrom worker examples/stages/hits.py:hits STREAM --group hits --out hits``
"""

from __future__ import annotations

from pipeline.spots import count_spots

#: An image with fewer spots is a blank.
LEAST_SPOTS = 10


def hits(frame):
    """Return the image and its number of spots; None, ``skipped`` in the account, for a blank."""
    image = frame.array
    spots = count_spots(image)
    return (image, {"spots": spots}) if spots >= LEAST_SPOTS else None
