"""Images for people: contrast, colours, half-block characters, PNG files."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]
#: Dark to bright, equal steps to the eye (a few points of matplotlib's inferno, CC0).
_COLOURS = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    dtype=np.float64,
)
#: What was not measured: neither dark nor bright.
_MASKED = (40, 44, 52)
#: Percentiles that become black and white.
_LOW, _HIGH = 1.0, 99.8
_SAMPLED = 200_000


def plane(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the image of a frame as rows and columns: of a stack the first one."""
    image = np.abs(array) if np.iscomplexobj(array) else np.asarray(array)
    while image.ndim > 2:
        image = image[0]
    return np.atleast_2d(image)


def coloured(image: npt.NDArray[Any]) -> Rgb:
    """Return an image as (rows, columns, 3): contrast by percentiles, gaps in grey.

    Not measured are negative pixels of integers, the highest value of unsigned ones (as detectors
    mark gaps), and what is not a number.
    """
    known = _measured(image)
    values = image.astype(np.float64)
    sample = values[known]
    sample = sample[:: max(1, len(sample) // _SAMPLED)]
    low, high = np.percentile(sample, (_LOW, _HIGH)) if len(sample) else (0.0, 1.0)
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    scaled = np.sqrt(np.where(known, scaled, 0))  # counts: weak features matter
    at = scaled * (len(_COLOURS) - 1)
    below = np.minimum(at.astype(int), len(_COLOURS) - 2)
    part = (at - below)[..., None]
    mixed = _COLOURS[below] * (1 - part) + _COLOURS[below + 1] * part
    rgb: Rgb = mixed.round().astype(np.uint8)
    rgb[~known] = _MASKED
    return rgb


def _measured(image: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if image.dtype.kind == "f":
        return np.asarray(np.isfinite(image))
    if image.dtype.kind == "i":
        return np.asarray(image >= 0)
    if image.dtype.kind == "u":
        return np.asarray(image != np.iinfo(image.dtype).max)
    return np.ones(image.shape, bool)


def shrunk(image: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """Return an image of at most this size, its proportions kept: the highest pixel of each tile.

    A mean would hide Bragg spots of two pixels.
    """
    step = max(1, -(-image.shape[0] // max(rows, 1)), -(-image.shape[1] // max(columns, 1)))
    if step == 1:
        return image
    height, width = image.shape[0] // step * step, image.shape[1] // step * step
    if not height or not width:
        return image[::step, ::step]
    tiles = image[:height, :width].reshape(height // step, step, width // step, step)
    if image.dtype.kind == "u":  # all ones means "not measured": lower than anything here
        known = np.where(_measured(tiles), tiles, 0).max(axis=(1, 3))
        masked = ~_measured(tiles).any(axis=(1, 3))
        return np.where(masked, np.iinfo(image.dtype).max, known).astype(image.dtype)
    if image.dtype.kind == "f":
        filled = np.where(np.isfinite(tiles), tiles, -np.inf).max(axis=(1, 3))
        return np.where(np.isfinite(filled), filled, np.nan)
    return np.asarray(tiles.max(axis=(1, 3)))


def blocks(rgb: Rgb) -> str:
    """Return an image as lines of half blocks, two rows of pixels each, in 24-bit colour."""
    if len(rgb) % 2:
        rgb = np.concatenate((rgb, np.zeros((1, *rgb.shape[1:]), np.uint8)))
    lines = []
    for upper, lower in zip(rgb[::2], rgb[1::2], strict=True):
        line, last = [], None
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            if (top, bottom) != last:
                last = (top, bottom)
                line.append(f"\x1b[38;2;{_code(top)};48;2;{_code(bottom)}m")
            line.append("\N{UPPER HALF BLOCK}")
        lines.append("".join(line) + "\x1b[0m")
    return "\n".join(lines)


def _code(colour: list[int]) -> str:
    return ";".join(map(str, colour))


def png(rgb: Rgb) -> bytes:
    """Return a PNG file (8-bit RGB, no interlace)."""
    rows, columns, _ = rgb.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    # Each row begins with its filter: none.
    lines = np.concatenate((np.zeros((rows, 1), np.uint8), rgb.reshape(rows, -1)), axis=1)
    body = zlib.compress(lines.tobytes(), 6)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
