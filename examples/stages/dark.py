"""Subtract the dark image that was attached to a stream: a stage that is made once a process.

``lichtstrom worker examples/stages/dark.py:DarkSubtraction STREAM --group dark --out corrected``
"""

from __future__ import annotations

import numpy as np

#: The attachment: one image of the frames' shape, in counts (``out.attach("dark", image)``).
NAME = "dark"


class DarkSubtraction:
    """Frames less their stream's dark image, float32; not a number where nothing was measured."""

    def __init__(self, context):
        self._session = context.session
        self._darks = {}
        if not set(context.stream) & set("*?["):  # of a pattern, the streams are not known yet
            self._dark(context.stream)  # a stream without a dark fails here, not at each frame

    def __call__(self, frame):
        image = frame.array
        corrected = image.astype(np.float32) - self._dark(str(frame.stream))
        corrected[not_measured(image)] = np.nan
        return corrected

    def _dark(self, name):
        if name not in self._darks:
            with self._session.stream(*name.split("/")) as stream:
                self._darks[name] = stream.attachment(NAME).astype(np.float32)
        return self._darks[name]

    def close(self):
        self._darks.clear()


def not_measured(image):
    """Return where a detector has no pixels: -1 and below, or the highest value if unsigned."""
    if image.dtype.kind == "u":
        return image == np.iinfo(image.dtype).max
    return np.isnan(image) if image.dtype.kind == "f" else image < 0
