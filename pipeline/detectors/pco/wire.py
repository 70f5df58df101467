"""PCO files: bytes to facts, no input or output.

The camera writes its image counter and the time into the first 14 pixels of an image, two binary
coded decimal digits a pixel (pco.sdk, ``PCO_SetTimestampMode``).  The counter is the only frame
number there is: a file's number goes on where frames were lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs import b16
from pipeline.codecs._view import byte_view
from pipeline.detectors.pco.compressed import first_pixels
from pipeline.detectors.tiff_pages import Page, iter_pages
from pipeline.errors import InvalidFrameError
from pipeline.frame import Buffer

STAMP_PIXELS = 14
#: How far the digits may be shifted up: right-aligned data, 14 and 12 bits left-aligned in 16.
SHIFTS = (0, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What the camera wrote into an image's first pixels.

    Parameters
    ----------
    counter:
        Images since the camera was armed, from 1; eight digits, then it begins again.
    timestamp_ns:
        End of the exposure by the camera's clock, ns since 1970 (UTC).
    """

    counter: int
    timestamp_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of a file.

    Parameters
    ----------
    page:
        Its place in the file, from 0.
    shape:
        Pixels as (rows, columns).
    offset, nbytes:
        Where its pixels are in the file; None and 0 where they are no such range.
    stamp:
        None where the pixels hold none.
    empty:
        Every pixel is 0: no image, some cameras send one when they are armed.
    problem:
        Why its pixels are no range of the file; empty if they are.
    encoding:
        The encoding under which the whole file is this image; empty if it is not.
    """

    page: int
    shape: tuple[int, int]
    dtype: str
    offset: int | None
    nbytes: int
    stamp: Stamp | None
    empty: bool
    problem: str
    encoding: str = ""


def read_stamp(
    pixels: npt.NDArray[Any],
    *,
    timezone: tzinfo | None = None,
    shifts: tuple[int, ...] = SHIFTS,
) -> Stamp | None:
    """Return the stamp in an image's first pixels, None if they hold none.

    Parameters
    ----------
    pixels:
        At least the first 14 pixels of the first row.
    timezone:
        Where the camera's clock is; None means UTC.
    shifts:
        By how many bits the data may be shifted up; the first that gives a stamp counts.
    """
    raw = [int(value) for value in pixels.reshape(-1)[:STAMP_PIXELS]]
    if len(raw) < STAMP_PIXELS:
        return None
    for shift in shifts:
        if any(value & ((1 << shift) - 1) for value in raw):
            continue
        stamp = _from_digits([value >> shift for value in raw], timezone or UTC)
        if stamp is not None:
            return stamp
    return None


def _from_digits(values: list[int], timezone: tzinfo) -> Stamp | None:
    if any(value > 0x99 or value & 0x0F > 9 for value in values):
        return None
    digits = "".join(f"{value:02x}" for value in values)
    counter, year, rest = digits[:8], digits[8:12], digits[12:]
    month, day, hour, minute, second = (int(rest[at : at + 2]) for at in range(0, 10, 2))
    if not 1990 <= int(year) < 2100:
        return None
    try:
        moment = datetime(int(year), month, day, hour, minute, second, tzinfo=timezone)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        return None
    return Stamp(counter=int(counter), timestamp_ns=seconds * 10**9 + int(rest[10:16]) * 1000)


def read_b16(
    payload: Buffer, *, timezone: tzinfo | None = None, shifts: tuple[int, ...] = SHIFTS
) -> Image:
    """Return the image of a B16 file.

    Raises
    ------
    InvalidFrameError
        The file is no B16 file, or not whole.
    """
    view = byte_view(payload)
    try:
        found = b16.parse(view)
    except ValueError as error:
        raise InvalidFrameError("payload", str(error)) from error
    if not found.complete:
        raise InvalidFrameError("payload", "B16: the length is not the one in the header")
    pixels = b16.decode(view)
    return Image(
        page=0,
        shape=found.shape,
        dtype=found.dtype,
        offset=found.offset,
        nbytes=pixels.nbytes,
        stamp=read_stamp(pixels, timezone=timezone, shifts=shifts),
        empty=is_empty(pixels),
        problem="",
        encoding="b16",
    )


def read_tiff(
    payload: Buffer, *, timezone: tzinfo | None = None, shifts: tuple[int, ...] = SHIFTS
) -> tuple[list[Image], str]:
    """Return the images of a TIFF or BigTIFF file (``.tif``, ``.pcoraw``), and its Software tag.

    Raises
    ------
    InvalidFrameError
        The file is no TIFF file, or not whole.
    """
    view = byte_view(payload)
    images: list[Image] = []
    page = None
    for number, page in enumerate(iter_pages(view)):
        images.append(_image(view, number, page, timezone, shifts))
    if page is not None and len(images) == 1:
        images = [_single(view, page, images[0], timezone, shifts)]
    return images, page.software if page is not None else ""


def _image(
    view: memoryview, number: int, page: Page, timezone: tzinfo | None, shifts: tuple[int, ...]
) -> Image:
    problem, offset = page.problem, page.offset
    if not problem and page.dtype != "uint16":
        problem, offset = f"pixels of type {page.dtype}, a camera of this kind has uint16", None
    stamp, empty = None, False
    if offset is not None:
        pixels = np.frombuffer(view, "<u2", page.nbytes // 2, offset)
        stamp = read_stamp(pixels[: page.shape[1]], timezone=timezone, shifts=shifts)
        empty = is_empty(pixels)
    return Image(
        page=number,
        shape=page.shape,
        dtype=page.dtype,
        offset=offset,
        nbytes=page.nbytes,
        stamp=stamp,
        empty=empty,
        problem=problem,
    )


def _single(
    view: memoryview,
    page: Page,
    image: Image,
    timezone: tzinfo | None,
    shifts: tuple[int, ...],
) -> Image:
    """Return the image of a file that is published as it is: compression does not matter then."""
    stamp = image.stamp
    if image.problem and image.dtype == "uint16":
        start, nbytes = page.first
        pixels = first_pixels(
            view[start : start + nbytes],
            compression=page.compression,
            predictor=page.predictor,
            count=min(STAMP_PIXELS, page.shape[1]),
        )
        stamp = None
        if pixels is not None:
            stamp = read_stamp(pixels, timezone=timezone, shifts=shifts)
    return replace(image, encoding="tiff", stamp=stamp)


def is_empty(pixels: npt.NDArray[Any]) -> bool:
    """Tell whether all pixels are 0; a look at the first few answers it for every real image."""
    flat = pixels.reshape(-1)
    return not flat[:4096].any() and not flat.any()
