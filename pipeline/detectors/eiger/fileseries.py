"""One series of a FileWriter: what is known of it, and what it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.detectors.eiger.hdf5 import DataImages, FileName, Master
from pipeline.errors import InvalidFrameError
from pipeline.frame import INT64_MAX, AttributeValue, FrameHeader, Module
from pipeline.protocols import PlacedFrame, SeriesBegin

INTERFACE = "filewriter"


@dataclass(frozen=True, slots=True)
class Token:
    """A file that may be let go of."""

    name: str
    nbytes: int


@dataclass(slots=True)
class FileSeries:
    """One series: the files of one name pattern."""

    name: str
    changed_s: float
    master: Master | None = None
    digest: str = ""
    begun: bool = False
    #: Number of the first image (``image_nr_start``).
    start: int = 1
    #: One for each channel, where there are several: they lie below each other.
    modules: tuple[Module, ...] = ()
    #: Of the master when the series began; names are used again.
    date: str = ""
    #: Shape and type of its images.
    layout: tuple[tuple[int, ...], str] | None = None
    #: Files that are done with, published or not.
    taken: set[str] = field(default_factory=set)
    highest: int = 0
    damaged: int = 0
    #: Files that cannot be read: their length, and when they are looked at again.
    doubtful: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def master_name(self) -> str:
        """Name of the file with the settings."""
        return f"{self.name}_master.h5"

    @property
    def announced(self) -> int | None:
        """How many images it was set up for, None where that is not known."""
        return self.master.announced if self.master else None

    @property
    def is_whole(self) -> bool:
        """Whether the last image that was announced is there."""
        return self.announced is not None and self.highest >= self.start - 1 + self.announced


def begin_of(series: FileSeries, endpoint: str, content: bytes = b"") -> SeriesBegin:
    """Return the begin of a series; with the bytes of the final master, these are attached."""
    master = series.master
    metadata: dict[str, AttributeValue] = {"source_interface": INTERFACE}
    attachments: dict[str, Any] = {}
    rate_hz = None
    if master is not None:
        metadata.update(master.metadata)
        attachments.update(master.attachments)
        # a rate opens the stream, which must know its modules then
        if master.frame_time_s and (series.modules or len(master.channels) < 2):
            rate_hz = 1 / master.frame_time_s
        if master.channels:
            metadata["channels"] = list(master.channels)
    if series.announced is not None:
        metadata["images_announced"] = series.announced
    if content:
        attachments = {"master_h5": np.frombuffer(content, np.uint8)}
    return SeriesBegin(
        series=series.name,
        name=series.name.rpartition("/")[2],
        metadata=metadata,
        run={
            "adapter": "eiger",
            "interface": INTERFACE,
            "endpoint": endpoint,
            "series": series.name,
            "data_collection_date": series.date,
        },
        rate_hz=rate_hz,
        modules=series.modules,
        attachments=attachments,
    )


def channel_modules(images: DataImages) -> tuple[Module, ...]:
    """Return the channels of an image as modules, one below the other; none for a single one."""
    rows, columns = images.index.shape
    return tuple(
        Module(index=channel, shape=(rows, columns), position=(channel * rows, 0))
        for channel in range(images.index.channels if images.index.channels > 1 else 0)
    )


def check_layout(images: DataImages, series: FileSeries) -> None:
    """Raise InvalidFrameError if the images are not like those of the series so far."""
    layout = (images.index.shape, images.index.dtype)
    if series.layout not in (None, layout):
        raise InvalidFrameError("shape", f"{layout} in a series of {series.layout}")


def placed(images: DataImages, first: int, series: FileSeries) -> Iterator[PlacedFrame]:
    """Yield the images of a file as frames; the first position has number ``first``."""
    index = images.index
    for image in index.images:
        number = first + image.index
        header = FrameHeader(
            number=number,
            timestamp_ns=_time_ns(series, number),
            shape=index.shape,
            dtype=index.dtype,
            encoding=image.encoding,
            module=image.channel,
        )
        yield PlacedFrame(header=header, offset=image.offset, nbytes=image.nbytes)


def _time_ns(series: FileSeries, number: int) -> int:
    """Reckon the start of an exposure: the files tell the begin of the series only."""
    master = series.master
    if master is None or master.started_ns is None:
        return 0
    after_s = max(0, number - series.start) * (master.frame_time_s or 0)
    return min(master.started_ns + round(after_s * 1e9), INT64_MAX)


def by_series(listed: list[FileName]) -> dict[str, list[FileName]]:
    """Return the files of each series, the master first."""
    found: dict[str, list[FileName]] = {}
    for item in listed:
        found.setdefault(item.series, []).append(item)
    return found


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort ``series_9`` before ``series_10``."""
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
